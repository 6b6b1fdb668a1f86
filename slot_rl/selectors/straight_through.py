"""Straight-through: choose hard forward, pretend backward that the choice was the softmax.

The backward pass sends ``J(softmax(logits / tau_backward)) g`` with ``g`` the objective's gradient at the vertex: the
first-order Taylor effect of every swap, weighted by its probability. With noise the forward choice is a draw, and the
estimate is unbiased wherever the objective is linear in each slot given the others. Without noise the forward choice
is the argmax, nothing is explored, and on the toy of this project's origin the logits drift to equality.

Bengio, Léonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons" (2013).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.selectors.base import Estimate, Objective, gumbel_noise, masked_logits, one_hot, through


@dataclass(frozen=True)
class StraightThrough:
    """The straight-through estimator.

    Attributes:
        tau_forward: Temperature of the forward draw; without effect when ``noise`` is off.
        tau_backward: Temperature of the backward softmax.
        noise: Whether the forward choice is a draw (default) or the argmax.
    """

    tau_forward: float = 1.0
    tau_backward: float = 1.0
    noise: bool = True

    def __post_init__(self) -> None:
        """Refuses temperatures that are not positive."""
        if not (self.tau_forward > 0 and self.tau_backward > 0):
            raise ValueError(f"expected temperatures > 0, got {self.tau_forward} and {self.tau_backward}")

    def __call__(
        self,
        logits: Tensor,
        objective: Objective,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Chooses once per row; costs one forward and one backward.

        Args:
            logits: Tensor of shape ``(batch, slots, items)``.
            objective: The value to maximise, differentiable.
            mask: Boolean tensor that broadcasts to ``(batch, slots, items)``, true where allowed; or None.
            generator: Source of the noise; the global generator if None.

        Returns:
            The estimate.

        Raises:
            ValueError: If the mask does not fit or leaves a slot without items.
        """
        allowed = masked_logits(logits, mask).to(torch.promote_types(logits.dtype, torch.float32))
        perturbed = allowed / self.tau_forward + gumbel_noise(logits, generator) if self.noise else allowed
        choice = perturbed.argmax(dim=-1)
        # Scaled by tau_backward so that the temperature shapes the Jacobian without changing the step's size.
        soft = torch.softmax(allowed / self.tau_backward, dim=-1) * self.tau_backward
        selection = through(one_hot(choice, logits.shape[-1], soft.dtype), soft)
        score = objective(selection.to(logits.dtype))
        return Estimate(score, choice, score.detach(), score.numel(), score.numel())
