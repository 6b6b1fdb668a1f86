"""Files that were damaged: each one reads as it was written, or is refused in one line."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slot_rl.io import SEAL, digest_of
from tests.faults.conftest import Promise
from tests.helpers.written import WRITTEN, Written

FLIPS, MUTATIONS = 500, 3_000
KINDS = pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.name)
STRANGE: tuple[Any, ...] = (None, True, -1, 0.5, 1e300, -(2**63), 10**40, "", "../x", "\0", [], {}, [[]], {"": None})


class Damaged:
    """A written folder of which one file is damaged at a time; counts what becomes of it."""

    def __init__(self, kind: Written, folder: Path) -> None:
        self.kind, self.folder = kind, folder / "files"
        self.folder.mkdir()
        kind.write(self.folder)
        self.whole = kind.read(self.folder)
        self.paths = kind.files(self.folder)
        assert kind.read(self.folder) == self.whole and self.paths
        self.equal = self.refused = self.valid = 0
        self.wrong: list[str] = []

    def attempt(self, what: str, damage: Callable[[], bool]) -> None:
        """Damages the folder, reads it and repairs it.

        Args:
            what: The damage, for the report.
            damage: Does it; returns whether the document vouches for it, so that other valid values may be read.
        """
        kept = {path: path.read_bytes() for path in self.paths}
        vouched = damage()
        try:
            found = self.kind.read(self.folder)
        except ValueError as error:
            self.refused += 1
            if "\n" in str(error) or not str(error):
                self.wrong.append(f"{what}: a message of several lines: {error!r}"[:600])
        except BaseException as error:
            self.wrong.append(f"{what}: {type(error).__name__}: {error}"[:600])
        else:
            self.equal += found == self.whole
            self.valid += vouched and found != self.whole
            if found != self.whole and not vouched:
                self.wrong.append(f"{what}: read as something else: {found}"[:600])
        for path, data in kept.items():
            if path.is_symlink() or not path.is_file():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            path.write_bytes(data)

    def holds(self, tries: int) -> bool:
        print("\n".join(self.wrong[:20]))
        return not self.wrong and self.equal + self.refused + self.valid == tries

    def figure(self, tries: int) -> str:
        return f"{len(self.wrong)} of {tries:,} wrong: {self.refused:,} refused, {self.equal:,} as written"


@pytest.mark.slow
@KINDS
def test_flipped_bits(kind: Written, tmp_path: Path, promise: Promise) -> None:
    tried, dice = Damaged(kind, tmp_path), Random(kind.name)
    for _ in range(FLIPS):
        path = dice.choice(tried.paths)
        place, bit = dice.randrange(path.stat().st_size), dice.randrange(8)

        def flip(path: Path = path, place: int = place, bit: int = bit) -> bool:
            data = bytearray(path.read_bytes())
            data[place] ^= 1 << bit
            path.write_bytes(data)
            return False

        tried.attempt(f"bit {bit} of byte {place} of {path.name}", flip)
    promise(f"{kind.name}: flipped bits are noticed", tried.figure(FLIPS))
    assert tried.holds(FLIPS)
    assert tried.refused > FLIPS / 2


@pytest.mark.slow
@KINDS
def test_mutated_files(kind: Written, tmp_path: Path, promise: Promise) -> None:
    tried, tries = Damaged(kind, tmp_path), -(-MUTATIONS // len(WRITTEN))

    @settings(
        max_examples=tries, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(sorted(DAMAGES)), st.integers(0, 2**32), st.booleans())
    def mutate(name: str, seed: int, vouched: bool) -> None:
        dice = Random(seed)
        path = dice.choice(tried.paths)
        what = f"{name} of {path.name}, seed {seed}{', vouched for' if vouched else ''}"
        tried.attempt(what, lambda: DAMAGES[name](path, dice, vouched))

    mutate()
    done = tried.equal + tried.refused + tried.valid
    figure = f"{tried.figure(done)}, {tried.valid} with a new hash and valid"
    promise(f"{kind.name}: damaged files are noticed", figure)
    assert tried.holds(done)
    assert done >= tries - 1 and tried.refused > done / 2


def _bytes(change: Callable[[bytes, Random], bytes]) -> Callable[[Path, Random, bool], bool]:
    """Returns a damage of a file's bytes; weights may be vouched for by the document beside them."""

    def damage(path: Path, dice: Random, vouched: bool) -> bool:
        data = change(path.read_bytes(), dice)
        path.write_bytes(data)
        return vouched and path.suffix == ".safetensors" and vouch(path, data)

    return damage


def vouch(path: Path, data: bytes) -> bool:
    for name in ("manifest.json", "card.json"):
        if (path.parent / name).is_file():
            document = json.loads((path.parent / name).read_text())
            entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            document["files"] = {path.name: entry}
            _write_document(path.parent / name, document, True)
    return True


def _cut(data: bytes, dice: Random) -> bytes:
    return data[: dice.randrange(len(data))]


def _without_range(data: bytes, dice: Random) -> bytes:
    start, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def _short_range(data: bytes, dice: Random) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + data[start + dice.randint(1, 12) :]


def _doubled_range(data: bytes, dice: Random) -> bytes:
    start, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:]


def _other_bytes(data: bytes, dice: Random) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + dice.randbytes(dice.randint(1, 8)) + data[start + 4 :]


def _values(change: Callable[[Any, Random], Any]) -> Callable[[Path, Random, bool], bool]:
    """Returns a damage of a value in a document; the document vouches for it with a new hash, or does not."""

    def damage(path: Path, dice: Random, vouched: bool) -> bool:
        if path.suffix not in (".json", ".yaml"):
            return _bytes(_short_range)(path, dice, vouched)
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        if vouched:
            document.pop(SEAL, None)
        holder, key = dice.choice(list(_places(document)))
        holder[key] = change(holder[key], dice)
        return _write_document(path, document, vouched)

    return damage


def _places(value: Any) -> Any:
    """Yields every container of a document with each of its keys."""
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


def _write_document(path: Path, document: dict[str, Any], vouched: bool) -> bool:
    try:
        if vouched:
            document = {**document, SEAL: digest_of({k: v for k, v in document.items() if k != SEAL})}
    except (ValueError, RecursionError):
        vouched = False
    text = yaml.safe_dump(document, sort_keys=False) if path.suffix == ".yaml" else json.dumps(document, indent=2)
    path.write_text(text, encoding="utf-8")
    return vouched


def _swapped(value: Any, dice: Random) -> Any:
    if not isinstance(value, dict | list) or not value:
        return [value]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    one, other = dice.choice(keys), dice.choice(keys)
    value[one], value[other] = value[other], value[one]
    return value


def _other_number(value: Any, dice: Random) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return dice.choice(STRANGE)
    return dice.choice([value + 1, -value, value * 1000, 0, 1e-300, float(value) + 0.5, 2**70, str(value)])


def _other_text(value: Any, dice: Random) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    place = dice.randrange(len(text) + 1)
    return text[:place] + dice.choice(["x", "", "\n", " ", "\u202e", "[/]", "../"]) + text[place + dice.randint(0, 1) :]


def _nested(value: Any, dice: Random) -> Any:
    for _ in range(dice.choice([1, 5, 90])):
        value = {"x": value} if dice.random() < 0.5 else [value]
    return value


def _deep(path: Path, dice: Random, vouched: bool) -> bool:
    path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000 if dice.random() < 0.5 else "[" * 100_000)
    return False


def _without_key(path: Path, dice: Random, vouched: bool) -> bool:
    if path.suffix != ".json":
        return _bytes(_without_range)(path, dice, vouched)
    document = json.loads(path.read_text())
    holder, key = dice.choice(list(_places(document)))
    del holder[key]
    return _write_document(path, document, vouched)


def _something_else(path: Path, dice: Random, vouched: bool) -> bool:
    other = path.with_name("other")
    data = path.read_bytes()
    path.unlink()
    kind = dice.choice(["folder", "dangling", "link out", "device", "queue", "empty", "not UTF-8", "gone"])
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to(other)
    elif kind == "link out":
        outside = path.parent.parent.parent / f"outside {path.name}"
        outside.write_bytes(data[:-1])
        path.symlink_to(outside)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "queue":
        os.mkfifo(path)
    elif kind != "gone":
        path.write_bytes(b"" if kind == "empty" else b"\xff\xfe" + data)
    return kind == "gone"  # some files may be missing


DAMAGES: dict[str, Callable[[Path, Random, bool], bool]] = {
    "cut": _bytes(_cut),
    "range taken out": _bytes(_without_range),
    "letters taken out": _bytes(_short_range),
    "range doubled": _bytes(_doubled_range),
    "other bytes": _bytes(_other_bytes),
    "swapped keys": _values(_swapped),
    "other number": _values(_other_number),
    "other text": _values(_other_text),
    "other type": _values(lambda value, dice: dice.choice(STRANGE)),
    "nested": _values(_nested),
    "nested too deep": _deep,
    "key taken out": _without_key,
    "something else": _something_else,
}
