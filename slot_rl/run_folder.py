"""A run on disk: config, metrics, summary, checkpoint, learning curve and the offline W&B run, in one folder."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch

from slot_rl.io import read_json, write_atomically
from slot_rl.problems import NonFiniteScore

CONFIG, SUMMARY, CHECKPOINT, CURVE = "config.json", "summary.json", "checkpoint", "learning_curve.png"
METRICS = "metrics.jsonl"
SERVING = "serving.png"
BAD_BATCH = "bad_batch.safetensors"


def check_free(folder: Path, force: bool, mark: str) -> None:
    """Refuses a folder that holds something, unless it is of the expected kind and ``force`` is given.

    Args:
        folder: The folder to write to.
        force: Whether an earlier one may be replaced.
        mark: A file that every folder of this kind has; anything else is never deleted.

    Raises:
        ValueError: If the folder is taken.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force:
        raise ValueError(f"expected a new folder for --out, got {folder}, which exists (--force replaces it)")
    if not (folder / mark).is_file():
        raise ValueError(f"expected --force to replace a folder with {mark}, got {folder} without one; nothing deleted")


def check_continued(folder: Path, mark: str) -> None:
    """Refuses a folder that holds something, unless an earlier call of the same command began it.

    Args:
        folder: The folder to write to.
        mark: A file that every folder of this kind has.

    Raises:
        ValueError: If the folder is taken.
    """
    if folder.exists() and not (folder / mark).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"expected a new folder for --out, or one with {mark}, got {folder}; nothing was written")


@contextmanager
def fresh_folder(folder: Path) -> Iterator[None]:
    """Makes an empty folder in place of one that :func:`check_free` let pass.

    An error inside the block removes the new folder and brings the earlier one back, so that a run that cannot start
    loses nothing.
    """
    aside = folder.with_name(f".{folder.name}.replaced")
    if folder.exists():
        folder.rename(aside)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder)
        if aside.exists():
            aside.rename(folder)
        raise
    if aside.exists():
        shutil.rmtree(aside)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a run's config.

    Raises:
        ValueError: If the folder is no run.
    """
    if not (folder / CONFIG).is_file():
        raise ValueError(f"expected a run folder with {CONFIG}, got {folder} without one")
    return read_json(folder / CONFIG)


def save_bad_batch(folder: Path, failure: NonFiniteScore) -> Path:
    """Writes the batch on which the estimator failed, as safetensors, and returns its path."""
    path = folder / BAD_BATCH
    tensors = {**failure.observation.tensors(), "rows": failure.rows, "score": failure.score}
    write_atomically(path, safetensors.torch.save({name: part.contiguous() for name, part in tensors.items()}))
    return path
