"""Bundles on disk: what is written is what is read, whatever was altered is refused, and no crash loses the old one.

Crashes are simulated at every step of a replacement. A pickle that would leave a trace when run stands in for weights,
to show that reading a bundle cannot execute anything.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from slot_rl import io as slot_io
from slot_rl.io import (
    BundleError,
    read_bundle,
    read_document,
    read_json,
    weights_hash,
    write_atomically,
    write_bundle,
    write_json,
)
from slot_rl.seeding import generator_from

NAME = "manifest.json"
OLD = {"weight": torch.tensor([1.0, 2.0]), "count": torch.tensor([3])}
NEW = {"weight": torch.tensor([5.0, 6.0, 7.0])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a bundle, whose document says that it is old."""
    write_bundle(tmp_path / "bundle", "thing", OLD, {"age": "old"}, NAME)
    return tmp_path / "bundle"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def weights_file(folder: Path) -> Path:
    (name,) = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
    return folder / str(name)


def rewrite(folder: Path, **changes: Any) -> None:
    """Changes the document as another program could."""
    write_json(folder / NAME, {**read_json(folder / NAME), **changes})


def assert_holds(folder: Path, tensors: dict[str, torch.Tensor], age: str) -> None:
    found, document = read_bundle(folder, "thing", NAME)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    assert document["age"] == age


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda key: key != "__metadata__"),
        st.tuples(
            st.lists(st.integers(0, 3), max_size=3),
            st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]),
        ),
        max_size=4,
    ),
    st.integers(0, 999),
)
def test_tensors_and_document_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, tuple[list[int], torch.dtype]], seed: int
) -> None:
    target = tmp_path_factory.mktemp("bundle")
    tensors = {
        name: torch.randn(shape, generator=generator_from(seed)).mul(3).to(dtype)
        for name, (shape, dtype) in kinds.items()
    }
    details = {"text": "ä\n", "numbers": [1, 2.5, None], "inner": {"b": 1, "a": 2}}
    write_bundle(target, "thing", tensors, details, NAME)
    found, document = read_bundle(target, "thing", NAME)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    assert {key: document[key] for key in details} == details
    assert document["kind"] == "thing"
    assert read_document(target, "thing", NAME) == document


def test_the_document_names_the_size_and_hash_of_the_weights(folder: Path) -> None:
    data = weights_file(folder).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    document = read_document(folder, "thing", NAME)
    assert document["files"] == {f"weights-{digest[:12]}.safetensors": {"bytes": len(data), "sha256": digest}}
    assert weights_hash(document) == digest
    assert names(folder) == {NAME, f"weights-{digest[:12]}.safetensors"}


def test_strided_tensors_and_parameters_are_written_by_value(tmp_path: Path) -> None:
    strided = torch.arange(6.0).view(2, 3).T
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    write_bundle(tmp_path / "new" / "deep", "thing", {"a": strided, "b": parameter}, {"age": "x"}, NAME)
    assert_holds(tmp_path / "new" / "deep", {"a": strided.contiguous(), "b": parameter.detach()}, "x")


def test_a_replacement_removes_only_the_stale_weights(folder: Path) -> None:
    (folder / "fit.png").write_bytes(b"picture")
    old = weights_file(folder)
    write_bundle(folder, "thing", NEW, {"age": "new"}, NAME)
    assert_holds(folder, NEW, "new")
    assert not old.exists()
    assert names(folder) == {NAME, "fit.png", weights_file(folder).name}


def test_writing_the_same_weights_again_keeps_them(folder: Path) -> None:
    before = names(folder)
    write_bundle(folder, "thing", OLD, {"age": "newer"}, NAME)
    assert_holds(folder, OLD, "newer")
    assert names(folder) == before


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_single_altered_byte_is_noticed(folder: Path, place: int) -> None:
    path = weights_file(folder)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    expected, actual = path.name[8:20], hashlib.sha256(data).hexdigest()[:12]
    size = len(data)
    message = (
        f"to have {size} bytes and SHA-256 {expected}, got {size} bytes and SHA-256 {actual}: the file was altered"
    )
    with pytest.raises(BundleError, match=message):
        read_bundle(folder, "thing", NAME)


@pytest.mark.parametrize("kept", [0, 7, 50])
def test_truncated_weights_are_noticed(folder: Path, kept: int) -> None:
    path = weights_file(folder)
    data = path.read_bytes()
    path.write_bytes(data[:kept])
    with pytest.raises(BundleError, match=f"to have {len(data)} bytes and .*, got {kept} bytes and"):
        read_bundle(folder, "thing", NAME)


def test_missing_weights_are_noticed(folder: Path) -> None:
    path = weights_file(folder)
    path.unlink()
    with pytest.raises(BundleError, match=f"expected the weights '{path.name}' in .*, got no such file"):
        read_bundle(folder, "thing", NAME)


@pytest.mark.parametrize("exists", [True, False])
def test_a_missing_document_is_noticed(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "nowhere"
    message = f"expected a folder with thing weights and {NAME}, got .* without {NAME}"
    for read in (read_bundle, read_document):
        with pytest.raises(BundleError, match=message):
            read(folder, "thing", NAME)


def test_a_bundle_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="expected .* to be of kind 'checkpoint', got 'thing'"):
        read_bundle(folder, "checkpoint", NAME)


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": }', b"\xff\xfe\x00", b"nonsense"])
def test_a_document_that_is_not_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / NAME).write_bytes(content)
    with pytest.raises(BundleError, match=r"expected (JSON in )?.*manifest\.json(,| in UTF-8,) got: "):
        read_bundle(folder, "thing", NAME)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object in .*manifest.json, got list"),
        ("3", "expected a JSON object in .*manifest.json, got int"),
        ("null", "expected a JSON object in .*manifest.json, got NoneType"),
        ("{}", "to be of kind 'thing', got None"),
    ],
)
def test_a_document_of_another_form_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / NAME).write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        read_bundle(folder, "thing", NAME)


def test_a_document_of_another_format_is_refused(folder: Path) -> None:
    rewrite(folder, format="slot_rl bundle 3")
    with pytest.raises(BundleError, match="in format 'slot_rl manifest 2', got 'slot_rl bundle 3'"):
        read_bundle(folder, "thing", NAME)


@pytest.mark.parametrize("files", [None, [], {}, "weights", {"a": {}, "b": {}}])
def test_a_document_without_one_weights_file_is_refused(folder: Path, files: Any) -> None:
    rewrite(folder, files=files)
    with pytest.raises(BundleError, match="expected .* to name one weights file, got"):
        read_bundle(folder, "thing", NAME)


@pytest.mark.parametrize("entry", [{}, {"bytes": 1}, {"bytes": "1", "sha256": None}, "text", None, [1, 2]], ids=str)
def test_a_document_of_other_weights_is_refused(folder: Path, entry: Any) -> None:
    rewrite(folder, files={weights_file(folder).name: entry})
    with pytest.raises(BundleError, match="expected .*, got"):
        read_bundle(folder, "thing", NAME)


@pytest.mark.parametrize("prefix", ["../other/", "{root}/other/"])
def test_a_document_cannot_lead_out_of_its_folder(folder: Path, prefix: str) -> None:
    weights = weights_file(folder)
    entry = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"][weights.name]
    other = folder.parent / "other"
    other.mkdir()
    shutil.move(weights, other / weights.name)
    rewrite(folder, files={prefix.format(root=folder.parent) + weights.name: entry})
    with pytest.raises(BundleError, match="expected the weights .*, got no such file"):
        read_bundle(folder, "thing", NAME)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = {"good": torch.ones(2), "bad": torch.tensor([1.0, value]), "worse": torch.tensor(value).half()}
    message = "expected finite weights, got NaN or infinity in bad, worse; nothing was written"
    with pytest.raises(BundleError, match=message):
        write_bundle(folder, "thing", broken, {"age": "new"}, NAME)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(BundleError, match=message):
        write_bundle(folder.parent / "fresh", "thing", broken, {}, NAME)
    assert not (folder.parent / "fresh").exists()


def test_weights_that_are_not_finite_are_not_read_either(folder: Path) -> None:
    data = safetensors.torch.save({"weight": torch.tensor([1.0, torch.nan])})
    weights_file(folder).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder, files={weights_file(folder).name: entry})
    with pytest.raises(BundleError, match="expected finite weights in .*, got NaN or infinity in weight"):
        read_bundle(folder, "thing", NAME)


def test_a_document_of_this_version_without_its_hash_is_refused(folder: Path) -> None:
    text = (folder / NAME).read_text(encoding="utf-8")
    (folder / NAME).write_text(text.replace("document_sha256", "document_sha257"), encoding="utf-8")
    with pytest.raises(BundleError, match="as it was written, got one that does not fit its document_sha256"):
        read_json(folder / NAME)


class Crash(RuntimeError):
    """Stands for a power cut."""


def crash(*arguments: Any, **options: Any) -> None:
    raise Crash


def test_a_crash_after_the_weights_leaves_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_io, "write_json", crash)
    with pytest.raises(Crash):
        write_bundle(folder, "thing", NEW, {"age": "new"}, NAME)
    assert_holds(folder, OLD, "old")
    assert len(names(folder)) == 3
    monkeypatch.undo()
    # The next write clears what the crash has left.
    write_bundle(folder, "thing", {"x": torch.zeros(1)}, {"age": "newest"}, NAME)
    assert_holds(folder, {"x": torch.zeros(1)}, "newest")
    assert len(names(folder)) == 2


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_crash_within_the_weights_leaves_the_old_bundle(
    folder: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(folder)
    monkeypatch.setattr(os, step, crash)
    with pytest.raises(Crash):
        write_bundle(folder, "thing", NEW, {"age": "new"}, NAME)
    assert_holds(folder, OLD, "old")
    assert names(folder) == before


def test_a_crash_within_the_document_leaves_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def replace_weights_only(source: Path, target: Path) -> None:
        if target.name == NAME:
            raise Crash
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_weights_only)
    with pytest.raises(Crash):
        write_bundle(folder, "thing", NEW, {"age": "new"}, NAME)
    assert_holds(folder, OLD, "old")
    assert not [name for name in names(folder) if name.endswith(".tmp")]


def test_a_crash_before_the_cleaning_leaves_the_new_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale, unlink = weights_file(folder).name, Path.unlink

    def keep_stale(self: Path, missing_ok: bool = False) -> None:
        if self.name == stale:
            raise Crash
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", keep_stale)
    with pytest.raises(Crash):
        write_bundle(folder, "thing", NEW, {"age": "new"}, NAME)
    assert_holds(folder, NEW, "new")


def test_a_document_with_nan_is_refused_and_the_old_bundle_stays(folder: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        write_bundle(folder, "thing", NEW, {"age": "new", "r2": float("nan")}, NAME)
    assert_holds(folder, OLD, "old")


def test_write_atomically_replaces_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second" and names(tmp_path) == {"file"}
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(Crash):
        write_atomically(path, b"third")
    assert path.read_bytes() == b"second" and names(tmp_path) == {"file"}


def test_data_is_synced_before_the_rename_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        steps.append("rename")
        assert source.read_bytes() == b"content"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomically(tmp_path / "file", b"content")
    assert steps == ["file", "rename", "folder"]


def test_write_json_keeps_the_order_of_keys_and_ends_with_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"z": 1, "a": [True, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    digest = hashlib.sha256(b'{"format": "slot_rl a 2", "z": 1, "a": [true, null]}').hexdigest()
    inner = '  "z": 1,\n  "a": [\n    true,\n    null\n  ]'
    assert text == f'{{\n  "format": "slot_rl a 2",\n{inner},\n  "document_sha256": "{digest}"\n}}\n'
    assert read_json(tmp_path / "a.json") == {"z": 1, "a": [True, None]}


def test_no_flipped_bit_of_a_document_reads_as_something_else(folder: Path) -> None:
    data, document = (folder / NAME).read_bytes(), read_json(folder / NAME)
    refused = 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / NAME).write_bytes(flipped)
        try:
            found = read_json(folder / NAME)
        except BundleError:
            refused += 1
        else:
            # White space, or the name of the hash: the content is as it was.
            assert {key: found.get(key) for key in document} == document
    assert refused > 6 * len(data)


def test_an_editor_and_earlier_versions(folder: Path) -> None:
    text = (folder / NAME).read_text(encoding="utf-8")
    (folder / NAME).write_text(text.replace('"old"', '"new"'), encoding="utf-8")
    with pytest.raises(BundleError, match=r"expected .*manifest\.json as it was written, .*: it was altered"):
        read_json(folder / NAME)
    (folder / NAME).write_text(json.dumps({"age": "old"}), encoding="utf-8")
    assert read_json(folder / NAME) == {"age": "old"}


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickles_are_never_run(folder: Path, writer: str) -> None:
    trace, path = folder.parent / "trace", weights_file(folder)
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Trap(trace)))
    else:
        torch.save(Trap(trace), path)
    with pytest.raises(BundleError, match="the file was altered"):
        read_bundle(folder, "thing", NAME)
    # Nor where the document vouches for them.
    data = path.read_bytes()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder, files={path.name: entry})
    with pytest.raises((BundleError, SafetensorError)):
        read_bundle(folder, "thing", NAME)
    assert not trace.exists()
    # The trap is armed: whoever unpickles it does run it.
    if writer == "pickle":
        pickle.loads(data)
    else:
        torch.load(io.BytesIO(data), weights_only=False)
    assert trace.exists()
