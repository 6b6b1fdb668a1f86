"""sb3-contrib's MaskablePPO, an optional package, on the sequential form of a problem.

It fills one slot a step and sees the answer so far; what the constraints and the request's mask close is never drawn.
An answer is played the same way, with the most probable open item in each slot, so it is always allowed.

The policy is not sb3-contrib's ``MultiInputPolicy``, whose flattened observations know neither that candidates are
vectors nor that lists may be permuted, but the pointer network of all agents, of the same size. A filled slot's mask
leaves it its item alone; through it the network sees the partial answer, without a parameter more.

Huang and Ontanon, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms" (2022).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slot_rl.agents.base import needed_problem
from slot_rl.agents.learning_options import LearningOptions, refuse_negative
from slot_rl.agents.on_policy import seeded_shuffles
from slot_rl.agents.one_step import OneStepAgent, mean_of
from slot_rl.agents.recalled import RecalledProblem
from slot_rl.agents.scale import RunningScale
from slot_rl.envs import SequentialVecEnv, SlotVecEnv
from slot_rl.problems import Problem, make_problem
from slot_rl.seeding import generator_from, seeded_initialisation


@dataclass(frozen=True)
class MaskablePPOOptions(LearningOptions):
    """PPO of the package sb3-contrib that fills one slot a step, under masks.

    Attributes:
        batch_size: Estimator calls, that is, complete answers between updates.
        minibatch_size: Slots of a gradient step.
        epochs: Passes over each batch.
        clip_range: How far the probability ratio may move.
        gae_lambda: Weight of later slots' returns against the learned value; 1 uses the answers' scores alone.
        value_coefficient: Weight of the value's squared error.
    """

    batch_size: int = 2048
    max_grad_norm: float = 0.5
    minibatch_size: int = 1024
    epochs: int = 4
    clip_range: float = 0.2
    gae_lambda: float = 0.95
    value_coefficient: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        refuse_negative(self.value_coefficient)
        if self.minibatch_size < 2 or self.epochs < 1 or not self.clip_range > 0 or not 0 <= self.gae_lambda <= 1:
            raise ValueError(
                "expected minibatch_size >= 2, epochs >= 1, clip_range > 0 and gae_lambda from 0 to 1, "
                f"got {self.minibatch_size}, {self.epochs}, {self.clip_range} and {self.gae_lambda}"
            )


class MaskablePPOAgent(OneStepAgent):
    """MaskablePPO, one update for each batch of complete answers.

    Attributes:
        policy: The policy; it also draws whole answers.
    """

    name = "maskable_ppo"
    default_options = MaskablePPOOptions()
    options: MaskablePPOOptions

    def environment(self, env: Any) -> SlotVecEnv:
        """Returns the one-step form of an environment's problem, in whose terms the agent is asked.

        Raises:
            ValueError: If the environment has no problem, or sb3-contrib is not installed.
        """
        load_sb3_contrib()
        problem = make_problem(env) if isinstance(env, str) else env
        return SlotVecEnv(problem if isinstance(problem, Problem) else needed_problem(problem, self.name))

    def _setup_model(self) -> None:
        assert self.problem is not None and self.seed is not None
        # Imported here alone: the package is optional.
        from slot_rl.agents.maskable_policy import SequentialPPO

        self._setup_lr_schedule()
        self.generator, self.scale = generator_from(self.seed), RunningScale()
        with seeded_initialisation(self.seed):
            self._trainer = SequentialPPO(
                self._sequential(self.problem),
                self.problem,
                self.options.policy,
                learning_rate=self.step_size,
                batch_size=self.options.minibatch_size,
                n_epochs=self.options.epochs,
                clip_range=self.options.clip_range,
                gae_lambda=self.options.gae_lambda,
                vf_coef=self.options.value_coefficient,
                max_grad_norm=self.options.max_grad_norm,
            )
        policy: Any = self._trainer.policy
        self.policy = policy

    def _sequential(self, problem: Problem) -> SequentialVecEnv:
        # The empty requests of a recalled problem satisfy no constraints; nobody learns from them.
        played = problem.with_constraints([]) if isinstance(problem, RecalledProblem) else problem
        return SequentialVecEnv(played, self.options.num_envs, seed=self.seed)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Changes the environment, also the sequential one that is learned in."""
        super().set_env(env, force_reset)
        assert self.problem is not None
        self._trainer.play_in(self._sequential(self.problem))

    def update(self) -> dict[str, float]:
        """Plays a batch of answers and has MaskablePPO learn from them."""
        score = self._trainer.play()
        self.scale.update(score)
        with seeded_shuffles(self.generator):
            self._trainer.set_logger(self.logger)
            self._trainer.learn_from(self.scale.standardise(score), self.entropy_coefficient, 1 - self.progress)
        return {"rollout/ep_rew_mean": mean_of(score)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns what every agent keeps, with the state of the sequential environment in place of the other one's."""
        tensors, document = super().state()
        document["gradient_steps"] = self._trainer._n_updates
        return {**tensors, "env": self._trainer.played.state()}, document

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        super().restore(tensors, document)
        self._trainer._n_updates, self._stored_env = document.get("gradient_steps", 0), None
        if "env" in tensors:
            self._trainer.go_on_from(tensors["env"])

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, None]:
        """Answers observations of the one-step environment, one or a batch, as searches do: with :meth:`choose`."""
        return self.choose(observation).numpy(), None


def load_sb3_contrib() -> Any:
    """Returns the package.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import sb3_contrib
    except ModuleNotFoundError as error:
        if error.name != "sb3_contrib":
            raise
        raise ValueError(
            'expected the extra [contrib] for --agent maskable_ppo (pip install "slot_rl[contrib]"), '
            "got no module sb3_contrib"
        ) from error
    return sb3_contrib
