"""Expert iteration: draw a row from the policy, improve it by guided swaps, and learn many times from the result.

A good row is reproduced; a bad one is improved first. One backward pass ranks all swaps of a row, and the most
promising ones are tried, so a better row costs a few estimator calls. Good rows are remembered and used again, so
gradient steps are many and calls are few.

The loss has two weighted terms. ``imitate`` raises the row's probability by cross-entropy; it averages over equally
good rows, whose slots do not fit together. ``sharpen`` follows the score's slope at the row, as straight-through does;
it settles on one row and costs nothing more, because the same slope has ranked the swaps.

Anthony, Tian, Barber, "Thinking Fast and Slow with Deep Learning and Tree Search" (2017); Bengio, Leonard, Courville,
"Estimating or Propagating Gradients Through Stochastic Neurons" (2013).
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor

from slot_rl.agents.base import needed_problem
from slot_rl.agents.learning_options import LearningOptions
from slot_rl.agents.one_step import OneStepAgent, mean_of
from slot_rl.agents.policy import entropy_of, given
from slot_rl.agents.replay import Replay
from slot_rl.problems import Observation, Problem
from slot_rl.saved_state import restore_memory, with_memory
from slot_rl.search import SearchResult, guided_search, random_choice
from slot_rl.seeding import Seed
from slot_rl.selectors.categorical import log_prob_of


@dataclass(frozen=True)
class ExpertIterationOptions(LearningOptions):
    """Draws improved by guided swaps, each learned from many times.

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


class ExpertIterationAgent(OneStepAgent):
    """Learns from its own draws after guided swaps have improved them.

    Attributes:
        replay: The rows found, to learn from.
    """

    name = "expert_iteration"
    default_options = ExpertIterationOptions()
    options: ExpertIterationOptions
    problem: Problem

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, verbose: int = 0, **changes: Any) -> None:
        """Builds the agent; see :class:`slot_rl.agents.one_step.OneStepAgent`.

        Raises:
            ValueError: If the environment has no estimator to ask.
        """
        super().__init__(env, options, seed, verbose, **changes)
        self.problem = needed_problem(self.env, self.name)
        self.replay = Replay(self.options.replay_size)

    @property
    def update_size(self) -> int:
        """Estimator calls between two updates."""
        return self._requests * (1 + self.options.swaps)

    @property
    def _requests(self) -> int:
        return max(2, self.options.batch_size // (1 + self.options.swaps))

    def update(self) -> dict[str, float]:
        """Improves a batch of draws, remembers the results, and takes some gradient steps on remembered rows."""
        observation = self.problem.sample(self._requests, self.generator)
        found = self._improve(observation)
        self.scale.update(found.score)
        self.replay.add(observation, found)
        for _ in range(self.options.steps):
            figures = self._learn()
        return {"rollout/ep_rew_mean": mean_of(found.score), **figures}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns what every agent keeps, and the replay."""
        tensors, document = super().state()
        return with_memory(tensors, document, "replay", self.replay)

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave; the replay of a checkpoint of earlier versions is empty."""
        super().restore(tensors, document)
        restore_memory(tensors, document, "replay", self.replay)

    def _improve(self, observation: Observation) -> SearchResult:
        with torch.no_grad():
            start = self.policy.draw(observation, self.generator)
        restarted = torch.rand(len(start), 1, generator=self.generator) < self.options.explore
        start = torch.where(restarted, random_choice(self.problem, observation, self.generator), start)
        return guided_search(self.problem, observation, start, self.options.swaps)

    def _learn(self) -> dict[str, float]:
        observation, found = self.replay.sample(self.options.step_size, self.generator)
        assert found.slope is not None
        logits = given(self.policy.point(observation)[0], found.choice, self.policy.rules(observation))
        # The expected first-order score of the policy's swaps of the row; its gradient is straight-through's.
        gain = (torch.softmax(logits, dim=-1) * found.slope).sum(dim=(-1, -2)).mean() / self.scale.unit
        log_prob, entropy = log_prob_of(logits, found.choice).mean(), entropy_of(logits).mean()
        options = self.options
        loss = -options.imitate * log_prob - options.sharpen * gain - self.entropy_coefficient * entropy
        norm = self.optimizer_step(loss)
        return {
            "train/loss": loss.item(),
            "train/log_prob": log_prob.item(),
            "train/entropy": entropy.item(),
            "train/grad_norm": norm,
        }
