"""The landscapes command on a made-up table, its subsets, and its medians and break-evens by hand."""

import json
from functools import partial
from itertools import product
from math import inf
from pathlib import Path
from statistics import median

import pytest
import torch

from benchmarks.landscapes import command, tables
from benchmarks.landscapes.bars import Bar, best_answer, break_even, calls_needed
from benchmarks.landscapes.command import LandscapesConfig, reproduce_landscapes
from benchmarks.landscapes.grounds import split
from benchmarks.landscapes.medians import Medians, medians_of
from benchmarks.landscapes.runs import Task, do
from benchmarks.landscapes.tables import Landscape, LowerHalf, PerContext, Share
from slot_rl.estimators.fitting import TableFit, TableRows
from slot_rl.seeding import generator_from
from tests.conftest import Command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reproduce.py"
FAST = TableFit(epochs=5, patience=5, batch_size=32, learning_rate=1e-2, dim=4, hidden=(16,))
TINY = Landscape("tiny", "tiny.csv", "y", ("u",), PerContext(40), 600, FAST)
AGENTS = ("gumbel", "reproduction", "guided_search_400", "estimator_argmax")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a full factorial of three features in two contexts, the only landscape that is known."""
    monkeypatch.setattr(command, "LANDSCAPES", {"tiny": TINY})
    rows = [
        f"{u},{a},{b},{c},{(2 * a - 3) * (1 if u == 'hot' else -1) + 3 * b - c}"
        for u, a, b, c in product(["hot", "cold"], range(4), range(4), range(5))
    ]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "tiny.csv").write_text("\n".join(["u,a,b,c,y", *rows]) + "\n")
    return folder


def flags(data: Path, out: Path, *more: object) -> list[object]:
    return ["landscapes", "--data", data, "--out", out, "--workers", 1, "--seeds", 2, "--agents", *AGENTS, *more]


def test_the_command_runs_resumes_and_prints_medians(
    data: Path, tmp_path: Path, script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def counted(task: Task) -> None:
        done.append(task.path.stem)
        do(task)

    monkeypatch.setattr(command, "do", counted)
    run, out = partial(script, SCRIPT), tmp_path / "out"
    code, shown, error = run(*flags(data, out))
    assert code == 0, error
    assert len(done) == 7 == len(set(done))
    (out / "runs" / "tiny__gumbel__s1.json").unlink()
    again, shown_again, error = run(*flags(data, out))
    assert again == 0 and done[7:] == ["tiny__gumbel__s1"], error
    assert run(*flags(data, out, "--force"))[0] == 0 and len(done) == 15
    files = [json.loads((out / "runs" / f"tiny__gumbel__s{seed}.json").read_text()) for seed in (0, 1)]
    optimality, hits = (median(file["figures"][name] for file in files) for name in ("optimality", "hit_rate"))
    for text in (shown, shown_again, (out / "table.md").read_text()):
        (row,) = [line for line in text.splitlines() if line.startswith("| gumbel ")]
        assert [cell.strip() for cell in row.split("|")][2:4] == [f"{optimality:.3f}", f"{hits:.3f}"]
        assert max(map(len, [line for line in text.splitlines() if line.startswith("|")])) <= 100
    results = json.loads((out / "results.json").read_text())["figures"]
    assert results["medians"]["tiny"]["gumbel"]["figures"]["optimality"] == optimality
    assert files[0]["figures"]["forwards"] >= 600
    assert files[0]["curves"]["search"][0] == [0, pytest.approx(files[0]["figures"]["optimality"])]
    assert results["runs"]["tiny"]["estimator_argmax"][0]["figures"]["hit_rate"] == 1.0
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_changed_setting_is_run_anew(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LandscapesConfig(data, agents=("gumbel",), seeds=1, workers=1, out=tmp_path / "out")
    reproduce_landscapes(config)
    (ground,) = config.grounds()
    (task,) = config.tasks(ground)["gumbel"]
    assert task.is_done()
    monkeypatch.setattr(
        command, "LANDSCAPES", {"tiny": Landscape("tiny", "tiny.csv", "y", ("u",), PerContext(40), 500)}
    )
    (ground,) = config.grounds()
    assert not config.tasks(ground)["gumbel"][0].is_done()


@pytest.mark.slow
def test_workers_change_no_figure(data: Path, tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        reproduce_landscapes(LandscapesConfig(data, agents=("ppo",), seeds=2, workers=workers, out=out))
        files = sorted((out / "runs").iterdir())
        runs = [json.loads(file.read_text()) for file in files]
        for one in runs:
            del one["figures"]["seconds"], one["figures"]["cpu_seconds"]
        found.append(runs)
    assert found[0] == found[1] and len(found[0]) == 2


def test_refusals(data: Path, tmp_path: Path, script: Command) -> None:
    run = partial(script, SCRIPT, "landscapes")
    code, _, error = run("--data", tmp_path / "nowhere")
    assert code == 2 and "expected tiny.csv in --data FOLDER" in error
    code, _, error = run("--data", data, "--agents", "nobody")
    assert code == 2 and "expected --agents to be of" in error
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
def test_held_out_rows_are_all_others(subset: tables.Subset, seen: int) -> None:
    landscape = Landscape("made up", "none.csv", "y", ("u",), subset)
    parts = split(table(), landscape, generator_from(0))
    numbers = [part.features.squeeze(1).tolist() for part in parts]
    assert len(numbers[0]) == seen
    assert sorted(numbers[0] + numbers[1]) == list(range(60))


def test_medians_by_hand() -> None:
    runs = [
        {"figures": {"optimality": a, "gap": gap}, "curves": {"draws": [[0, a], [4, b]]}}
        for a, b, gap in [(0.1, 0.9, None), (0.4, 0.5, 1.0), (0.3, 0.7, 2.0)]
    ]
    found = medians_of(runs)
    assert found.figures == {"optimality": 0.3, "gap": None}
    assert found.curves == {"draws": [(0, 0.3), (4, 0.7)]} and found.seeds == 3


def test_break_even_by_hand() -> None:
    guided = [(1, 0.1), (10, 0.5), (1000, 0.9)]
    assert calls_needed(guided, 0.7) == pytest.approx(100)
    assert calls_needed(guided, 0.05) == 1
    assert calls_needed(guided, 0.95) == inf
    policy = Medians({"forwards": 400_000.0}, {"draws": [(0, 0.7), (4, 0.8)], "search": [(0, 0.7), (2, 0.8)]}, 3)
    assert best_answer(policy, 0) == (0, 0.7) and best_answer(policy, 16) == (2, 0.8) and best_answer(None, 16) is None
    assert break_even("l", "p", policy, (0, 0.7), guided).contexts == pytest.approx(4_000)
    assert break_even("l", "p", policy, (20, 0.7), guided).contexts == pytest.approx(5_000)
    assert break_even("l", "p", policy, (100, 0.69), guided).contexts == inf
    beyond = break_even("l", "p", policy, (200, 0.95), guided)
    assert beyond.guided_calls == inf and beyond.contexts == pytest.approx(500)


def test_verdicts() -> None:
    assert Bar("", 0.98, 0.98).verdict == "met"
    assert Bar("", 0.98, 0.97).verdict == "missed by 0.010"
    assert Bar("", 0.8, 0.72, at_most=True).verdict == "met"
    assert Bar("", 0.0, 0.25, at_most=True).verdict == "missed by 0.250"
    assert Bar("", 0.8, None).verdict == "not measured"
