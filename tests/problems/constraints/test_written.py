"""Constraints as text: flags and YAML become entries with hashes, entries become constraints, and wrong ones errors."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from slot_rl.problems.constraints import AtLeast, AtMost, Constraint, Distinct, Feasible, Fixed, NotTogether
from slot_rl.problems.constraints.written import (
    ConstraintFlags,
    Entry,
    constraints_of,
    contents_of,
    read_entries,
    resolved_entries,
)

CODE = "def first_is_low(rows):\n    return rows[:, 0] < 1\n"
TABLE = "a,b\nx,y\n"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a table, a Python file, and a folder for YAML files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "valid.csv").write_text(TABLE)
    (tmp_path / "rule.py").write_text(CODE)
    (tmp_path / "yaml").mkdir()
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "yaml" / "more.yaml"
    path.write_text(text)
    return path


def test_flags_and_yaml_become_entries(folder: Path) -> None:
    more = written(folder, "- not_together: [[a, b]]\n- feasible: ../rule.py:first_is_low\n- fixed: {2: c}\n")
    flags = ConstraintFlags(True, ("top=a", "1=b=c"), ("2:kind", "0:kind=x=y"), ("1:new=yes",), "valid.csv", more)
    table = {"file": str(folder / "valid.csv"), "sha256": sha256(TABLE)}
    code = {"file": f"{folder / 'rule.py'}:first_is_low", "sha256": sha256(CODE)}
    expected: list[Entry] = [
        {"not_together": [["a", "b"]]},
        {"feasible": code},
        {"fixed": {2: "c"}},
        {"distinct": True},
        {"fixed": {"top": "a", "1": "b=c"}},
        {"at_most": {"count": 2, "of": "kind"}},
        {"at_most": {"count": 0, "of": "kind", "value": "x=y"}},
        {"at_least": {"count": 1, "of": "new", "value": "yes"}},
        {"feasible": table},
    ]
    assert flags.entries() == expected
    assert ConstraintFlags().entries() == []
    # Resolved entries stay as they are.
    assert resolved_entries(expected) == expected
    assert contents_of(expected)[1] == {"feasible": sha256(CODE)} and contents_of(expected)[3] == {"distinct": True}


def test_entries_become_constraints_after_a_run_has_kept_them(folder: Path) -> None:
    text = """
- distinct: true
- distinct: [0, top]
- fixed: {top: a, 1: 3}
- at_most: {count: 2, of: kind}
- at_least: {count: 1, of: new, value: 1}
- at_least: {count: 1, of: {top: [a, b]}}
- not_together: [[a, b], [{top: a}, {end: b}]]
- feasible: ../valid.csv
"""
    entries = json.loads(json.dumps(read_entries(written(folder, text))))
    found = constraints_of([*entries, Distinct()])
    expected: list[Constraint] = [
        Distinct(),
        Distinct((0, "top")),
        Fixed({"top": "a", "1": 3}),
        AtMost(2, "kind"),
        AtLeast(1, "new", 1),
        AtLeast(1, {"top": ["a", "b"]}),
        NotTogether((("a", "b"), (("top", "a"), ("end", "b")))),
        Feasible.from_table(folder / "valid.csv"),
        Distinct(),
    ]
    assert list(map(str, found)) == list(map(str, expected))
    assert list(map(type, found)) == list(map(type, expected))


def test_a_function_is_executed_only_if_it_is_trusted(folder: Path) -> None:
    (entry,) = ConstraintFlags(feasible="rule.py:first_is_low").entries()
    with pytest.raises(
        ValueError, match=re.escape(f"expected --trust (trust=True) with {folder}/rule.py:first_is_low")
    ):
        constraints_of([entry])
    (found,) = constraints_of([entry], trust=True)
    assert isinstance(found, Feasible) and found.predicate is not None
    assert found.predicate(torch.tensor([[0, 5], [2, 5]])).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"expected a function missing in .*rule.py, got no such name"):
        constraints_of([{"feasible": "rule.py:missing"}], trust=True)
    (folder / "rule.py").write_text("1 / 0\n")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        constraints_of([{"feasible": "rule.py:first_is_low"}], trust=True)


@pytest.mark.parametrize("name", ["valid.csv", "rule.py:first_is_low"])
def test_a_changed_file_is_refused(name: str, folder: Path) -> None:
    entries = ConstraintFlags(feasible=name).entries()
    path = folder / name.partition(":")[0]
    before, after = path.read_text(), path.read_text() + "\n"
    path.write_text(after)
    message = f"with hash {sha256(before)[:12]}, got {sha256(after)[:12]} in {path}"
    with pytest.raises(ValueError, match=re.escape(message)):
        constraints_of(entries, trust=True)
    path.unlink()
    with pytest.raises(ValueError, match=re.escape(str(path))):
        constraints_of(entries, trust=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"fixed": ("top",)}, "expected --fixed SLOT=ITEM, got 'top'"),
        ({"fixed": ("=a",)}, "expected --fixed SLOT=ITEM, got '=a'"),
        ({"fixed": ("top=a", "top=b")}, "expected --fixed with each slot once, got top=a top=b"),
        ({"at_most": ("kind",)}, "expected --at-most COUNT:ATTRIBUTE[=VALUE], got 'kind'"),
        ({"at_most": ("2:",)}, "expected --at-most COUNT:ATTRIBUTE[=VALUE], got '2:'"),
        ({"at_most": ("2:kind=",)}, "expected --at-most COUNT:ATTRIBUTE[=VALUE], got '2:kind='"),
        ({"at_most": ("-1:kind",)}, "expected --at-most COUNT:ATTRIBUTE[=VALUE] with a whole number, got '-1:kind'"),
        ({"at_least": ("1.5:new=1",)}, "expected --at-least COUNT:ATTRIBUTE[=VALUE] with a whole number, got '1.5:new"),
        ({"feasible": "gone.csv"}, "gone.csv, got no such file"),
        ({"feasible": "gone.py:rule"}, "expected a Python file with rule(), got"),
        ({"feasible": "rule.py"}, "got 'rule.py' without a function"),
        ({"constraints": Path("gone.yaml")}, "expected a YAML file with constraints in gone.yaml, got no such file"),
    ],
)
def test_wrong_flags_are_refused(flags: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ConstraintFlags(**flags).entries()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- [1", "expected constraints in {path}, got: while parsing a flow"),
        ("distinct: true", "expected a list of constraints with one key each in {path}, got {{'distinct': True}}"),
        ("", "expected a list of constraints with one key each in {path}, got None"),
        ("- distinct", "expected a list of constraints with one key each in {path}, got ['distinct']"),
        ("- {distinct: true, fixed: {0: 1}}", "expected a list of constraints with one key each"),
        ("- unlike: true", "at_most, at_least, not_together, feasible, got {{'unlike': True}}"),
        ("- feasible: gone.csv", "expected a table of allowed answers in {folder}/gone.csv, got no such file"),
        ("- feasible: 5", "expected a file in feasible, got 5"),
        ("- feasible: {sha256: a}", "expected a file in feasible, got {{'sha256': 'a'}}"),
        ("- distinct: false", "expected distinct: true, or a list of slots, got False"),
        ("- fixed: top", "expected a mapping in fixed, got 'top'"),
        ("- at_most: '2:kind'", "expected a mapping in a quota, got '2:kind'"),
        ("- at_most: {count: 2}", "expected count, of and perhaps value in a quota, got count"),
        (
            "- at_least: {count: 2, of: kind, at: x}",
            "expected count, of and perhaps value in a quota, got count, of, at",
        ),
        ("- not_together: [[a, b, c]]", "expected a list of pairs in not_together, got [['a', 'b', 'c']]"),
        ("- not_together: ab", "expected a list of pairs in not_together, got 'ab'"),
        (
            "- not_together: [[{a: b, c: d}, e]]",
            "or one slot with its item, in not_together, got {{'a': 'b', 'c': 'd'}}",
        ),
    ],
)
def test_wrong_entries_are_refused(text: str, message: str, folder: Path) -> None:
    path = written(folder, text)
    with pytest.raises(ValueError, match=re.escape(message.format(path=path, folder=path.parent))):
        constraints_of(read_entries(path))


def test_a_file_that_is_no_text_is_refused(folder: Path) -> None:
    path = folder / "more.yaml"
    path.write_bytes(b"- \xff\n")
    with pytest.raises(ValueError, match=re.escape(f"expected {path} in UTF-8, got: 'utf-8' codec")):
        read_entries(path)
