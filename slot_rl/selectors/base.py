"""The base class of all selectors: masks, precision, counting of estimator calls, and the surrogate.

A selector estimates the gradient of ``E[f(z)]`` with respect to logits. Each slot's ``z`` is a one-hot draw from
``softmax(logits)``, and ``f`` is maximised. A selector returns a ``surrogate``: a value whose gradient is the estimate.
Therefore ``surrogate.mean().backward()`` trains any network that computed the logits. The formula of each selector is
in its own file.

Under rules (:mod:`slot_rl.selectors.rules`) slots are drawn one after another. The probability of a choice is then the
product of its slots' probabilities given the slots before them. What is open does not depend on the logits, so in the
formulas the logits on the condition of the draw, minus infinity where an item was not open, take the logits' place.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slot_rl.selectors.categorical import draw, masked_logits
from slot_rl.selectors.rules import Rules


class Objective(Protocol):
    """The function to maximise; it must be differentiable for selectors that need slopes."""

    def __call__(self, selection: Tensor, /) -> Tensor:
        """Scores rows of shape ``(..., batch, slots, items)``, one-hot or relaxed, as ``(..., batch)``."""
        ...


@dataclass(frozen=True)
class Estimate:
    """The result of one call of a selector.

    Attributes:
        surrogate: Tensor of shape ``(batch,)``, equal to the score; ``surrogate.sum().backward()`` gives each row's
            logits their gradient estimate, and gives the objective's parameters no gradient.
        choice: Tensor of shape ``(batch, slots)`` of item indices; the first draw where a selector draws several.
        score: Tensor of shape ``(batch,)`` without gradient: the objective at the choice, or at the relaxed rows for
            selectors that relax them.
        gradient: The estimate of the logits' gradient, ``(batch, slots, items)``.
        forwards: Configurations scored by this call.
        backwards: Configurations differentiated by this call.
        diagnostics: Named tensors of shape ``(batch,)``; ``dead`` is 1 for rows whose gradient is exactly zero.
    """

    surrogate: Tensor
    choice: Tensor
    score: Tensor
    gradient: Tensor
    forwards: int
    backwards: int
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RawEstimate:
    """The result of a selector's formula: gradient ``(batch, slots, items)``, choice and score as in `Estimate`."""

    gradient: Tensor
    choice: Tensor
    score: Tensor


class Probe:
    """Calls an objective for values and slopes in a given precision and counts the calls.

    Attributes:
        forwards: Configurations scored.
        backwards: Configurations differentiated.
    """

    def __init__(self, objective: Objective, dtype: torch.dtype) -> None:
        """Stores the objective and the precision of the rows that it receives."""
        self._objective, self._dtype = objective, dtype
        self.forwards = self.backwards = 0

    def value(self, selection: Tensor) -> Tensor:
        """Scores rows ``(..., batch, slots, items)`` as ``(..., batch)``, without gradient."""
        with torch.no_grad():
            score = self._objective(selection.to(self._dtype))
        self.forwards += score.numel()
        return score

    def slope(self, selection: Tensor) -> tuple[Tensor, Tensor]:
        """Computes scores and their gradient with respect to the rows, not to the objective's parameters.

        Args:
            selection: Tensor of shape ``(..., batch, slots, items)``.

        Returns:
            Scores ``(..., batch)`` without gradient, and slopes in the selection's shape and precision.

        Raises:
            TypeError: If the objective gives no gradient.
        """
        with torch.enable_grad():
            leaf = selection.detach().to(self._dtype).requires_grad_()
            score = self._objective(leaf)
            # The score may depend on the objective's parameters and not on the rows.
            slope = None
            if score.requires_grad:
                (slope,) = torch.autograd.grad(score, leaf, torch.ones_like(score), allow_unused=True)
            if slope is None:
                raise TypeError("expected a differentiable objective, got one whose score has no gradient")
        self.forwards += score.numel()
        self.backwards += score.numel()
        return score.detach(), slope.to(selection.dtype)


@dataclass(frozen=True)
class Draws:
    """What a selector draws choices with.

    Attributes:
        generator: Random generator; None is the global one.
        rules: What the requests allow; None if slots are independent.
    """

    generator: torch.Generator | None = None
    rules: Rules | None = None

    def draw(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Draws a choice ``(..., batch, slots)``.

        Returns:
            The choice, and the logits ``(..., batch, slots, items)`` on its condition, which without rules are the
            logits.

        Raises:
            ValueError: If the logits mask every item that the rules leave open.
        """
        if self.rules is None:
            return draw(logits, self.generator), logits
        return _refuse_impossible(*self.rules.draw(logits, self.generator))

    def mode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Returns each slot's most probable item, or a probable allowed choice, as :meth:`draw` does."""
        if self.rules is None:
            return logits.argmax(dim=-1), logits
        choice = self.rules.mode(logits)
        return _refuse_impossible(choice, self.rules.conditional(logits, choice))


def _refuse_impossible(choice: Tensor, conditional: Tensor) -> tuple[Tensor, Tensor]:
    if not bool((conditional.gather(-1, choice.unsqueeze(-1)) > -torch.inf).all()):
        raise ValueError("expected rules that know the mask, got a slot whose open items are all masked")
    return choice, conditional


class Selector(ABC):
    """A gradient estimator for a discrete choice; subclasses are frozen dataclasses of their options.

    Attributes:
        name: The name in :data:`slot_rl.selectors.SELECTORS` and on the command line.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuses numbers that are not positive and finite."""
        numbers = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, float | int) and not isinstance(value, bool)
        }
        refuse_unless_positive(**numbers)

    @property
    def scores_draws(self) -> bool:
        """Whether ``score`` belongs to ``choice`` and ``choice`` is a draw from ``softmax(logits)``."""
        return True

    @property
    def draws_once(self) -> bool:
        """Whether the estimate is of the logits on the condition of ``choice`` and of no other draw."""
        return False

    def __call__(
        self,
        logits: Tensor,
        objective: Objective,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        rules: Rules | None = None,
    ) -> Estimate:
        """Makes a choice and estimates the gradient.

        Args:
            logits: Tensor of shape ``(..., batch, slots, items)``, of any floating precision.
            objective: The function to maximise.
            mask: Boolean tensor that broadcasts to the logits' shape, true where an item is allowed; or None.
            generator: Random generator; None is the global one.
            rules: What the batch's requests allow beyond single items, which includes the mask; None if nothing.

        Raises:
            ValueError: If the mask does not fit or leaves a slot without items, or the selector refuses the sizes or
                rules.
            TypeError: If the selector needs slopes and the objective has none.
        """
        if rules is not None:
            self.check_rules()
        probe = Probe(objective, logits.dtype)
        # Draws and formulas use float32 or better: half precision has too few numbers for rare draws.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        precise = masked_logits(logits.detach(), mask).to(dtype).contiguous()
        raw = self.estimate(precise, probe, Draws(generator, rules))
        gradient = raw.gradient
        if logits.dtype != dtype:
            largest = torch.finfo(logits.dtype).max
            gradient = gradient.clamp(-largest, largest).to(logits.dtype)
        score = raw.score if raw.score.is_floating_point() else raw.score.to(dtype)
        surrogate = with_gradient(score, logits, gradient)
        dead = (~gradient.flatten(-2).any(dim=-1)).to(score.dtype)
        return Estimate(surrogate, raw.choice, score, gradient, probe.forwards, probe.backwards, {"dead": dead})

    def check_rules(self) -> None:  # noqa: B027 (most selectors have nothing to refuse)
        """Raises ValueError if the selector cannot draw under rules."""

    @abstractmethod
    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        """Applies the formula to logits ``(..., batch, slots, items)`` in float32 or better, -inf where masked."""

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """Returns the forwards and backwards of one row, at most under rules: one of each unless overridden.

        Raises:
            ValueError: If the selector refuses these sizes.
        """
        return 1, 1


class GivenDraw(Selector):
    """A selector whose estimate depends on nothing but one choice, so that all estimates can be enumerated."""

    @property
    def draws_once(self) -> bool:
        """True."""
        return True

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        """Draws a choice and applies the formula at it."""
        choice, conditional = self.choose(logits, draws)
        if draws.rules is None:
            return self.estimate_at(logits, choice, probe)
        return self.estimate_under(draws.rules, logits, conditional, choice, probe)

    def choose(self, logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Returns the choice ``(..., batch, slots)`` and the logits on its condition: a draw unless overridden."""
        return draws.draw(logits)

    def given(self, logits: Tensor, choice: Tensor, objective: Objective, rules: Rules | None = None) -> Tensor:
        """Returns the gradient estimate ``(..., batch, slots, items)`` for given choices ``(..., batch, slots)``."""
        probe = Probe(objective, logits.dtype)
        if rules is None:
            return self.estimate_at(logits, choice, probe).gradient
        return self.estimate_under(rules, logits, rules.conditional(logits, choice), choice, probe).gradient

    @abstractmethod
    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> RawEstimate:
        """Applies the formula at a choice ``(..., batch, slots)``."""

    def estimate_under(
        self, rules: Rules, logits: Tensor, conditional: Tensor, choice: Tensor, probe: Probe
    ) -> RawEstimate:
        """Applies the formula under rules: at the logits on the condition of the choice, unless overridden."""
        return self.estimate_at(conditional, choice, probe)


def with_gradient(value: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
    """Returns a copy of a value whose gradient with respect to a parameter is the given gradient.

    A product of gradient and parameter would not do: a masked logit is minus infinity, and 0 times that is NaN.

    Args:
        value: Tensor of shape ``(..., batch)``; it keeps the gradient that it already has.
        parameter: Tensor whose leading dimensions are the value's.
        gradient: Tensor of the parameter's shape and precision.
    """
    surrogate: Tensor = _WithGradient.apply(value, parameter, gradient)  # type: ignore[no-untyped-call]
    return surrogate


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        missing = [1] * (gradient.dim() - upstream.dim())
        return upstream, upstream.view(*upstream.shape, *missing).to(gradient.dtype) * gradient, None


def refuse_unless_positive(**options: float) -> None:
    """Raises ValueError for an option that is not greater than 0, or not finite."""
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"expected {name} > 0, got {value}")
        if value == inf:
            raise ValueError(f"expected a finite {name}, got {value}")
