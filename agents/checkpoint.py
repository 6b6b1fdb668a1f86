"""Saving and loading agents as bundles of safetensors and JSON, in place of Stable-Baselines3's pickles."""

from abc import abstractmethod
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from slot_rl.agents.options import Options, to_json
from slot_rl.io import BundleError, read_bundle, write_bundle
from slot_rl.problems import Observation

MANIFEST = "manifest.json"
KIND = "agent"

Self = TypeVar("Self", bound="CheckpointedAgent")


def read_agent(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads an agent's checkpoint; raises :class:`BundleError` if it is missing, altered or not one."""
    return read_bundle(folder, KIND, MANIFEST)


class CheckpointedAgent(BaseAlgorithm):
    """An agent that is built as ``Agent(env, options, seed)`` and is saved as safetensors and JSON.

    Attributes:
        name: The agent's name at the command line.
        options: Its flags.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[Options]]
    options: Options

    @property
    def update_size(self) -> int:
        """Configurations scored between updates."""
        return 1

    @property
    def calls_per_context(self) -> int:
        """Forwards that the agent asks of the estimator for each answer; 0 for a policy."""
        return 0

    @property
    def backwards_per_context(self) -> int:
        """Backwards that it asks for each answer."""
        return 0

    @property
    def policy_parameters(self) -> int:
        """Trained numbers that an answer depends on."""
        return 0

    @classmethod
    def own_options(cls, options: Any) -> Any:
        """Returns the options, or the defaults for None; raises TypeError for another agent's, derived ones too."""
        if options is not None and type(options) is not cls.options_type:
            raise TypeError(f"expected {cls.options_type.__name__} for {cls.name!r}, got {type(options).__name__}")
        return cls.options_type() if options is None else options

    def check_timesteps(self, timesteps: int) -> None:
        """Refuses a training that is too short to begin; none is unless overridden.

        Args:
            timesteps: Configurations that a training shall score.

        Raises:
            ValueError: If the training could not begin.
        """

    @abstractmethod
    def choose(self, observation: Observation) -> Tensor:
        """Returns the agent's answer to each request, ``(batch, slots)``; the same requests have the same answers."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns what was learned: tensors by name, and JSON-ready values."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave; raises :class:`BundleError` if it does not fit."""

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Writes a checkpoint folder; never a pickle.

        Args:
            path: The folder; made if missing, an earlier checkpoint in it is replaced atomically.
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
        write_bundle(Path(path), KIND, tensors, document, MANIFEST)

    @classmethod
    def load(cls: type[Self], path: Any, env: GymEnv | None = None, **kwargs: Any) -> Self:  # type: ignore[override]
        """Reads a checkpoint folder.

        Args:
            path: The folder that :meth:`save` wrote.
            env: An environment like the one it was trained in; the network is built from its spaces.
            kwargs: Further arguments of the agent.

        Raises:
            ValueError: If there is no environment, or the folder is no checkpoint of this agent and environment.
        """
        if env is None:
            raise ValueError("expected the environment that the agent was trained in, got none")
        tensors, document = read_agent(Path(path))
        if document.get("agent") != cls.name:
            raise BundleError(f"expected a checkpoint of {cls.name!r} in {path}, got {document.get('agent')!r}")
        try:
            options: Any = options_from_json(document.get("options"), cls.options_type)
        except ValueError as error:
            raise BundleError(f"expected a checkpoint of {cls.name!r} in {path}: {error}") from error
        build: Any = cls  # BaseAlgorithm's own arguments start with a policy class, ours with the environment
        agent: Self = build(env, options, seed=document["seed"], **kwargs)
        agent.restore(tensors, document)
        agent.num_timesteps = int(document["num_timesteps"])
        return agent


def options_from_json(values: Any, kind: type[Options]) -> Options:
    """Returns options from what :func:`to_json` gave, or from a part of it: the rest are the defaults.

    Raises:
        ValueError: If they are no options of this kind, by name or by value.
    """
    try:
        default = kind()
        known = dict(values)
        for name, value in known.items():
            part: Any = getattr(default, name, None)
            if is_dataclass(part) and not isinstance(part, type):
                known[name] = replace(part, **value)
        return kind(**known)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected options of {kind.__name__}, got: {error}") from error
