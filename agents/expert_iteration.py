"""Expert iteration: draw a row from the policy, improve it by guided swaps, learn from what was found, many times over.

The wish of this project's first origin: a good row is to be reproduced; of a bad one, a better one is to be made. One
backward pass ranks all swaps of a row, and the most promising ones are tried, so that a better row costs a handful of
calls. What was found is remembered and learned from again and again, so that gradient steps are many and calls are few.

Two lessons lie in a row that was found, and they are weighed against one another. ``imitate``: raise the row's
probability, by cross-entropy. It averages over equally good answers, which slot by slot do not fit together.
``sharpen``: follow the score's slope at the row, straight-through, which settles on one of them; it costs nothing
more, for the slope is the same that ranked the swaps.

Anthony, Tian, Barber, "Thinking Fast and Slow with Deep Learning and Tree Search" (2017); Bengio, Leonard, Courville,
"Estimating or Propagating Gradients Through Stochastic Neurons" (2013).
"""

from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv

from slot_rl.agents.base import OneStepAgent, mean_of, needed_problem
from slot_rl.agents.distribution import entropy_of, log_prob_of
from slot_rl.agents.options import ExpertIterationOptions
from slot_rl.agents.replay import Replay
from slot_rl.problems import Observation
from slot_rl.search import SearchResult, guided_search, random_choice
from slot_rl.selectors.categorical import draw


class ExpertIterationAgent(OneStepAgent):
    """Learns from what guided swaps make of its own draws.

    Attributes:
        problem: The problem behind the environment, whose estimator ranks the swaps.
        replay: The rows found, to learn from. A checkpoint does not hold it: a continued training fills it anew.
    """

    name = "expert_iteration"
    options_type = ExpertIterationOptions
    options: ExpertIterationOptions

    def __init__(self, env: GymEnv | str, options: Any = None, seed: int = 0, verbose: int = 0) -> None:
        """Builds the agent; see :class:`slot_rl.agents.base.OneStepAgent`.

        Raises:
            ValueError: If the environment has no estimator to ask.
        """
        super().__init__(env, options, seed, verbose)
        self.problem = needed_problem(self.env, self.name)
        self.replay = Replay(self.options.replay_size)

    @property
    def update_size(self) -> int:
        """Configurations scored between updates."""
        return self._requests * (1 + self.options.swaps)

    @property
    def _requests(self) -> int:
        return max(2, self.options.batch_size // (1 + self.options.swaps))

    def update(self) -> dict[str, float]:
        """Improves a batch of draws, remembers what was found, and takes some steps on what is remembered."""
        observation = self.problem.sample(self._requests, self.generator)
        found = self._improve(observation)
        self.num_timesteps += self.update_size
        self.scale.update(found.score)
        self.replay.add(observation, found)
        for _ in range(self.options.steps):
            figures = self._learn()
        return {"rollout/ep_rew_mean": mean_of(found.score), **figures}

    def _improve(self, observation: Observation) -> SearchResult:
        with torch.no_grad():
            start = draw(self.policy.point(observation)[0], self.generator)
        anew = torch.rand(len(start), 1, generator=self.generator) < self.options.explore
        start = torch.where(anew, random_choice(self.problem, observation, self.generator), start)
        return guided_search(self.problem, observation, start, self.options.swaps)

    def _learn(self) -> dict[str, float]:
        observation, found = self.replay.sample(self.options.step_size, self.generator)
        assert found.slope is not None
        logits, _ = self.policy.point(observation)
        # The expected first-order score of the policy's swaps of the row; its gradient is straight-through's.
        gain = (torch.softmax(logits, dim=-1) * found.slope).sum(dim=(-1, -2)).mean() / self.scale.unit
        log_prob, entropy = log_prob_of(logits, found.choice).mean(), entropy_of(logits).mean()
        options = self.options
        loss = -options.imitate * log_prob - options.sharpen * gain - self.entropy_coefficient * entropy
        norm = self.step(loss)
        return {
            "train/loss": loss.item(),
            "train/log_prob": log_prob.item(),
            "train/entropy": entropy.item(),
            "train/grad_norm": norm,
        }
