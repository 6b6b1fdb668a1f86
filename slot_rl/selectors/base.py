"""What every selector shares: the objective that it is given, the estimate that it returns, and how logits are masked.

A selector estimates the gradient of ``E[f(z)]`` with respect to logits, where each slot's ``z`` is a one-hot draw from
``softmax(logits)`` and ``f`` is maximised. It hands the estimate over as a ``surrogate``, whose own gradient is the
estimate, so that ``surrogate.mean().backward()`` works through whatever network made the logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Objective(Protocol):
    """A differentiable value of a configuration, to be maximised."""

    def __call__(self, selection: Tensor) -> Tensor:
        """Scores rows of shape ``(..., batch, slots, items)``, one-hot or relaxed, as ``(..., batch)``."""
        ...


@dataclass(frozen=True)
class Estimate:
    """One draw of a selector.

    Attributes:
        surrogate: Tensor of shape ``(batch,)``; ``surrogate.sum().backward()`` puts each row's gradient estimate
            into its logits.
        choice: Tensor of shape ``(batch, slots)``, the chosen items' indices.
        score: Tensor of shape ``(batch,)``, the objective at the forward selection, without gradient.
        forwards: Configurations scored by this call.
        backwards: Configurations that the surrogate's backward pass differentiates.
        diagnostics: Named tensors of shape ``(batch,)`` for a look at the estimate's health.
    """

    surrogate: Tensor
    choice: Tensor
    score: Tensor
    forwards: int
    backwards: int
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


class Selector(Protocol):
    """One way of sending a learning signal through a discrete choice."""

    def __call__(
        self,
        logits: Tensor,
        objective: Objective,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Draws a choice from logits of shape ``(batch, slots, items)`` and estimates the gradient."""
        ...


def masked_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Puts minus infinity where a choice is not allowed.

    Args:
        logits: Tensor of shape ``(..., slots, items)``.
        mask: Boolean tensor that broadcasts to the logits' shape, true where an item may be chosen; or None.

    Returns:
        The masked logits, in the logits' shape.

    Raises:
        ValueError: If the shapes do not fit, or if a slot has no item that may be chosen.
    """
    if logits.dim() < 2:
        raise ValueError(f"expected logits of shape (..., slots, items), got {tuple(logits.shape)}")
    if mask is None:
        return logits
    if mask.dtype != torch.bool:
        raise ValueError(f"expected a boolean mask, got {mask.dtype}")
    try:
        mask.expand(logits.shape)
    except RuntimeError as error:
        raise ValueError(
            f"expected a mask that broadcasts to the logits' shape {tuple(logits.shape)}, got {tuple(mask.shape)}"
        ) from error
    if not mask.any(dim=-1).all():
        raise ValueError("expected at least one allowed item in every slot, got a slot whose items are all masked")
    return logits.masked_fill(~mask, -torch.inf)


def one_hot(choice: Tensor, items: int, dtype: torch.dtype) -> Tensor:
    """Returns the one-hot rows ``(..., slots, items)`` of indices ``(..., slots)``."""
    rows = torch.zeros(*choice.shape, items, dtype=dtype, device=choice.device)
    return rows.scatter_(-1, choice.unsqueeze(-1), 1.0)


def gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws standard Gumbel noise in the shape of ``like``, in float32 or better.

    Half precision has too few distinct uniform numbers for the tail that decides rare draws.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    exponential = torch.empty(like.shape, dtype=dtype, device=like.device).exponential_(generator=generator)
    # A draw of exactly 0 would be infinite noise, which would lift even a masked item's -inf to NaN.
    return -exponential.clamp_(min=torch.finfo(dtype).tiny).log_()


def through(hard: Tensor, soft: Tensor) -> Tensor:
    """Returns a tensor that is bit for bit ``hard`` forward and has the gradient of ``soft`` backward."""
    # The difference is exactly 0, so the sum is exactly one-hot; (hard + soft) - soft would not be.
    return hard + (soft - soft.detach())
