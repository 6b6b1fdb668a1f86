"""Where a run's metrics go: a JSON-lines file always, a Weights & Biases run unless disabled, TensorBoard if asked."""

import math
import os
import shlex
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from stable_baselines3.common.logger import KVWriter

from slot_rl.console import say
from slot_rl.metrics_file import METRICS_FILE, MetricsFile, read_metrics
from slot_rl.mirror import Mirror
from slot_rl.problems.named import short_name
from slot_rl.wandb_labels import WandbLabels

TENSORBOARD = "tensorboard"
AXIS = "global_step"
"""The first key of every log point."""
WandbMode = Literal["offline", "online", "disabled"]


def run_group(problem: str, timesteps: int) -> str:
    """Returns the group of every run on a problem, an environment's short name or a task's label, with a budget.

    A training and a comparison of the same environment have the same. Runs of unequal budgets must not be averaged.
    """
    return f"{problem}@{timesteps}"


@dataclass(frozen=True)
class RunIdentity:
    """What a run is called and grouped by on a dashboard.

    Attributes:
        env: The environment's id.
        agent: The agent's name.
        seed: The training seed.
        timesteps: The budget.
        suffix: The end of its name: when the run began, or what identifies it in a comparison.
        version: Version of slot_rl.
        task: The label of the problem in a comparison, where one environment may stand for several problems.
    """

    env: str
    agent: str
    seed: int
    timesteps: int
    suffix: str
    version: str
    task: str | None = None

    @property
    def name(self) -> str:
        """``env__agent__s<seed>__<suffix>``, also the run folder's default name; a task replaces the env."""
        problem = short_name(self.task or self.env)
        return f"{problem}__{self.agent}__s{self.seed}__{self.suffix}"

    @property
    def group(self) -> str:
        """``env@budget``, or ``task@budget``, see :func:`run_group`."""
        return run_group(self.task or short_name(self.env), self.timesteps)

    @property
    def labels(self) -> WandbLabels:
        """What Weights & Biases shows of it, if nobody says otherwise."""
        return WandbLabels(self.name, self.group, self.agent, (self.agent, self.version))


def wandb_mode(flag: WandbMode | None) -> WandbMode:
    """Returns the mode by flag, else by the variable WANDB_MODE, else offline.

    Raises:
        ValueError: If the variable holds something else.
    """
    modes: dict[str, WandbMode] = {"offline": "offline", "online": "online", "disabled": "disabled"}
    asked = flag or os.environ.get("WANDB_MODE") or "offline"
    if asked not in modes:
        raise ValueError(f"expected WANDB_MODE to be one of {', '.join(modes)}, got {asked!r}")
    return modes[asked]


class Tracker:
    """Writes each log point to ``metrics.jsonl`` and to TensorBoard, and mirrors the run on Weights & Biases."""

    def __init__(
        self,
        folder: Path,
        labels: WandbLabels,
        config: Mapping[str, Any],
        mode: WandbMode,
        tensorboard: bool = False,
        lines: int = 0,
        home: Path | None = None,
    ) -> None:
        """Opens what is asked for.

        Args:
            folder: The run folder; must exist.
            labels: What Weights & Biases finds the run by.
            config: JSON-ready values to show with the run.
            mode: Whether Weights & Biases writes to disk, sends, or stays away.
            tensorboard: Also write event files into ``<folder>/tensorboard``.
            lines: How many log points to keep of those that the folder holds; then the run goes on behind them. Its
                Weights & Biases run begins again, under the same id where the folder knows one, with these points.
            home: The folder's later name, if it gets another.

        Raises:
            ValueError: If TensorBoard is asked for and not installed, or the folder lacks those log points; then
                nothing was written.
        """
        self._home, self._lost = home or folder, False
        self._summary: dict[str, Any] = {}
        writer = _event_writer_class() if tensorboard else None
        with ExitStack() as opened:
            self._file = opened.enter_context(closing(MetricsFile(folder / METRICS_FILE, lines)))
            points = read_metrics(folder / METRICS_FILE)
            # Points behind those that are kept, of the run before, are no part of this one.
            purge = {"purge_step": int(points[-1][AXIS]) + 1} if points else {}
            self._events = None
            if writer is not None:
                self._events = opened.enter_context(writer(str(folder / TENSORBOARD), **purge))
            self._files = opened.pop_all()
        self._mirror: Mirror | None = None
        if mode != "disabled":
            self._mirror = Mirror(folder, asdict(labels), config, mode, AXIS)
            for point in points:
                self._mirror.send({"point": point})

    @property
    def lines(self) -> int:
        """How many log points are in ``metrics.jsonl``."""
        return self._file.lines

    def log(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Writes one log point; a figure that is not finite becomes null."""
        point: dict[str, float | int | None] = {AXIS: step}
        point |= {key: metrics[key] if math.isfinite(metrics[key]) else None for key in sorted(metrics)}
        self._file.append(point)
        if self._mirror is not None:
            self._mirror.send({"point": point})
            self._warn(self._mirror.failure)
        if self._events is not None:
            for key, value in metrics.items():
                self._events.add_scalar(key, value, step)

    def sync(self) -> None:
        """Brings ``metrics.jsonl`` to the disk itself: what counts its lines must not outlive them in a power cut."""
        self._file.sync()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Puts the summary beside the run's metrics."""
        self._summary = dict(summary)

    def __enter__(self) -> "Tracker":
        """Returns the tracker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files and the Weights & Biases run, as failed if an error comes through."""
        self._files.close()
        if self._mirror is not None:
            self._warn(self._mirror.finish(self._summary, 0 if error is None else 1))

    def _warn(self, failure: str | None) -> None:
        if failure is not None and not self._lost:
            self._lost = True
            command = f"slot-rl resync {shlex.quote(str(self._home))}"
            say(f"warning: the run is not mirrored on Weights & Biases ({failure}); `{command}` makes up for it")


class TrackerWriter(KVWriter):
    """Hands each dump of Stable-Baselines3's logger to a tracker."""

    def __init__(self, tracker: Tracker) -> None:
        """Takes the tracker; it stays open."""
        self._tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Logs every figure of a dump."""
        self._tracker.log(step, {key: float(value) for key, value in key_values.items() if is_figure(value)})

    def close(self) -> None:
        """Does nothing: the tracker is closed where it was opened."""


def is_figure(value: Any) -> bool:
    """Returns whether something that is logged is a number."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, (str, bytes))


def check_tensorboard() -> None:
    """Refuses early, before the first of many runs, what :class:`Tracker` would refuse in each.

    Raises:
        ValueError: If TensorBoard is not installed.
    """
    _event_writer_class()


def _event_writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f'expected the extra [tensorboard] (pip install "slot_rl[tensorboard]"), got: {error}'
        ) from error
    return SummaryWriter
