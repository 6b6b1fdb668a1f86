"""Filling the Weights & Biases run of a run folder again, from the folder's own files."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.text import Text

from slot_rl.checkpoints import WEIGHTS
from slot_rl.console import console, say, visible
from slot_rl.io import SUMMARY, read_config, read_json
from slot_rl.metrics_file import METRICS_FILE, read_metrics
from slot_rl.mirror import Mirror
from slot_rl.places import claimed
from slot_rl.tracking import AXIS, WandbMode, wandb_mode
from slot_rl.wandb_labels import WandbFlags, labels_of_run


@dataclass(frozen=True)
class ResyncConfig:
    """Rebuilds the Weights & Biases run of run folders from their config, log points and summary.

    Where a folder knows the id of an earlier run, the new one gets it and takes its place.

    Attributes:
        runs: Folders of runs, those of a comparison (OUT/runs/*) included.
        wandb: Weights & Biases mode, offline or online; WANDB_MODE if left out, offline without it.
        labels: What changes of the runs; variables change nothing that they began with.
    """

    runs: tuple[Path, ...]
    wandb: WandbMode | None = None
    labels: Annotated[WandbFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=WandbFlags)

    def __post_init__(self) -> None:
        """Refuses to do nothing."""
        if not self.runs:
            raise ValueError("expected folders of runs, got none")


def resync(config: ResyncConfig) -> None:
    """Rebuilds each run and says so.

    Raises:
        ValueError: If a folder is no run, or lacks log points, a file was altered, a command is writing to the folder,
            W&B is disabled, or it refuses; runs before it are done.
    """
    mode = wandb_mode(config.wandb)
    if mode == "disabled":
        raise ValueError("expected the mode offline or online, got disabled")
    for run in config.runs:
        with claimed(run, WEIGHTS), console.status(Text(visible(f"Weights & Biases: {run}"))):
            points = _resync_one(run, mode, config.labels)
        say(f"{run}: {points:,} log points on Weights & Biases, {mode}")


def _resync_one(run: Path, mode: WandbMode, flags: WandbFlags) -> int:
    config = read_config(run)
    began = labels_of_run(config, str(run))
    if not (run / METRICS_FILE).is_file():
        raise ValueError(f"expected log points in {run}, got no {METRICS_FILE}")
    points = read_metrics(run / METRICS_FILE)
    summary = read_json(run / SUMMARY) if (run / SUMMARY).is_file() else {"status": "failed"}
    mirror = Mirror(run, asdict(flags.over(began)), config, mode, AXIS)
    for point in points:
        mirror.send({"point": point})
    failure = mirror.finish(summary, int(summary["status"] == "failed"), patience=None)
    if failure is not None:
        raise ValueError(f"expected Weights & Biases to take {run}, got: {failure}")
    return len(points)
