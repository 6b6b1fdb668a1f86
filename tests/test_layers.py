"""The layers: the contracts of pyproject.toml hold, and each fires on a copy of the tree with one bad import."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint(folder: Path) -> tuple[int, str]:
    """Returns exit code and output of import-linter in a folder; the output is one long line."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("slot_rl/selectors/base.py", "import slot_rl.io", "slot_rl.selectors is not allowed to import slot_rl.io"),
        ("envs/vec.py", "import slot_rl.agents.base", "slot_rl.envs is not allowed to import slot_rl.agents"),
        ("agents/base.py", "import slot_rl.compare", "slot_rl.agents is not allowed to import slot_rl.compare"),
        ("slot_rl/unheard_of.py", "", "slot_rl.unheard_of"),
        ("slot_rl/plots.py", "import benchmarks", "slot_rl is not allowed to import benchmarks"),
        ("slot_rl/search/sweeps.py", "import gymnasium", "slot_rl.search is not allowed to import gymnasium"),
    ],
)
def test_a_bad_import_breaks_a_contract(file: str, line: str, message: str, tmp_path: Path) -> None:
    for name in ("slot_rl", "envs", "agents", "benchmarks", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as source:
        source.write(f"\n{line}\n")
    code, shown = lint(tmp_path)
    assert code == 1
    assert message in shown


def test_no_module_imports_a_higher_layer() -> None:
    code, shown = lint(ROOT)
    assert code == 0, shown
