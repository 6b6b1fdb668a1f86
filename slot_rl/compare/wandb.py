"""The run of a whole comparison on Weights & Biases, next to the runs of its agents: tables and pictures."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slot_rl import __version__
from slot_rl.compare.study import RUNS
from slot_rl.console import say
from slot_rl.documents import as_declared
from slot_rl.io import read_json, write_json
from slot_rl.mirror import Mirror
from slot_rl.tracking import WandbMode
from slot_rl.wandb_labels import NO_FLAGS, WandbFlags, WandbLabels

JOB_TYPE = "comparison"
FOLDER, PUBLISHED, STAGED = "comparison", "published.json", "staged"
OFFLINE_RUNS = (f"{RUNS}/*/wandb/offline-run-*", f"{FOLDER}/wandb/offline-run-*")
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Published:
    """What the run of a comparison logged: the run's name, and the keys of its tables and pictures."""

    name: str
    tables: tuple[str, ...]
    pictures: tuple[str, ...]


def track_comparison(
    out: Path,
    time: str,
    config: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    pictures: Sequence[Path],
    mode: WandbMode,
    flags: WandbFlags = NO_FLAGS,
) -> None:
    """Logs one run with a comparison's tables and pictures; its files go to ``<out>/comparison``.

    The logged keys are written to ``<out>/comparison/published.json``, which dashboards read, unless Weights & Biases
    fails, which is a warning. A second report adds a second run, and dashboards show the last. An offline run keeps the
    full paths of its tables' files, so it must be synced before the folder moves.

    Args:
        out: The comparison's folder; its name is part of the run's group.
        time: When the comparison ended, for the run's name.
        config: JSON-ready values to show with the run.
        tables: Tables by name, logged as ``tables/<name>``.
        pictures: PNG files, logged as ``pictures/<file name without suffix>``.
        mode: The mode of Weights & Biases.
        flags: What the user says of the run, variables included.

    Raises:
        ValueError: If a picture is no PNG file, or two have one name; then nothing was written.
    """
    _check_pictures(pictures)
    if mode == "disabled":
        return
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    group = f"{JOB_TYPE}__{out.resolve().name}"
    labels = flags.over(WandbLabels(f"{group}__{time}", group, JOB_TYPE, (JOB_TYPE, __version__)))
    # wandb's copies of tables stay with the run; the default place is the home directory.
    staged = {"WANDB_DATA_DIR": str((folder / STAGED).resolve())}
    mirror = Mirror(folder, asdict(labels), config, mode, variables=staged)
    shown = {f"tables/{name}": _split(table) for name, table in tables.items()}
    drawn = {_picture_key(path): str(path) for path in pictures}
    mirror.send({"tables": shown, "pictures": drawn})
    failure = mirror.finish({}, 0)
    if failure is not None:
        say(f"warning: the comparison is not on Weights & Biases ({failure}); the same command again makes up for it")
        return
    write_json(folder / PUBLISHED, asdict(Published(labels.name, tuple(shown), tuple(drawn))))


def read_published(out: Path) -> Published | None:
    """Returns what :func:`track_comparison` logged for a comparison's folder last; None if nothing.

    Raises:
        ValueError: If the file was altered.
    """
    path = out / FOLDER / PUBLISHED
    if not os.path.lexists(path):
        return None
    return as_declared(Published, read_json(path), str(path))


def sync_command(out: Path, flags: Sequence[str] = ()) -> str | None:
    """Returns the command that sends every offline run of a comparison; None if there is none to send."""
    patterns = [pattern for pattern in OFFLINE_RUNS if any(out.glob(pattern))]
    paths = [f"{shlex.quote(str(out))}/{pattern}" for pattern in patterns]
    return " ".join(["wandb sync", *flags, *paths]) if paths else None


def _split(table: pd.DataFrame) -> Any:
    return json.loads(table.to_json(orient="split", double_precision=15))


def _picture_key(path: Path) -> str:
    return f"pictures/{path.stem}"


def _check_pictures(pictures: Sequence[Path]) -> None:
    for path in pictures:
        if not path.is_file():
            raise ValueError(f"expected a picture in {path}, got no such file")
        with open(path, "rb") as file:
            if file.read(len(PNG)) != PNG:
                raise ValueError(f"expected a PNG file, got {path}")
    if len(set(map(_picture_key, pictures))) < len(pictures):
        raise ValueError(f"expected pictures with names of their own, got {sorted(path.name for path in pictures)}")
