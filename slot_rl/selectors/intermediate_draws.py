"""Intermediate loss sampling for Bernoulli, Poisson and Gaussian draws.

The forward pass is a draw. The backward pass is an intermediate loss: the Kullback-Leibler divergence, in closed form,
from a target distribution one step along the objective's slope g at the draw. The target is one natural-gradient step
from the parameters. The gradient, divided by the step, has a limit as the step goes to 0:

- Bernoulli (logit) and Poisson (log rate): ``theta_D = theta + step * g``, and the gradient is
  ``(mu(theta_D) - mu(theta)) / step`` with the mean mu. Its limit ``Var g`` is straight-through, which is unbiased if
  the objective is linear in the draw.
- Gaussian (mean and log standard deviation): ``mean_D = mean + step * std^2 g`` and
  ``log std_D = log std + step * std * noise * g / 2``. The limit is the reparameterisation gradient
  ``(g, g * std * noise)``, which is unbiased for every smooth objective.

Shlis, "Intermediate Loss Sampling" (2019) proposes the extension to other distributions; these targets are our own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.selectors.base import Probe, refuse_unless_positive, with_gradient

DrawObjective = Callable[[Tensor], Tensor]
"""Scores draws of shape ``(batch, dims)`` as ``(batch,)``, differentiably; to be maximised."""


@dataclass(frozen=True)
class DrawEstimate:
    """One draw ``(batch, dims)``, its score ``(batch,)``, and the surrogate of its gradient estimate.

    ``surrogate.sum().backward()`` gives each row's parameters their gradient estimate.
    """

    surrogate: Tensor
    draw: Tensor
    score: Tensor


@dataclass(frozen=True)
class _Stepped:
    step: float = 0.1

    def __post_init__(self) -> None:
        """Refuses a step that is not positive."""
        refuse_unless_positive(step=self.step)


@dataclass(frozen=True)
class BernoulliDraw(_Stepped):
    """Independent draws of 0 or 1; ``step`` is in nats of logit per unit of slope."""

    def __call__(
        self, logits: Tensor, objective: DrawObjective, generator: torch.Generator | None = None
    ) -> DrawEstimate:
        """Draws from logits ``(batch, dims)`` and estimates their gradient of ``E[objective]``."""
        fixed = _precise(logits)
        drawn = torch.bernoulli(torch.sigmoid(fixed), generator=generator)
        score, slope = Probe(objective, logits.dtype).slope(drawn)
        gradient = (torch.sigmoid(fixed + self.step * slope) - torch.sigmoid(fixed)) / self.step
        return _estimate(drawn, score, (logits, gradient))


@dataclass(frozen=True)
class PoissonDraw(_Stepped):
    """Independent draws of counts; ``step`` is in nats of log rate per unit of slope."""

    def __call__(
        self, log_rate: Tensor, objective: DrawObjective, generator: torch.Generator | None = None
    ) -> DrawEstimate:
        """Draws from log rates ``(batch, dims)`` and estimates their gradient of ``E[objective]``."""
        fixed = _precise(log_rate)
        rate = fixed.exp()
        drawn = torch.poisson(rate, generator=generator)
        score, slope = Probe(objective, log_rate.dtype).slope(drawn)
        return _estimate(drawn, score, (log_rate, rate * torch.expm1(self.step * slope) / self.step))


@dataclass(frozen=True)
class GaussianDraw(_Stepped):
    """Independent normal draws; ``step`` is in standard deviations per unit of standardised slope."""

    def __call__(
        self, mean: Tensor, log_std: Tensor, objective: DrawObjective, generator: torch.Generator | None = None
    ) -> DrawEstimate:
        """Draws from means and log standard deviations, both ``(batch, dims)``, and estimates both gradients."""
        std = _precise(log_std).exp()
        noise = torch.randn(mean.shape, dtype=std.dtype, generator=generator)
        drawn = _precise(mean) + std * noise
        score, slope = Probe(objective, mean.dtype).slope(drawn)
        # The gradient of KL(D || pi) with mean_D - mean = step * std^2 slope. The Fisher information of log std is 2.
        spread = torch.expm1(self.step * std * noise * slope) + (self.step * std * slope).square()
        return _estimate(drawn, score, (mean, slope), (log_std, spread / self.step))


def _precise(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))


def _estimate(drawn: Tensor, score: Tensor, *parts: tuple[Tensor, Tensor]) -> DrawEstimate:
    """Returns the estimate whose surrogate has the given gradient for each parameter."""
    surrogate = score
    for parameter, gradient in parts:
        surrogate = with_gradient(surrogate, parameter, gradient.to(parameter.dtype))
    return DrawEstimate(surrogate, drawn.to(parts[0][0].dtype), score)
