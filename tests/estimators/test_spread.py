"""How different members are: figures by hand and against regressions, and what is refused."""

import numpy as np
import pytest
import torch

from slot_rl.estimators.spread import Spread, accuracy_given, given_another, spread_against_error
from slot_rl.seeding import generator_from


def test_accuracy_given_another_is_what_a_regression_gains() -> None:
    generator = generator_from(0)
    true = torch.randn(80, generator=generator)
    members = true + torch.randn(3, 80, generator=generator) * torch.tensor([[0.5], [1.0], [2.0]])
    found = given_another(members, true)

    def left(*columns: torch.Tensor) -> float:
        design = np.column_stack([np.ones(80), *(column.numpy() for column in columns)])
        solution = np.linalg.lstsq(design, true.numpy(), rcond=None)[0]
        return float(np.square(true.numpy() - design @ solution).sum())

    for member in range(3):
        for other in range(3):
            if member != other:
                gained = 1 - left(members[member], members[other]) / left(members[other])
                assert float(found[member, other]) == pytest.approx(gained, abs=1e-4)
    assert bool(found.diagonal().isnan().all())
    # The best member adds most to the worst one.
    assert float(found[0, 2]) > float(found[2, 0])


def test_a_member_that_follows_from_another_adds_nothing() -> None:
    generator = generator_from(1)
    true, first = torch.randn(2, 200, generator=generator)
    second = 3 * first + 0.001 * torch.randn(200, generator=generator)
    assert float(given_another(torch.stack([first, second]), true)[1, 0]) < 0.05


def test_a_classifiers_accuracy_given_another_by_hand() -> None:
    says, given = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0, 0, 1, 1, 1])
    found = accuracy_given(says, given, true=torch.tensor([0, 0, 1, 2, 1]), count=3)
    assert found[:2].tolist() == pytest.approx([1 / 2, 2 / 3]) and bool(found[2].isnan())


def test_spread_follows_error_over_the_chosen_rows_alone() -> None:
    true = torch.arange(100.0)
    spread = torch.linspace(1, 5, 100)
    # The mean errs as far as the members are apart, in the chosen rows; elsewhere in reverse.
    error = torch.where(true >= 90, spread, 6 - spread)
    members = torch.stack([true + error + spread, true + error - spread])
    assert spread_against_error(members, true) == pytest.approx(1)
    assert spread_against_error(members, true, share=1.0) < 0
    assert spread_against_error(torch.stack([true, true]), true) == 0.0


def test_errors_of_members_are_correlated() -> None:
    generator = generator_from(2)
    true, shared, own, other = torch.randn(4, 4_000, generator=generator)
    found = Spread.of(torch.stack([true + shared + own, true + shared + other]), true)
    assert float(found.errors[0, 1]) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="expected two members and three rows at least, got 1 and 9"):
        Spread.of(torch.zeros(1, 9), torch.zeros(9))
