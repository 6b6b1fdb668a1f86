"""The best row that was measured already, as an agent: what every estimate of a table has to beat."""

from typing import Any

import torch
from torch import Tensor

from slot_rl.agents.searches import ReferenceAgent
from slot_rl.problems import Observation
from slot_rl.search import random_choice
from slot_rl.seeding import Seed, generator_from


class BestSeenAgent(ReferenceAgent):
    """Answers with the request's best measured row that is allowed, and at random where none is."""

    name = "best_seen"

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, **changes: Any) -> None:
        """Builds the agent; raises ValueError if nothing is known of what was measured."""
        super().__init__(env, options, seed, **changes)
        if self.problem.best_seen(self.problem.sample(1, generator_from(0))) is None:
            raise ValueError(
                f"expected an estimator that slot-rl pretrain --table fitted for {self.name!r}, which keeps the "
                f"best measured rows, got one of {self.problem.name} without them"
            )

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Looks the rows up."""
        seen = self.problem.best_seen(observation)
        assert seen is not None
        return seen.choice_or(random_choice(self.problem, observation, generator))
