"""Where a run's metrics go: a JSON-lines file always, and a Weights & Biases run unless it is disabled."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from stable_baselines3.common.logger import KVWriter

PROJECT = "slot_rl"
WandbMode = Literal["offline", "online", "disabled"]


@dataclass(frozen=True)
class RunIdentity:
    """What a run is called and grouped by on a dashboard.

    Attributes:
        env: The environment's id.
        agent: The agent's name.
        seed: The training seed.
        timesteps: The budget.
        time: When the run began, for its name.
        version: Version of slot_rl.
    """

    env: str
    agent: str
    seed: int
    timesteps: int
    time: str
    version: str

    @property
    def name(self) -> str:
        """``env__agent__s<seed>__time``, also the run folder's default name."""
        return f"{self.env.rsplit('/', maxsplit=1)[-1]}__{self.agent}__s{self.seed}__{self.time}"

    @property
    def group(self) -> str:
        """``env@budget``: runs of unequal budgets must not be averaged."""
        return f"{self.env}@{self.timesteps}"


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
    """Writes each log point to ``metrics.jsonl`` and to the Weights & Biases run of a run folder."""

    def __init__(self, folder: Path, identity: RunIdentity, config: Mapping[str, Any], mode: WandbMode) -> None:
        """Opens both.

        Args:
            folder: The run folder; must exist.
            identity: Names and groups of the run.
            config: JSON-ready values to show with the run.
            mode: Whether Weights & Biases writes to disk, sends, or stays away.
        """
        self._file = open(folder / "metrics.jsonl", "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
        try:
            self._wandb = None if mode == "disabled" else _start_wandb(folder, identity, config, mode)
        except BaseException:
            self._file.close()
            raise

    def log(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Writes one log point; a figure that is not finite becomes null."""
        point: dict[str, float | int | None] = {"global_step": step}
        point |= {key: metrics[key] if math.isfinite(metrics[key]) else None for key in sorted(metrics)}
        self._file.write(json.dumps(point) + "\n")
        self._file.flush()
        if self._wandb is not None:
            # Never step=: it drops rows that arrive out of order.
            self._wandb.log(point)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Puts the summary beside the run's metrics."""
        if self._wandb is not None:
            self._wandb.summary.update(dict(summary))

    def __enter__(self) -> "Tracker":
        """Returns the tracker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file and the Weights & Biases run, as failed if an error comes through."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)


class TrackerWriter(KVWriter):
    """Hands each dump of Stable-Baselines3's logger to a tracker."""

    def __init__(self, tracker: Tracker) -> None:
        """Takes the tracker; it stays open."""
        self._tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Logs every figure of a dump."""
        self._tracker.log(step, {key: float(value) for key, value in key_values.items() if _is_figure(value)})

    def close(self) -> None:
        """Does nothing: whoever opened the tracker closes it."""


def _is_figure(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, (str, bytes))


def _start_wandb(folder: Path, identity: RunIdentity, config: Mapping[str, Any], mode: WandbMode) -> Any:
    import wandb

    quiet = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
    try:
        run = wandb.init(
            project=PROJECT,
            dir=str(folder),
            mode=mode,
            name=identity.name,
            group=identity.group,
            job_type=identity.agent,
            tags=[identity.agent, identity.version],
            config=dict(config),
            settings=quiet,
        )
    except wandb.Error as error:
        raise ValueError(f"expected a Weights & Biases run in mode {mode!r}, got: {error}") from error
    run.define_metric("*", step_metric="global_step")
    return run
