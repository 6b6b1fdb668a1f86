"""Agents that train the shared policy: what they choose, and what their checkpoints hold."""

from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.agents.options import AgentOptions
from slot_rl.agents.policy import SlotPolicy
from slot_rl.agents.scale import RunningScale
from slot_rl.io import BundleError
from slot_rl.problems import Observation


class PolicyAgent(CheckpointedAgent):
    """An agent whose answer is one pass of its policy.

    Attributes:
        policy: The policy.
        scale: Running statistics of the scores.
    """

    options_type: ClassVar[type[AgentOptions]]
    options: AgentOptions
    policy: SlotPolicy
    scale: RunningScale

    @property
    def update_size(self) -> int:
        """Configurations scored between updates."""
        return self.options.batch_size

    @property
    def policy_parameters(self) -> int:
        """Parameters of the policy network, without the value head."""
        return sum(part.numel() for part in self.policy.network.parameters())

    def choose(self, observation: Observation) -> Tensor:
        """Returns the policy's most probable choice, ``(batch, slots)``."""
        with torch.no_grad():
            return self.policy.point(observation)[0].argmax(dim=-1)

    def generators(self) -> dict[str, torch.Generator]:
        """Returns every generator whose state a continued training needs."""
        return {"policy": self.policy.generator}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns weights, the optimiser's state and the generators' states; and the running statistics."""
        tensors = {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        tensors |= _optimizer_tensors(self.policy.optimizer)
        tensors |= {f"generator.{name}": generator.get_state() for name, generator in self.generators().items()}
        return tensors, {"scale": asdict(self.scale)}

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave; raises :class:`BundleError` if the weights do not fit."""
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
        self.scale = RunningScale(**document["scale"])


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
