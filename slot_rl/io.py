"""Files: atomic writes, bundles of weights, and the files of a run folder.

A bundle is a folder with one safetensors file and one JSON document that names its size and SHA-256. Estimators and
checkpoints are bundles. The weights' file name carries its hash, and the document is replaced last, in one atomic
rename, so a process that is killed at any moment leaves either the old bundle or the new one, whole. Every document
says its format and holds its own hash, too. Nothing here can execute code: safetensors holds numbers, the document is
JSON.
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

FORMAT, VERSION = "format", 2
"""The key of a document's format, ``slot_rl <the file's name> <version>``, and the version that is written."""
EARLIER = (None, "slot_rl bundle 1", "slot_rl campaign 1")
"""Formats of earlier versions, whose documents may have no hash."""
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


_OF_VALUES = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, RuntimeError, TypeError)


@contextmanager
def as_written(what: str) -> Iterator[None]:
    """Turns what goes wrong with the values of a document, or with its weights, into one line.

    Args:
        what: What is read, for the message.

    Raises:
        BundleError: If the block raises an error that is about values.
    """
    try:
        yield
    except BundleError as error:
        raise (error if what in str(error) else BundleError(f"{error}, in {what}")) from error
    except (*_OF_VALUES, ValueError, safetensors.SafetensorError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise BundleError(f"expected {what} as it was written, got: {' '.join(said.split())[:300]}") from error


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
    """Writes a JSON document atomically, indented, keys in the given order, never NaN.

    Its format stands first, and its own hash last.
    """
    whole = {FORMAT: document_format(path), **document}
    write_atomically(path, _json({**whole, SEAL: digest_of(whole)}))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object that :func:`write_json` wrote, and returns it without its format and hash.

    Raises:
        BundleError: If the file holds something else, in another format, or was altered.
    """
    text = read_text(path)
    try:
        document: Any = json.loads(text)
        digest = digest_of(_without_seal(document))  # refuses NaN and infinity
    except (ValueError, RecursionError) as error:
        raise BundleError(f"expected JSON in {path}, got: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f"expected a JSON object in {path}, got {type(document).__name__}")
    found, seal = document.pop(FORMAT, None), document.pop(SEAL, None)
    if seal != digest and (seal is not None or found not in EARLIER):
        raise BundleError(f"expected {path} as it was written, got one that does not fit its {SEAL}: it was altered")
    if found not in (*EARLIER, expected := document_format(path)):
        raise BundleError(f"expected {path} in format {expected!r}, got {_shown(found)}")
    return document


def read_text(path: Path) -> str:
    """Returns what a file says in UTF-8; raises BundleError if it is no file, or in another encoding."""
    if not path.is_file():
        raise BundleError(f"expected a file in {path}, got {'something else' if os.path.lexists(path) else 'none'}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"expected {path} in UTF-8, got: {error}") from error


def document_format(path: Path) -> str:
    """Returns the format that the document in a file says."""
    return f"slot_rl {path.stem} {VERSION}"


def _without_seal(document: Any) -> Any:
    return {key: value for key, value in document.items() if key != SEAL} if isinstance(document, dict) else document


def _shown(value: Any) -> str:
    return repr(value)[:60]


def digest_of(document: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a document; raises ValueError for NaN and infinity."""
    # Without indentation, in the order of the keys, which JSON keeps.
    return hashlib.sha256(json.dumps(document, allow_nan=False).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
        document: Further JSON content; ``kind`` and ``files`` are added.
        name: File name of the document, for example ``"manifest.json"``.

    Raises:
        BundleError: If a tensor is not finite; then nothing is written.
    """
    broken = _not_finite(tensors)
    if broken:
        raise BundleError(f"expected finite weights, got NaN or infinity in {broken}; nothing was written")
    data = safetensors.torch.save({key: value.detach().contiguous() for key, value in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    weights = f"{_PREFIX}{digest[:12]}.safetensors"
    header = {"kind": kind, "files": {weights: {"bytes": len(data), "sha256": digest}}}
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
    path = file_of(folder, weights)
    if rest or path is None:
        raise BundleError(f"expected the weights {_shown(weights)} in {folder}, got no such file")
    data = path.read_bytes()
    actual = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if actual != expected:
        raise BundleError(f"expected {path} to have {_state(expected)}, got {_state(actual)}: the file was altered")
    with as_written(f"the weights {path}"):
        tensors = safetensors.torch.load(data)
        if broken := _not_finite(tensors):
            raise BundleError(f"expected finite weights in {path}, got NaN or infinity in {broken}")
    return tensors, document


def read_document(folder: Path, kind: str, name: str) -> dict[str, Any]:
    """Reads only a bundle's JSON document; raises :class:`BundleError` as :func:`read_bundle` does."""
    path = folder / name
    if not path.is_file():
        raise BundleError(f"expected a folder with {kind} weights and {name}, got {folder} without {name}")
    document = read_json(path)
    if document.get("kind") != kind:
        raise BundleError(f"expected {path} to be of kind {kind!r}, got {_shown(document.get('kind'))}")
    files = document.get("files")
    if not isinstance(files, dict) or len(files) != 1 or not all(isinstance(e, dict) for e in files.values()):
        raise BundleError(f"expected {path} to name one weights file, got {_shown(files)}")
    return document


def file_of(folder: Path, name: str) -> Path | None:
    """Returns the file of a folder that a document names; None if there is none, or it leads out of the folder."""
    path = folder / name
    try:
        inside = Path(name).name == name and path.is_file() and path.resolve().parent == folder.resolve()
    except OSError:  # for example of a name that is too long
        return None
    return path if inside else None


def weights_hash(document: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a bundle's weights, as its document states it."""
    (entry,) = document["files"].values()
    return str(entry["sha256"])


def _not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all())


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
