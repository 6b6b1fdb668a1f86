"""Learning through the estimator: draw with a selector, score the draw, send the selector's gradient back.

One class serves every selector. Gradients that come from the estimator's slope learn quickly but are biased: they
assume that the estimator is linear between configurations, which decides wrongly between almost equal ones near the
end. The score of the same draw is paid for already and gives the unbiased but noisy score-function gradient.
``score_function_share`` lets it take over as the training ends.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch

from slot_rl.agents.base import needed_problem
from slot_rl.agents.learning_options import LearningOptions, refuse_negative
from slot_rl.agents.one_step import OneStepAgent, mean_of, policy_gradient
from slot_rl.agents.policy import entropy_of, given
from slot_rl.agents.schedules import ScheduleKind, make_schedule
from slot_rl.problems import Problem
from slot_rl.seeding import Seed
from slot_rl.selectors import NAMES, Gumbel, Selector, StraightThrough, make
from slot_rl.selectors.base import with_gradient
from slot_rl.selectors.categorical import log_prob_of

FEWEST_ROWS = 2
"""Requests in an update, however many configurations the selector scores for each: a spread needs two scores."""


@dataclass(frozen=True)
class SelectorOptions(LearningOptions):
    """A selector's draws, and its gradient through the estimator.

    Attributes:
        batch_size: Estimator calls between updates: a selector that scores several configurations for each request
            sees that many fewer requests.
        selector: The way through the discrete choice.
        score_function_share: Share of the score-function gradient of the same draws, which has no bias, at the end of
            training; it grows linearly from 0, and a value above 1 reaches 1 sooner. 0 turns it off.
        value_coefficient: Weight of the squared error of the baseline that the score-function gradient uses.
        in_turn: Draw slots one after another, the clearest one first, with the items so far in view; otherwise
            independently. It takes one more round of the network for each slot.
    """

    batch_size: int = 512
    selector: Selector = field(default_factory=StraightThrough)
    score_function_share: float = 0.0
    value_coefficient: float = 0.5
    in_turn: bool = False

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        if not isinstance(self.selector, Selector):
            raise TypeError(f"expected a selector, got {self.selector}")
        refuse_negative(self.value_coefficient)
        if not self.score_function_share >= 0:
            raise ValueError(f"expected score_function_share >= 0, got {self.score_function_share}")
        if self.score_function_share > 0 and not self.selector.scores_draws:
            raise ValueError(
                f"expected score_function_share 0 for {self.selector}, which does not score true draws, "
                f"got {self.score_function_share}"
            )
        if self.in_turn and not self.selector.draws_once:
            raise ValueError(
                f"expected in_turn False (--no-in-turn) for {self.selector}, which needs more than one draw, got True"
            )

    def selector_at(self, progress: float) -> Selector:
        """Returns the selector when a share ``progress`` of the training is over."""
        return self.selector


@dataclass(frozen=True)
class AnnealedSelectorOptions(SelectorOptions):
    """The options of a selector with a temperature, which may change over the training.

    Attributes:
        tau_end: Temperature at the end, for schedules other than "constant".
        tau_schedule: How the temperature gets from ``tau`` to ``tau_end``.
    """

    selector: Selector = field(default_factory=Gumbel)
    tau_end: float | None = None
    tau_schedule: ScheduleKind = "constant"

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        self.selector_at(1.0)

    def selector_at(self, progress: float) -> Selector:
        """Returns the selector at the temperature of this point of the training."""
        selector: Any = self.selector
        tau = make_schedule(self.tau_schedule, selector.tau, self.tau_end).at(progress)
        annealed: Selector = replace(selector, tau=tau)
        return annealed


class SelectorAgent(OneStepAgent):
    """Ascends a selector's surrogate of the estimator's score; its name is the selector's."""

    default_options = SelectorOptions()
    options: SelectorOptions
    problem: Problem

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, verbose: int = 0, **changes: Any) -> None:
        """Builds the agent; see :class:`slot_rl.agents.one_step.OneStepAgent`.

        Raises:
            ValueError: If the environment has no estimator to ask, or the selector refuses the problem's sizes.
        """
        super().__init__(env, options, seed, verbose, **changes)
        self.problem = needed_problem(self.env, self.name)
        # Checked here and not at the first update, so that a refused problem leaves no files behind.
        self._forwards, _ = self.options.selector.cost(self.problem.slots, self.problem.items)
        if self.problem.constraints is not None:
            self.options.selector.check_rules()

    @property
    def name(self) -> str:  # type: ignore[override]
        """The selector's name."""
        return self.options.selector.name

    @property
    def selector(self) -> Selector:
        """The selector at this point of the training."""
        return self.options.selector_at(self.progress)

    @property
    def update_size(self) -> int:
        """Estimator calls between two updates."""
        return self._rows * self._forwards

    @property
    def _rows(self) -> int:
        return max(FEWEST_ROWS, self.options.batch_size // self._forwards)

    def update(self) -> dict[str, float]:
        """Scores one batch of draws and takes one step along the selector's gradient."""
        observation = self.problem.sample(self._rows, self.generator)
        output = self.policy.output(observation)
        # Standardised before the selector sees it: some selectors' step means something in units of score.
        unit = self.scale.unit
        estimate = self.selector(
            output.logits,
            lambda rows: self.problem.score_selection(observation, rows) / unit,
            generator=self.generator,
            rules=output.rules,
        )
        conditional = given(output.logits, estimate.choice, output.rules)
        surrogate = estimate.surrogate
        if self.options.in_turn:
            surrogate = with_gradient(estimate.score, conditional, estimate.gradient)
        score = estimate.score * unit
        self.scale.update(score)
        entropy = entropy_of(conditional).mean()
        gain = surrogate.mean() * (unit / self.scale.unit)
        figures = {f"train/{name}": mean_of(value) for name, value in estimate.diagnostics.items()}
        loss = torch.zeros(())
        if self.options.score_function_share > 0:
            share = min(1.0, self.options.score_function_share * self.progress)
            values = self.policy.value_head(output.latent).squeeze(-1)
            log_prob = log_prob_of(conditional, estimate.choice)
            by_score, value_loss = policy_gradient(log_prob, values, self.scale.standardise(score))
            gain = (1 - share) * gain + share * by_score
            loss = self.options.value_coefficient * value_loss
            figures["train/value_loss"] = value_loss.item()
        loss = loss - gain - self.entropy_coefficient * entropy
        norm = self.optimizer_step(loss)
        return {
            "rollout/ep_rew_mean": mean_of(score),
            "train/loss": loss.item(),
            "train/entropy": entropy.item(),
            "train/grad_norm": norm,
            **figures,
        }


class AnnealedSelectorAgent(SelectorAgent):
    """The agent of a selector with a temperature."""

    default_options = AnnealedSelectorOptions()
    options: AnnealedSelectorOptions


class GumbelAgent(AnnealedSelectorAgent):
    """The default agent. Unlike those of the other selectors, its defaults were tuned on the shipped problems.

    Attributes:
        independent_slots: Its options for slots that are drawn independently, in larger batches: faster.
    """

    independent_slots: ClassVar = AnnealedSelectorOptions(selector=Gumbel(tau=0.5), score_function_share=1.0)
    default_options = replace(independent_slots, batch_size=128, in_turn=True)


def _kind(name: str) -> tuple[type[SelectorAgent], SelectorOptions]:
    if name == "gumbel":
        return GumbelAgent, GumbelAgent.default_options
    selector = make(name)
    if "tau" in {option.name for option in fields(selector)}:  # type: ignore[arg-type]
        return AnnealedSelectorAgent, AnnealedSelectorOptions(selector=selector)
    return SelectorAgent, SelectorOptions(selector=selector)


SELECTOR_AGENTS = {name: _kind(name) for name in ("gumbel", *NAMES) if name != "reinforce"}
"""The class and the default options of each selector's agent; ``reinforce`` sees only rewards and is its own agent."""
