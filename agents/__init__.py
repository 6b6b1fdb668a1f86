"""Floor 3: agents, Stable-Baselines3 algorithms that share one policy and one checkpoint format."""

from pathlib import Path
from typing import Any

from stable_baselines3.common.type_aliases import GymEnv

from slot_rl.agents.a2c import A2CAgent
from slot_rl.agents.aligned import AlignedAgent
from slot_rl.agents.checkpoint import MANIFEST, CheckpointedAgent, read_agent
from slot_rl.agents.expert_iteration import ExpertIterationAgent
from slot_rl.agents.policy import SlotPolicy
from slot_rl.agents.policy_agent import PolicyAgent
from slot_rl.agents.ppo import PPOAgent
from slot_rl.agents.reference_agent import ReferenceAgent
from slot_rl.agents.references import REFERENCES
from slot_rl.agents.reinforce import ReinforceAgent
from slot_rl.agents.reproduction import ReproductionAgent
from slot_rl.agents.through_estimator import THROUGH_ESTIMATOR, GumbelAgent, ThroughEstimatorAgent

POLICY_AGENTS: dict[str, type[PolicyAgent]] = {
    **THROUGH_ESTIMATOR,
    "reinforce": ReinforceAgent,
    "ppo": PPOAgent,
    "a2c": A2CAgent,
    "expert_iteration": ExpertIterationAgent,
    "reproduction": ReproductionAgent,
    "aligned": AlignedAgent,
}
"""The agents that train a policy."""

AGENTS: dict[str, type[CheckpointedAgent]] = {**POLICY_AGENTS, **REFERENCES}
"""Every agent, by its name at the command line."""

__all__ = [
    "AGENTS",
    "POLICY_AGENTS",
    "REFERENCES",
    "A2CAgent",
    "AlignedAgent",
    "CheckpointedAgent",
    "GumbelAgent",
    "PPOAgent",
    "PolicyAgent",
    "ReferenceAgent",
    "ReinforceAgent",
    "ReproductionAgent",
    "SlotPolicy",
    "ThroughEstimatorAgent",
    "load_agent",
]


def load_agent(folder: Path | str, env: GymEnv, **kwargs: Any) -> CheckpointedAgent:
    """Reads a checkpoint of whichever agent wrote it.

    Raises:
        ValueError: If the folder is no checkpoint, or not one for this environment.
    """
    _, document = read_agent(Path(folder))
    name = document.get("agent")
    if name not in AGENTS:
        raise ValueError(f"expected a checkpoint of one of {', '.join(AGENTS)} in {folder}/{MANIFEST}, got {name!r}")
    return AGENTS[name].load(folder, env, **kwargs)
