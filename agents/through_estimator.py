"""Learning through the estimator: draw with a selector, score the draw, send the estimator's gradient back.

The gradient through the estimator is quick but biased: it takes the estimator for linear between configurations, and
near the end that decides between almost equal ones wrongly. The score of the same draw, which is paid for already,
gives the unbiased and noisy score-function gradient, which therefore takes over as the training ends.
"""

from functools import partial
from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from slot_rl.agents.base import OneStepAgent, mean_of, problem_of
from slot_rl.agents.distribution import entropy_of
from slot_rl.agents.options import GumbelOptions
from slot_rl.problems import Problem
from slot_rl.selectors import Estimate, Gumbel, Selector


class ThroughEstimatorAgent(OneStepAgent):
    """Ascends a selector's surrogate of the estimator's score.

    Attributes:
        problem: The problem behind the environment, whose estimator gives the gradient.
        selector: The way through the discrete choice.
    """

    options: GumbelOptions
    selector: Selector

    def __init__(self, env: GymEnv | str, options: Any = None, seed: int = 0, verbose: int = 0) -> None:
        """Builds the agent; see :class:`slot_rl.agents.base.OneStepAgent`.

        Raises:
            ValueError: If the environment has no estimator to differentiate.
        """
        super().__init__(env, options, seed, verbose)
        problem = problem_of(self.env)
        if problem is None:
            raise ValueError(
                f"expected an environment with a differentiable estimator for {self.name!r} (its attribute `problem`), "
                "got one without; reinforce and ppo learn from rewards alone"
            )
        self.problem: Problem = problem

    def update(self) -> dict[str, float]:
        """Scores one batch of draws and takes one step along the estimator's gradient."""
        observation = self.problem.sample(self.options.batch_size, self.generator)
        logits, latent = self.policy.point(observation)
        objective = partial(self.problem.score_selection, observation)
        before = self.problem.budget.forwards
        estimate = self.selector(logits, objective, generator=self.generator)
        self.num_timesteps += self.problem.budget.forwards - before
        self.scale.update(estimate.score)
        entropy = entropy_of(logits).mean()
        through = (estimate.surrogate / self.scale.unit).mean()
        by_score, value_loss = self._score_function(logits, latent, estimate)
        share = min(1.0, self.options.unbias * (1 - self._current_progress_remaining))
        gain = (1 - share) * through + share * by_score + self.entropy_coefficient * entropy
        loss = self.options.value_coefficient * value_loss - gain
        norm = self.step(loss)
        diagnostics = {f"train/{name}": mean_of(value) for name, value in estimate.diagnostics.items()}
        return {
            "rollout/ep_rew_mean": mean_of(estimate.score),
            "train/loss": loss.item(),
            "train/entropy": entropy.item(),
            "train/grad_norm": norm,
            "train/value_loss": value_loss.item(),
            **diagnostics,
        }

    def _score_function(self, logits: Tensor, latent: Tensor, estimate: Estimate) -> tuple[Tensor, Tensor]:
        """Returns REINFORCE's surrogate for the draws that are scored already, and its baseline's squared error."""
        target = self.scale.standardise(estimate.score)
        values = self.policy.value_head(latent).squeeze(-1)
        advantage = target - values.detach()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_p = torch.log_softmax(logits, dim=-1)
        log_prob = log_p.gather(-1, estimate.choice.unsqueeze(-1)).squeeze(-1).sum(dim=-1)
        return (advantage * log_prob).mean(), (values - target).square().mean()


class GumbelAgent(ThroughEstimatorAgent):
    """Hard Gumbel draws, the gradient through the estimator."""

    name = "gumbel"
    options_type = GumbelOptions
    options: GumbelOptions

    @property
    def selector(self) -> Selector:  # type: ignore[override]
        """The Gumbel selector at the options' temperature."""
        return Gumbel(self.options.tau)
