"""Campaigns: what is told is kept, what is asked is new, folders continue bit for bit, bad input loses nothing."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from slot_rl import campaign as module
from slot_rl.campaign import STATE, Campaign
from slot_rl.campaign_rows import MEAN, SPREAD, categories_of_file
from slot_rl.estimators.mixed_members import MemberFit
from slot_rl.estimators.net_ensemble import EnsembleFit
from slot_rl.io import SEAL, BundleError, digest_of
from slot_rl.search import next_batch
from tests.helpers.quick_campaigns import fit_quickly

BASES, TIMES, ADDITIVES = ("KOH", "NaOH", "none"), ("5", "10", "20"), ("a, b", "", "NA", 'say "x"')
NAN = float("nan")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fit_quickly(monkeypatch)


def all_rows() -> list[dict[str, object]]:
    return [{"base": b, "time": t, "additive": a} for b in BASES for t in TIMES for a in ADDITIVES]


def worth(row: Any) -> float:
    return BASES.index(row["base"]) + 2 * TIMES.index(row["time"]) + ADDITIVES.index(row["additive"]) / 7


def scored(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    return [{**row, "yield": worth(row)} for row in rows]


def begun(folder: Path | None = None, **more: Any) -> Campaign:
    """All categories are among 12 of 36 rows."""
    return Campaign.start(scored(all_rows()[::3]), "yield", folder=folder, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def keys(rows: pd.DataFrame) -> set[tuple[str, ...]]:
    return set(map(tuple, rows[["base", "time", "additive"]].to_numpy().tolist()))


def test_ask_and_tell_until_nothing_is_left() -> None:
    campaign = begun()
    for left in (24, 14, 4):
        asked = campaign.ask(10)
        assert len(asked) == len(keys(asked)) == min(10, left) and not keys(asked) & keys(campaign.measured)
        assert list(asked.columns) == ["base", "time", "additive", MEAN, SPREAD]
        assert bool(np.isfinite(asked[[MEAN, SPREAD]].to_numpy()).all())
        assert campaign.tell(asked, [worth(row) for _, row in asked.iterrows()]) == len(asked)
    assert campaign.rounds == 3 and len(campaign.measured) == 36
    assert campaign.best.to_dict("records") == [{**all_rows()[-1], "yield": pytest.approx(worth(all_rows()[-1]))}]
    with pytest.raises(ValueError, match="expected rows that were not measured yet, got none: all 36 were told"):
        campaign.ask()


def test_a_folder_continues_bit_for_bit(tmp_path: Path) -> None:
    kept, saved = begun(seed=3), begun(tmp_path / "lab", seed=3)
    for _ in range(2):
        saved = Campaign.load(tmp_path / "lab")
        first, second = kept.ask(5), saved.ask(5)
        pd.testing.assert_frame_equal(first, second, check_exact=True)
        scores = [None if row["base"] == "none" else worth(row) / 3 for _, row in first.iterrows()]
        kept.tell(first, scores)
        saved.tell(second, scores)
    saved = Campaign.load(tmp_path / "lab")
    pd.testing.assert_frame_equal(kept.measured, saved.measured, check_exact=True)
    assert saved.rounds == 2
    assert sorted(contents(tmp_path / "lab")) == [STATE, *(f"measured_{number}.csv" for number in range(3))]
    other = begun(seed=4)
    assert not other.ask(5).equals(begun(seed=3).ask(5))


def test_failed_rows_are_neither_fitted_nor_proposed_again() -> None:
    campaign = begun()
    failed = campaign.ask(6)
    campaign.tell(failed, [None, NAN, *[None] * 4])
    assert campaign.measured["yield"].isna().sum() == 6
    assert not keys(campaign.ask(99)) & keys(failed) and len(campaign.ask(99)) == 18
    with pytest.raises(ValueError, match="which has a failed measurement; nothing added"):
        campaign.tell(failed[:1], [None])
    campaign.tell(failed[:1], [99.0])  # The second try worked.
    assert float(campaign.best["yield"].iloc[0]) == 99 and len(campaign.measured) == 18


def test_repeated_rows_of_a_file_count_with_their_mean() -> None:
    rows = scored(all_rows()[::3])
    campaign = Campaign.start([*rows, {**rows[0], "yield": 4.0}, {**rows[1], "yield": None}], "yield")
    assert campaign.measured["yield"].tolist() == pytest.approx([2.0, *(worth(row) for row in rows[1:])])


def test_rows_that_were_never_proposed_are_welcome() -> None:
    campaign = begun()
    asked = keys(campaign.ask(5)) | keys(campaign.measured)
    new = next(row for row in all_rows() if tuple(row.values()) not in asked)
    assert campaign.tell([{**new, "note": "by hand"}], [7.5]) == 1


def test_categories_that_were_never_measured_are_proposed(tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("base,time\nCsOH,40\n,80\n", encoding="utf-8")
    more = categories_of_file(tmp_path / "more.csv")
    assert more == {"base": ("CsOH",), "time": ("40", "80")}
    asked = begun(categories=more).ask(999)
    assert len(asked) == 4 * 5 * 4 - 12 and {"CsOH"} < set(asked["base"]) and {"40", "80"} < set(asked["time"])


def test_only_candidates_are_proposed_also_after_loading(tmp_path: Path) -> None:
    begun(tmp_path / "lab", candidates=[*all_rows()[:7], {"base": "CsOH", "time": 5, "additive": "NA"}])
    asked = Campaign.load(tmp_path / "lab").ask(96)
    assert len(asked) == 8 - 3 and "CsOH" in set(asked["base"])


@pytest.mark.parametrize("form", ["categories", "candidates"])
def test_without_measurements_the_first_batch_is_random(form: str, tmp_path: Path) -> None:
    given = {"base": BASES, "time": TIMES, "additive": ADDITIVES} if form == "categories" else all_rows()
    Campaign.start(None, "yield", folder=tmp_path / "lab", **{form: given})  # type: ignore[arg-type]
    campaign = Campaign.load(tmp_path / "lab")
    asked = campaign.ask(9)
    assert len(asked) == 9 and asked[MEAN].isna().all() and asked[SPREAD].isna().all() and len(campaign.best) == 0
    campaign.tell(asked, [worth(row) for _, row in asked.iterrows()])
    assert campaign.ask(9)[MEAN].notna().all()


def test_contexts_have_equal_shares_and_each_its_best() -> None:
    campaign = begun(contexts=("base",))
    asked = campaign.ask(9)
    assert asked["base"].value_counts().to_dict() == {"KOH": 3, "NaOH": 3, "none": 3}
    assert list(asked.columns[:3]) == ["base", "time", "additive"]
    assert sorted(campaign.best["base"]) == sorted(BASES)


def test_it_finds_what_random_proposals_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of 8 x 8 x 8 rows in 40 measurements, 15 of them random; half of the rows are hopeless."""
    fit = EnsembleFit(80, 80, batch_size=16, swap_linearity=0.0)
    monkeypatch.setattr(next_batch, "MemberFit", lambda: MemberFit(draws=8, hidden=(32,), fit=fit))
    rows = [{"a": str(a), "b": str(b), "c": str(c)} for a in range(8) for b in range(8) for c in range(8)]

    def true(row: Any) -> float:
        a, b, c = (int(row[name]) for name in "abc")
        return max(0, 3 - abs(a - 5)) * max(0, 3 - abs(b - 2)) + c / 2

    found = {}
    for asks in (True, False):
        generator = np.random.default_rng(0)
        chosen = [rows[at] for at in generator.permutation(len(rows))[:19]]
        campaign = Campaign.start(
            [{**row, "y": true(row)} for row in chosen], "y", categories=dict.fromkeys("abc", "01234567")
        )
        for _ in range(3):
            frame = campaign.ask(7) if asks else _random_rows(campaign, rows, generator)
            campaign.tell(frame, [true(row) for _, row in frame.iterrows()])
        found[asks] = float(campaign.best["y"].iloc[0])
    assert found[True] >= 11.5 > found[False]  # the maximum is 12.5


def _random_rows(campaign: Campaign, rows: Sequence[dict[str, str]], generator: np.random.Generator) -> pd.DataFrame:
    known = set(map(tuple, campaign.measured[["a", "b", "c"]].to_numpy().tolist()))
    free = [row for row in rows if tuple(row.values()) not in known]
    return pd.DataFrame([free[at] for at in generator.permutation(len(free))[:7]])


@pytest.mark.parametrize(
    ("rows", "scores", "message"),
    [
        (scored(all_rows()[:1]), None, "which has the score 0; nothing added"),
        ([{**all_rows()[1], "base": "CsOH"}], [1.0], r"expected a known category of 'base' .* got 'CsOH'"),
        (all_rows()[1:2], [1.0, 2.0], "expected a score for each of 1 rows, got 2"),
        (all_rows()[1:2], [float("inf")], "expected a finite score, or None, for row 1, got inf"),
        (all_rows()[1:2], None, "expected a column 'yield' in the rows given, got 'base', 'time', 'additive'"),
        ([{**all_rows()[1], "yield": "high"}], None, "expected a finite number, or 'failed', as 'yield' in row 1"),
        ([{"base": "KOH", "time": 5}], [1.0], "expected a column 'additive'"),
        ([{"base": "KOH", "time": 5, "additive": None}], [1.0], "expected a category in column 'additive'"),
        ([], [], "expected a column 'base' in the rows given, got none"),
    ],
)
def test_bad_results_are_refused_and_change_nothing(rows: Any, scores: Any, message: str, tmp_path: Path) -> None:
    campaign = begun(tmp_path / "lab")
    before, known = contents(tmp_path / "lab"), campaign.measured
    with pytest.raises(ValueError, match=message):
        campaign.tell(rows, scores)
    assert contents(tmp_path / "lab") == before
    pd.testing.assert_frame_equal(campaign.measured, known)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"categories": {"solvent": ("x",)}}, "expected categories of a column of the campaign .* got 'solvent'"),
        ({"contexts": ("solvent",)}, "expected a column 'solvent'"),
        (
            {"features": ("base", "yield")},
            "expected 'yield' as one of score, context or feature, got it more than once",
        ),
        ({"candidates": [{"base": "KOH"}]}, "expected a column 'time'"),
        ({"seed": -1}, "expected 0 <= seed"),
    ],
)
def test_bad_starts_are_refused_and_leave_nothing(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        begun(tmp_path / "lab", **more)
    assert not (tmp_path / "lab").exists()


def test_there_must_be_something_to_choose() -> None:
    with pytest.raises(ValueError, match="expected at least two categories of 'base', got KOH"):
        Campaign.start([{"base": "KOH", "y": 1.0}], "y")
    with pytest.raises(ValueError, match="expected 'y' as one of score, context or feature"):
        Campaign.start(None, "y", categories={"y": "ab", "x": "ab"})
    with pytest.raises(ValueError, match="expected columns to choose, got no rows, no candidates and no categories"):
        Campaign.start(None, "y")


def test_a_taken_or_broken_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a campaign's folder with campaign.json"):
        Campaign.load(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="expected a new folder for a campaign, got .*; nothing was written"):
        begun(tmp_path)
    assert list(contents(tmp_path)) == ["mine.txt"]
    begun(tmp_path / "lab")
    (tmp_path / "lab/measured_0.csv").write_text("base,time,additive,yield\nKOH,5,NA,9\n")
    with pytest.raises(BundleError, match="measured_0.csv to have SHA-256 .*: the file was altered"):
        Campaign.load(tmp_path / "lab")
    (tmp_path / "lab/measured_0.csv").unlink()
    with pytest.raises(BundleError, match="expected the file 'measured_0.csv' of the campaign in .*, got no such file"):
        Campaign.load(tmp_path / "lab")
    (tmp_path / "lab" / STATE).write_text(json.dumps({"format": "other", SEAL: digest_of({"format": "other"})}))
    with pytest.raises(BundleError, match="campaign.json in format 'slot_rl campaign 2', got 'other'"):
        Campaign.load(tmp_path / "lab")
    (tmp_path / "lab" / STATE).write_text(json.dumps({"format": "slot_rl campaign 1"}))
    with pytest.raises(BundleError, match="campaign.json as it was written, got one without candidates"):
        Campaign.load(tmp_path / "lab")


@pytest.mark.parametrize("name", ["write_atomically", "write_json"])
def test_a_kill_while_telling_loses_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = begun(tmp_path / "lab")
    asked, known = campaign.ask(5), campaign.measured

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, name, killed)
        campaign.tell(asked, [1.0] * 5)
    pd.testing.assert_frame_equal(Campaign.load(tmp_path / "lab").measured, known)
    for again in (Campaign.load(tmp_path / "lab"), campaign):
        shutil.rmtree(tmp_path / "lab")
        begun(tmp_path / "lab")
        assert again.tell(asked, [1.0] * 5) == 5 and len(Campaign.load(tmp_path / "lab").measured) == 17


def test_what_somebody_else_has_told_since_is_not_lost(tmp_path: Path) -> None:
    begun(tmp_path / "lab")
    first, second = Campaign.load(tmp_path / "lab"), Campaign.load(tmp_path / "lab")
    asked = first.ask(5)
    assert first.tell(asked[:3], [1.0] * 3) == 3
    before = contents(tmp_path / "lab")
    with pytest.raises(ValueError, match="added to since: load it again; nothing added"):
        second.tell(asked[3:], [2.0] * 2)
    assert contents(tmp_path / "lab") == before
    assert Campaign.load(tmp_path / "lab").tell(asked[3:], [2.0] * 2) == 2


def test_a_kill_while_starting_does_not_block_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_json", killed)
        begun(tmp_path / "lab", candidates=all_rows())
    begun(tmp_path / "lab", candidates=all_rows())
    assert len(Campaign.load(tmp_path / "lab").measured) == 12
