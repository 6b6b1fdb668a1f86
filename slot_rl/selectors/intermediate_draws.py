"""Intermediate loss sampling beyond categorical slots: Bernoulli, Poisson and Gaussian draws.

As for categorical draws, the forward pass is a true draw and the backward pass an intermediate loss: the
Kullback-Leibler divergence, in closed form, from a target distribution one step along the objective's slope g at the
draw. The target is one natural-gradient step from the parameters, so that the loss per unit of step has a limit as the
step goes to 0:

- Bernoulli (logit) and Poisson (log rate): ``theta_D = theta + step * g`` and the gradient
  ``(mu(theta_D) - mu(theta)) / step`` with mu the mean. Its limit ``Var g`` is straight-through, unbiased where the
  objective is linear in the draw.
- Gaussian (mean and log standard deviation): ``mean_D = mean + step * std^2 g`` and
  ``log std_D = log std + step * std * noise * g / 2``. Its limit is the reparameterisation gradient
  ``(g, g * std * noise)``, unbiased for every smooth objective.

Shlis, "Intermediate Loss Sampling" (2019) claims the extension to any draw with such a loss; the targets are ours.
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
    """One draw and the estimate that it gives.

    Attributes:
        surrogate: Tensor of shape ``(batch,)``, the score; ``surrogate.sum().backward()`` puts each row's estimate into
            its parameters.
        draw: Tensor of shape ``(batch, dims)``.
        score: Tensor of shape ``(batch,)``, the objective at the draw, without gradient.
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
    """Independent draws of 0 or 1.

    Attributes:
        step: Length of the step from the draw to the target, in nats of logit per unit of slope.
    """

    def __call__(
        self, logits: Tensor, objective: DrawObjective, generator: torch.Generator | None = None
    ) -> DrawEstimate:
        """Draws from logits ``(batch, dims)`` and estimates the gradient of ``E[objective]`` by them."""
        fixed = _precise(logits)
        drawn = torch.bernoulli(torch.sigmoid(fixed), generator=generator)
        score, slope = Probe(objective, logits.dtype).slope(drawn)
        gradient = (torch.sigmoid(fixed + self.step * slope) - torch.sigmoid(fixed)) / self.step
        return _estimate(drawn, score, (logits, gradient))


@dataclass(frozen=True)
class PoissonDraw(_Stepped):
    """Independent draws of counts.

    Attributes:
        step: Length of the step from the draw to the target, in nats of log rate per unit of slope.
    """

    def __call__(
        self, log_rate: Tensor, objective: DrawObjective, generator: torch.Generator | None = None
    ) -> DrawEstimate:
        """Draws from log rates ``(batch, dims)`` and estimates the gradient of ``E[objective]`` by them."""
        fixed = _precise(log_rate)
        rate = fixed.exp()
        drawn = torch.poisson(rate, generator=generator)
        score, slope = Probe(objective, log_rate.dtype).slope(drawn)
        return _estimate(drawn, score, (log_rate, rate * torch.expm1(self.step * slope) / self.step))


@dataclass(frozen=True)
class GaussianDraw(_Stepped):
    """Independent normal draws.

    Attributes:
        step: Length of the step from the draw to the target, in standard deviations per unit of standardised slope.
    """

    def __call__(
        self, mean: Tensor, log_std: Tensor, objective: DrawObjective, generator: torch.Generator | None = None
    ) -> DrawEstimate:
        """Draws from means and log standard deviations, both ``(batch, dims)``, and estimates both gradients."""
        std = _precise(log_std).exp()
        noise = torch.randn(mean.shape, dtype=std.dtype, generator=generator)
        drawn = _precise(mean) + std * noise
        score, slope = Probe(objective, mean.dtype).slope(drawn)
        # Of KL(D || pi) with mean_D - mean = step * std^2 slope; half a step of log std, whose Fisher information is 2.
        spread = torch.expm1(self.step * std * noise * slope) + (self.step * std * slope).square()
        return _estimate(drawn, score, (mean, slope), (log_std, spread / self.step))


def _precise(parameter: Tensor) -> Tensor:
    """Returns the parameter's values in float32 or better, without gradient."""
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))


def _estimate(drawn: Tensor, score: Tensor, *parts: tuple[Tensor, Tensor]) -> DrawEstimate:
    """Returns the estimate whose surrogate has the score's value and the given gradient for each parameter."""
    surrogate = score
    for parameter, gradient in parts:
        surrogate = with_gradient(surrogate, parameter, gradient.to(parameter.dtype))
    return DrawEstimate(surrogate, drawn.to(parts[0][0].dtype), score)
