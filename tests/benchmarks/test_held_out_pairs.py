"""Numbers in place of categories: what is left out stays unseen, intervals by hand, and refusals."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import held_out_pairs
from benchmarks.held_out_pairs import DESCRIBED, HeldOutPairsConfig, LeftOutAnswers, answer_left_out, answer_split
from slot_rl.estimators.fitting import TableFit, TableRows, fit_on_table


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the fits short."""
    monkeypatch.setattr(held_out_pairs, "PAIR_FIT", TableFit(epochs=1, hidden=(8,)))


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("variant", "left_out", "rows"),
    [("one-hot", (1, 2), 308), ("contexts described", (3, 0), 308), ("all described", (2, -1), 924)],
)
def test_what_is_left_out_is_never_fitted(
    variant: str,
    left_out: tuple[int, int],
    rows: int,
    landscape: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, seen, ticks = landscape("suzuki.csv").parent, [], []

    def watched(net: object, train: TableRows, validation: TableRows, *rest: object) -> int:
        seen.append(len(train) + len(validation))
        return fit_on_table(net, train, validation, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(held_out_pairs, "fit_on_table", watched)
    config = HeldOutPairsConfig(data, seeds=2, timesteps=600)
    found = answer_left_out(config, (variant, *left_out), lambda: ticks.append(1))
    assert seen == [3696 - rows] * 2 and ticks == [1, 1]
    assert len(found.landscape) == 308
    assert float(found.landscape.min()) >= 0 and float(found.landscape.max()) <= 1
    assert all(0 <= value <= 1 for value in (*found.yields.values(), found.constant))


@pytest.mark.parametrize("variant", held_out_pairs.NUMERIC)
def test_the_argmax_of_few_rows_is_a_measured_yield(variant: str, landscape: Callable[[str], Path]) -> None:
    path = landscape("direct_arylation.csv")
    yields = {float(line.rsplit(",", 1)[1]) for line in path.read_text().splitlines()[1:]}
    found = answer_split(path.parent, variant, 0, lambda: None)
    assert any(found == pytest.approx(value, abs=1e-4) for value in yields) and found > 30


def test_differences_have_a_paired_interval_by_hand() -> None:
    rows = held_out_pairs._variant_rows({"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 3.0]}, "a")
    # Differences 1, 2, 0: mean 1, deviation 1, t(2) = 4.303.
    assert rows == [["  a", "2.000", ""], ["  b", "3.000", "+1.000 [-1.484, +3.484]"]]


def test_the_best_constant_with_hindsight_is_that_of_all_pairs() -> None:
    landscapes = (torch.tensor([1.0, 0.0, 0.6]), torch.tensor([0.0, 1.0, 0.7]))
    yields = dict.fromkeys(held_out_pairs.ANSWERS, 0.5)
    pairs = {
        (variant, 0, i): LeftOutAnswers(yields, 0.25 * (i + 1), found)
        for variant in DESCRIBED
        for i, found in enumerate(landscapes)
    }
    rows = held_out_pairs._left_out_rows("title", list(DESCRIBED), pairs)
    assert rows[1:3] == [["  best constant elsewhere", "0.375", ""], ["  best constant with hindsight", "0.650", ""]]


def test_missing_files_and_no_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected suzuki.csv, suzuki_descriptors/electrophile.csv, .* in --data"):
        HeldOutPairsConfig(tmp_path)
    with pytest.raises(ValueError, match="expected seeds, timesteps and parts >= 1"):
        HeldOutPairsConfig(tmp_path, seeds=0)
