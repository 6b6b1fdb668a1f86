"""Shared parts of all reproductions: flags of the output folder, the progress bar, results on screen and on disk."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from slot_rl.console import print_table, progress_bar, say
from slot_rl.io import write_json
from slot_rl.places import check_free, fresh_folder
from slot_rl.provenance import provenance

RESULTS, PICTURE = "results.json", "picture.png"
_Key = TypeVar("_Key")
_Result = TypeVar("_Result")
_Draw = Callable[[Path], None]


@dataclass(frozen=True)
class Place:
    """The output folder of a reproduction.

    Attributes:
        out: The folder; runs/reproduce-<name> if left out.
        force: Replace the results that are already there.
    """

    out: Path | None = None
    force: bool = False

    def folder(self, name: str) -> Path:
        """Returns the folder; raises ValueError if it holds other files."""
        folder = self.out or Path("runs", f"reproduce-{name}")
        check_free(folder, self.force, RESULTS)
        return folder


def refuse_missing(data: Path, files: Sequence[str]) -> None:
    """Raises ValueError if a folder of measured landscapes lacks one of the files."""
    missing = [file for file in dict.fromkeys(files) if not (data / file).is_file()]
    if missing:
        raise ValueError(f"expected {', '.join(missing)} in --data FOLDER, got {data} without")


def run_each(
    keys: Iterable[_Key], points: int, work: Callable[[_Key, Callable[[], None]], _Result]
) -> dict[_Key, _Result]:
    """Runs the work for each key under one progress bar.

    Args:
        keys: What is run, in this order.
        points: How often the work of one key reports progress.
        work: Takes a key and the function that reports progress.
    """
    found: dict[_Key, _Result] = {}
    keys = list(keys)
    with progress_bar() as progress:
        task = progress.add_task("running", total=len(keys) * points, note="")
        for key in keys:
            progress.update(task, note=", ".join(map(str, key)) if isinstance(key, tuple) else str(key))
            found[key] = work(key, lambda: progress.advance(task))
    return found


def mean_of_last(values: Sequence[float], one_in: int) -> float:
    """Returns the mean over the last ``1 / one_in`` of the values, because single values vary widely."""
    last = values[-max(1, len(values) // one_in) :]
    return sum(last) / len(last)


def write_results(
    folder: Path, config: Any, table: tuple[str, list[str], list[list[str]]], figures: Any, draw_picture: _Draw
) -> None:
    """Prints a table and writes figures and picture.

    Args:
        folder: The result of :meth:`Place.folder`.
        config: The dataclass of flags.
        table: Title, columns and rows of the table.
        figures: All figures, as JSON-ready values.
        draw_picture: Draws the picture to a path.
    """
    with fresh_folder(folder):
        write_json(folder / RESULTS, {**provenance(config), "figures": figures})
        draw_picture(folder / PICTURE)
    print_table(*table)
    say(f"figures and picture: {folder}")
