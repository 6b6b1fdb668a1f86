"""Learning through the estimator: draw with a selector, score the draw, send the selector's gradient back.

The agent is the same for every selector. Gradients that come from the estimator's slope are quick but biased: they take
the estimator for linear between configurations, and near the end that decides between almost equal ones wrongly. The
score of the same draw, which is paid for already, gives the unbiased and noisy score-function gradient;
``score_function_share`` lets it take over as the training ends.
"""

from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv

from slot_rl.agents.base import OneStepAgent, mean_of, needed_problem, policy_gradient
from slot_rl.agents.distribution import entropy_of, log_prob_of
from slot_rl.agents.options import ThroughEstimatorOptions, options_through
from slot_rl.selectors import NAMES, Gumbel, Selector, make

FEWEST_ROWS = 2
"""Requests in an update, however many configurations the selector scores for each: a spread needs two scores."""


class ThroughEstimatorAgent(OneStepAgent):
    """Ascends a selector's surrogate of the estimator's score.

    Attributes:
        problem: The problem behind the environment, whose estimator gives the gradient.
    """

    options: ThroughEstimatorOptions

    def __init__(self, env: GymEnv | str, options: Any = None, seed: int = 0, verbose: int = 0) -> None:
        """Builds the agent; see :class:`slot_rl.agents.base.OneStepAgent`.

        Raises:
            ValueError: If the environment has no estimator to ask, or the selector refuses the problem's sizes.
        """
        super().__init__(env, options, seed, verbose)
        self.problem = needed_problem(self.env, self.name)
        # Here and not at the first update: a selector that refuses the problem's sizes shall leave nothing behind.
        self._forwards, _ = self.options.selector.cost(self.problem.slots, self.problem.items)

    @property
    def selector(self) -> Selector:
        """The way through the discrete choice, at this point of the training."""
        return self.options.selector_at(self.done)

    @property
    def update_size(self) -> int:
        """Configurations scored between updates."""
        return self._rows * self._forwards

    @property
    def _rows(self) -> int:
        return max(FEWEST_ROWS, self.options.batch_size // self._forwards)

    def update(self) -> dict[str, float]:
        """Scores one batch of draws and takes one step along the selector's gradient."""
        observation = self.problem.sample(self._rows, self.generator)
        logits, latent = self.policy.point(observation)
        # Standardised before the selector sees it: some selectors' step means something in units of score.
        unit = self.scale.unit
        estimate = self.selector(
            logits, lambda rows: self.problem.score_selection(observation, rows) / unit, generator=self.generator
        )
        self.num_timesteps += estimate.forwards
        score = estimate.score * unit
        self.scale.update(score)
        entropy = entropy_of(logits).mean()
        gain = estimate.surrogate.mean() * (unit / self.scale.unit)
        figures = {f"train/{name}": mean_of(value) for name, value in estimate.diagnostics.items()}
        loss = torch.zeros(())
        if self.options.score_function_share > 0:
            share = min(1.0, self.options.score_function_share * self.done)
            values = self.policy.value_head(latent).squeeze(-1)
            log_prob = log_prob_of(logits, estimate.choice)
            by_score, value_loss = policy_gradient(log_prob, values, self.scale.standardise(score))
            gain = (1 - share) * gain + share * by_score
            loss = self.options.value_coefficient * value_loss
            figures["train/value_loss"] = value_loss.item()
        loss = loss - gain - self.entropy_coefficient * entropy
        norm = self.step(loss)
        return {
            "rollout/ep_rew_mean": mean_of(score),
            "train/loss": loss.item(),
            "train/entropy": entropy.item(),
            "train/grad_norm": norm,
            **figures,
        }


def agent_through(selector: Selector, score_function_share: float = 0.0) -> type[ThroughEstimatorAgent]:
    """Returns the agent class that learns through a selector, whose options are that selector's.

    Args:
        selector: The selector, with the options that are the agent's defaults.
        score_function_share: Default of the option of the same name.
    """
    namespace = {
        "__doc__": f"The agent that learns through the selector {selector.name!r}.",
        "__module__": __name__,
        "name": selector.name,
        "options_type": options_through(selector, score_function_share),
    }
    return type(f"{type(selector).__name__}Agent", (ThroughEstimatorAgent,), namespace)


GumbelAgent = agent_through(Gumbel(tau=0.5), score_function_share=1.0)
"""The default agent. Its defaults, unlike the others', were tuned on the shipped problems."""

THROUGH_ESTIMATOR = {
    "gumbel": GumbelAgent,
    **{name: agent_through(make(name)) for name in NAMES if name not in ("gumbel", "reinforce")},
}
"""An agent for each selector; ``reinforce`` is an agent of its own, which sees nothing but rewards."""
