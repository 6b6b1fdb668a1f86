"""Names: public ones are unique, retired words do not come back, and test names stay short."""

import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

from tests.conftest import ROOT

SOURCES = ("slot_rl", "envs", "agents", "benchmarks")
RETIRED = re.compile(r"(?i:improve.and.imitate|ImproveAndImitate|\bunbias\b|\b(floors?|rooms?|house)\b)|\bFound\b")


def tracked(*patterns: str) -> list[Path]:
    """Returns the text files that git tracks and that exist."""
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split() if (path := ROOT / name).is_file() and not path.is_symlink()]


def public_names(text: str) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def test_two_modules_never_share_a_public_name() -> None:
    homes = defaultdict(list)
    for path in tracked(*(f"{top}/*.py" for top in SOURCES)):
        for name in public_names(path.read_text(encoding="utf-8")):
            homes[name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_the_check_of_names_sees_all_kinds() -> None:
    text = "class A: ...\ndef b(): ...\nC = 1\nD: int = 2\n_hidden = 3\nE = F = 4\n"
    assert public_names(text) == {"A", "b", "C", "D", "E", "F"}


def test_retired_words_do_not_come_back() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked("*.py", "*.md", "*.toml", "*.yaml", "*.j2", "Makefile")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if RETIRED.search(line)
    ]
    assert found == []
    assert RETIRED.search("the Floor below") and not RETIRED.search("unbiased mushrooms, torch flooring")


def test_test_names_have_at_most_60_characters() -> None:
    names = [
        node.name
        for path in tracked("tests/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > 60] == []
