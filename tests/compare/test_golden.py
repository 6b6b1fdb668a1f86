"""A comparison of real runs gives the figures that were checked before: 6 agents, 2 tasks, 10 seeds, 1 failed run."""

from pathlib import Path

import pandas as pd
import pytest

from slot_rl.compare.conclusions import Conclusions, conclude
from slot_rl.compare.statistics import Results

FOLDER = Path(__file__).parents[1] / "data" / "comparison"


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv")


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12, check_dtype=False)


@pytest.fixture(scope="module")
def found() -> Conclusions:
    runs = read("runs")
    serving = pd.DataFrame(columns=["task", "agent", "seed", "calls", "optimality"])
    return conclude(Results(runs.assign(kind=runs["agent"]), read("curves"), serving), 0.8)


def test_summaries(found: Conclusions) -> None:
    expected = read("summaries")
    assert list(expected) == list(found.summaries)
    assert_same(found.summaries, expected)
    assert found.warning is None and found.tasks == ["Slots-v0", "PickValue-v0", "all"]


def test_pairs(found: Conclusions) -> None:
    expected = read("pairs").astype({"seeds_needed": "Int64"})
    pairs = pd.concat([found.pairs, found.at_equal_calls], ignore_index=True)
    assert_same(pairs[list(expected)], expected)
    assert len(found.pairs) == 45 and len(found.at_equal_calls) == 18


def test_reaches(found: Conclusions) -> None:
    expected = read("reaches")
    assert_same(found.reaches[list(expected)], expected)
