"""The flags of each agent: typed, with defaults that suit one-step episodes."""

from dataclasses import dataclass, field, fields, make_dataclass, replace
from math import inf
from typing import Any, ClassVar

from slot_rl.agents.schedules import Schedule, ScheduleKind, make_schedule
from slot_rl.policies import PointerSize
from slot_rl.selectors import Gumbel, Selector


@dataclass(frozen=True)
class AgentOptions:
    """What every agent has.

    Attributes:
        learning_rate: Adam's step size at the start; it anneals linearly to zero.
        batch_size: Configurations scored between updates.
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
    def entropy_over_time(self) -> Schedule:
        """The entropy bonus over the training."""
        end = 0.0 if self.entropy_end is None and self.entropy_schedule != "constant" else self.entropy_end
        return make_schedule(self.entropy_schedule, self.entropy, end)


@dataclass(frozen=True)
class ThroughEstimatorOptions(AgentOptions):
    """A selector's draws, and its gradient through the estimator.

    Attributes:
        batch_size: Configurations scored between updates: a selector that scores several per request sees that many
            fewer requests.
        selector: The way through the discrete choice.
        unbias: How fast the score-function gradient of the same draws, which has no bias, takes over from the
            selector's: its share is ``unbias`` times the share of training done, at most 1; 0 turns it off.
        value_coefficient: Weight of the squared error of the baseline that the score-function gradient uses.
        selector_type: The selector's class.
    """

    selector_type: ClassVar[type[Any]] = Selector

    batch_size: int = 512
    selector: Selector = field(default_factory=Gumbel)
    unbias: float = 0.0
    value_coefficient: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        if not isinstance(self.selector, self.selector_type):
            raise TypeError(f"expected a selector {self.selector_type.__name__}, got {self.selector}")
        _refuse_negative(self.value_coefficient)
        if not self.unbias >= 0:
            raise ValueError(f"expected unbias >= 0, got {self.unbias}")
        if self.unbias > 0 and not self.selector.scores_draws:
            raise ValueError(
                f"expected unbias 0 for {self.selector}, which does not score true draws, got {self.unbias}"
            )

    def selector_at(self, done: float) -> Selector:
        """Returns the selector when a share ``done`` of the training is over."""
        return self.selector


@dataclass(frozen=True)
class AnnealedOptions(ThroughEstimatorOptions):
    """A selector with a temperature, which may move over the training.

    Attributes:
        tau_end: Temperature at the end, for schedules other than "constant".
        tau_schedule: How the temperature gets from ``tau`` to ``tau_end``.
    """

    tau_end: float | None = None
    tau_schedule: ScheduleKind = "constant"

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        self.selector_at(1.0)

    def selector_at(self, done: float) -> Selector:
        """Returns the selector at the temperature of this point of the training."""
        selector: Any = self.selector
        tau = make_schedule(self.tau_schedule, selector.tau, self.tau_end).at(done)
        annealed: Selector = replace(selector, tau=tau)
        return annealed


def options_through(selector: Selector, unbias: float = 0.0) -> type[ThroughEstimatorOptions]:
    """Returns the options of an agent that learns through a selector, with that selector as the default.

    The class names the selector's own class, so that a command line shows its options.
    """
    names = {option.name for option in fields(selector)}  # type: ignore[arg-type]
    base = AnnealedOptions if "tau" in names else ThroughEstimatorOptions
    made: type[ThroughEstimatorOptions] = make_dataclass(
        f"{type(selector).__name__}Options",
        [
            ("selector", type(selector), field(default_factory=lambda: selector)),
            ("unbias", float, field(default=unbias)),
        ],
        bases=(base,),
        frozen=True,
        namespace={"__doc__": base.__doc__, "selector_type": type(selector)},
    )
    return made


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
