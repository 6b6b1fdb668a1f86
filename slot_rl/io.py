"""Files: atomic writes, bundles of weights, run folders, and checks of the paths that a command may write to.

A bundle is a folder with one safetensors file and one JSON document that names its size and SHA-256. Estimators and
checkpoints are bundles. The weights' file name carries its hash, and the document is replaced last, in one atomic
rename, so a process that is killed at any moment leaves either the old bundle or the new one, whole. Nothing here can
execute code: safetensors holds numbers, the document is JSON.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

FORMAT = "slot_rl bundle 1"
_PREFIX = "weights-"

CONFIG, SUMMARY, CHECKPOINT, CURVE = "config.json", "summary.json", "checkpoint", "learning_curve.png"
METRICS_FILE = "metrics.jsonl"
SERVING = "serving.png"
BAD_BATCH = "bad_batch.safetensors"


class BundleError(ValueError):
    """A bundle is missing, incomplete, altered, or of another kind than expected."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a temporary name to write to; syncs the file and renames it once the block has ended well.

    An error, Ctrl-C or a crash leaves the earlier file as it was, and none where there was none.

    Args:
        path: The file; its folder must exist.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` as the whole content of ``path``; see :func:`whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON document atomically, indented, keys in the given order, never NaN."""
    write_atomically(path, _json(document))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        BundleError: If the file holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"expected JSON in {path}, got: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f"expected a JSON object in {path}, got {type(document).__name__}")
    return document


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def write_bundle(
    folder: Path, kind: str, tensors: Mapping[str, torch.Tensor], document: Mapping[str, Any], name: str
) -> None:
    """Writes or replaces a bundle.

    Args:
        folder: The bundle's folder; made if it is missing.
        kind: What the bundle is, for example ``"estimator"``; checked when it is read.
        tensors: The weights by name; all must be finite.
        document: Further JSON content; ``format``, ``kind`` and ``files`` are added.
        name: File name of the document, for example ``"manifest.json"``.

    Raises:
        BundleError: If a tensor is not finite; then nothing is written.
    """
    broken = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise BundleError(f"expected finite weights, got NaN or infinity in {', '.join(broken)}; nothing was written")
    data = safetensors.torch.save({key: value.detach().contiguous() for key, value in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    weights = f"{_PREFIX}{digest[:12]}.safetensors"
    header = {"format": FORMAT, "kind": kind, "files": {weights: {"bytes": len(data), "sha256": digest}}}
    whole = {**header, **document}
    _json(whole)  # may refuse, so before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / weights, data)
    write_json(folder / name, whole)
    for stale in folder.glob(f"{_PREFIX}*.safetensors"):
        if stale.name != weights:
            stale.unlink()


def read_bundle(folder: Path, kind: str, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads a bundle and checks it against its own document.

    Args:
        folder: The bundle's folder.
        kind: The expected kind.
        name: File name of the document.

    Returns:
        The tensors by name, and the document.

    Raises:
        BundleError: If a file is missing, of another kind, or differs from its recorded size or hash.
    """
    document = read_document(folder, kind, name)
    (weights, expected), *rest = document["files"].items()
    path = folder / Path(weights).name
    if rest or not path.is_file():
        raise BundleError(f"expected the weights {weights} in {folder}, got no such file")
    data = path.read_bytes()
    actual = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if actual != expected:
        raise BundleError(f"expected {path} to have {_state(expected)}, got {_state(actual)}: the file was altered")
    try:
        return safetensors.torch.load(data), document
    except safetensors.SafetensorError as error:
        raise BundleError(f"expected safetensors in {path}, got: {error}") from error


def read_document(folder: Path, kind: str, name: str) -> dict[str, Any]:
    """Reads only a bundle's JSON document; raises :class:`BundleError` as :func:`read_bundle` does."""
    path = folder / name
    if not path.is_file():
        raise BundleError(f"expected a folder with {kind} weights and {name}, got {folder} without {name}")
    document = read_json(path)
    if document.get("format") != FORMAT or document.get("kind") != kind:
        raise BundleError(f"expected {path} to be of kind {kind!r} in format {FORMAT!r}, got {document.get('kind')!r}")
    files = document.get("files")
    if not isinstance(files, dict) or len(files) != 1 or not all(isinstance(e, dict) for e in files.values()):
        raise BundleError(f"expected {path} to name one weights file, got {files!r}")
    return document


def weights_hash(document: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a bundle's weights, as its document states it."""
    (entry,) = document["files"].values()
    return str(entry["sha256"])


def _state(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('bytes')} bytes and SHA-256 {str(entry.get('sha256'))[:12]}"


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only once its folder is on disk too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
