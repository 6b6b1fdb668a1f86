"""What every selector shares: the objective that it is given, the estimate that it returns, and what lies between.

A selector estimates the gradient of ``E[f(z)]`` with respect to logits, where each slot's ``z`` is a one-hot draw from
``softmax(logits)`` and ``f`` is maximised. It hands the estimate over as a ``surrogate``, whose own gradient is the
estimate, so that ``surrogate.mean().backward()`` works through whatever network made the logits. Each selector's own
file holds its formula; masks, precision, counting and the surrogate are the same for all of them and live here.
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


class Objective(Protocol):
    """A value of a configuration, to be maximised; differentiable where a selector asks for slopes."""

    def __call__(self, selection: Tensor, /) -> Tensor:
        """Scores rows of shape ``(..., batch, slots, items)``, one-hot or relaxed, as ``(..., batch)``."""
        ...


@dataclass(frozen=True)
class Estimate:
    """One call of a selector.

    Attributes:
        surrogate: Tensor of shape ``(batch,)``, the score; ``surrogate.sum().backward()`` puts each row's gradient
            estimate into its logits, and nothing into the objective's parameters.
        choice: Tensor of shape ``(batch, slots)``, the chosen items' indices; the first where several are drawn.
        score: Tensor of shape ``(batch,)``, the objective at the forward selection, without gradient: at the choice,
            except for selectors that relax it.
        forwards: Configurations scored by this call.
        backwards: Configurations differentiated by this call.
        diagnostics: Named tensors of shape ``(batch,)`` for a look at the estimate's health; ``dead`` is 1 for rows
            whose gradient is exactly zero.
    """

    surrogate: Tensor
    choice: Tensor
    score: Tensor
    forwards: int
    backwards: int
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """What a selector's formula gives.

    Attributes:
        gradient: The estimate, of shape ``(batch, slots, items)``.
        choice: Long tensor of shape ``(batch, slots)``.
        score: Tensor of shape ``(batch,)``.
    """

    gradient: Tensor
    choice: Tensor
    score: Tensor


class Probe:
    """An objective asked for values and slopes, in the caller's precision, with every question counted.

    Attributes:
        forwards: Configurations scored.
        backwards: Configurations differentiated.
    """

    def __init__(self, objective: Objective, dtype: torch.dtype) -> None:
        """Takes the objective and the precision that it is asked in."""
        self._objective, self._dtype = objective, dtype
        self.forwards = self.backwards = 0

    def value(self, selection: Tensor) -> Tensor:
        """Scores rows ``(..., batch, slots, items)`` as ``(..., batch)``, without gradient."""
        with torch.no_grad():
            score = self._objective(selection.to(self._dtype))
        self.forwards += score.numel()
        return score

    def slope(self, selection: Tensor) -> tuple[Tensor, Tensor]:
        """Scores rows and differentiates the scores by them; no gradient reaches the objective's parameters.

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
            # A score may have a gradient that leads elsewhere, to the objective's own parameters.
            slope = None
            if score.requires_grad:
                (slope,) = torch.autograd.grad(score, leaf, torch.ones_like(score), allow_unused=True)
            if slope is None:
                raise TypeError("expected a differentiable objective, got one whose score has no gradient")
        self.forwards += score.numel()
        self.backwards += score.numel()
        return score.detach(), slope.to(selection.dtype)


class Selector(ABC):
    """One way of sending a learning signal through a discrete choice.

    Attributes:
        name: The name in the registry and at the command line.
        scores_draws: Whether ``score`` is the objective at ``choice`` and ``choice`` a draw from ``softmax(logits)``.
    """

    name: ClassVar[str]

    @property
    def scores_draws(self) -> bool:
        """Whether the score is that of a true draw, so that the score function may use both."""
        return True

    def __call__(
        self,
        logits: Tensor,
        objective: Objective,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Chooses and estimates the gradient.

        Args:
            logits: Tensor of shape ``(..., batch, slots, items)``, of any floating precision.
            objective: The value to maximise.
            mask: Boolean tensor that broadcasts to the logits' shape, true where allowed; or None.
            generator: Source of the noise; the global generator if None.

        Returns:
            The estimate.

        Raises:
            ValueError: If the mask does not fit or leaves a slot without items, or the selector refuses the sizes.
            TypeError: If the selector needs slopes and the objective gives none.
        """
        probe = Probe(objective, logits.dtype)
        # Draws and formulas in float32 or better: half precision has too few numbers for rare draws.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        precise = masked_logits(logits.detach(), mask).to(dtype).contiguous()
        drawn = self.estimate(precise, probe, generator)
        gradient = drawn.gradient
        if logits.dtype != dtype:
            largest = torch.finfo(logits.dtype).max
            gradient = gradient.clamp(-largest, largest).to(logits.dtype)
        score = drawn.score if drawn.score.is_floating_point() else drawn.score.to(dtype)
        surrogate = with_gradient(score, logits, gradient)
        dead = (~gradient.flatten(-2).any(dim=-1)).to(score.dtype)
        return Estimate(surrogate, drawn.choice, score, probe.forwards, probe.backwards, {"dead": dead})

    @abstractmethod
    def estimate(self, logits: Tensor, probe: Probe, generator: torch.Generator | None) -> Drawn:
        """Applies the formula to logits ``(..., batch, slots, items)`` in float32 or better, -inf where masked."""

    @abstractmethod
    def cost(self, slots: int, items: int) -> tuple[int, int]:
        """Returns the forwards and backwards that one row costs.

        Raises:
            ValueError: If the selector refuses these sizes.
        """


class GivenDraw(Selector):
    """A selector whose estimate is determined by one draw of every slot, and can therefore be enumerated."""

    def estimate(self, logits: Tensor, probe: Probe, generator: torch.Generator | None) -> Drawn:
        """Draws a choice and applies the formula at it."""
        return self.estimate_at(logits, self.choose(logits, generator), probe)

    def choose(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Returns the choice ``(..., batch, slots)``, a draw from ``softmax(logits)`` unless overridden."""
        return draw(logits, generator)

    def given(self, logits: Tensor, choice: Tensor, objective: Objective) -> Tensor:
        """Returns the gradient estimate for given choices, of the logits' shape.

        Args:
            logits: Tensor of shape ``(..., batch, slots, items)``, in float32 or better, -inf where masked.
            choice: Long tensor of shape ``(..., batch, slots)``.
            objective: The value to maximise.
        """
        return self.estimate_at(logits, choice, Probe(objective, logits.dtype)).gradient

    @abstractmethod
    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> Drawn:
        """Applies the formula at a choice ``(..., batch, slots)``."""


def with_gradient(value: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
    """Returns a value whose gradient with respect to a parameter is a given one.

    Not by a product of gradient and parameter: a masked logit is minus infinity, and 0 times that is NaN.

    Args:
        value: Tensor of shape ``(..., batch)``; a gradient that it has already stays.
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
    """Raises ValueError for an option that is not greater than 0, or infinite."""
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"expected {name} > 0, got {value}")
        if value == inf:
            raise ValueError(f"expected a finite {name}, got {value}")
