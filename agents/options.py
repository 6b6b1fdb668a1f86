"""The flags of each agent: typed, with defaults that suit one-step episodes."""

from dataclasses import dataclass, field

from slot_rl.policies import PointerSize
from slot_rl.selectors import Gumbel


@dataclass(frozen=True)
class AgentOptions:
    """What every agent has.

    Attributes:
        learning_rate: Adam's step size at the start; it anneals linearly to zero.
        batch_size: Configurations scored between updates.
        entropy: Entropy bonus at the start, per nat, in standard deviations of the score; without one, policies
            collapse to a single answer.
        entropy_end: Entropy bonus at the end; it anneals linearly.
        max_grad_norm: Longest gradient; longer ones are scaled down.
        policy: Sizes of the policy network.
    """

    learning_rate: float = 1e-3
    batch_size: int = 256
    entropy: float = 0.3
    entropy_end: float = 0.0
    max_grad_norm: float = 1.0
    policy: PointerSize = field(default_factory=PointerSize)

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        if not self.learning_rate > 0 or self.batch_size < 2 or not self.max_grad_norm > 0:
            raise ValueError(
                "expected learning_rate > 0, batch_size >= 2 and max_grad_norm > 0, "
                f"got {self.learning_rate}, {self.batch_size} and {self.max_grad_norm}"
            )
        if self.entropy < 0 or self.entropy_end < 0:
            raise ValueError(f"expected entropy bonuses >= 0, got {self.entropy} and {self.entropy_end}")

    def entropy_at(self, remaining: float) -> float:
        """Returns the entropy bonus with a share of the training remaining, from 1 to 0."""
        return self.entropy_end + (self.entropy - self.entropy_end) * remaining


@dataclass(frozen=True)
class GumbelOptions(AgentOptions):
    """Hard Gumbel draws, gradient through the estimator.

    Attributes:
        batch_size: Configurations scored between updates.
        tau: Temperature of the backward softmax.
        unbias: How fast the score-function gradient of the same draws, which has no bias, takes over from the gradient
            through the estimator: its share is ``unbias`` times the share of training done, at most 1; 0 turns it off.
        value_coefficient: Weight of the squared error of the baseline that the score-function gradient uses.
    """

    batch_size: int = 512
    tau: float = 0.5
    unbias: float = 1.0
    value_coefficient: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        Gumbel(self.tau)
        _refuse_negative(self.value_coefficient)
        if not self.unbias >= 0:
            raise ValueError(f"expected unbias >= 0, got {self.unbias}")


@dataclass(frozen=True)
class ReinforceOptions(AgentOptions):
    """REINFORCE through env.step alone, with a learned value baseline.

    Attributes:
        value_coefficient: Weight of the baseline's squared error.
    """

    value_coefficient: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        _refuse_negative(self.value_coefficient)


@dataclass(frozen=True)
class PPOOptions(AgentOptions):
    """Stable-Baselines3's PPO with the shared policy.

    Attributes:
        batch_size: Configurations scored between updates.
        minibatch_size: Rows per gradient step.
        epochs: Passes over each rollout.
        clip_range: How far the probability ratio may move.
        value_coefficient: Weight of the value's squared error.
    """

    batch_size: int = 2048
    minibatch_size: int = 256
    epochs: int = 4
    clip_range: float = 0.2
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        _refuse_negative(self.value_coefficient)
        if not 2 <= self.minibatch_size <= self.batch_size or self.epochs < 1 or not self.clip_range > 0:
            raise ValueError(
                "expected minibatch_size from 2 to batch_size, epochs >= 1 and clip_range > 0, "
                f"got {self.minibatch_size}, {self.epochs} and {self.clip_range}"
            )


def _refuse_negative(value_coefficient: float) -> None:
    if not value_coefficient >= 0:
        raise ValueError(f"expected value_coefficient >= 0, got {value_coefficient}")
