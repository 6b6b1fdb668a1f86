"""The check of the diagnosis: correlations by hand, what a ranking leaves out counts as last, and the command runs."""

import json
from math import inf
from pathlib import Path

import pytest

from benchmarks.gradient_advice import AdviceCheck, beside
from slot_rl.diagnosis import Diagnosis, SelectorFigures
from slot_rl.race import RaceResult
from tests.conftest import ROOT, Command

OUTCOME = [RaceResult(name, (value, value - 0.3)) for name, value in (("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6))]


def check(race: list[float], error: list[float]) -> AdviceCheck:
    return AdviceCheck(OUTCOME, dict(zip("abcd", race, strict=True)), dict(zip("abcd", error, strict=True)))


def test_correlations_are_those_by_hand() -> None:
    same = check([4, 3, 2, 1], [0.1, 0.2, 0.3, 0.4])
    assert (same.by_race, same.by_error) == pytest.approx((1, 1))
    turned = check([1, 2, 3, 4], [0.4, 0.3, 0.2, 0.1])
    assert (turned.by_race, turned.by_error) == pytest.approx((-1, -1))
    # Ranks differ by 1, 1, 0 and 0: 1 - 6 * 2 / (4 * 15).
    assert check([3, 4, 2, 1], [0.2, 0.1, 0.3, 0.4]).by_race == pytest.approx(0.8)


def test_what_a_ranking_leaves_out_counts_as_its_last() -> None:
    assert check([4, 3, 2, -inf], [0.1, 0.2, inf, inf]).by_race == pytest.approx(1)
    # The best by outcome is left out: ranks 4, 1, 2, 3 beside 1, 2, 3, 4, so 1 - 6 * 12 / 60.
    assert check([-inf, 3, 2, 1], [inf, 0.1, 0.2, 0.3]).by_error == pytest.approx(-0.2)


def test_one_seed_is_compared_with_another() -> None:
    assert check([4, 3, 2, 1], [1, 2, 3, 4]).by_another_seed == pytest.approx(1)
    single = [RaceResult("a", (0.9,)), RaceResult("b", (0.8,))]
    assert AdviceCheck(single, {}, {}).by_another_seed is None
    turned = [RaceResult("a", (0.9, 0.1)), RaceResult("b", (0.8, 0.2))]
    assert AdviceCheck(turned, {}, {}).by_another_seed == pytest.approx(-1)


def test_a_diagnosis_is_set_beside_what_was_trained() -> None:
    figures = [SelectorFigures(name, 0.1, 0.01, 1.0, 0.5, 0.9, 1, 1, 0.1, 0.0, error) for name, error in (("b", 0.2),)]
    found = beside(Diagnosis([RaceResult("a", (0.4, 0.6)), RaceResult("z", (0.1,))], figures, ""), OUTCOME)
    assert found.race == {"a": 0.5, "b": -inf, "c": -inf, "d": -inf}
    assert found.error == {"a": inf, "b": 0.2, "c": inf, "d": inf}
    written = json.loads(json.dumps(found.figures(), allow_nan=False))
    assert written["race"] == {"a": 0.5, "b": None, "c": None, "d": None}
    assert written["error"] == {"a": None, "b": 0.2, "c": None, "d": None}
    assert written["outcome"][1] == {"name": "b", "optimality": [0.8, 0.5]} and written["by_another_seed"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--problems", "Slots-v9"], "expected --problems to be of Slots-v0, Slate-v0, tf-2000, suzuki-30"),
        (["--seeds", "0"], "expected seeds and race_calls >= 1 and race_seeds from 1 to 100"),
        (["--race-seeds", "101"], "expected seeds and race_calls >= 1 and race_seeds from 1 to 100"),
        (["--race-calls", "0"], "expected seeds and race_calls >= 1"),
        ([], "expected tfbind_factors.parquet, suzuki.csv in --data FOLDER"),
    ],
)
def test_wrong_flags_are_refused_in_words(flags: list[str], message: str, tmp_path: Path, script: Command) -> None:
    code, _, errors = script(ROOT / "scripts" / "reproduce.py", "gradient-advice", "--data", tmp_path, *flags)
    assert code == 2
    assert message in " ".join(errors.split())


@pytest.mark.slow
def test_the_command_prints_every_selectors_outcome_and_ranks(tmp_path: Path, script: Command) -> None:
    short = ["--timesteps", "600", "--seeds", "1", "--race-calls", "512", "--race-seeds", "1"]
    flags = ["--data", tmp_path, "--problems", "Slots-v0", *short, "--out", tmp_path / "advice"]
    code, output, errors = script(ROOT / "scripts" / "reproduce.py", "gradient-advice", *flags)
    assert code == 0, errors
    assert "recommended: use" in output and "Slots-v0: optimality after 600 calls" in output
    figures = json.loads((tmp_path / "advice" / "results.json").read_text())["figures"]["Slots-v0"]
    assert {one["name"] for one in figures["outcome"]} == set(figures["race"]) >= {"gumbel", "rloo"}
    assert -1 <= figures["by_error"] <= 1 and -1 <= figures["by_race"] <= 1
    assert (tmp_path / "advice" / "Slots-v0" / "diagnosis.json").is_file()
