"""Small tables with columns of numbers and of categories that numbers describe."""

from collections.abc import Iterable
from pathlib import Path

SIZES = {"L1": 1.0, "L2": 2.0, "L3": 3.0, "L4": 4.0, "L5": 6.0}
"""The ligands of the descriptor file; the table knows no L5."""


def write(path: Path, header: str, rows: Iterable[str]) -> Path:
    """Writes a CSV file."""
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def ligand_file(path: Path) -> Path:
    """Writes the descriptors."""
    return write(path, "ligand,size", [f"{name},{size}" for name, size in SIZES.items()])


def reactions(path: Path) -> Path:
    """Writes yields by acid and temperature (contexts), ligand and equivalents: large ligands are good at heat."""
    rows = []
    for acid in "ab":
        for temperature in (80, 90, 100, 110):
            for ligand in ("L1", "L2", "L3", "L4"):
                for equivalents in (1, 1.5, 2):
                    effect = (temperature - 95) / 10 * (SIZES[ligand] - 2.5) + equivalents + (acid == "a")
                    rows.append(f"{acid},{temperature},{ligand},{equivalents},{effect:.3f}")
    return write(path, "acid,temperature,ligand,equivalents,yield", rows)
