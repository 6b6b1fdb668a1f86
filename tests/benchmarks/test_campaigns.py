"""The study of campaigns: a run by hand, its table, picture and continuation, and refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import campaigns
from benchmarks.campaigns import PROPOSERS, CampaignsConfig, CampaignTable, TrueRows, campaign_run, measure_campaigns
from slot_rl.search.next_batch import Candidates, MeasuredRows
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command
from tests.helpers.quick_campaigns import QUICK_MEMBERS, fit_quickly


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fit_quickly(monkeypatch)
    monkeypatch.setattr(campaigns, "MemberFit", lambda draws: QUICK_MEMBERS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Fifty rows of two features with the scores 0 to 49, one of them there twice, with 48 and 50."""
    rows = [f"{a},{b},{10 * a + b}" for a in range(5) for b in range(10)]
    (tmp_path / "small.csv").write_text("\n".join(["a,b,y", *rows[:-1], "4,9,48", "4,9,50"]) + "\n", encoding="utf-8")
    return tmp_path


def test_a_run_by_hand(data: Path) -> None:
    landscape = TrueRows.read(data / "small.csv", "y")
    assert torch.allclose(landscape.score, torch.arange(50) / 49)
    told: list[int] = []

    def first_two(measured: MeasuredRows, candidates: Candidates, count: int, generator: torch.Generator) -> Tensor:
        told.append(len(measured.rows))
        assert torch.allclose(measured.score, (10 * measured.rows[:, 0] + measured.rows[:, 1]) / 49) and count == 2
        return torch.tensor([[0, 0], [4, 9 - len(told)]])

    best = campaign_run(landscape, first_two, 3, 2, 3)
    start = torch.randperm(50, generator=generator_from(3))[:2].max() / 49
    expected = torch.tensor([start, 48 / 49, 48 / 49, 48 / 49]).cummax(dim=0).values
    assert best == pytest.approx(expected.tolist()) and told == [2, 4, 6]
    with pytest.raises(ValueError, match="expected at least 52 rows for all batches, got 50"):
        campaign_run(landscape, first_two, 3, 13, 3)


@pytest.mark.parametrize("name", PROPOSERS)
def test_every_proposer_names_new_candidates(name: str, data: Path) -> None:
    candidates = TrueRows.read(data / "small.csv", "y").candidates
    assert candidates.rows is not None
    allowed, known = candidates.rows[::2], candidates.rows[:20]
    few = Candidates(candidates.sizes, candidates.contexts, allowed)
    found = PROPOSERS[name](MeasuredRows(known, known.sum(dim=1).float()), few, 6, generator_from(0))
    rows = set(map(tuple, found.tolist()))
    assert len(rows) == 6 and rows <= set(map(tuple, allowed.tolist())) - set(map(tuple, known.tolist()))


def test_the_study_prints_draws_and_continues(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(campaigns.CAMPAIGN_TABLES, "arylation", CampaignTable("small.csv", "y", 4))
    config = CampaignsConfig(data, ("arylation",), runs=2, rounds=1, out=tmp_path / "out")
    measure_campaigns(config)
    shown = capsys.readouterr().out
    assert all(f"│ {name} " in shown for name in PROPOSERS) and "arylation, 2 runs" in shown
    assert (tmp_path / "out/picture.png").is_file()
    figures = json.loads((tmp_path / "out/results.json").read_text())["figures"]
    assert len(figures) == 8 and all(len(best) == 2 for best in figures.values())

    def refuse(*arguments: object) -> None:
        raise AssertionError("this run was there already")

    monkeypatch.setattr(campaigns, "campaign_run", refuse)
    measure_campaigns(config)
    with pytest.raises(AssertionError, match="there already"):
        measure_campaigns(CampaignsConfig(data, ("arylation",), runs=3, rounds=1, out=tmp_path / "out"))


def test_your_own_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags: dict[str, Any] = {"proposers": ("random",), "runs": 2, "rounds": 1, "batch": 3, "out": tmp_path / "out"}
    measure_campaigns(CampaignsConfig(table=data / "small.csv", score="y", **flags))
    assert "small, 2 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--landscapes", "tf8"), "expected --landscapes to be of gb1, tfbind8, suzuki, arylation, got 'tf8'"),
        (("--proposers", "ucb"), "expected --proposers to be of campaign, greedy nets, thompson gp, random, got 'ucb'"),
        (("--runs", "1"), "expected runs >= 2, rounds >= 1 and batch >= 2"),
        (("--data", "."), "expected gb1.csv, tfbind8.csv, suzuki.csv, direct_arylation.csv in --data FOLDER"),
        ((), "expected --data FOLDER, or --table FILE with --score NAME"),
        (("--table", "small.csv"), "expected --data FOLDER, or --table FILE with --score NAME"),
    ],
)
def test_bad_flags_are_refused(
    flags: tuple[str, ...], message: str, data: Path, script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    code, _, errors = script(ROOT / "scripts/reproduce.py", "campaigns", *flags)
    shown = " ".join(word for word in errors.split() if word != "│")
    assert code == 2 and message in shown
    assert not (data / "runs").exists()
