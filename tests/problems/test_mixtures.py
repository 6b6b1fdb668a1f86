"""The error at mixtures: 0 for a multilinear estimator, and by hand for one that is not."""

import pytest
import torch

from slot_rl.problems import SlotProblem, mixture_error
from slot_rl.seeding import generator_from


def normal(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def error_of(score: object, draws: int = 64) -> float:
    problem = SlotProblem(score, 3, 6, 2, normal)  # type: ignore[arg-type]
    observation = problem.sample(200, generator_from(0))
    found = mixture_error(problem, observation, draws, generator_from(1))
    assert problem.budget.forwards == 200 * (1 + draws)
    return found


def test_a_multilinear_estimator_has_no_error() -> None:
    assert error_of(lambda items: items[:, 0, 0] * items[:, 1, 1] * items[:, 2, 0] + items.sum(dim=(1, 2))) < 0.05


def test_chance_is_taken_off() -> None:
    # With 4 draws, the mean of the rows alone is off by half a standard deviation.
    assert error_of(lambda items: items.sum(dim=(1, 2)), draws=4) < 0.1


def test_a_square_is_off_by_the_variance_of_its_items() -> None:
    """A mixture's square is below the mean of squares by the variance of the rows' sums."""
    offsets = torch.tensor([[1.0], [3.0]])
    problem = SlotProblem(lambda items: items.sum(dim=(1, 2)).square(), 1, 2, 1, lambda s, g: torch.ones(s) * offsets)
    observation = problem.sample(1_000, generator_from(0))
    generator = generator_from(1)
    logits = torch.randn(1_000, 1, 2, generator=generator_from(1))
    p = torch.softmax(logits, dim=-1)[:, 0, 1].double()
    # Scores 1 and 9 with probability 1 - p and p: variance 64 p (1 - p); the mixture's score is lower by 4 p (1 - p).
    expected = ((4 * p * (1 - p)).square().mean() / (64 * p * (1 - p)).mean()).sqrt()
    assert mixture_error(problem, observation, 400, generator) == pytest.approx(float(expected), abs=0.02)


def test_a_constant_has_no_error() -> None:
    assert error_of(lambda items: 0 * items.sum(dim=(1, 2))) == 0.0
