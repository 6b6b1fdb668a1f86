"""What an agent is: built on an environment with typed options, it learns, chooses, and is saved without pickles."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from slot_rl.agents.policy import SlotPolicy
from slot_rl.documents import as_declared
from slot_rl.io import BundleError, as_written, read_bundle, write_bundle
from slot_rl.problems import Observation, Problem
from slot_rl.spelling import unknown

MANIFEST = "manifest.json"
BUNDLE_KIND = "agent"


@dataclass(frozen=True)
class Options:
    """An agent's options, which are its flags at the command line; each agent's file has its own class."""

    @property
    def num_envs(self) -> int:
        """Environments to play at once."""
        return 1


OptionsType = TypeVar("OptionsType", bound=Options)


def changed(options: OptionsType, changes: Mapping[str, Any]) -> OptionsType:
    """Returns options with some fields changed, by name; ``tau`` means the selector's, ``width`` the policy's.

    Raises:
        TypeError: If neither the options nor one of their parts has such a field.
    """
    parts = _parts(options)
    owner = {name: part for part, value in parts.items() for name in _names(value)}
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name in _names(options):
            own[name] = value
        elif name in owner:
            inner.setdefault(owner[name], {})[name] = value
        else:
            raise TypeError(unknown("expected options among", sorted({*_names(options), *owner}), name))
    return replace(options, **own, **{part: replace(parts[part], **values) for part, values in inner.items()})


def to_json(options: Options) -> dict[str, Any]:
    """Returns the options as JSON-ready values; a path becomes its text, a number of numpy's one of Python's."""
    return asdict(options, dict_factory=lambda pairs: {name: _plain(value) for name, value in pairs})


def options_from_json(values: Any, defaults: OptionsType) -> OptionsType:
    """Returns options from what :func:`to_json` gave, or from a part of it; the rest are the defaults.

    Raises:
        ValueError: If they are not options of the defaults' class, by name or by value.
    """
    found: OptionsType = _from_json(values, defaults)
    return found


def _from_json(values: Any, defaults: Any) -> Any:
    what = f"options of {type(defaults).__name__}"
    parts, hints = _parts(defaults), get_type_hints(type(defaults))
    given = as_declared(dict[str, Any], values, what)
    if unknown := given.keys() - {*_names(defaults)}:
        raise BundleError(f"expected {what}, got unknown ones: {', '.join(sorted(unknown))}")
    known = {
        name: _from_json(value, parts[name]) if name in parts else as_declared(hints[name], value, name)
        for name, value in given.items()
    }
    with as_written(what):
        return replace(defaults, **known)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _as_before(options: OptionsType) -> OptionsType:
    """Returns options with their class's defaults: what an earlier checkpoint does not say is as before it could."""
    return replace(options, **{each.name: each.default for each in fields(options) if each.default is not MISSING})


def _names(options: Any) -> list[str]:
    return [field.name for field in fields(options)]


def _parts(options: Options) -> dict[str, Any]:
    return {name: part for name in _names(options) if is_dataclass(part := getattr(options, name))}


class Agent(ABC):
    """An agent: ``Agent(env, options, seed)`` or ``Agent(env, learning_rate=3e-4, tau=0.3)``.

    Attributes:
        name: The agent's name at the command line.
        default_options: Its options if none are given.
        options: Its options.
        problem: The problem behind its environment; None if the environment has none.
        policy: Its policy; None for searches and references.
        seed: Seeds everything random.
        num_timesteps: Estimator calls of its training.
    """

    name: str
    default_options: ClassVar[Options] = Options()
    options: Options
    problem: Problem | None
    policy: SlotPolicy | None = None
    seed: int | None
    num_timesteps: int
    observation_space: gym.spaces.Space[Any]
    device = torch.device("cpu")

    @classmethod
    def own_options(cls, options: Options | None, changes: Mapping[str, Any]) -> Any:
        """Returns the options with the changes, starting from the defaults for None.

        Raises:
            TypeError: If the options are another agent's, also if derived from this one's, or a change is unknown.
        """
        expected = type(cls.default_options)
        if options is not None and type(options) is not expected:
            raise TypeError(f"expected {expected.__name__} for {cls.__name__}, got {type(options).__name__}")
        return changed(cls.default_options if options is None else options, changes)

    @property
    def update_size(self) -> int:
        """Estimator calls between two updates."""
        return 1

    @property
    def remark(self) -> str | None:
        """What a user should know about the training, in a sentence; None if there is nothing."""
        return None

    @property
    def calls_per_context(self) -> int:
        """Estimator calls for each answer; 0 for a policy."""
        return 0

    @property
    def backwards_per_context(self) -> int:
        """Configurations differentiated for each answer."""
        return 0

    @property
    def policy_parameters(self) -> int:
        """Trained parameters that an answer depends on."""
        return 0

    @property
    def answers_by(self) -> str:
        """What answers, as the row of a table is called."""
        return f"agent: {self.name}" if self.policy is None else "policy, one pass"

    @property
    def ranks_starts(self) -> bool:
        """Whether it can rank the starts of its policy without a call."""
        return False

    def starts(self, observation: Observation) -> Iterator[Tensor]:
        """Yields allowed choices ``(batch, slots)`` for a search to go on from, the best first; see the policy's.

        Raises:
            ValueError: If the agent has no policy.
        """
        if self.policy is None:
            raise ValueError(f"expected an agent with a policy, got {self.name}")
        return self.policy.starts(observation)

    def check_timesteps(self, timesteps: int) -> None:  # noqa: B027 (most trainings can always begin)
        """Raises ValueError for a training of so few estimator calls that it cannot begin; none is by default."""

    @abstractmethod
    def learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> Self:
        """Trains with a budget of estimator calls; agents that learn take Stable-Baselines3's further arguments."""

    @abstractmethod
    def answer(self, observation: Observation) -> Tensor:
        """Returns a choice ``(batch, slots)`` for each request; the same requests get the same answers."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns what was learned: tensors by name, and JSON-ready values."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave; raises :class:`BundleError` if it does not fit."""

    def choose(self, observation: Observation | Mapping[str, Any]) -> Tensor:
        """Chooses an item for each slot.

        Args:
            observation: A problem's observation, or an environment's dict of arrays, for one request or for a batch.

        Returns:
            Long tensor of shape ``(batch, slots)``; of shape ``(slots,)`` for a dict that holds a single request.

        Raises:
            TypeError: If it is neither.
        """
        if isinstance(observation, Observation):
            return self.answer(observation)
        if not isinstance(observation, Mapping):
            raise TypeError(f"expected a dict observation, got {type(observation).__name__}")
        spaces: Any = self.observation_space
        single = all(np.ndim(part) == len(spaces[name].shape) for name, part in observation.items())
        arrays = {name: np.asarray(part)[None] if single else np.asarray(part) for name, part in observation.items()}
        choice = self.answer(Observation.of(arrays))
        return choice[0] if single else choice

    @classmethod
    def recalled(cls, tensors: dict[str, Tensor], document: dict[str, Any]) -> Problem:
        """Returns what a checkpoint knows of its problem, for an agent that is loaded without an environment.

        Raises:
            ValueError: If the agent asks the estimator for each answer.
        """
        raise ValueError(f"expected the environment for {document.get('agent')!r}, which has no policy, got none")

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Writes a checkpoint folder of safetensors and JSON, never a pickle.

        Args:
            path: The folder; made if missing. An earlier checkpoint in it is replaced atomically.
            exclude: Refused; a checkpoint is whole.
            include: Refused; a checkpoint is whole.

        Raises:
            ValueError: If something is to be left out or added, or a weight is not finite.
        """
        if exclude or include:
            raise ValueError(f"expected a whole checkpoint, got exclude={exclude!r} and include={include!r}")
        tensors, values = self.state()
        document = {
            "agent": self.name,
            "options": to_json(self.options),
            "seed": self.seed,
            "num_timesteps": self.num_timesteps,
            **values,
        }
        write_bundle(Path(path), BUNDLE_KIND, tensors, document, MANIFEST)

    @classmethod
    def load(cls, path: Any, env: Any = None, defaults: Options | None = None, **kwargs: Any) -> Self:
        """Reads a checkpoint folder.

        Args:
            path: The folder that :meth:`save` wrote.
            env: An environment like the one it was trained in. With None, an agent with a policy answers requests,
                but cannot learn.
            defaults: Options whose classes the saved ones have; the agent's own defaults if None.
            kwargs: Further arguments of the agent.

        Raises:
            ValueError: If the folder is not a checkpoint of this agent and environment, or there is no environment and
                the agent needs one to answer.
        """
        tensors, document = read_agent(Path(path))
        found = document.get("agent")
        wanted = getattr(cls, "name", None)  # a selector's agent is named by its options
        if isinstance(wanted, str) and found != wanted:
            raise BundleError(f"expected a checkpoint of {wanted!r} in {path}, got {found!r}")
        try:
            options: Any = options_from_json(document.get("options"), _as_before(defaults or cls.default_options))
            seed = as_declared(int | None, document.get("seed"), "seed")
            timesteps = as_declared(int, document.get("num_timesteps"), "num_timesteps")
        except ValueError as error:
            raise BundleError(f"expected a checkpoint of {cls.__name__} in {path}: {error}") from error
        if env is None:
            env = cls.recalled(tensors, document)
        build: Any = cls  # Stable-Baselines3's own arguments start with a policy class, ours with the environment
        agent: Self = build(env, options, seed=seed, **kwargs)
        if found != agent.name:
            raise BundleError(f"expected a checkpoint of {agent.name!r} in {path}, got {found!r}")
        with as_written(f"the checkpoint in {path}"):
            agent.restore(tensors, document)
        agent.num_timesteps = timesteps
        return agent


def read_agent(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads an agent's checkpoint; raises :class:`BundleError` if it is missing, altered or not one."""
    return read_bundle(folder, BUNDLE_KIND, MANIFEST)


def problem_of(env: Any) -> Problem | None:
    """Returns the problem behind an environment of gymnasium or Stable-Baselines3; None if there is none."""
    try:
        problem = env.get_attr("problem")[0] if hasattr(env, "get_attr") else env.unwrapped.problem
    except AttributeError:
        return None
    return problem if isinstance(problem, Problem) else None


def needed_problem(env: Any, agent: str) -> Problem:
    """Returns the problem behind an environment, for an agent that asks its estimator.

    Raises:
        ValueError: If there is none.
    """
    problem = problem_of(env)
    if problem is None:
        raise ValueError(
            f"expected an environment with an estimator to ask for {agent!r} (its attribute `problem`), got one "
            "without; reinforce, ppo and learned_critic learn from rewards alone"
        )
    return problem
