"""Agents that learn, as Stable-Baselines3 algorithms with callbacks, logger, progress bar and ``predict``.

A checkpoint holds all that a training depends on: one that is loaded and continued with
``learn(..., reset_num_timesteps=False)`` ends bit for bit like one that was never interrupted.
"""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor
from typing_extensions import Self

from slot_rl.agents.base import Agent, problem_of
from slot_rl.agents.learning_options import LearningOptions
from slot_rl.agents.no_pickles import NoParameterFile
from slot_rl.agents.policy import SlotPolicy, policy_kwargs
from slot_rl.agents.recalled import RecalledProblem, recall, refuse_recalled, remembered
from slot_rl.agents.scale import RunningScale
from slot_rl.envs import SlotVecEnv
from slot_rl.envs.episodes import Infeasibility
from slot_rl.envs.vec import BatchedVecEnv
from slot_rl.problems import IDS, BadScore, FaultyEstimator, Observation, Problem
from slot_rl.saved_state import optimizer_state, restore_optimizer, restore_weights, weights_of

MOST_SKIPPED = 9
"""Batches in a row that may be skipped."""


class LearningAgent(Agent, NoParameterFile, BaseAlgorithm):  # type: ignore[misc]  # load() takes the environment as an argument
    """An agent whose answer is one pass of its policy.

    Attributes:
        answers_from: What of a checkpoint answers depend on, by the first part of its tensors' names.
        policy: The policy.
        scale: Running statistics of the scores.
        updates: Updates since the training began.
        on_bad_score: Handles a batch on which the estimator fails, which then is skipped; it is raised if None.
    """

    default_options: ClassVar[LearningOptions]
    answers_from: ClassVar[frozenset[str]] = frozenset({"policy", "problem"})
    options: LearningOptions
    policy: SlotPolicy
    scale: RunningScale
    updates = 0
    on_bad_score: Callable[[BadScore], None] | None = None
    _told_ahead = 0
    _stopping = False
    _stored_env: Tensor | None = None

    @property
    def update_size(self) -> int:
        """Estimator calls between two updates."""
        return self.options.batch_size

    @property
    def policy_parameters(self) -> int:
        """Parameters of the policy network, without the value head."""
        return sum(part.numel() for part in self.policy.network.parameters())

    @property
    def progress(self) -> float:
        """The share of the training that is over, from 0 to 1."""
        return 1 - self._current_progress_remaining

    @property
    def policy_arguments(self) -> dict[str, Any]:
        """What its policy is built with."""
        options = self.options
        # Not every agent can draw its slots in turn.
        return policy_kwargs(self.problem, options.policy, options.free, getattr(options, "in_turn", False))

    def answer(self, observation: Observation) -> Tensor:
        """Returns the policy's most probable choice, ``(batch, slots)``."""
        with torch.no_grad():
            return self.policy.answer(observation)

    def environment(self, env: Any) -> Any:
        """Returns a problem or its id as a batched environment, and an environment as it is."""
        if not isinstance(env, Problem) and env not in IDS:
            return env
        infeasible: Infeasibility = "penalise" if self.options.free else "refuse"
        if isinstance(env, RecalledProblem):
            # A penalty is taken from scores otherwise.
            penalty = 0.0 if self.options.free else None
            return SlotVecEnv(env, env.environments, infeasible=infeasible, penalty=penalty)
        return SlotVecEnv(env, self.options.num_envs, infeasible=infeasible)

    def step_size(self, remaining: float) -> float:
        """Returns Adam's step size when a share ``remaining`` of the training is left."""
        return self.options.learning_rate * remaining

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 10,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Trains until the estimator has been called ``total_timesteps`` times; the last batch may exceed it.

        The arguments are Stable-Baselines3's. ``log_interval`` counts updates; None logs nothing.
        """
        # Callbacks read the name total_timesteps.
        total_timesteps, callbacks = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callbacks.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps and not self._stopping and self._goes_on(callbacks):
            self.updates += 1
            if log_interval is not None and self.updates % log_interval == 0:
                self.dump_logs()
        self._stopping = False
        callbacks.on_training_end()
        return self

    def _goes_on(self, callbacks: BaseCallback) -> bool:
        """Makes one update; returns whether callbacks let the training go on.

        Batches that the estimator does not score are skipped if somebody handles that; the tenth in a row is raised,
        and so is the fault of an estimator of no use.
        """
        for _ in range(MOST_SKIPPED):
            played, before = self.num_timesteps, 0 if self.problem is None else self.problem.budget.forwards
            try:
                return self._iterate_named(callbacks)
            except BadScore as failure:
                if self.on_bad_score is None or isinstance(failure, FaultyEstimator):
                    raise
                self.on_bad_score(failure)
                if self.problem is not None:
                    self.num_timesteps = played + self.problem.budget.forwards - before
        return self._iterate_named(callbacks)

    def _iterate_named(self, callbacks: BaseCallback) -> bool:
        with nullcontext() if self.problem is None else self.problem.backward_errors_named():
            return self.iterate(callbacks)

    @abstractmethod
    def iterate(self, callbacks: BaseCallback) -> bool:
        """Plays a batch and learns from it, as a rollout of callbacks; returns whether they let the training go on."""

    def stop(self) -> None:
        """Ends the training, or the next one, after the current update: there it can be saved and continued."""
        self._stopping = True

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any
    ) -> tuple[int, BaseCallback]:
        refuse_recalled(self.problem)
        if reset_num_timesteps:
            self.updates = self._told_ahead = 0
        elif self._last_obs is None and self._stored_env is not None and (env := self._batched_env()) is not None:
            env.restore(self._stored_env)
        self._stored_env = None
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Changes the environment, or a problem or its id; that of a checkpoint is forgotten.

        Raises:
            ValueError: If it has another number of environments, or other spaces.
        """
        env = self._wrap_env(self.environment(env), self.verbose)
        if env.num_envs != self.n_envs:
            raise ValueError(
                f"expected {self.n_envs} environments at once, got {env.num_envs}: load(path, env) takes any"
            )
        super().set_env(env, force_reset)
        self.problem, self._stored_env = problem_of(self.env), None

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Answers observations of an environment or of a problem; draws from the policy unless ``deterministic``."""
        if not isinstance(observation, Observation):
            return super().predict(observation, state, episode_start, deterministic)
        choice = self.answer(observation) if deterministic else self.policy.draw(observation, self.policy.generator)
        return choice.numpy(), None

    def generators(self) -> dict[str, torch.Generator]:
        """Returns every generator whose state a continued training needs."""
        return {"policy": self.policy.generator}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the weights, the states of optimiser, generators and environment, and the running statistics.

        Of environments, :class:`slot_rl.envs.SlotVecEnv` has a state that can be stored; others go on as they are.
        """
        tensors = weights_of(self.policy, "policy")
        tensors |= optimizer_state(self.policy.optimizer, "optimizer")
        tensors |= {f"generator.{name}": generator.get_state() for name, generator in self.generators().items()}
        if self._stored_env is not None:  # nothing was played since it was loaded
            tensors["env"] = self._stored_env
        elif (env := self._batched_env()) is not None:
            tensors["env"] = env.state()
        known, document = ({}, {}) if self.problem is None else remembered(self.problem, self.n_envs)
        document |= {"scale": asdict(self.scale), "updates": self.updates, "told_ahead": self._told_ahead}
        return tensors | known, document

    @classmethod
    def recalled(cls, tensors: dict[str, Tensor], document: dict[str, Any]) -> Problem:
        """Returns what a checkpoint knows of its problem.

        Raises:
            BundleError: If it knows too little.
        """
        return recall(tensors, document)

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave; raises :class:`BundleError` if the weights do not fit.

        The environment's state counts for a training that is continued.
        """
        restore_weights(self.policy, tensors, "policy")
        restore_optimizer(self.policy.optimizer, tensors, "optimizer")
        for name, generator in self.generators().items():
            # Checkpoints of earlier versions have fewer.
            if (found := tensors.get(f"generator.{name}")) is not None:
                generator.set_state(found)
        self.scale, self.updates = RunningScale(**document["scale"]), document.get("updates", 0)
        self._told_ahead, self._stored_env = document.get("told_ahead", 0), tensors.get("env")

    def _batched_env(self) -> BatchedVecEnv | None:
        """Returns what is inside the environment's wrappers, if its state can be stored."""
        inside = None if self.env is None else self.env.unwrapped
        return inside if isinstance(inside, BatchedVecEnv) else None
