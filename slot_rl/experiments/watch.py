"""Watching a training: progress for people, evaluations for the log, and a clean stop on Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.progress import Progress, TaskID
from stable_baselines3.common.callbacks import BaseCallback

from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.experiments.evaluation import Evaluation
from slot_rl.experiments.judgement import metrics_of
from slot_rl.problems import Problem

EVALUATIONS = 25


@dataclass
class Curve:
    """The evaluations during training."""

    budget: list[float] = field(default_factory=list)
    optimality: list[float] = field(default_factory=list)
    true_optimality: list[float | None] = field(default_factory=list)


class Watch(BaseCallback):
    """Moves the progress bar, evaluates now and then, and stops when asked."""

    def __init__(
        self, evaluation: Evaluation, problem: Problem, timesteps: int, progress: Progress, task: TaskID
    ) -> None:
        """Takes what it watches with."""
        super().__init__()
        self.curve = Curve()
        self.stopped = False
        self._evaluation, self._problem, self._progress, self._task = evaluation, problem, progress, task
        self._timesteps = timesteps
        self._every, self._next = timesteps / EVALUATIONS, 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next += self._every
            self._evaluate()
        self._progress.update(self._task, completed=min(self.num_timesteps, self._timesteps))
        return not self.stopped

    def _evaluate(self) -> None:
        assert isinstance(self.model, CheckpointedAgent)
        row = self._evaluation.judge(self.model.choose)
        for name, value in metrics_of(self._evaluation, row).items():
            self.logger.record(name, value)
        for name, count in budget_metrics(self._problem).items():
            self.logger.record(name, count)
        self.curve.budget.append(self.num_timesteps)
        self.curve.optimality.append(row.optimality)
        self.curve.true_optimality.append(self._evaluation.true_optimality(row.true_score))
        self._progress.update(self._task, note=f"score {row.score:.4g}  optimality {row.optimality:.3f}")


def budget_metrics(problem: Problem) -> dict[str, float]:
    """Returns what has been asked of the estimator under its metric keys."""
    return {"budget/forwards": problem.budget.forwards, "budget/backwards": problem.budget.backwards}


@contextlib.contextmanager
def stopping(watch: Watch) -> Iterator[None]:
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
