"""Files: atomic writes, bundles of weights, and the files of a run folder.

A bundle is a folder with one safetensors file and one JSON document that names its size and SHA-256. Estimators and
checkpoints are bundles. The weights' file name carries its hash, and the document is replaced last, in one atomic
rename, so a process that is killed at any moment leaves either the old bundle or the new one, whole. Every document
holds its own hash, too. Nothing here can execute code: safetensors holds numbers, the document is JSON.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

FORMAT = "slot_rl bundle 1"
SEAL = "document_sha256"
"""The key of a document's own hash: its SHA-256 without this key."""
_PREFIX = "weights-"

CONFIG, SUMMARY, CHECKPOINT, CURVE = "config.json", "summary.json", "checkpoint", "learning_curve.png"
SERVING = "serving.png"
BAD_BATCH = "bad_batch.safetensors"
_RANDOM_BYTES = 8
STRAY = "." + 2 * _RANDOM_BYTES * "[0-9a-f]" + ".tmp"
"""What the names of unfinished files and folders end in, as a pattern; before it are a dot and the name."""


class BundleError(ValueError):
    """A bundle is missing, incomplete, altered, or of another kind than expected."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a temporary name to write to; syncs the file and renames it once the block has ended well.

    An error, Ctrl-C or a crash leaves the earlier file as it was, and none where there was none.

    Args:
        path: The file; its folder must exist.
    """
    temporary = temporary_name(path)
    # A new file, or none: never one that somebody else has put there, nor what a link leads to.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """Returns a name beside a file or folder that nobody else has, for what is not whole yet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}.tmp")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` as the whole content of ``path``; see :func:`whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON document atomically, indented, keys in the given order, never NaN, with its own hash at the end."""
    write_atomically(path, _json({**document, SEAL: _digest(document)}))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        BundleError: If the file holds something else, or not what :func:`write_json` wrote.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"expected JSON in {path}, got: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f"expected a JSON object in {path}, got {type(document).__name__}")
    # Files of earlier versions have no hash.
    written = document.pop(SEAL, None)
    if written is not None and written != _digest(document):
        raise BundleError(f"expected {path} as it was written, got one that does not fit its {SEAL}: it was altered")
    return document


def _digest(document: Mapping[str, Any]) -> str:
    # Without indentation, in the order of the keys, which JSON keeps.
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


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


def sync_folder(folder: Path) -> None:
    """Writes a folder's list of names to disk: only then does a rename in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a run's config.

    Raises:
        ValueError: If the folder is no run.
    """
    if not (folder / CONFIG).is_file():
        raise ValueError(f"expected a run folder with {CONFIG}, got {folder} without one")
    return read_json(folder / CONFIG)
