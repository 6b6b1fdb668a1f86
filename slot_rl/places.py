"""Places to write to: one command at a time has a folder or a file, and what was there before is not lost to a failure.

A command claims its place before anything else (:func:`claimed`), refuses one that is taken (:func:`check_free`,
:func:`check_continued`, :func:`check_out`), and makes a new folder in place of an earlier one (:func:`fresh_folder`).
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout

from slot_rl.io import STRAY


@contextmanager
def claimed(place: Path, done: str | None = None) -> Iterator[None]:
    """Keeps a place for this command alone; a claim ends with its process, however that ends.

    What commands that were killed have left is cleared: unfinished files, and a folder that had not got so far that it
    replaced an earlier one, which is brought back.

    Args:
        place: The file or folder to write; its parent is made if it is missing, and removed if it stays empty.
        done: The file with which :func:`fresh_folder` replaces an earlier folder, as a pattern.

    Raises:
        ValueError: If another command has it; the message names its process.
    """
    place = Path(os.path.abspath(place))
    missing = [folder for folder in place.parents if not folder.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.with_name(f".{place.name}.lock")
    try:
        # Never one that waits, or that lets a second thread of this process in.
        claim = FileLock(lock, timeout=0, thread_local=False, on_acquired=_write_holder)
        claim.acquire()
    except Timeout as error:
        raise ValueError(
            f"expected {place} for this command alone, got one that {_holder(lock)} is writing to"
        ) from error
    try:
        _clear(place, done)
        yield
    finally:
        # While it is held: whoever waits for the removed file sees that it is no more the one to wait for.
        lock.unlink(missing_ok=True)
        claim.release()
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()  # none where nothing was written


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())


def _holder(lock: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(lock.read_text())
        return f"process {int(holder['process'])} on {holder['host']!s}"
    return "another process"


def _clear(place: Path, done: str | None) -> None:
    beside = place.parent.glob(f".{escape(place.name)}{STRAY}") if place.parent.is_dir() else ()
    # A list, because what is found is removed.
    for stray in [*beside, *(place.rglob(f".*{STRAY}") if place.is_dir() else ())]:
        if stray.is_dir() and not stray.is_symlink():
            shutil.rmtree(stray)
        else:
            stray.unlink(missing_ok=True)
    aside = _aside(place)
    if aside.is_dir():
        _settle(place, aside, done)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _settle(folder: Path, aside: Path, done: str | None) -> None:
    """Keeps the new folder if it has got so far, and the earlier one otherwise."""
    if done is not None and any(folder.glob(done)):
        shutil.rmtree(aside)
        return
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)


def check_free(folder: Path, force: bool, mark: str, hint: str = "--force replaces it") -> None:
    """Refuses a folder that holds something, unless it is of the expected kind and ``force`` is given.

    Args:
        folder: The folder to write to.
        force: Whether an earlier one may be replaced.
        mark: A file that every folder of this kind has; anything else is never deleted.
        hint: What can be done about a folder of this kind.

    Raises:
        ValueError: If the folder is taken.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force:
        raise ValueError(f"expected a new folder for --out, got {folder}, which exists ({hint})")
    if not (folder / mark).is_file():
        raise ValueError(f"expected --force to replace a folder with {mark}, got {folder} without one; nothing deleted")
    for place in (folder, *folder.rglob("*")):
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            raise ValueError(f"expected --force to replace a folder that can be removed, got the read-only {place}")


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
def fresh_folder(folder: Path, done: str | None = None) -> Iterator[Callable[[], None]]:
    """Makes an empty folder in place of one that :func:`check_free` let pass.

    The earlier folder is kept aside until the block has ended. After an error it comes back, and the new one is
    removed. With ``done``, the new folder stays once that file is there, and once the block has called the function
    that it is given: under the name with ``.failed`` behind it if there was an earlier folder.

    Args:
        folder: The folder.
        done: A file in it that makes it worth more than an earlier one, as a pattern; None for the end of the block.

    Raises:
        ValueError: If the folder was removed or replaced while the block ran.
    """
    aside, begun = _aside(folder), list[bool]()
    if folder.exists():
        folder.rename(aside)
    folder.mkdir(parents=True)
    try:
        with unmoved(folder):
            yield lambda: begun.append(True)
    except BaseException as error:
        if begun and aside.exists() and not any(folder.glob(str(done))):
            failed = folder.with_name(f"{folder.name}.failed")
            shutil.rmtree(failed, ignore_errors=True)
            folder.rename(failed)
            aside.rename(folder)
            if isinstance(error, ValueError):
                raise ValueError(f"{error}; this is in {failed}, and {folder} is as it was before") from error
        elif aside.exists():
            _settle(folder, aside, done)
        elif not begun:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if aside.exists():
        shutil.rmtree(aside)


@contextmanager
def unmoved(folder: Path) -> Iterator[None]:
    """Raises ValueError after a block in which a folder was removed or replaced, so that files of it are missing."""
    before = folder.stat()
    yield
    if not folder.is_dir() or not os.path.samestat(before, folder.stat()):
        raise ValueError(
            f"expected {folder} as this command made it, got {'another' if folder.is_dir() else 'no'} folder: it was "
            "removed or replaced while the command ran, and files that were written before are missing"
        )


def check_parent(out: Path) -> None:
    """Raises ValueError unless the folder of a file to write exists: a typing error makes no folders."""
    if not out.parent.is_dir():
        raise ValueError(f"expected an existing folder for --out, got {out.parent}")


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
    check_parent(out)
    if out.is_dir():
        raise ValueError(f"expected a file for --out, got the folder {out}")
    if any(path is not None and path.exists() and out.exists() and out.samefile(path) for path in inputs):
        raise ValueError(f"expected --out to be no file that is read, got {out}")
    if out.exists() and not force:
        raise ValueError(f"expected a new file for --out, got {out}, which exists (--force replaces it)")
