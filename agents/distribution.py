"""Independent categorical slots as one Stable-Baselines3 distribution.

Stable-Baselines3's own ``MultiCategoricalDistribution`` keeps one torch object per slot and draws from the global
generator; this one is a few tensor operations for all slots and draws from the policy's generator.
"""

from typing import Any

import torch
from stable_baselines3.common.distributions import Distribution
from torch import Tensor, nn

from slot_rl.selectors.categorical import gumbel_noise


def entropy_of(logits: Tensor) -> Tensor:
    """Returns the entropy in nats of independent slots, ``(batch,)``, from masked logits ``(batch, slots, items)``."""
    log_p = torch.log_softmax(logits, dim=-1)
    # A masked item has p = 0 and log p = -inf, whose product is NaN where it should be 0.
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(dim=(-1, -2))


def log_prob_of(logits: Tensor, choice: Tensor) -> Tensor:
    """Returns the log-probability ``(batch,)`` of choices ``(batch, slots)`` from logits ``(batch, slots, items)``."""
    log_p = torch.log_softmax(logits, dim=-1)
    return log_p.gather(-1, choice.unsqueeze(-1)).squeeze(-1).sum(dim=-1)


class SlotDistribution(Distribution):
    """A distribution over choices, from masked logits of shape ``(batch, slots, items)``."""

    def __init__(self, generator: torch.Generator) -> None:
        """Takes the generator that samples are drawn from."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator
        self._logits = torch.zeros(0)

    def proba_distribution(self, logits: Tensor) -> "SlotDistribution":
        """Sets the masked logits."""
        self._logits = logits
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Returns the log-probability ``(batch,)`` of choices ``(batch, slots)``."""
        return log_prob_of(self._logits, actions.long())

    def entropy(self) -> Tensor:
        """Returns the entropy in nats, ``(batch,)``."""
        return entropy_of(self._logits)

    def sample(self) -> Tensor:
        """Draws a choice, ``(batch, slots)``; an item with masked logits is never drawn."""
        return (self._logits + gumbel_noise(self._logits, self._generator)).argmax(dim=-1)

    def mode(self) -> Tensor:
        """Returns the most probable choice, ``(batch, slots)``."""
        return self._logits.argmax(dim=-1)

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refuses: the pointer network gives the logits itself."""
        raise TypeError("expected the logits of a pointer network, got a request for a layer that makes them")

    def actions_from_params(self, logits: Tensor, deterministic: bool = False) -> Tensor:
        """Returns a choice from masked logits."""
        return self.proba_distribution(logits).get_actions(deterministic)

    def log_prob_from_params(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Draws a choice from masked logits and returns it with its log-probability."""
        actions = self.actions_from_params(logits)
        return actions, self.log_prob(actions)
