"""The flags of each agent that learns: typed, with defaults that suit one-step episodes."""

from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal

from slot_rl.agents.schedules import Schedule, ScheduleKind, make_schedule
from slot_rl.estimators.aligner import AlignerConfig
from slot_rl.networks import PointerSize
from slot_rl.selectors import Gumbel, Selector


@dataclass(frozen=True)
class Options:
    """An agent's flags; each agent's own class lists them."""

    @property
    def num_envs(self) -> int:
        """Environments to play at once."""
        return 1


@dataclass(frozen=True)
class AgentOptions(Options):
    """What every agent that trains a policy has.

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
    def num_envs(self) -> int:
        """Environments to play at once."""
        return self.batch_size

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
        score_function_share: Share of the score-function gradient of the same draws, which has no bias, at the end of
            training; it grows linearly from 0, and a value above 1 reaches 1 sooner. 0 turns it off.
        value_coefficient: Weight of the squared error of the baseline that the score-function gradient uses.
        selector_type: The selector's class.
    """

    selector_type: ClassVar[type[Any]] = Selector

    batch_size: int = 512
    selector: Selector = field(default_factory=Gumbel)
    score_function_share: float = 0.0
    value_coefficient: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        if not isinstance(self.selector, self.selector_type):
            raise TypeError(f"expected a selector {self.selector_type.__name__}, got {self.selector}")
        _refuse_negative(self.value_coefficient)
        if not self.score_function_share >= 0:
            raise ValueError(f"expected score_function_share >= 0, got {self.score_function_share}")
        if self.score_function_share > 0 and not self.selector.scores_draws:
            raise ValueError(
                f"expected score_function_share 0 for {self.selector}, which does not score true draws, "
                f"got {self.score_function_share}"
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


def options_through(selector: Selector, score_function_share: float = 0.0) -> type[ThroughEstimatorOptions]:
    """Returns the options of an agent that learns through a selector, with that selector as the default.

    The class names the selector's own class, so that a command line shows its options.
    """
    names = {option.name for option in fields(selector)}  # type: ignore[arg-type]
    base = AnnealedOptions if "tau" in names else ThroughEstimatorOptions
    made: type[ThroughEstimatorOptions] = make_dataclass(
        f"{type(selector).__name__}Options",
        [
            ("selector", type(selector), field(default_factory=lambda: selector)),
            ("score_function_share", float, field(default=score_function_share)),
        ],
        bases=(base,),
        frozen=True,
        namespace={"__doc__": base.__doc__, "selector_type": type(selector)},
    )
    return made


@dataclass(frozen=True)
class ExpertIterationOptions(AgentOptions):
    """Draws improved by guided swaps, and learned from many times over.

    Attributes:
        swaps: Guided swaps that are tried on each draw; each costs a forward and a backward, as the draw itself does.
        explore: Share of the searches that start at random and not at the policy's draw.
        imitate: Weight of the cross-entropy to the row that was found.
        sharpen: Weight of the expected first-order score of the policy's swaps of that row, in standard deviations.
        steps: Gradient steps between two batches of searches.
        step_size: Requests in each of them, drawn from those that are remembered.
        replay_size: Most requests that are remembered; where contexts are few, each with the best row found for it.
    """

    entropy: float = 0.1
    swaps: int = 7
    explore: float = 0.1
    imitate: float = 1.0
    sharpen: float = 0.0
    steps: int = 2
    step_size: int = 64
    replay_size: int = 4096

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        if self.swaps < 0 or min(self.steps, self.step_size, self.replay_size) < 1:
            raise ValueError(
                "expected swaps >= 0 and steps, step_size and replay_size >= 1, "
                f"got {self.swaps}, {self.steps}, {self.step_size} and {self.replay_size}"
            )
        if not 0 <= self.explore <= 1:
            raise ValueError(f"expected explore from 0 to 1, got {self.explore}")
        if not (0 <= self.imitate < inf and 0 <= self.sharpen < inf and self.imitate + self.sharpen > 0):
            raise ValueError(
                f"expected imitate and sharpen >= 0 and one of them above 0, got {self.imitate} and {self.sharpen}"
            )


@dataclass(frozen=True)
class RewardOptions(AgentOptions):
    """What agents share that learn from the environment's rewards alone: a learned value beside the policy.

    Attributes:
        value_coefficient: Weight of the value's squared error.
    """

    value_coefficient: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        _refuse_negative(self.value_coefficient)


@dataclass(frozen=True)
class ReinforceOptions(RewardOptions):
    """REINFORCE through env.step alone, with the learned value as its baseline."""


@dataclass(frozen=True)
class PPOOptions(RewardOptions):
    """Stable-Baselines3's PPO with the shared policy.

    Attributes:
        batch_size: Configurations scored between updates.
        minibatch_size: Rows per gradient step.
        epochs: Passes over each rollout.
        clip_range: How far the probability ratio may move.
    """

    batch_size: int = 2048
    minibatch_size: int = 256
    epochs: int = 4
    clip_range: float = 0.2
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        if not 2 <= self.minibatch_size <= self.batch_size or self.epochs < 1 or not self.clip_range > 0:
            raise ValueError(
                "expected minibatch_size from 2 to batch_size, epochs >= 1 and clip_range > 0, "
                f"got {self.minibatch_size}, {self.epochs} and {self.clip_range}"
            )


@dataclass(frozen=True)
class A2COptions(RewardOptions):
    """Stable-Baselines3's A2C with the shared policy.

    Attributes:
        normalise_advantage: Whether each batch's advantages are standardised, as those of reinforce and PPO are.
    """

    max_grad_norm: float = 0.5
    normalise_advantage: bool = True


@dataclass(frozen=True)
class LoggedOptions(AgentOptions):
    """Imitation of logged rows, which are weighted by what the estimator thinks of them.

    Attributes:
        logged: CSV or Parquet file with the rows to imitate, with the columns of the estimator's table; a score column
            is not needed. To learn, this must be given.
        weighting: "advantage" weighs a row by how much better it is than the policy's own answer; "inverse" weighs it
            by how bad that answer is, whatever the row.
        temperature: Of advantage weights, in standard deviations of the logged rows' scores: rows so much better weigh
            e times as much.
        clip: Largest advantage weight, as a multiple of that of a row as good as the policy's own answer.
        floor: Of inverse weights, in standard deviations: what an answer counts that is as bad as the worst logged row.
    """

    logged: Path | None = None
    weighting: Literal["advantage", "inverse"] = "advantage"
    temperature: float = 0.1
    clip: float = 20.0
    floor: float = 0.1

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        if isinstance(self.logged, str):
            # A checkpoint's JSON holds a path as its text.
            object.__setattr__(self, "logged", Path(self.logged))
        if self.weighting not in ("advantage", "inverse"):
            raise ValueError(f"expected weighting advantage or inverse, got {self.weighting!r}")
        if not (0 < self.temperature < inf and 0 < self.floor < inf and 1 <= self.clip < inf):
            raise ValueError(
                "expected temperature > 0, floor > 0 and clip >= 1, all finite, "
                f"got {self.temperature}, {self.floor} and {self.clip}"
            )


@dataclass(frozen=True)
class ReproductionOptions(LoggedOptions):
    """Weighted cross-entropy to logged rows."""


@dataclass(frozen=True)
class AlignedOptions(LoggedOptions):
    """Weighted similarity to logged rows, as an aligner measures it.

    Attributes:
        batch_size: Configurations scored between updates, two for each logged row of a batch.
        aligner_effects: Weight of the swap effects in the distance that the aligner learns; the rest is the scores'.
        aligner_sharpness: How steep the aligner's loss is in the difference of two cosines.
        aligner_steps: Gradient steps of fitting the aligner.
    """

    batch_size: int = 512
    aligner_effects: float = 0.5
    aligner_sharpness: float = 10.0
    aligner_steps: int = 600

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        self.aligner  # noqa: B018 (refuses what no aligner could use)

    @property
    def aligner(self) -> AlignerConfig:
        """How the aligner is built and fitted."""
        return AlignerConfig(effects=self.aligner_effects, sharpness=self.aligner_sharpness, steps=self.aligner_steps)


def to_json(options: Options) -> dict[str, Any]:
    """Returns the options as JSON-ready values; a path becomes its text."""
    return asdict(options, dict_factory=_json_values)


def _json_values(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in pairs}


def _refuse_negative(value_coefficient: float) -> None:
    if not value_coefficient >= 0:
        raise ValueError(f"expected value_coefficient >= 0, got {value_coefficient}")
