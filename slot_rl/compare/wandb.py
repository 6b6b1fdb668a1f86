"""The run of a whole comparison on Weights & Biases, next to the runs of its agents: tables and pictures."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slot_rl import __version__
from slot_rl.compare.study import RUNS
from slot_rl.io import read_json, write_json
from slot_rl.tracking import WandbLabels, WandbMode, start_wandb

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
) -> None:
    """Logs one run with a comparison's tables and pictures; its files go to ``<out>/comparison``.

    The logged keys are written to ``<out>/comparison/published.json``, which dashboards read. A second call adds a
    second run, and dashboards show the last. An offline run keeps the full paths of its tables' files, so it must be
    synced before the folder moves.

    Args:
        out: The comparison's folder; its name is part of the run's group.
        time: When the comparison ended, for the run's name.
        config: JSON-ready values to show with the run.
        tables: Tables by name, logged as ``tables/<name>``.
        pictures: PNG files, logged as ``pictures/<file name without suffix>``.
        mode: The mode of Weights & Biases.

    Raises:
        ValueError: If a picture is no PNG file, or two have one name; then nothing was written. Also if Weights &
            Biases cannot start a run.
    """
    _check_pictures(pictures)
    if mode == "disabled":
        return
    import wandb

    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    group = f"{JOB_TYPE}__{out.resolve().name}"
    labels = WandbLabels(f"{group}__{time}", group, JOB_TYPE, (JOB_TYPE, __version__))
    with _staging(folder / STAGED), start_wandb(folder, labels, config, mode) as run:
        shown = {f"tables/{name}": wandb.Table(dataframe=table) for name, table in tables.items()}
        drawn = {_picture_key(path): wandb.Image(str(path), caption=path.stem) for path in pictures}
        run.log({**shown, **drawn})
    write_json(folder / PUBLISHED, asdict(Published(labels.name, tuple(shown), tuple(drawn))))


def read_published(out: Path) -> Published | None:
    """Returns what :func:`track_comparison` logged for a comparison's folder last; None if nothing.

    Raises:
        ValueError: If the file was altered.
    """
    path = out / FOLDER / PUBLISHED
    if not path.is_file():
        return None
    document = read_json(path)
    try:
        return Published(str(document["name"]), tuple(document["tables"]), tuple(document["pictures"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"expected name, tables and pictures in {path}, got a document without {error}") from error


def sync_command(out: Path, flags: Sequence[str] = ()) -> str | None:
    """Returns the command that sends every offline run of a comparison; None if there is none to send."""
    patterns = [pattern for pattern in OFFLINE_RUNS if any(out.glob(pattern))]
    paths = [f"{shlex.quote(str(out))}/{pattern}" for pattern in patterns]
    return " ".join(["wandb sync", *flags, *paths]) if paths else None


@contextmanager
def _staging(folder: Path) -> Iterator[None]:
    """Keeps wandb's copies of tables with the run; the default place is the home directory."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
        if before is not None:
            os.environ["WANDB_DATA_DIR"] = before


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
