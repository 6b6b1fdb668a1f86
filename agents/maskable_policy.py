"""What MaskablePPO's agent builds with sb3-contrib; nothing else imports it, since the package is optional."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.distributions import MaskableCategoricalDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from slot_rl.agents.no_pickles import NoFile, NoParameterFile
from slot_rl.agents.policy import PolicyOutput, SlotPolicy, as_observation, optimizer_of, policy_kwargs
from slot_rl.envs import SequentialVecEnv
from slot_rl.envs.episodes import action_space as choices
from slot_rl.envs.episodes import observation_space as requests
from slot_rl.envs.slot_by_slot import OpenItems
from slot_rl.networks import PointerNetwork, PointerSize
from slot_rl.problems import Observation, Problem
from slot_rl.selectors import masked_logits
from slot_rl.selectors.categorical import draw, log_prob_of, one_hot
from slot_rl.selectors.rules import OPEN, Rules

Masks = Tensor | np.ndarray[Any, Any] | None


class SequentialPolicy(NoFile, MaskableActorCriticPolicy):
    """The shared policy's network, asked for one slot at a time.

    Attributes:
        one_pass: The shared policy, whose network, value head and generator are used.
    """

    action_dist: MaskableCategoricalDistribution

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        problem: Problem,
        size: PointerSize,
        **kwargs: Any,
    ) -> None:
        """Builds the policy.

        Args:
            observation_space: That of the sequential environment.
            action_space: Likewise.
            lr_schedule: Step size by remaining progress.
            problem: The problem, whose masks and constraints hold when whole answers are given.
            size: Sizes of the pointer network.
            kwargs: Further arguments of ``MaskableActorCriticPolicy``.
        """
        self._problem, self._size = problem, size
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        kwargs = policy_kwargs(self._problem, self._size)
        self.one_pass = SlotPolicy(requests(self._problem), choices(self._problem), lr_schedule, **kwargs)
        self.optimizer = optimizer_of(self, lr_schedule(1))

    @property
    def network(self) -> PointerNetwork:
        """The pointer network."""
        return self.one_pass.network

    @property
    def generator(self) -> torch.Generator:
        """Source of the items that are drawn in training."""
        return self.one_pass.generator

    def point(self, observation: Observation, choice: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns masked logits ``(batch, slots, items)`` and the latent ``(batch, latent_dim)``.

        Args:
            observation: The requests.
            choice: Partial answers ``(batch, slots)``, open from some slot on; nothing is filled if None.
        """
        shape = (len(observation), self._problem.slots, self._problem.items)
        mask = self.one_pass.padding if observation.mask is None else observation.mask
        mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
        if choice is not None:
            chosen = one_hot(choice.clamp(min=0), self._problem.items, torch.bool)
            mask = torch.where((choice != OPEN).unsqueeze(-1), chosen, mask)
        given = observation.context, observation.context_vector, observation.slot_features
        logits, latent = self.network(observation.candidates, mask, *given)
        return masked_logits(logits, mask), latent

    def output(self, observation: Observation) -> PolicyOutput:
        """Returns what the policy says of requests of which no slot is filled."""
        return PolicyOutput(*self.point(observation), self.rules(observation))

    def rules(self, observation: Observation) -> Rules | None:
        """Returns what the requests allow; None if everything that is not masked."""
        return self.one_pass.rules(observation)

    def answer(self, observation: Observation) -> Tensor:
        """Fills the slots in their order with the most probable open items, ``(batch, slots)``."""
        return self._played(observation, None)

    def draw(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Draws the slots' items in their order from what is open, ``(batch, slots)``."""
        return self._played(observation, generator)

    @torch.no_grad()
    def draws(self, observation: Observation, generator: torch.Generator) -> Iterator[Tensor]:
        """Yields drawn answers ``(batch, slots)`` without an end."""
        while True:
            yield self.draw(observation, generator)

    def confident(self, observation: Observation) -> Tensor:
        """Returns :meth:`answer`: each slot is decided with the slots before it in view."""
        return self.answer(observation)

    def starts(self, observation: Observation) -> Iterator[Tensor]:
        """Yields the answer ``(batch, slots)``, the only start for a search to go on from."""
        yield self.answer(observation)

    def log_probability(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns the log-probability ``(batch,)`` with which :meth:`draw` gives choices ``(batch, slots)``."""
        fillers, total = OpenItems(self._problem, observation), torch.zeros(len(choice), dtype=torch.float64)
        for slot in range(self._problem.slots):
            prefix = choice.masked_fill(torch.arange(self._problem.slots) >= slot, OPEN)
            logits = self._open_logits(observation, fillers, prefix, slot)
            total += log_prob_of(logits.double().unsqueeze(1), choice[:, slot : slot + 1])
        return total

    def _played(self, observation: Observation, generator: torch.Generator | None) -> Tensor:
        choice = torch.full((len(observation), self._problem.slots), OPEN)
        fillers = OpenItems(self._problem, observation)
        for slot in range(self._problem.slots):
            logits = self._open_logits(observation, fillers, choice, slot)
            choice[:, slot] = logits.argmax(dim=-1) if generator is None else draw(logits, generator)
        return choice

    def _open_logits(self, observation: Observation, fillers: OpenItems, choice: Tensor, slot: int) -> Tensor:
        """Returns the logits ``(batch, items)`` of a slot of partial answers, minus infinity where items are closed."""
        return self.point(observation, choice)[0][:, slot].masked_fill(~fillers.at(choice, slot), -torch.inf)

    def act_and_value(self, obs: PyTorchObs, masks: Masks) -> tuple[MaskableCategoricalDistribution, Tensor]:
        """Returns the distribution of the next slot's item, and the values ``(batch, 1)``."""
        assert isinstance(obs, dict)
        choice = obs["answer"].long() - 1
        logits, latent = self.point(as_observation(obs), choice)
        # After the end there is no next slot; only the value is asked for then.
        slot = (choice != OPEN).sum(dim=1).clamp(max=self._problem.slots - 1)
        row = logits[torch.arange(len(slot)), slot].clamp(min=torch.finfo(logits.dtype).min)
        distribution = self.action_dist.proba_distribution(action_logits=row)
        if masks is not None:
            distribution.apply_masking(masks)
        return distribution, self.one_pass.value_head(latent)

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False, action_masks: Masks = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns items ``(batch,)``, values ``(batch, 1)`` and the items' log-probabilities ``(batch,)``."""
        distribution, values = self.act_and_value(obs, action_masks)
        logits = distribution.distribution.logits
        items = logits.argmax(dim=-1) if deterministic else draw(logits, self.generator)
        return items, values, distribution.log_prob(items)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, action_masks: Masks = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns values ``(batch, 1)``, log-probabilities ``(batch,)`` and entropy ``(batch,)``."""
        distribution, values = self.act_and_value(obs, action_masks)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs, action_masks: Masks = None) -> MaskableCategoricalDistribution:
        """Returns the distribution of the next slot's item."""
        return self.act_and_value(obs, action_masks)[0]

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Returns the values, ``(batch, 1)``."""
        return self.act_and_value(obs, None)[1]


class SequentialPPO(NoFile, NoParameterFile, MaskablePPO):
    """MaskablePPO whose rollouts are whole answers, one of each environment, undiscounted.

    Attributes:
        played: The environment.
    """

    def __init__(self, env: SequentialVecEnv, problem: Problem, size: PointerSize, **arguments: Any) -> None:
        """Builds it; weights come from the global generator (see ``slot_rl.seeding``).

        Args:
            env: The environment.
            problem: Its problem.
            size: Sizes of the pointer network.
            arguments: Further arguments of ``MaskablePPO``.
        """
        kwargs = {"problem": problem, "size": size}
        super().__init__(
            SequentialPolicy, env, n_steps=problem.slots, gamma=1.0, policy_kwargs=kwargs, device="cpu", **arguments
        )
        self.played = env
        self._silent = self._setup_learn(1)[1]

    def play_in(self, env: SequentialVecEnv) -> None:
        """Changes the environment, and opens its first requests."""
        self.set_env(env)
        self.played, self._last_obs = env, env.reset()

    def go_on_from(self, state: Tensor) -> None:
        """Opens the requests that a state of the environment stands for."""
        self.played.restore(state)
        self._last_obs = self.played.reset()

    def play(self) -> Tensor:
        """Plays an answer in each environment; returns the scores, ``(num_envs,)``."""
        assert self.env is not None
        self.collect_rollouts(self.env, self._silent, self.rollout_buffer, self.n_steps)
        return torch.as_tensor(self.rollout_buffer.rewards[-1])

    def learn_from(self, rewards: Tensor, entropy: float, remaining: float) -> None:
        """Updates the policy.

        Args:
            rewards: What counts as the reward of each answer that was just played, ``(num_envs,)``.
            entropy: The entropy bonus.
            remaining: The share of the training that is left.
        """
        buffer = self.rollout_buffer
        buffer.rewards[-1] = rewards.numpy()
        ended = np.ones(self.n_envs, dtype=np.bool_)
        buffer.compute_returns_and_advantage(torch.zeros(self.n_envs, 1), ended)
        self.ent_coef, self._current_progress_remaining = entropy, remaining
        self.train()
