"""What is watched while an agent trains: how far it is, what it would answer, and what that has taken."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from slot_rl.checkpoints import WatchState
from slot_rl.documents import as_declared
from slot_rl.evaluation import Evaluation, Row
from slot_rl.metrics import METRICS
from slot_rl.problems import Budget, Problem

EVALUATIONS = 25
"""Evaluations in a training."""


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come.

    Attributes:
        calls: Estimator calls so far.
        phase: What it is doing, where that is not training.
        row: The figures of the last evaluation; None before the first.
    """

    calls: float
    phase: str = ""
    row: Row | None = None


Report = Callable[[RunProgress], None]


class Stopwatch:
    """Times a training without its evaluations."""

    def __init__(self) -> None:
        """Starts."""
        self.go_on_from(0, 0)

    def go_on_from(self, wall: float, cpu: float) -> None:
        """Starts again as if seconds had gone by already."""
        self._wall, self._cpu = time.perf_counter() - wall, time.process_time() - cpu

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
        """Leaves out the time of the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu


class EvaluationCallback(BaseCallback):
    """Reports progress, and evaluates now and then.

    Attributes:
        calls: Estimator calls at each evaluation.
        rows: The figures of each evaluation.
        stopwatch: The training's time, without the evaluations.
    """

    def __init__(self, evaluation: Evaluation, problem: Problem, timesteps: int, report: Report) -> None:
        """Takes the evaluation, the problem whose budget is logged, the training's budget, and the progress report."""
        super().__init__()
        self.calls: list[float] = []
        self.rows: list[Row] = []
        self.stopwatch = Stopwatch()
        self._evaluation, self._problem, self._report = evaluation, problem, report
        self._timesteps = timesteps
        self._every, self._next = timesteps / EVALUATIONS, 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next += self._every
            with self.stopwatch.paused():
                self._evaluate()
        self._report(RunProgress(min(self.num_timesteps, self._timesteps), row=self.rows[-1]))
        return True

    def state(self) -> dict[str, Any]:
        """Returns what a continued training needs, JSON-ready."""
        return {
            "calls": self.calls,
            "rows": [asdict(row) for row in self.rows],
            "next": self._next,
            "wall_seconds": self.stopwatch.wall,
            "cpu_seconds": self.stopwatch.cpu,
        }

    def restore(self, state: WatchState) -> None:
        """Takes back what :meth:`state` gave."""
        self.calls, self._next = state["calls"], state["next"]
        self.rows = [as_declared(Row, row, "rows") for row in state["rows"]]
        self.stopwatch.go_on_from(state["wall_seconds"], state["cpu_seconds"])

    def _evaluate(self) -> None:
        agent: Any = self.model
        row = self._evaluation.judge(agent.choose)
        for key, value in logged_metrics(row, self._problem.budget, self.stopwatch.cpu).items():
            self.logger.record(key, value)
        self.calls.append(self.num_timesteps)
        self.rows.append(row)


def logged_metrics(row: Row, budget: Budget, cpu_seconds: float) -> dict[str, float]:
    """Returns the metrics that are followed during a training, under their keys in ``metrics.jsonl``."""
    costs = {
        "estimator_forwards": budget.forwards,
        "estimator_backwards": budget.backwards,
        "cpu_seconds": cpu_seconds,
    }
    return row.logged() | {str(METRICS[key].log_key): value for key, value in costs.items()}
