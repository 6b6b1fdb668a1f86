"""Shared by the tests of equivalence: small cases, true gradients, forced draws, and claims about a selector.

Forced draws replace the noise in a selector's module. The selector's code runs once for every possible draw, so its
mean and variance are exact. They are compared with formulas that handle one slot at a time, without its masked items,
and that use whole matrices and no helper of the selectors. If the noise cannot be enumerated, means are compared in
standard errors of many draws.
"""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Generic, TypeVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slot_rl.seeding import generator_from
from slot_rl.selectors import Objective, Selector

OBJECTIVES = ("multilinear", "quadratic", "smooth")
RELATIVE = 1e-10
# With this seed every case has a true gradient that is far from zero.
SEED = 1_400_000


class Recorder:
    """Stores the selection that it scores; scores it linearly with given weights ``(slots, items)``."""

    selection: Tensor

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, selection: Tensor) -> Tensor:
        self.selection = selection.detach()
        return (selection * self.weights.to(selection.dtype)).flatten(-2).sum(dim=-1)


def multilinear(values: Tensor) -> Objective:
    """The most general objective that is linear in each slot: a table with a value for every configuration."""

    def objective(selection: Tensor) -> Tensor:
        slots = range(values.dim())
        rows = [part for slot in slots for part in (selection.select(-2, slot), [..., slot])]
        scores: Tensor = torch.einsum(values, list(slots), *rows, [...])
        return scores

    return objective


def quadratic(matrix: Tensor, linear: Tensor) -> Objective:
    """``z^T A z + b^T z`` with z the concatenated rows of all slots."""

    def objective(selection: Tensor) -> Tensor:
        flat = selection.flatten(-2)
        return ((flat @ matrix) * flat).sum(-1) + flat @ linear

    return objective


def smooth(inward: Tensor, bias: Tensor, outward: Tensor) -> Objective:
    """A network with one hidden layer: not a polynomial, and with interactions of all slots."""

    def objective(selection: Tensor) -> Tensor:
        return torch.tanh(selection.flatten(-2) @ inward + bias) @ outward

    return objective


@dataclass(frozen=True)
class Case:
    """Logits in float64, a mask and objectives, small enough to enumerate every draw."""

    slots: int
    items: int
    masked: bool = False

    def __str__(self) -> str:
        return f"{self.slots}x{self.items}{'-masked' if self.masked else ''}"

    def _generator(self, what: int) -> torch.Generator:
        return generator_from(SEED + 1000 * self.slots + 100 * self.items + 10 * what + self.masked)

    @property
    def logits(self) -> Tensor:
        return torch.randn(self.slots, self.items, dtype=torch.float64, generator=self._generator(0))

    @property
    def mask(self) -> Tensor | None:
        """Masks at least one item of the first slot; None without a mask."""
        if not self.masked:
            return None
        mask = torch.rand(self.slots, self.items, generator=self._generator(1)) < 0.7
        mask[:, -1] = True
        mask[0, 0] = False
        return mask

    @property
    def allowed(self) -> Tensor:
        mask = self.mask
        return torch.ones(self.slots, self.items, dtype=torch.bool) if mask is None else mask

    def objective(self, name: str) -> Objective:
        generator, size = self._generator(2), self.slots * self.items

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator)

        if name == "multilinear":
            return multilinear(normal(*[self.items] * self.slots))
        if name == "quadratic":
            return quadratic(normal(size, size), normal(size))
        return smooth(normal(size, 5), normal(5), 2 * normal(5))


CASES = (
    Case(1, 2),
    Case(1, 5),
    Case(1, 5, masked=True),
    Case(2, 2, masked=True),
    Case(2, 3),
    Case(2, 5, masked=True),
    Case(3, 4),
    Case(3, 3, masked=True),
)
SMALL_CASES = (Case(1, 5), Case(1, 5, masked=True), Case(2, 2), Case(2, 3, masked=True), Case(2, 4))


def over(selectors: Iterable[Selector], cases: Iterable[Case] = CASES) -> pytest.MarkDecorator:
    """Runs the tests of a class for every one of these selectors on every one of these cases."""
    pairs = list(product(selectors, cases))
    return pytest.mark.parametrize(("selector", "case"), pairs, ids=[f"{selector}-{case}" for selector, case in pairs])


def all_choices(slots: int, items: int) -> Tensor:
    """Every configuration, ``(items^slots, slots)``."""
    return torch.tensor(list(product(range(items), repeat=slots))).view(-1, slots)


def probabilities(logits: Tensor, allowed: Tensor) -> Tensor:
    """The softmax over the allowed items of each slot."""
    raised = logits.exp() * allowed
    return raised / raised.sum(dim=-1, keepdim=True)


def law(p: Tensor, choices: Tensor) -> Tensor:
    """The probability of choices ``(..., slots)`` under independent slots ``p``, ``(slots, items)``."""
    return p[torch.arange(len(p)), choices].prod(dim=-1)


def vertices(choices: Tensor, items: int) -> Tensor:
    return functional.one_hot(choices, items).double()


def true_gradient(logits: Tensor, allowed: Tensor, objective: Objective) -> Tensor:
    """The gradient of the expectation, which is summed over every configuration."""
    leaf = logits.clone().requires_grad_()
    choices = all_choices(*logits.shape)
    scores = objective(vertices(choices, logits.shape[1]))
    (gradient,) = torch.autograd.grad((law(probabilities(leaf, allowed), choices) * scores).sum(), leaf)
    return gradient


def gradient_of(
    selector: Selector,
    logits: Tensor,
    objective: Objective,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The gradient that one call puts into logits ``(..., batch, slots, items)``."""
    leaf = logits.detach().requires_grad_()
    estimate = selector(leaf, objective, mask, generator)
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    return gradient


class ForcedDraw:
    """Replaces ``draw``: returns given choices in turn and stores the probability of each under its logits."""

    def __init__(self, choices: Iterable[Tensor]) -> None:
        self._choices: Iterator[Tensor] = iter(choices)
        self.probabilities: list[Tensor] = []

    def __call__(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        choice = next(self._choices)
        # If no item is allowed, the draw is arbitrary.
        p = torch.softmax(logits, dim=-1).nan_to_num(1 / logits.shape[-1])
        self.probabilities.append(p.gather(-1, choice.unsqueeze(-1)).squeeze(-1).prod(dim=-1))
        return choice


def force(monkeypatch: pytest.MonkeyPatch, selector: Selector, choices: Iterable[Tensor]) -> ForcedDraw:
    """Makes the selector draw these choices."""
    forced = ForcedDraw(choices)
    for module in ("slot_rl.selectors.base", type(selector).__module__):
        monkeypatch.setattr(sys.modules[module], "draw", forced, raising=False)
    return forced


@dataclass(frozen=True)
class Enumeration:
    """All draws with a probability above zero.

    Attributes:
        gradient: Tensor of shape ``(draws, slots, items)``.
        probability: Tensor of shape ``(draws,)``.
    """

    gradient: Tensor
    probability: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.einsum("d,dsn->sn", self.probability, self.gradient)

    @property
    def second_moment(self) -> float:
        return float(torch.einsum("d,dsn,dsn->", self.probability, self.gradient, self.gradient))

    @property
    def total_variance(self) -> float:
        centred = self.gradient - self.mean
        return float(torch.einsum("d,dsn,dsn->", self.probability, centred, centred))


def every_draw(
    monkeypatch: pytest.MonkeyPatch,
    selector: Selector,
    case: Case,
    objective: Objective,
    plan: tuple[int, ...] = (1,),
) -> tuple[Enumeration, tuple[Tensor, ...]]:
    """Runs a selector once for every possible draw.

    Args:
        monkeypatch: For the forced draws.
        selector: The selector.
        case: The logits and the mask.
        objective: The objective.
        plan: How many choices of all slots each of the selector's calls of ``draw`` asks for.

    Returns:
        The outcomes, and for each choice in the plan the items that were drawn, ``(draws, slots)``.
    """
    slots, items = case.slots, case.items
    joint = all_choices(sum(plan) * slots, items).view(-1, sum(plan), slots) if plan else torch.zeros(1, 0, slots)
    rows = len(joint)
    calls = [part.transpose(0, 1).view(-1, rows, slots) for part in joint.contiguous().split(plan, dim=1)]
    forced = force(monkeypatch, selector, [part[0] if len(part) == 1 else part for part in calls])
    leaf = case.logits.expand(rows, slots, items).requires_grad_()
    generator = generator_from(0)
    state = generator.get_state()
    estimate = selector(leaf, objective, case.mask, generator)
    assert torch.equal(generator.get_state(), state), "there is noise beyond the draws"
    assert len(forced.probabilities) == len(plan)
    probability = torch.ones(rows, dtype=torch.float64)
    for factor in forced.probabilities:
        probability = probability * factor.view(-1, rows).prod(dim=0)
    (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), leaf)
    possible = probability > 0
    if selector.scores_draws:
        assert torch.equal(estimate.choice, joint[:, 0])
        scores = objective(vertices(joint[:, 0], items))
        torch.testing.assert_close(estimate.score, scores, rtol=1e-12, atol=1e-12)
    return Enumeration(gradient[possible], probability[possible]), tuple(joint[possible].unbind(dim=1))


@dataclass(frozen=True)
class Slot:
    """One slot of every draw without its masked items, in the letters of the formulas.

    Attributes:
        th: Logits, ``(items,)``.
        p: Their softmax, ``(items,)``.
        z: One-hot draws, ``(draws, items)``.
        f: Scores at the draws, ``(draws,)``.
        g: Slopes at the draws, ``(draws, items)``.
        swaps: Scores of the draws with each item in this slot, ``(draws, items)``.
    """

    th: Tensor
    p: Tensor
    z: Tensor
    f: Tensor
    g: Tensor
    swaps: Tensor


def slots_of(case: Case, objective: Objective, choices: Tensor) -> list[tuple[Tensor, Slot]]:
    """The slots of draws ``(draws, slots)``, each with the places of its allowed items."""
    vertex = vertices(choices, case.items).requires_grad_()
    f = objective(vertex)
    (g,) = torch.autograd.grad(f.sum(), vertex)
    z = vertex.detach()
    result = []
    for slot in range(case.slots):
        places = case.allowed[slot].nonzero().flatten()
        swaps = []
        for item in places.tolist():
            swapped = choices.clone()
            swapped[:, slot] = item
            swaps.append(objective(vertices(swapped, case.items)))
        th = case.logits[slot, places]
        p = th.exp() / th.exp().sum()
        columns = torch.stack(swaps, dim=-1)
        result.append((places, Slot(th, p, z[:, slot, places], f.detach(), g[:, slot, places], columns)))
    return result


def jacobian(p: Tensor) -> Tensor:
    """The matrices ``diag(p) - p p^T`` of rows ``(..., items)``."""
    return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


def assert_close(actual: Tensor | float, expected: Tensor | float, scale: float) -> None:
    """Asserts that two results are equal up to ``RELATIVE`` of a scale."""
    worst = float((torch.as_tensor(actual) - torch.as_tensor(expected)).abs().max())
    assert worst <= RELATIVE * scale, f"off by {worst} at a scale of {scale}"


S = TypeVar("S", bound=Selector)


class DrawEquivalence(ABC, Generic[S]):
    """A selector that is deterministic given its draws equals its formula, for every draw and in its moments."""

    def plan(self, selector: S, case: Case) -> tuple[int, ...]:
        """How many choices of all slots each call of ``draw`` asks for."""
        return (1,)

    @abstractmethod
    def formula(self, selector: S, case: Case, objective: Objective, draws: tuple[Tensor, ...]) -> Enumeration:
        """Gradients and probabilities of these draws, computed without the selector."""

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_every_draw_is_that_of_the_formula(
        self, selector: S, case: Case, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objective = case.objective(name)
        actual, draws = every_draw(monkeypatch, selector, case, objective, self.plan(selector, case))
        expected = self.formula(selector, case, objective, draws)
        assert_close(actual.probability, expected.probability, 1)
        assert_close(expected.probability.sum(), 1, 1)
        assert_close(actual.gradient, expected.gradient, float(expected.gradient.abs().max()))
        assert_close(actual.mean, expected.mean, float(expected.mean.abs().max()))
        # A variance of exactly zero is computed up to the rounding of the mean.
        scale = max(expected.total_variance, 1e-12 * expected.second_moment)
        assert_close(actual.total_variance, expected.total_variance, scale)


class SlotEquivalence(DrawEquivalence[S]):
    """The formula treats each slot alone, given the draw, its score and its slope."""

    def forward_tau(self, selector: S) -> float:
        """The temperature of the draw."""
        return 1.0

    @abstractmethod
    def slot_gradient(self, selector: S, slot: Slot) -> Tensor:
        """The gradients ``(draws, items)`` of one slot."""

    def formula(self, selector: S, case: Case, objective: Objective, draws: tuple[Tensor, ...]) -> Enumeration:
        (choices,) = draws
        gradient = torch.zeros(len(choices), case.slots, case.items, dtype=torch.float64)
        for index, (places, slot) in enumerate(slots_of(case, objective, choices)):
            gradient[:, index, places] = self.slot_gradient(selector, slot)
        p = probabilities(case.logits / self.forward_tau(selector), case.allowed)
        return Enumeration(gradient, law(p, choices))


class UnbiasedEquivalence(DrawEquivalence[S]):
    """The mean over every draw is the true gradient, for every objective."""

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_the_mean_over_every_draw_is_the_true_gradient(
        self, selector: S, case: Case, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objective = case.objective(name)
        actual, _ = every_draw(monkeypatch, selector, case, objective, self.plan(selector, case))
        truth = true_gradient(case.logits, case.allowed, objective)
        assert_close(actual.mean, truth, float(truth.abs().max()))


def sample(selector: Selector, case: Case, objective: Objective, rows: int = 100_000, seed: int = 0) -> Tensor:
    """Gradients of many independent draws, ``(rows, slots, items)``."""
    logits = case.logits.expand(rows, case.slots, case.items)
    return gradient_of(selector, logits, objective, case.mask, generator_from(seed))


def mean_z(gradient: Tensor, mean: Tensor) -> float:
    """The largest distance of a coordinate's average from a given mean, in standard errors."""
    return difference_z(gradient, mean.expand(2, *mean.shape))


def difference_z(first: Tensor, second: Tensor) -> float:
    """The largest difference of a coordinate's averages in two samples, in standard errors."""
    error = (first.var(dim=0) / len(first) + second.var(dim=0) / len(second)).sqrt()
    difference = (first.mean(dim=0) - second.mean(dim=0)).abs()
    # A masked item's gradient has no variance, so any difference is infinite.
    return float(torch.where(difference == 0, 0.0, difference / error).max())


def frequency_z(choice: Tensor, p: Tensor) -> float:
    """The largest deviation of an item's frequency from its probability, in standard deviations."""
    draws = choice.numel()
    counts = torch.bincount(choice.flatten(), minlength=len(p)).double()
    p = p.double()
    return float(((counts - draws * p) / (draws * p * (1 - p)).sqrt()).abs().max())


SAMPLED_CASES = (Case(2, 3), Case(2, 4, masked=True))


class SampledEquivalence(Generic[S]):
    """With a real generator, the average of many draws is the true gradient within the error of sampling."""

    def test_the_average_of_many_draws_is_the_true_gradient(self, selector: S, case: Case) -> None:
        objective = case.objective("quadratic")
        truth = true_gradient(case.logits, case.allowed, objective)
        gradient = sample(selector, case, objective)
        assert mean_z(gradient, truth) < 5
        assert mean_z(1.05 * gradient, truth) > 5


def normal_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise with the variance of Gumbel noise, but not its law."""
    return torch.randn(like.shape, dtype=like.dtype, generator=generator) * math.pi / math.sqrt(6)
