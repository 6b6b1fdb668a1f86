"""Saving and loading agents as bundles of safetensors and JSON, in place of Stable-Baselines3's pickles."""

from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from slot_rl.agents.options import AgentOptions
from slot_rl.agents.policy import SlotPolicy
from slot_rl.agents.scale import RunningScale
from slot_rl.bundles import BundleError, read_bundle, write_bundle
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
        scale: Running statistics of the scores.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[AgentOptions]]
    options: AgentOptions
    policy: SlotPolicy
    scale: RunningScale

    def choose(self, observation: Observation) -> Tensor:
        """Returns the agent's answer to each request, ``(batch, slots)``: the policy's most probable choice."""
        with torch.no_grad():
            return self.policy.point(observation)[0].argmax(dim=-1)

    @property
    def update_size(self) -> int:
        """Configurations scored between updates."""
        return self.options.batch_size

    @classmethod
    def own_options(cls, options: Any) -> Any:
        """Returns the options, or the defaults for None; raises TypeError for another agent's."""
        if options is not None and not isinstance(options, cls.options_type):
            raise TypeError(f"expected {cls.options_type.__name__} for {cls.name!r}, got {type(options).__name__}")
        return cls.options_type() if options is None else options

    def generators(self) -> dict[str, torch.Generator]:
        """Returns every generator whose state a continued training needs."""
        return {"policy": self.policy.generator}

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
        tensors = {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        tensors |= _optimizer_tensors(self.policy.optimizer)
        tensors |= {f"generator.{name}": generator.get_state() for name, generator in self.generators().items()}
        document = {
            "agent": self.name,
            "options": asdict(self.options),
            "seed": self.seed,
            "num_timesteps": self.num_timesteps,
            "scale": asdict(self.scale),
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
        options: Any = _options(document, cls.options_type)
        build: Any = cls  # BaseAlgorithm's own arguments start with a policy class, ours with the environment
        agent: Self = build(env, options, seed=document["seed"], **kwargs)
        agent._restore(tensors, document)
        return agent

    def _restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        weights = {name[len("policy.") :]: value for name, value in tensors.items() if name.startswith("policy.")}
        try:
            self.policy.load_state_dict(weights)
        except RuntimeError as error:
            raise BundleError(
                "expected a checkpoint of an agent for this environment, got one whose weights do not fit: "
                + " ".join(str(error).split())[:300]
            ) from error
        _restore_optimizer(self.policy.optimizer, tensors)
        for name, generator in self.generators().items():
            generator.set_state(tensors[f"generator.{name}"])
        self.num_timesteps = int(document["num_timesteps"])
        self.scale = RunningScale(**document["scale"])


def _options(document: dict[str, Any], kind: type[AgentOptions]) -> AgentOptions:
    try:
        values = dict(document["options"])
        default = kind()
        for name, value in values.items():
            part: Any = getattr(default, name, None)
            if is_dataclass(part) and not isinstance(part, type):
                values[name] = replace(part, **value)
        return kind(**values)
    except (KeyError, TypeError) as error:
        raise BundleError(f"expected options of {kind.__name__} in the manifest, got: {error}") from error


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, entry in state.items() for name, value in entry.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
