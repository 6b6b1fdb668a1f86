"""Watching a training: progress for people, evaluations for the log, and a clean stop on Ctrl-C."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.evaluation import Evaluation
from slot_rl.judgement import metrics_of
from slot_rl.problems import Problem

EVALUATIONS = 25
TRAINING_SECONDS = "time/training_seconds"

Report = Callable[[float, str], None]
"""Takes configurations scored so far and a note for people."""


@dataclass
class Curve:
    """The evaluations during training."""

    budget: list[float] = field(default_factory=list)
    optimality: list[float] = field(default_factory=list)
    true_optimality: list[float | None] = field(default_factory=list)


class Stopwatch:
    """Times a training without what is done beside it."""

    def __init__(self) -> None:
        """Starts."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        """Seconds on the clock so far."""
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        """The processor's seconds of this process so far."""
        return time.process_time() - self._cpu

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block out."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu


class EvaluationCallback(BaseCallback):
    """Reports progress, evaluates now and then, and stops when asked.

    Attributes:
        curve: The evaluations so far.
        stopwatch: The training's time, without the evaluations'.
        stopped: Whether the training shall stop, or did.
    """

    def __init__(self, evaluation: Evaluation, problem: Problem, timesteps: int, report: Report) -> None:
        """Takes what it watches with."""
        super().__init__()
        self.curve = Curve()
        self.stopwatch = Stopwatch()
        self.stopped = False
        self._evaluation, self._problem, self._report = evaluation, problem, report
        self._timesteps, self._note = timesteps, ""
        self._every, self._next = timesteps / EVALUATIONS, 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next += self._every
            with self.stopwatch.paused():
                self._evaluate()
        self._report(min(self.num_timesteps, self._timesteps), self._note)
        return not self.stopped

    def _evaluate(self) -> None:
        assert isinstance(self.model, CheckpointedAgent)
        row = self._evaluation.judge(self.model.choose)
        for name, value in metrics_of(self._evaluation, row).items():
            self.logger.record(name, value)
        for name, count in budget_metrics(self._problem).items():
            self.logger.record(name, count)
        self.logger.record(TRAINING_SECONDS, self.stopwatch.cpu)
        self.curve.budget.append(self.num_timesteps)
        self.curve.optimality.append(row.optimality)
        self.curve.true_optimality.append(self._evaluation.true_optimality(row.true_score))
        self._note = f"score {row.score:.4g}  optimality {row.optimality:.3f}"


def budget_metrics(problem: Problem) -> dict[str, float]:
    """Returns what has been asked of the estimator under its metric keys."""
    return {"budget/forwards": problem.budget.forwards, "budget/backwards": problem.budget.backwards}


@contextlib.contextmanager
def stopping(watch: EvaluationCallback) -> Iterator[None]:
    """Lets the first Ctrl-C or SIGTERM stop after the current update, so that no step is half taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: object) -> None:
        watch.stopped = True
        restore()  # a second Ctrl-C does what it always does

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    for name in (signal.SIGINT, signal.SIGTERM):
        before[name] = signal.signal(name, stop)
    try:
        yield
    finally:
        restore()
