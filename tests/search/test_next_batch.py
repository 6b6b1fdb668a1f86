"""The next batch: bounds and turns by hand, what it never proposes, and that it finds more than random rows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from slot_rl.estimators.grid_kernel import grid_cells
from slot_rl.estimators.mixed_members import MemberFit
from slot_rl.estimators.net_ensemble import EnsembleFit
from slot_rl.search import next_batch as module
from slot_rl.search.next_batch import Candidates, MeasuredRows, RowBatch, named_in_turns, next_batch
from slot_rl.seeding import generator_from
from tests.helpers.quick_campaigns import QUICK_MEMBERS, fit_quickly

SIZES = (6, 5, 4)
NO_CONTEXT = torch.zeros(1, 0, dtype=torch.long)
NAN = float("nan")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fit_quickly(monkeypatch)


def all_rows(sizes: tuple[int, ...] = SIZES) -> Tensor:
    return torch.cartesian_prod(*map(torch.arange, sizes))


def truth(rows: Tensor) -> Tensor:
    """A product: one combination is far better than its parts alone say."""
    return (rows[:, 0] == 4) * 1.0 + (rows[:, 1] == 3) * 1.0 + 3.0 * (rows == torch.tensor([4, 3, 2])).all(dim=1)


def measured(count: int = 20, sizes: tuple[int, ...] = SIZES) -> MeasuredRows:
    rows = all_rows(sizes)[torch.randperm(len(all_rows(sizes)), generator=generator_from(5))[:count]]
    return MeasuredRows(rows, rows.sum(dim=1).float())


def nothing(columns: int = 3) -> MeasuredRows:
    return MeasuredRows(torch.zeros(0, columns, dtype=torch.long), torch.zeros(0))


def assert_new(batch: RowBatch, known: MeasuredRows, count: int) -> None:
    proposed, seen = set(map(tuple, batch.rows.tolist())), set(map(tuple, known.rows.tolist()))
    assert len(batch.rows) == len(proposed) == count and not proposed & seen


class Fixed:
    """Members whose scores of all combinations are given."""

    kinds = (1, 1)

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def everywhere(self, generator: torch.Generator) -> Tensor:
        return self.scores


def test_kinds_members_and_groups_take_turns_by_hand() -> None:
    """Two networks and one draw; rows 0 to 3, and 4 and 5 of another group."""
    scores = torch.tensor([[4.0, 3, 2, 1, 1, 2], [1.0, 4, 2, 3, 2, 1], [1.0, 2, 3, 4, 2, 1]])
    one, two = torch.zeros(6), torch.tensor([0, 0, 0, 0, 7, 7])
    # First network: 0; draw: 3; second network: 1; draw: 2; first network: 5 before 4.
    assert named_in_turns(scores, (2, 1), one, 5).tolist() == [0, 3, 1, 2, 5]
    assert named_in_turns(scores, (2, 1), one, 3, first=3).tolist() == [3, 0, 2]
    # The second group begins with the draw.
    assert named_in_turns(scores, (2, 1), two, 4).tolist() == [0, 4, 3, 5]
    assert named_in_turns(scores, (2, 1), two, 99).tolist() == [0, 4, 3, 5, 1, 2]
    assert named_in_turns(scores, (3,), one, 3).tolist() == [0, 1, 3]
    assert named_in_turns(scores[:, :0], (2, 1), one[:0], 5).tolist() == []


def test_a_batch_says_what_the_members_say(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.tensor([[9.0, 5, 1, 1], [9.0, 5, 5, 7]])
    monkeypatch.setattr(module, "fit_members", lambda *arguments: Fixed(scores))
    known, candidates = (
        MeasuredRows(torch.tensor([[0, 0]] * 2), torch.tensor([9.0, 1.0])),
        Candidates((2, 2), NO_CONTEXT),
    )
    found = next_batch(known, candidates, 3, generator_from(0))
    assert grid_cells(found.rows, (2, 2)).tolist() == [1, 3, 2]  # Row 0 was measured.
    assert found.mean.tolist() == [5, 4, 3]
    assert found.spread.tolist() == pytest.approx([0, 3 * 2**0.5, 2 * 2**0.5])
    single = MeasuredRows(known.rows[:1], known.score[:1])
    assert bool(next_batch(single, candidates, 3, generator_from(0)).mean.isnan().all())  # One score teaches nothing.


@pytest.mark.parametrize("known", [nothing(), MeasuredRows(all_rows()[:9], torch.tensor([1.0] * 8 + [NAN]))])
def test_without_different_scores_rows_are_random(known: MeasuredRows) -> None:
    found = next_batch(known, Candidates(SIZES, NO_CONTEXT), 30, generator_from(0))
    assert_new(found, known, 30)
    assert bool(found.mean.isnan().all()) and bool(found.spread.isnan().all())
    other = next_batch(known, Candidates(SIZES, NO_CONTEXT), 30, generator_from(1))
    assert not torch.equal(found.rows, other.rows)


def test_nothing_is_proposed_twice_nor_what_failed() -> None:
    known = measured(100)
    known.score[:60] = NAN
    found = next_batch(known, Candidates(SIZES, NO_CONTEXT), 50, generator_from(0), fit=QUICK_MEMBERS)
    assert_new(found, known, 20)  # 20 of 120 are left, fewer than asked for.
    assert bool(found.mean.isfinite().all())
    everything = MeasuredRows(all_rows(), torch.full((120,), NAN).index_fill_(0, torch.tensor([3, 5]), 1.0))
    assert len(next_batch(everything, Candidates(SIZES, NO_CONTEXT), 5, generator_from(0), fit=QUICK_MEMBERS).rows) == 0


@pytest.mark.parametrize("most_cells", [1_000, 1])
def test_only_candidates_are_proposed(most_cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENUMERATED", most_cells)
    listed, known = all_rows()[::3], measured()
    found = next_batch(known, Candidates(SIZES, NO_CONTEXT, listed), 12, generator_from(0), fit=QUICK_MEMBERS)
    assert_new(found, known, 12)
    assert set(map(tuple, found.rows.tolist())) <= set(map(tuple, listed.tolist()))


@pytest.mark.parametrize("most_cells", [1_000, 1])
def test_contexts_have_equal_shares(most_cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENUMERATED", most_cells)
    known = measured()
    asked = Candidates(SIZES, torch.tensor([[0], [2], [5]]))
    found = next_batch(known, asked, 12, generator_from(0), fit=QUICK_MEMBERS)
    assert_new(found, known, 12)
    assert sorted(found.rows[:, 0].tolist()) == [0] * 4 + [2] * 4 + [5] * 4
    assert sorted(found.rows[:3, 0].tolist()) == [0, 2, 5]


def test_a_search_finds_high_rows_among_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (12,) * 7
    rows = torch.randint(12, (150, 7), generator=generator_from(0))
    known, candidates = MeasuredRows(rows, (rows == 3).sum(dim=1).float()), Candidates(sizes, NO_CONTEXT)
    monkeypatch.setattr(module, "KEPT", 50)
    found = next_batch(known, candidates, 30, generator_from(1), fit=QUICK_MEMBERS)
    random = next_batch(nothing(7), candidates, 30, generator_from(1))
    assert_new(found, known, 30)
    assert_new(random, known, 30)
    assert float((found.rows == 3).sum(dim=1).float().mean()) > 2.5  # random rows: 7 / 12
    assert float((random.rows == 3).sum(dim=1).float().mean()) < 1.5


def best_after(propose: Callable[[MeasuredRows, torch.Generator], Tensor], seed: int) -> float:
    generator = generator_from(seed)
    rows = all_rows()[torch.randperm(120, generator=generator)[:15]]
    for _ in range(3):
        rows = torch.cat([rows, propose(MeasuredRows(rows, truth(rows)), generator)])
    return float(truth(rows).max())


def test_it_finds_what_random_rows_do_not() -> None:
    asked = Candidates(SIZES, NO_CONTEXT)
    fit = MemberFit(nets=3, draws=4, hidden=(32,), fit=EnsembleFit(80, 80, batch_size=16, swap_linearity=0.0))

    def random(known: MeasuredRows, generator: torch.Generator) -> Tensor:
        return next_batch(MeasuredRows(known.rows, known.score * NAN), asked, 6, generator).rows

    found = [best_after(lambda known, g: next_batch(known, asked, 6, g, fit=fit).rows, seed) for seed in range(3)]
    control = [best_after(random, seed) for seed in range(3)]
    assert found == [5.0] * 3 and min(control) < 5


def test_a_batch_is_the_same_for_the_same_seed() -> None:
    first, second, other = (
        next_batch(measured(), Candidates(SIZES, NO_CONTEXT), 9, generator_from(seed), fit=QUICK_MEMBERS)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.rows, second.rows) and torch.equal(first.mean, second.mean)
    assert not torch.equal(first.mean, other.mean)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a batch of at least 1 row, got 0"):
        next_batch(measured(), Candidates(SIZES, NO_CONTEXT), 0, generator_from(0))
