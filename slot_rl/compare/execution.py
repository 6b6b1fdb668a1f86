"""Doing a plan: a folder for one process alone, and those runs in it that are not done yet."""

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from slot_rl.compare.board import ProgressDisplay
from slot_rl.compare.launcher import Launcher
from slot_rl.compare.plan import COMPARISON, RUNS, Run
from slot_rl.compare.runs import clear_partial
from slot_rl.console import say
from slot_rl.io import check_continued

LauncherName = Literal["local", "ray"]

LOCK = ".lock"


@contextmanager
def opened(out: Path) -> Iterator[None]:
    """Holds a comparison's folder, made if missing, so that no other process writes to it.

    Raises:
        ValueError: If the folder holds something else, or another process has it.
    """
    check_continued(out, COMPARISON)
    (out / RUNS).mkdir(parents=True, exist_ok=True)
    with open(out / LOCK, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"expected --out {out} for this command alone, got one that another is writing") from error
        clear_partial(out)
        try:
            yield
        finally:
            clear_partial(out)


def do_runs(runs: Sequence[Run], out: Path, launcher: Launcher, retry_failed: bool = False) -> None:
    """Does those runs that are not done yet; a run that failed is done, unless it shall be tried again."""
    if retry_failed:
        for run in runs:
            if run.state(out) == "failed":
                shutil.rmtree(run.folder(out))
    todo = [run for run in runs if run.state(out) == "open"]
    if len(todo) < len(runs):
        say(f"{len(runs) - len(todo):,} of {len(runs):,} runs are there already")
    if todo:
        with ProgressDisplay(len(todo)) as board:
            launcher.launch(todo, out, board)


def make_launcher(name: LauncherName, workers: int) -> Launcher:
    """Returns a launcher.

    Args:
        name: "local" for processes of this machine, "ray" for those of a Ray cluster.
        workers: Runs at the same time; for Ray, 0 leaves it to the cluster.

    Raises:
        ValueError: If the extra that it needs is not installed.
    """
    if name == "ray":
        from slot_rl.compare.ray_launcher import RayLauncher

        return RayLauncher(workers)
    from slot_rl.compare.local_launcher import LocalLauncher

    return LocalLauncher(workers)
