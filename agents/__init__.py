"""Agents: everything that answers requests, by its name in one registry."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slot_rl.agents.a2c import A2CAgent
from slot_rl.agents.aligned import AlignedAgent
from slot_rl.agents.base import MANIFEST, Agent, Options, read_agent
from slot_rl.agents.best_seen import BestSeenAgent
from slot_rl.agents.expert_iteration import ExpertIterationAgent
from slot_rl.agents.learned_critic import LearnedCriticAgent
from slot_rl.agents.maskable_ppo import MaskablePPOAgent
from slot_rl.agents.multistart import MultistartAgent
from slot_rl.agents.nevergrad import NevergradAgent
from slot_rl.agents.policy import SlotPolicy
from slot_rl.agents.ppo import PPOAgent
from slot_rl.agents.reinforce import ReinforceAgent
from slot_rl.agents.reproduction import ReproductionAgent
from slot_rl.agents.sb3 import LearningAgent
from slot_rl.agents.searches import (
    BestConstantAgent,
    CrossEntropyAgent,
    ExhaustiveSearchAgent,
    GeneticAgent,
    GuidedSearchAgent,
    LocalSearchAgent,
    MeanFieldAgent,
    MultiSwapAgent,
    RandomAgent,
)
from slot_rl.agents.selector_agent import SELECTOR_AGENTS, GumbelAgent, SelectorAgent
from slot_rl.problems import Problem
from slot_rl.seeding import Seed


@dataclass(frozen=True)
class AgentKind:
    """An entry of the registry.

    Attributes:
        build: The agent's class.
        options: Its default options.
    """

    build: Any
    options: Options

    def __call__(self, env: Any, options: Options | None = None, seed: Seed = 0, **changes: Any) -> Agent:
        """Builds the agent; arguments and errors are those of its class.

        Raises:
            TypeError: If the options are another agent's.
        """
        given = self.options if options is None else options
        # A selector's agent is known by its selector.
        default = getattr(self.options, "selector", None)
        selector = changes.get("selector", getattr(given, "selector", None))
        if default is not None and type(selector) is not type(default):
            raise TypeError(f"expected options with a {type(default).__name__} selector, got {changes or given}")
        agent: Agent = self.build(env, given, seed=seed, **changes)
        return agent


def _kind(agent: Any) -> AgentKind:
    return AgentKind(agent, agent.default_options)


AGENTS: dict[str, AgentKind] = {
    **{name: AgentKind(*entry) for name, entry in SELECTOR_AGENTS.items()},
    "reinforce": _kind(ReinforceAgent),
    "ppo": _kind(PPOAgent),
    "a2c": _kind(A2CAgent),
    "maskable_ppo": _kind(MaskablePPOAgent),
    "learned_critic": _kind(LearnedCriticAgent),
    "multistart": _kind(MultistartAgent),
    "expert_iteration": _kind(ExpertIterationAgent),
    "reproduction": _kind(ReproductionAgent),
    "aligned": _kind(AlignedAgent),
    "random": _kind(RandomAgent),
    "best_constant": _kind(BestConstantAgent),
    "best_seen": _kind(BestSeenAgent),
    "local_search": _kind(LocalSearchAgent),
    "guided_search": _kind(GuidedSearchAgent),
    "multi_swap": _kind(MultiSwapAgent),
    "mean_field": _kind(MeanFieldAgent),
    "genetic": _kind(GeneticAgent),
    "cross_entropy": _kind(CrossEntropyAgent),
    "nevergrad": _kind(NevergradAgent),
    "exhaustive_search": _kind(ExhaustiveSearchAgent),
}
"""Every agent, by its name at the command line."""

__all__ = [
    "AGENTS",
    "A2CAgent",
    "Agent",
    "AgentKind",
    "AlignedAgent",
    "BestConstantAgent",
    "BestSeenAgent",
    "CrossEntropyAgent",
    "ExhaustiveSearchAgent",
    "ExpertIterationAgent",
    "GeneticAgent",
    "GuidedSearchAgent",
    "GumbelAgent",
    "LearnedCriticAgent",
    "LearningAgent",
    "LocalSearchAgent",
    "MaskablePPOAgent",
    "MeanFieldAgent",
    "MultiSwapAgent",
    "MultistartAgent",
    "NevergradAgent",
    "Options",
    "PPOAgent",
    "RandomAgent",
    "ReinforceAgent",
    "ReproductionAgent",
    "SelectorAgent",
    "SlotPolicy",
    "load_agent",
    "make_agent",
]


def make_agent(name: str, problem: Problem, options: Options | None = None, seed: int = 0) -> Agent:
    """Builds an agent by its name in :data:`AGENTS`, in an environment of its own.

    Raises:
        TypeError: If the options are another agent's.
        ValueError: If the agent does not fit the problem.
    """
    return AGENTS[name](problem, options, seed)


def load_agent(folder: Path | str, env: Any = None, **kwargs: Any) -> Agent:
    """Reads a checkpoint of any agent; without an environment, one with a policy answers but cannot learn.

    Raises:
        ValueError: If the folder is not a checkpoint, or not one for this environment.
    """
    _, document = read_agent(Path(folder))
    name = document.get("agent")
    if name not in AGENTS:
        raise ValueError(f"expected a checkpoint of one of {', '.join(AGENTS)} in {folder}/{MANIFEST}, got {name!r}")
    agent: Agent = AGENTS[name].build.load(folder, env, AGENTS[name].options, **kwargs)
    return agent
