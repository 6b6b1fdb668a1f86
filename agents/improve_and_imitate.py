"""Expert iteration: draw a row from the policy, improve it by guided swaps, imitate the improved row.

The wish of this project's first origin: a good row is to be reproduced; of a bad one, a better one is to be made. One
backward pass ranks the swaps of a row and the best few are scored, so that a better row costs a handful of calls. The
best row of each request is kept and imitated many times, so that gradient steps are many and calls are few.

Imitation averages over equally good answers, which slot by slot do not fit together. A share of the training may
therefore follow that sharpens the imitated policy through the estimator, with a selector's gradient.

Anthony, Tian, Barber, "Thinking Fast and Slow with Deep Learning and Tree Search" (2017).
"""

from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from slot_rl.agents.base import mean_of
from slot_rl.agents.distribution import entropy_of, log_prob_of
from slot_rl.agents.options import ImproveAndImitateOptions
from slot_rl.agents.replay import Replay
from slot_rl.agents.through_estimator import ThroughEstimatorAgent
from slot_rl.problems import Observation
from slot_rl.search import Found, guided_search, random_choice
from slot_rl.selectors.categorical import draw


class ImproveAndImitateAgent(ThroughEstimatorAgent):
    """Imitates what guided swaps make of its own draws, then sharpens the policy with a selector."""

    name = "improve_and_imitate"
    options_type = ImproveAndImitateOptions
    options: ImproveAndImitateOptions

    def __init__(self, env: GymEnv | str, options: Any = None, seed: int = 0, verbose: int = 0) -> None:
        """Builds the agent; see :class:`slot_rl.agents.through_estimator.ThroughEstimatorAgent`."""
        super().__init__(env, options, seed, verbose)
        self.replay = Replay(self.options.replay_size)

    @property
    def update_size(self) -> int:
        """Configurations scored between updates."""
        return self._requests * (1 + self.options.swaps)

    @property
    def _requests(self) -> int:
        return max(2, self.options.batch_size // (1 + self.options.swaps))

    def update(self) -> dict[str, float]:
        """Improves a batch of draws and imitates what was found so far; near the end, sharpens instead."""
        if self.done >= 1 - self.options.sharpen:
            return super().update()
        observation = self.problem.sample(self._requests, self.generator)
        start, found = self._improve(observation)
        self.scale.update(found.score)
        self.replay.add(observation, found)
        for _ in range(self.options.imitations):
            figures = self._imitate()
        return {"rollout/ep_rew_mean": mean_of(found.score), **figures}

    def _improve(self, observation: Observation) -> tuple[Tensor, Found]:
        with torch.no_grad():
            start = draw(self.policy.point(observation)[0], self.generator)
        anew = torch.rand(len(start), 1, generator=self.generator) < self.options.explore
        start = torch.where(anew, random_choice(self.problem, observation, self.generator), start)
        found = guided_search(self.problem, observation, start, self.options.swaps)
        self.num_timesteps += len(start) * (1 + self.options.swaps)
        return start, found

    def _imitate(self) -> dict[str, float]:
        observation, choice = self.replay.sample(self.options.imitation_batch, self.generator)
        logits, _ = self.policy.point(observation)
        entropy = entropy_of(logits).mean()
        loss = -log_prob_of(logits, choice).mean() - self.entropy_coefficient * entropy
        norm = self.step(loss)
        return {"train/loss": loss.item(), "train/entropy": entropy.item(), "train/grad_norm": norm}
