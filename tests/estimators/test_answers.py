"""The check of an estimator when a problem is built: scores of a few rows, twice, alone, and their gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slot_rl.estimators.answers import SAME, check_answers, check_gradient, check_same, same_scores

ROWS = torch.tensor([1.0, -2.0, 4.0])


def asked(score: Callable[[Tensor], Tensor]) -> Callable[[Sequence[int]], Tensor]:
    return lambda rows: score(ROWS[list(rows)])


def test_what_is_well_behaved_passes() -> None:
    assert torch.equal(check_answers("good", asked(lambda rows: 2 * rows), 3), 2 * ROWS)
    nan = check_answers("NaN", asked(lambda rows: rows.sqrt()), 3)  # the loop names NaN, with its batch
    assert nan.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda rows: rows[:, None], r"expected one score for each of 3 rows from bad, got \(3, 1\)"),
        (lambda rows: rows + torch.rand(len(rows)), "expected the same score when asked twice from bad, got"),
        (
            lambda rows: rows - rows.mean(),
            "for a row among others and alone from bad, got -3 and 0",
        ),
        (
            lambda rows: rows / (len(rows) > 1),
            "for a row among others and alone from bad, got 1 and inf",
        ),
    ],
)
def test_chance_and_company_are_named(score: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_answers("bad", asked(score), 3)


def test_scores_are_the_same_up_to_a_share_of_the_largest() -> None:
    assert same_scores(ROWS, ROWS + 0.9 * SAME * 4) and not same_scores(ROWS, ROWS + 1.1 * SAME * 4)
    assert same_scores(ROWS[:1], ROWS[:1] + 0.9 * SAME * 4, size=4.0)
    assert same_scores(torch.zeros(2), torch.full((2,), 1e-7)) and not same_scores(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="expected these two, got 4 and 5"):
        check_same("these two", ROWS, torch.tensor([1.0, -2.0, 5.0]))


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return rows.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("no\nbackward")


def test_a_gradient_reaches_what_was_given_and_nothing_else() -> None:
    given, weight = ROWS.clone().requires_grad_(), nn.Parameter(torch.ones(2, 3))
    check_gradient("good", given.square(), given)
    check_gradient("without one", given.detach(), given)
    with pytest.raises(ValueError, match=r"bad to use frozen parameters, got a trainable one of shape \(2, 3\)"):
        check_gradient("bad", given * weight.sum(), given)
    with pytest.raises(ValueError, match="bad to give a gradient, or detached scores, got NotImplementedError: no b"):
        check_gradient("bad", Failing.apply(given), given)  # type: ignore[no-untyped-call]
    assert given.grad is None and weight.grad is None
