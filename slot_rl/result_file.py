"""Files of results: their names are checked before the work begins."""

from pathlib import Path


def check_out(out: Path, force: bool, suffixes: tuple[str, ...], inputs: tuple[Path | None, ...]) -> None:
    """Refuses a file that cannot or must not be written.

    Args:
        out: The file to write.
        force: Whether an earlier one may be replaced.
        suffixes: Endings that a name may have.
        inputs: Files that are read and must never be replaced.

    Raises:
        ValueError: If the ending is another, the folder is missing, or the name is taken.
    """
    if out.suffix.lower() not in suffixes:
        raise ValueError(f"expected --out to end in {' or '.join(suffixes)}, got {out.name}")
    if not out.parent.is_dir():
        raise ValueError(f"expected an existing folder for --out, got {out.parent}")
    if out.is_dir():
        raise ValueError(f"expected a file for --out, got the folder {out}")
    if any(path is not None and path.exists() and out.exists() and out.samefile(path) for path in inputs):
        raise ValueError(f"expected --out to be no file that is read, got {out}")
    if out.exists() and not force:
        raise ValueError(f"expected a new file for --out, got {out}, which exists (--force replaces it)")
