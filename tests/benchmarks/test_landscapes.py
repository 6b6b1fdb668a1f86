"""The landscapes command on a made-up table: what an estimator sees, and the study that follows."""

import csv
import json
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest
import torch

from benchmarks import landscapes
from benchmarks.landscapes import Landscape, LowerHalf, PerContext, Share, prepare, split
from slot_rl.estimators.fitting import TableFit, TableRows
from slot_rl.estimators.store import CARD, load_estimator
from slot_rl.seeding import generator_from
from tests.conftest import Command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reproduce.py"
FAST = TableFit(epochs=5, patience=5, batch_size=32, learning_rate=1e-2, dim=4, hidden=(16,))
TINY = Landscape("tiny", "tiny.csv", "y", ("u",), PerContext(40), 600, FAST)
STUDY = """timesteps: 600
first_seed: 0
serving: {policies: [2, 4], searches: [1, 4]}
agents:
  gumbel:
  reproduction:
  best_seen:
  guided_search_8: {agent: guided_search, options: {calls_per_context: 8}}
  exhaustive_search:
tasks:
  - env: SlotRL/Rows-v0
    name: tiny
    truth: "{data}/tiny.csv"
    unmeasured: worst
    estimator: "{out}/estimators/tiny"
    logged: "{out}/estimators/tiny/logged.csv"
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a full factorial of three features in two contexts, the only landscape that is known."""
    for user in ("table_models", "pressure", "prepare_landscapes"):  # they look landscapes up when they are imported
        import_module(f"benchmarks.{user}")
    monkeypatch.setattr(landscapes, "LANDSCAPES", {"tiny": TINY})
    monkeypatch.setattr(landscapes, "STUDY", tmp_path / "study.yaml")
    (tmp_path / "study.yaml").write_text(STUDY)
    rows = [
        f"{u},{a},{b},{c},{(2 * a - 3) * (1 if u == 'hot' else -1) + 3 * b - c}"
        for u, a, b, c in product(["hot", "cold"], range(4), range(4), range(5))
    ]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "tiny.csv").write_text("\n".join(["u,a,b,c,y", *rows]) + "\n")
    return folder


@pytest.mark.slow
def test_the_command_runs_resumes_and_reports(data: Path, tmp_path: Path, script: Command) -> None:
    run, out = partial(script, SCRIPT), tmp_path / "out"
    flags = ("landscapes", "--data", data, "--out", out, "--workers", 1)
    code, shown, error = run(*flags)
    assert code == 0, error
    assert "exhaustive_search" in shown and "guided_search_8" in shown
    runs = sorted((out / "runs").iterdir())
    assert len(runs) == 5 * 3
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name in ("summary.json", "card.json")}
    assert len(written) == 16
    again, _, error = run(*flags)
    assert again == 0, error
    assert {path: path.stat().st_mtime_ns for path in written} == written
    with open(out / "report" / "runs.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    # The seeds and budgets are the study's; the estimator's own optimum hits it for every request.
    assert {row["seed"] for row in table} == {"0", "1", "2"}
    assert {row["unmeasured"] for row in table} == {"worst"}
    assert "true optimality, unmeasured = worst" in (out / "report" / "tables.md").read_text(encoding="utf-8")
    assert all(float(row["hit_rate"]) == 1.0 for row in table if row["agent"] == "exhaustive_search")
    logged = [json.loads((path / "config.json").read_text())["options"].get("logged") for path in runs]
    assert sum(str(out / "estimators" / "tiny" / "logged.csv") == path for path in logged) == 3


def test_an_estimator_is_fitted_once_and_again_when_changed(data: Path, tmp_path: Path) -> None:
    card = tmp_path / "estimators" / "tiny" / CARD
    prepare(TINY, data, tmp_path)
    first = card.stat().st_mtime_ns
    prepare(TINY, data, tmp_path)
    assert card.stat().st_mtime_ns == first
    document = json.loads(card.read_text())["card"]
    assert (document["seen_rows"], document["held_rows"]) == (80, 80)
    seen = load_estimator(card.parent).seen
    assert seen is not None and seen.counts.tolist() == [16, 16] and not seen.censored and seen.error > 0
    prepare(Landscape("tiny", "tiny.csv", "y", ("u",), PerContext(30), 600, FAST), data, tmp_path)
    assert json.loads(card.read_text())["card"]["seen_rows"] == 60
    prepare(Landscape("tiny", "tiny.csv", "y", ("u",), LowerHalf(), 600, FAST), data, tmp_path)
    lower = load_estimator(card.parent).seen
    assert lower is not None and lower.censored and float(lower.score.max()) < float(seen.score.max())


def test_the_shipped_study_and_its_landscapes_agree() -> None:
    tasks = landscapes.STUDY.read_text()
    for name, landscape in landscapes.LANDSCAPES.items():
        assert f'name: {name}, truth: "{{data}}/{landscape.file}", unmeasured: worst, ' in tasks
        budget = "timesteps: 400_000, " if landscape.calls == 400_000 else ""
        assert f'{budget}estimator: "{{out}}/estimators/{name}"' in tasks


def test_bad_input_is_refused_before_any_fit(data: Path, tmp_path: Path, script: Command) -> None:
    run = partial(script, SCRIPT, "landscapes")
    code, _, error = run("--data", tmp_path / "nowhere")
    assert code == 2 and "expected tiny.csv in --data FOLDER" in error
    for flag, name, known in (("--landscapes", "moon", "tiny"), ("--agents", "nobody", "gumbel, reproduction")):
        code, _, error = run("--data", data, flag, name, "--out", tmp_path / "out")
        assert code == 2 and f"expected {flag} to be of {known}" in " ".join(error.split())
    assert not (tmp_path / "out").exists()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "precious").write_text("")
    code, _, error = run("--data", data, "--out", taken)
    assert code == 2 and "expected a new folder for --out" in error
    assert [path.name for path in taken.iterdir()] == ["precious"]


def table(rows: int = 60, contexts: int = 3) -> TableRows:
    numbers = torch.arange(rows)
    return TableRows(numbers.unsqueeze(1), (numbers % contexts).unsqueeze(1), (numbers * 7 % rows).float())


def test_so_many_rows_of_each_context() -> None:
    picked = PerContext(5).pick(table(), generator_from(0))
    assert len(set(picked.tolist())) == 15
    assert torch.bincount(picked % 3).tolist() == [5, 5, 5]
    whole = TableRows(table().features, None, table().score)
    assert len(set(PerContext(5).pick(whole, generator_from(0)).tolist())) == 5
    with pytest.raises(ValueError, match="expected at least 21 rows in each context, got 20"):
        PerContext(21).pick(table(), generator_from(0))


def test_the_lower_half_is_the_lower_half() -> None:
    picked = LowerHalf().pick(table(), generator_from(0))
    assert sorted(table().score[picked].tolist()) == list(range(30))
    ties = TableRows(table().features, None, torch.zeros(60))
    assert sorted(LowerHalf().pick(ties, generator_from(0)).tolist()) == list(range(30))


@pytest.mark.parametrize("subset, seen", [(PerContext(5), 15), (Share(0.3), 18), (LowerHalf(), 30)])
def test_held_out_rows_are_all_others(subset: landscapes.Subset, seen: int) -> None:
    landscape = Landscape("made up", "none.csv", "y", ("u",), subset)
    parts = split(table(), landscape, generator_from(0))
    numbers = [part.features.squeeze(1).tolist() for part in parts]
    assert len(numbers[0]) == seen
    assert sorted(numbers[0] + numbers[1]) == list(range(60))
