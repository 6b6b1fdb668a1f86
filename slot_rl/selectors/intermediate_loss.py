"""Intermediate loss sampling: the forward pass draws, the backward pass uses a loss between p and a better target.

A step from the draw z in the direction of the slope g gives a target distribution ``pi_D``. The gradient is that of
``-KL(pi_D || p)`` with respect to the logits, which is ``pi_D - p``. There are three targets:

- ``mirror``: ``pi_D = softmax(logits + step * g)``, and the gradient is ``(pi_D - p) / step``. It is bounded by
  1 / step. As the step goes to 0 it becomes straight-through (in float32, steps below 1e-3 lose digits).
- ``simplex``: ``pi_D`` is the Euclidean projection of ``z + step * g`` on the simplex.
- ``sum``: ``pi_D = v / sum(v)`` with ``v = z + step * (g - g . z)``, as first published. It has a pole where the sum
  is 0, so its variance is very large for large steps.

``simplex`` and ``sum`` start from the draw and not from p. Their gradient contains ``z - p``: noise of mean 0 that does
not become smaller with the step, while the signal does. In all three the right step depends on the objective's scale.

Shlis, "Intermediate Loss Sampling: A Differentiable Categorical Sampler" (2019). The mirror form is our own.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from slot_rl.selectors.base import GivenDraw, Probe, RawEstimate
from slot_rl.selectors.categorical import one_hot, swap_effects

_SMALLEST_SUM = 1e-12
_PUBLISHED_EPSILON = 1e-7


@dataclass(frozen=True)
class IntermediateLoss(GivenDraw):
    """Intermediate loss sampling.

    Attributes:
        step: Length of the step from the draw to the target, in units of items per unit of score.
        normaliser: How the step becomes a distribution: "mirror", "simplex" or "sum".
        faithful: With "sum", use the gradient as first published, ``pi_D / p``, which is the gradient with respect to
            the probabilities. Its entries do not sum to 0 over a slot, so the logits drift, and it is very large where
            p is small. For comparison only.
    """

    name: ClassVar[str] = "intermediate_loss"

    step: float = 0.1
    normaliser: Literal["mirror", "simplex", "sum"] = "mirror"
    faithful: bool = False

    def __post_init__(self) -> None:
        """Refuses a step that is not positive, and options that do not fit together."""
        super().__post_init__()
        if self.normaliser not in ("mirror", "simplex", "sum"):
            raise ValueError(f"expected normaliser 'mirror', 'simplex' or 'sum', got {self.normaliser!r}")
        if self.faithful and self.normaliser != "sum":
            raise ValueError(f"expected normaliser 'sum' for the faithful form, got {self.normaliser!r}")

    def estimate_at(self, logits: Tensor, choice: Tensor, probe: Probe) -> RawEstimate:
        """Returns the gradient of the intermediate loss for the target one step from the draw."""
        vertex = one_hot(choice, logits.shape[-1], logits.dtype)
        score, slope = probe.slope(vertex)
        p = torch.softmax(logits, dim=-1)
        if self.normaliser == "mirror":
            gradient = (torch.softmax(logits + self.step * slope, dim=-1) - p) / self.step
        elif self.normaliser == "simplex":
            moved = (vertex + self.step * slope).masked_fill(logits == -torch.inf, -torch.inf)
            gradient = project_on_simplex(moved) - p
        else:
            improvement = swap_effects(slope, choice).masked_fill(logits == -torch.inf, 0.0)
            moved = vertex + self.step * improvement
            total = moved.sum(dim=-1, keepdim=True)
            target = moved / torch.where(total.abs() < _SMALLEST_SUM, _SMALLEST_SUM, total)
            gradient = target / (p + _PUBLISHED_EPSILON) if self.faithful else target - p
        return RawEstimate(gradient, choice, score)


def project_on_simplex(rows: Tensor) -> Tensor:
    """Projects each row ``(..., items)`` on the probability simplex in the Euclidean sense; -inf becomes 0.

    Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient Projections onto the l1-Ball for Learning in High Dimensions"
    (2008).
    """
    ordered = rows.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(dim=-1) - 1
    rank = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
    support = (ordered * rank > excess).sum(dim=-1, keepdim=True).clamp_(min=1)
    return (rows - excess.gather(-1, support - 1) / support).clamp(min=0.0)
