"""Files to begin with: a problem of your own, and a study that compares agents on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from slot_rl.console import say

TEMPLATES = Path(__file__).parent
WRITTEN = ("problem.py", "study.yaml")


@dataclass(frozen=True)
class InitConfig:
    """Writes problem.py and study.yaml, which run as they are, into an empty folder.

    Attributes:
        folder: The folder; made if it is missing.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path()


def init(config: InitConfig) -> None:
    """Writes the files, and says what to do with them.

    Raises:
        ValueError: If the folder holds something already.
    """
    folder = config.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"expected an empty folder, or none yet, got {folder.resolve()}, which holds something")
    folder.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:
        with (folder / name).open("xb") as file:
            file.write((TEMPLATES / f"{name}.txt").read_bytes())
    problem, study = (folder / name for name in WRITTEN)
    say(f"written: {problem} and {study}; read them, they run as they are:")
    for command in (
        f"train --problem {problem}:build --trust --agent multistart --timesteps 20000 --out {folder / 'run'}",
        f"compare --study {study} --trust --out {folder / 'comparison'}",
    ):
        say(f"  slot-rl {command}")
