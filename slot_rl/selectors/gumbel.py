"""The Gumbel reparameterisation: add Gumbel noise, take the argmax, differentiate the softmax.

With ``G`` standard Gumbel, ``argmax(logits + G)`` is an exact draw from ``softmax(logits)``, and
``y = softmax((logits + G) / tau)`` is a differentiable stand-in for it. The hard form evaluates the objective at the
one-hot draw and sends its gradient through ``dy/dlogits = J(y) / tau``; the soft form evaluates it at ``y`` itself.

Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax" (2017); Maddison, Mnih, Teh, "The Concrete
Distribution" (2017).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.selectors.base import Estimate, Objective, gumbel_noise, masked_logits, one_hot, through


@dataclass(frozen=True)
class Gumbel:
    """Gumbel-softmax, straight-through when ``hard``.

    Attributes:
        tau: Temperature of the backward softmax; low values are less biased and have more exactly-zero gradients.
        hard: Whether the objective sees the one-hot draw (default) or the relaxed row.
    """

    tau: float = 1.0
    hard: bool = True

    def __post_init__(self) -> None:
        """Refuses a temperature that is not positive."""
        if not self.tau > 0:
            raise ValueError(f"expected tau > 0, got {self.tau}")

    def __call__(
        self,
        logits: Tensor,
        objective: Objective,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Draws once per row; costs one forward and one backward.

        Args:
            logits: Tensor of shape ``(batch, slots, items)``.
            objective: The value to maximise, differentiable.
            mask: Boolean tensor that broadcasts to ``(batch, slots, items)``, true where allowed; or None.
            generator: Source of the noise; the global generator if None.

        Returns:
            The estimate; ``diagnostics["dead"]`` is 1 for rows whose gradient is exactly zero.

        Raises:
            ValueError: If the mask does not fit or leaves a slot without items.
        """
        allowed = masked_logits(logits, mask)
        perturbed = allowed + gumbel_noise(logits, generator)
        relaxed = torch.softmax(perturbed / self.tau, dim=-1)
        choice = perturbed.argmax(dim=-1)
        hard = one_hot(choice, logits.shape[-1], relaxed.dtype)
        selection = through(hard, relaxed) if self.hard else relaxed
        score = objective(selection.to(logits.dtype))
        # J(y) vanishes exactly where y is itself a vertex, that is where the softmax has underflowed.
        dead = (relaxed.detach() == hard).all(dim=-1).all(dim=-1)
        rows = score.numel()
        return Estimate(score, choice, score.detach(), rows, rows, {"dead": dead.to(score.dtype)})
