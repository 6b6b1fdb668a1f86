"""The notebooks: short, without outputs in the repository, and true when they are executed."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

nbformat = pytest.importorskip("nbformat")
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(str(path), as_version=4)


def printed(name: str) -> str:
    """Executes a notebook in a process of its own; returns the plain text of all its outputs."""
    client = pytest.importorskip("nbclient")
    notebook = read(ROOT / "docs" / "notebooks" / f"{name}.ipynb")
    client.NotebookClient(notebook, timeout=300).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output["data"]["text/plain"] for output in outputs)


def figures(text: str) -> dict[str, float]:
    return {name: float(figure) for name, figure in re.findall(r"^(\w+) +(-?\d+\.\d+)$", text, flags=re.MULTILINE)}


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["black_box", "slots", "table"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(path: Path) -> None:
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert len(code) >= 4
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


@pytest.mark.slow
def test_slots_are_answered_better_than_at_random() -> None:
    text = printed("slots")
    found = figures(text)
    assert abs(found["RandomAgent"]) < 0.1
    assert found["GumbelAgent"] > 0.8
    assert text.rstrip().endswith("True")


@pytest.mark.slow
def test_a_table_leads_to_truly_good_answers() -> None:
    text = printed("table")
    found = figures(text)
    assert "ipywidgets" not in text and "\x1b" not in text
    assert text.count("fitting") == 1  # not a line for each step
    assert found["optimality"] == pytest.approx(1.0, abs=1e-3)
    assert found["true_optimality"] > 0.9


@pytest.mark.slow
def test_a_black_box_is_learned_from_its_scores() -> None:
    found = figures(printed("black_box"))
    assert found["RandomAgent"] < found["ReinforceAgent"] < found["LearnedCriticAgent"] < found["best"]
