"""An actor and a critic from rewards alone: the critic learns what choices are worth, the policy goes through it.

Nothing is known of the environment but what ``env.step`` pays, which may be slow, noisy, or change with time. All
rewards are kept, and a critic (:mod:`slot_rl.agents.reward_critic`) learns from each many times. The policy learns from
the critic's slopes and scores at rows that it draws. Asks of the critic cost no step, so an answer is improved by it,
too: each slot in turn takes the item that the critic scores highest.

After some random ones, half of the steps try an answer with one random swap, where the critic must tell good from
better. The other half try the most promising of a few draws, by the mean of the critic's networks plus their spread.

Konda, Tsitsiklis, "Actor-Critic Algorithms" (2000); Silver et al., "Deterministic Policy Gradient Algorithms" (2014),
for an actor that follows its critic's slope.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from slot_rl.agents.base import needed_problem
from slot_rl.agents.critic_moves import better_than_others, random_swap, swept
from slot_rl.agents.learning_options import LearningOptions
from slot_rl.agents.logged import LoggedRows, read_allowed_rows
from slot_rl.agents.multistart import drawn_rows
from slot_rl.agents.one_step import OneStepAgent, mean_of
from slot_rl.agents.policy import as_observation, drawn, entropy_of, most_probable
from slot_rl.agents.recent import Recent
from slot_rl.agents.reward_critic import (
    NETWORK_KINDS,
    CorrectedCritic,
    Critic,
    CriticFit,
    CriticShape,
    RewardCritic,
    fit_critic,
    rewarded_rows,
)
from slot_rl.estimators import load_estimator
from slot_rl.io import BundleError
from slot_rl.problems import NonFiniteScore, Observation, Problem
from slot_rl.saved_state import restore_memory, restore_weights, weights_of, with_memory
from slot_rl.seeding import seeded_initialisation
from slot_rl.selectors.categorical import log_prob_of

GROWTH = 0.6
"""The critic is fitted anew when there are so many new rewards, as a share of those of its last fit."""
LAST = 0.3
"""Share of the policy's steps that come after the last reward, when the critic is at its best."""
TOGETHER = 64
"""Requests whose items are swept at once, so that memory does not grow with the requests."""
REQUESTS = 4_096
"""Latest requests that the policy is trained on."""
_LEAST = {"actor_steps": 1, "actor_batch": 1, "draws": 2, "sweeps": 0, "members": 2, "memory": 4}


@dataclass(frozen=True)
class LearnedCriticOptions(LearningOptions):
    """Rewards alone: a critic that learns from all of them, and a policy that goes through it.

    Attributes:
        batch_size: Estimator calls between updates.
        random_first: Share of the calls that try random configurations, before the first critic is fitted.
        actor_steps: Gradient steps of the policy for each batch of rewards.
        actor_batch: Requests of such a step.
        members: Networks in the critic.
        swaps: Share of the calls that try the policy's answer with a random swap.
        draws: Draws of the policy from which the other calls take the most promising one, and from which it learns.
        spread: How many standard deviations of the critic's networks make a draw more promising.
        sweeps: Passes over the slots in which the critic improves the policy's answer, without a call; 0 answers with
            the policy alone.
        memory: Latest rewards that are kept; fewer where rewards change with time.
        logged: CSV or Parquet file with configurations to begin with, with the columns of the estimator's table; each
            costs a call, and they take the place of random ones.
        prior: Folder of an estimator of the same items, which may be wrong: the critic learns what rewards differ from
            its scores by. Asking it costs no call.
        critic: How the critic is fitted.
    """

    batch_size: int = 250
    random_first: float = 0.2
    actor_steps: int = 5
    actor_batch: int = 128
    members: int = 2
    swaps: float = 0.5
    draws: int = 8
    spread: float = 1.0
    sweeps: int = 2
    memory: int = 200_000
    logged: Path | None = None
    prior: Path | None = None
    critic: CriticFit = field(default_factory=CriticFit)

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        for name in ("logged", "prior"):
            if isinstance(path := getattr(self, name), str):
                # A checkpoint's JSON holds a path as its text.
                object.__setattr__(self, name, Path(path))
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, got {getattr(self, name)}")
        if not (0 <= self.random_first < 1 and 0 <= self.swaps <= 1 and 0 <= self.spread < inf):
            raise ValueError(
                "expected random_first from 0 to below 1, swaps from 0 to 1 and spread >= 0, "
                f"got {self.random_first}, {self.swaps} and {self.spread}"
            )


class LearnedCriticAgent(OneStepAgent):
    """Learns a critic from rewards, and its policy through the critic.

    Attributes:
        critic: The critic; None until there are rewards. With a prior, what it learns is the difference.
        prior: The problem with the estimator that is known beforehand; None without one.
        errors: The error of each kind of network on held-out rewards, in variances of the reward, at its last fit.
        memory: The rewards, with what the critic sees of the configurations.
        requests: The latest requests.
    """

    name = "learned_critic"
    default_options = LearnedCriticOptions()
    answers_from = OneStepAgent.answers_from | {"critic"}
    options: LearnedCriticOptions

    def _setup_model(self) -> None:
        super()._setup_model()
        self.memory, self.requests = Recent(self.options.memory), Recent(REQUESTS)
        self.critic: RewardCritic | None = None
        self.errors: dict[str, float] = {}
        self.prior, self._prior_hash = self._read_prior()
        self._new_rewards = self._fitted_to = 0

    def check_timesteps(self, timesteps: int) -> None:
        """Refuses a training whose whole budget would go into logged rows."""
        rows = 0 if self.options.logged is None or len(self.memory) else len(self._logged())
        if 0 < timesteps <= rows:
            raise ValueError(
                f"expected more timesteps than the {rows:,} logged rows for {self.name!r}, which cost a call each, "
                f"got {timesteps:,}"
            )

    @property
    def answers_by(self) -> str:
        """The policy alone, or with the critic."""
        return "policy and critic" if self.critic is not None and self.options.sweeps else super().answers_by

    @property
    def remark(self) -> str | None:
        """Says which kind of network predicts rewards best."""
        if self.critic is None:
            return None
        errors = ", ".join(f"{kind} {error:.3f}" for kind, error in self.errors.items())
        return f"critic of {self.critic.kind} networks; squared errors on held-out rewards, in variances: {errors}"

    def update(self) -> dict[str, float]:
        """Tries one configuration for each open request, and lets the critic and then the policy learn."""
        observation, choice, reward = self._play()
        self._keep(observation, choice, reward)
        played = self.num_timesteps + len(reward)
        last = played >= self._total_timesteps
        figures = {"rollout/ep_rew_mean": mean_of(reward)}
        if not last and self.critic is None and played < self.options.random_first * self._total_timesteps:
            return figures
        # Checkpoints of earlier versions have a critic and no rewards.
        due = last or self._new_rewards >= GROWTH * self._fitted_to
        if due and len(self.memory) >= self._fitted_to:
            self._fit_critic()
        for done in self._actor_progress(last):
            figures |= self._improve(done)
        return figures

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns what every agent keeps, the rewards, and the critic."""
        tensors, document = with_memory(*super().state(), "memory", self.memory)
        tensors, document = with_memory(tensors, document, "requests", self.requests)
        document |= {"prior": self._prior_hash, "new_rewards": self._new_rewards}
        if self.critic is not None:
            tensors |= weights_of(self.critic, "critic")
            document["critic"] = {"kind": self.critic.kind, "errors": self.errors, "rewards": self._fitted_to}
        return tensors, document

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        super().restore(tensors, document)
        if document.get("prior") != self._prior_hash:
            raise BundleError(
                f"expected the prior of the training in {self.options.prior}, with SHA-256 {document.get('prior')}, "
                f"got {self._prior_hash}"
            )
        for name, memory in (("memory", self.memory), ("requests", self.requests)):
            restore_memory(tensors, document, name, memory)
        self._new_rewards = document.get("new_rewards", 0)
        if "critic" in document:
            self.errors, self._fitted_to = document["critic"]["errors"], document["critic"]["rewards"]
            with seeded_initialisation(0):  # replaced by the stored weights
                self.critic = RewardCritic(self._shape, document["critic"]["kind"]).requires_grad_(False)
            restore_weights(self.critic, tensors, "critic")

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """Asks about the logged rows before the first update, unless this agent has done so before."""
        self.check_timesteps(total_timesteps)
        total, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        if self.options.logged is not None and not len(self.memory):
            rows = self._logged()
            reward = needed_problem(self.env, self.name).score(rows.observation, rows.choice)
            self.num_timesteps += len(rows)
            self._keep(rows.observation, rows.choice, reward)
            self._fit_critic()
        return total, callback

    def _read_prior(self) -> tuple[Problem | None, str | None]:
        """Returns the problem with the estimator that is known beforehand, and the hash of its weights.

        Raises:
            ValueError: If the folder holds no estimator of the problem's items.
        """
        if self.options.prior is None:
            return None, None
        stored = load_estimator(self.options.prior)
        if stored.encoding is not None:
            raise ValueError(f"expected a prior of items' vectors, got an estimator of a table in {self.options.prior}")
        return needed_problem(self.env, self.name).with_estimator(stored.net), stored.sha256

    def _logged(self) -> LoggedRows:
        assert self.options.logged is not None
        return read_allowed_rows(needed_problem(self.env, self.name), self.options.logged)

    def _keep(self, observation: Observation, choice: Tensor, reward: Tensor) -> None:
        """Keeps rewards and requests."""
        self.scale.update(reward)
        learned = reward if self.prior is None else reward - self.prior.score(observation, choice)
        self.memory.add(rewarded_rows(self._shape, observation, choice, learned))
        self.requests.add(observation.tensors())
        self._new_rewards += len(reward)

    def _fit_critic(self) -> None:
        """Fits a new critic to all rewards that are kept."""
        fit, generator = self.options.critic, self.generator
        # Compared every time: on few rewards plain networks are better, on many those with products may be.
        self.critic, self.errors = fit_critic(self.memory, self._shape, fit, NETWORK_KINDS, generator)
        self._new_rewards, self._fitted_to = 0, len(self.memory)

    def _actor_progress(self, last: bool) -> list[float]:
        """Returns the share of the policy's steps that is over, for each step of this update."""
        steps = self.options.actor_steps
        if not last:
            return [(1 - LAST) * self.progress] * steps
        further = max(steps, round(LAST / (1 - LAST) * steps * self._total_timesteps / self.options.batch_size))
        return [1 - LAST * (further - step) / further for step in range(further)]

    def _improve(self, done: float) -> dict[str, float]:
        """Takes one step of the policy along the critic's slope at rows that it draws.

        Args:
            done: The share of the policy's steps that is over.
        """
        critic = self._whole_critic
        assert critic is not None
        options, rules = self.options, self.policy.rules
        for group in self.policy.optimizer.param_groups:
            group["lr"] = self.step_size(1 - done)
        observation = Observation(**self.requests.sample(options.actor_batch, self.generator))
        several = torch.arange(options.actor_batch).repeat(options.draws)
        logits, observation = self.policy.point(observation)[0][several], observation[several]
        conditional, selection = drawn_rows(logits, rules(observation), self.generator)
        gain = critic(observation, selection).mean(dim=0) / self.scale.unit
        # From the slope, which is good at the start, to the scores of the draws, which are right at the end.
        log_prob = log_prob_of(conditional, selection.detach().argmax(dim=-1))
        better = better_than_others(gain.detach().view(options.draws, -1)).flatten()
        entropy = entropy_of(conditional)
        loss = -((1 - done) * gain + done * better * log_prob + options.entropy_over_time.at(done) * entropy).mean()
        norm = self.optimizer_step(loss)
        return {"train/loss": loss.item(), "train/entropy": mean_of(entropy), "train/grad_norm": norm}

    @torch.no_grad()
    def answer(self, observation: Observation) -> Tensor:
        """Returns the policy's most probable choice, ``(batch, slots)``, after the critic's sweeps over the slots."""
        return torch.cat([self._answer(observation[part]) for part in torch.arange(len(observation)).split(TOGETHER)])

    def starts(self, observation: Observation) -> Iterator[Tensor]:
        """Yields the agent's answer, and then what the policy has besides."""
        yield self.answer(observation)
        yield from self.policy.starts(observation)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Answers observations of an environment; draws from the policy alone unless ``deterministic``."""
        if deterministic:
            return self.choose(observation).numpy(), None
        return super().predict(observation, state, episode_start, deterministic)

    def _answer(self, observation: Observation) -> Tensor:
        logits, rules = self.policy.point(observation)[0], self.policy.rules(observation)
        choice = most_probable(logits, rules)
        if self._whole_critic is None:
            return choice
        return swept(self._whole_critic, observation, choice, logits > -inf, rules, self.options.sweeps)

    @torch.no_grad()
    def _tried(self, observation: Observation) -> Tensor:
        """Returns what to try for requests, ``(batch, slots)``."""
        logits, rules = self.policy.point(observation)[0], self.policy.rules(observation)
        if self._whole_critic is None:
            return drawn(torch.zeros_like(logits).masked_fill(logits == -inf, -inf), rules, self.generator)
        draws = torch.stack([drawn(logits, rules, self.generator) for _ in range(self.options.draws)])
        scores = self._whole_critic.of_choices(observation, draws)
        best = (scores.mean(dim=0) + self.options.spread * scores.std(dim=0)).argmax(dim=0)
        promising = draws[best, torch.arange(len(best))]
        swapped = random_swap(self.answer(observation), logits > -inf, rules, self.generator)
        swaps = torch.rand(len(best), 1, generator=self.generator) < self.options.swaps
        return torch.where(swaps, swapped, promising)

    def _play(self) -> tuple[Observation, Tensor, Tensor]:
        """Plays one batch of episodes; returns requests, choices and rewards."""
        played = [self._step() for _ in range(max(1, round(self.options.batch_size / self.n_envs)))]
        requests = [observation.tensors() for observation, _, _ in played]
        observation = Observation(**{name: torch.cat([part[name] for part in requests]) for name in requests[0]})
        return observation, torch.cat([row[1] for row in played]), torch.cat([row[2] for row in played])

    def _step(self) -> tuple[Observation, Tensor, Tensor]:
        assert self.env is not None
        observation = as_observation(obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
        choice = self._tried(observation)
        self._last_obs, rewards, dones, _ = self.env.step(choice.numpy())  # type: ignore[assignment]
        if not np.all(dones):
            raise ValueError(f"expected one-step episodes for {self.name}, got {int(np.sum(~dones))} that went on")
        self.steps_played += self.n_envs
        reward = torch.as_tensor(rewards)
        if not bool(reward.isfinite().all()):
            raise NonFiniteScore("rewards", int((~reward.isfinite()).sum()), observation, choice, reward)
        return observation, choice, reward

    @property
    def _whole_critic(self) -> Critic | None:
        """What scores choices: the critic, on top of the prior if there is one."""
        if self.critic is None or self.prior is None:
            return self.critic
        return CorrectedCritic(self.critic, self.prior)

    @property
    def _shape(self) -> CriticShape:
        return CriticShape.of(self.observation_space, self.action_space, self.options.members)
