"""The options that agents share which train a policy."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from slot_rl.agents.base import Options
from slot_rl.agents.schedules import Schedule, ScheduleKind, make_schedule
from slot_rl.networks import PointerSize


@dataclass(frozen=True)
class LearningOptions(Options):
    """What every agent that trains a policy has.

    Attributes:
        learning_rate: Adam's step size at the start; it anneals linearly to zero.
        batch_size: Estimator calls between updates.
        entropy: Entropy bonus at the start, per nat, in standard deviations of the score; without one, policies
            collapse to a single answer.
        entropy_end: Entropy bonus at the end; 0 if left out.
        entropy_schedule: How it gets there; "constant" stays at the start and takes no end.
        max_grad_norm: Longest gradient; longer ones are scaled down.
        policy: Sizes of the policy network.
    """

    learning_rate: float = 1e-3
    batch_size: int = 256
    entropy: float = 0.3
    entropy_end: float | None = None
    entropy_schedule: ScheduleKind = "linear"
    max_grad_norm: float = 1.0
    policy: PointerSize = field(default_factory=PointerSize)

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        if not self.learning_rate > 0 or self.batch_size < 2 or not self.max_grad_norm > 0:
            raise ValueError(
                "expected learning_rate > 0, batch_size >= 2 and max_grad_norm > 0, "
                f"got {self.learning_rate}, {self.batch_size} and {self.max_grad_norm}"
            )
        if not (0 <= self.entropy < inf and 0 <= (self.entropy_end or 0.0) < inf):
            raise ValueError(f"expected entropy bonuses >= 0, got {self.entropy} and {self.entropy_end}")
        self.entropy_over_time  # noqa: B018 (refuses a schedule that its ends do not fit)

    @property
    def num_envs(self) -> int:
        """Environments to play at once."""
        return self.batch_size

    @property
    def free(self) -> bool:
        """Whether draws in training keep no constraints, because the environment penalises."""
        return False

    @property
    def entropy_over_time(self) -> Schedule:
        """The entropy bonus over the training."""
        end = 0.0 if self.entropy_end is None and self.entropy_schedule != "constant" else self.entropy_end
        return make_schedule(self.entropy_schedule, self.entropy, end)


@dataclass(frozen=True)
class RewardOptions(LearningOptions):
    """What agents have that learn from the environment's rewards alone: a learned value beside the policy.

    Attributes:
        value_coefficient: Weight of the value's squared error.
        in_turn: Draw slots one after another, the clearest one first, with the items so far in view; otherwise
            independently. It takes one more round of the network for each slot.
        infeasible: Under constraints, "mask" draws allowed answers only; "penalise" draws without them, and the
            environment punishes an answer that is not allowed, as agents must learn it that cannot mask. The answers
            of the trained agent are allowed ones either way.
    """

    value_coefficient: float = 0.5
    in_turn: bool = False
    infeasible: Literal["mask", "penalise"] = "mask"

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        refuse_negative(self.value_coefficient)
        if self.infeasible not in ("mask", "penalise"):
            raise ValueError(f"expected infeasible mask or penalise, got {self.infeasible!r}")

    @property
    def free(self) -> bool:
        """Whether draws in training keep no constraints."""
        return self.infeasible == "penalise"


def refuse_negative(value_coefficient: float) -> None:
    """Raises ValueError for a negative weight of the value's error."""
    if not value_coefficient >= 0:
        raise ValueError(f"expected value_coefficient >= 0, got {value_coefficient}")
