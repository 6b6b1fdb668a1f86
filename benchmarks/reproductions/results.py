"""What every reproduction leaves behind: a table on screen, and its figures and picture in a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slot_rl.console import print_table, say
from slot_rl.io import check_free, fresh_folder, write_json
from slot_rl.provenance import provenance

RESULTS, PICTURE = "results.json", "picture.png"


@dataclass(frozen=True)
class Place:
    """Where a reproduction's results go.

    Attributes:
        out: The folder; runs/reproduce-<name> if left out.
        force: Replace the results that are already there.
    """

    out: Path | None = None
    force: bool = False

    def folder(self, name: str) -> Path:
        """Returns the folder, after making sure that it may be written.

        Raises:
            ValueError: If something else is there.
        """
        folder = self.out or Path("runs", f"reproduce-{name}")
        check_free(folder, self.force, RESULTS)
        return folder


def refuse_missing(data: Path, files: Sequence[str]) -> None:
    """Raises ValueError if a folder of measured landscapes lacks one of the files."""
    missing = [file for file in dict.fromkeys(files) if not (data / file).is_file()]
    if missing:
        raise ValueError(f"expected {', '.join(missing)} in --data FOLDER, got {data} without")


def publish(
    folder: Path,
    config: Any,
    title: str,
    columns: list[str],
    rows: Sequence[Sequence[str]],
    figures: Any,
    draw: Callable[[Path], None],
) -> None:
    """Prints a table and writes figures and picture.

    Args:
        folder: An output of :meth:`Place.folder`.
        config: The reproduction's dataclass of flags.
        title: The table's title.
        columns: The table's columns.
        rows: The table's cells.
        figures: JSON-ready figures, complete.
        draw: Draws the picture to a path.
    """
    with fresh_folder(folder):
        write_json(folder / RESULTS, {**provenance(config), "figures": figures})
        draw(folder / PICTURE)
    print_table(title, columns, [list(row) for row in rows])
    say(f"figures and picture: {folder}")
