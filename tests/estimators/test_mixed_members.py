"""Members of several kinds: places and rows, both ways to score agree, and what is left out where it cannot be."""

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.estimators import grid_kernel
from slot_rl.estimators.grid_kernel import grid_cells, rows_of_cells
from slot_rl.estimators.mixed_members import MemberFit, MixedMembers, fit_members
from slot_rl.estimators.net_ensemble import EnsembleFit
from slot_rl.seeding import generator_from

SIZES = (5, 4, 3)
QUICK = EnsembleFit(10, 10, batch_size=16, swap_linearity=0.0)


def all_rows() -> Tensor:
    return torch.cartesian_prod(*map(torch.arange, SIZES))


def members(nets: int = 2, draws: int = 400) -> MixedMembers:
    rows = all_rows()[::3]
    return fit_members(rows, rows.prod(dim=1).float(), SIZES, MemberFit(nets, draws, (16,), QUICK), generator_from(0))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_rows_and_places_are_each_others_inverse(sizes: list[int]) -> None:
    cells = torch.arange(prod(sizes))
    rows = rows_of_cells(cells, sizes)
    assert torch.equal(rows, torch.cartesian_prod(*map(torch.arange, sizes)).view(-1, len(sizes)))
    assert torch.equal(grid_cells(rows, sizes), cells)


def test_scores_of_all_and_of_some_rows_agree() -> None:
    """Networks to the last bits, draws in their mean and spread: 6 standard errors of each."""
    found = members()
    everywhere, some = found.everywhere(generator_from(1)), found.at(all_rows()[7:20], generator_from(2))
    assert everywhere.shape == (2 + 2 * 400, 60) and some.shape == (802, 13)
    everywhere = everywhere[:, 7:20]
    assert torch.allclose(everywhere[:2], some[:2], atol=1e-4)
    for part in (slice(2, 402), slice(402, 802)):
        first, second = everywhere[part], some[part]
        spread = first.std(dim=0)
        assert bool(((first.mean(dim=0) - second.mean(dim=0)).abs() < 6 * spread * (2 / 400) ** 0.5 + 1e-4).all())
        assert bool(((spread - second.std(dim=0)).abs() < 6 * spread * (1 / 400) ** 0.5 + 1e-4).all())


def test_processes_are_left_out_where_they_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(members(draws=3).everywhere(generator_from(0))) == 8
    assert len(members(draws=0).everywhere(generator_from(0))) == 2
    monkeypatch.setattr(grid_kernel, "MOST_EXACT", 3)
    monkeypatch.setattr(grid_kernel, "MOST_GRID_CELLS", 3)
    assert members(draws=3).processes == ()
