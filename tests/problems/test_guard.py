"""The guard of the loop: what an estimator does wrong at a later call is named with its batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl.problems import BadScore, Budget, FaultyEstimator, NonFiniteScore, Observation, SlotProblem
from slot_rl.problems.guard import ASKED_AGAIN, LARGEST_SCORE
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot

CHOICE = torch.zeros(3, 2, dtype=torch.long)


def total(items: Tensor) -> Tensor:
    return items.sum(dim=(-1, -2))


class Later:
    """Behaves well until the problem is built."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        self.change, self.on, self.rows = change, False, 0

    def __call__(self, items: Tensor) -> Any:
        self.rows += len(items)
        return self.change(items) if self.on else total(items)


def built(change: Callable[[Tensor], Any]) -> tuple[SlotProblem, Observation]:
    estimator = Later(change)
    problem = SlotProblem(estimator, 2, 4, 3)
    observation = problem.sample(3, generator_from(0))
    problem.score(observation, CHOICE)
    estimator.on = True
    return problem, observation


def raised(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            lambda items: raised(OSError("gone\nnow")),
            BadScore,
            "from Later for slots, given items {}, got OSError",
        ),
        (lambda items: total(items)[1:], BadScore, r"scores of shape \(3,\) from Later .*, got torch.float32 \(2,\)"),
        (lambda items: total(items).tolist(), BadScore, "scores of shape .*, got list"),
        (lambda items: total(items).int(), BadScore, "scores of shape .*, got torch.int32"),
        (lambda items: total(items).to("meta"), BadScore, r"got torch.float32 \(3,\) on meta"),
        (
            lambda items: total(items.add_(1)),
            FaultyEstimator,
            "to leave its input as it is, got items ch",
        ),
        (
            lambda items: total(items) / 0,
            NonFiniteScore,
            r"3 of 3 NaN or infinite, first in row 0 \(Later for",
        ),
        (
            lambda items: total(items) * 0 + 1e30,
            BadScore,
            r"at most 1e\+15 .*, got 3 of 3 larger, up to 1e\+30",
        ),
    ],
)
def test_a_bad_batch_is_named_and_kept(change: Any, kind: type[BadScore], message: str) -> None:
    problem, observation = built(change)
    with pytest.raises(BadScore, match=message.format(r"\(3, 2, 3\)")) as caught:
        problem.score(observation, CHOICE)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    assert caught.value.observation is observation and torch.equal(caught.value.rows, CHOICE)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_scores_and_gradients_have_a_bound(share: float) -> None:
    size = share * LARGEST_SCORE
    flat = SlotProblem(lambda items: total(items).sign() * size, 2, 4, 3)
    steep = SlotProblem(lambda items: (total(items) * size).sin(), 2, 4, 3)
    observation = flat.sample(3, generator_from(0))
    rows = one_hot(CHOICE, 4, torch.float32).requires_grad_()
    for what, ask in {
        "scores": lambda: flat.score(observation, CHOICE),
        "gradients": lambda: steep.score_selection(observation, rows).mul(3).sum().backward(),
    }.items():
        if share < 1 and what == "scores":
            ask()  # type: ignore[no-untyped-call]
        elif share > 1:
            with pytest.raises(BadScore, match=rf"expected {what} of at most 1e\+15 in size"):
                ask()  # type: ignore[no-untyped-call]


def test_a_column_is_as_good_as_a_row_at_every_call() -> None:
    problem, observation = built(lambda items: total(items).unsqueeze(-1))
    assert problem.score(observation, CHOICE).shape == (3,)


@pytest.mark.parametrize(
    "change",
    [
        lambda items: total(items) + torch.randn(len(items)),
        lambda items: total(items) + 0.5,
        lambda items: total(items - items.mean(dim=0)),
    ],
)
def test_a_score_that_changes_is_found_within_a_few_calls(change: Any) -> None:
    problem, observation = built(change)
    calls = 0
    with pytest.raises(FaultyEstimator, match="the same score for the same row from Later for slots, got .* and"):
        while True:
            calls += 1
            problem.score(observation, CHOICE)
    assert calls == ASKED_AGAIN and problem.budget == Budget(3 * (ASKED_AGAIN + 1), 0)


def test_asking_again_costs_one_row_in_many_calls_and_no_budget() -> None:
    estimator = Later(total)
    problem = SlotProblem(estimator, 2, 4, 3)
    observation, built_with = problem.sample(3, generator_from(0)), estimator.rows
    for _ in range(10 * ASKED_AGAIN):
        problem.score(observation, CHOICE)
    assert problem.budget.forwards == 3 * 10 * ASKED_AGAIN
    assert estimator.rows - built_with == problem.budget.forwards + 10


def test_a_truth_that_raises_is_named() -> None:
    truth = Later(lambda items: raised(KeyError("row")))
    problem = SlotProblem(total, 2, 4, 3, truth=truth)
    truth.on = True
    with pytest.raises(BadScore, match="true scores from Later for slots, given .*, got KeyError at test_guard.py"):
        problem.true_score(problem.sample(3, generator_from(0)), CHOICE)
