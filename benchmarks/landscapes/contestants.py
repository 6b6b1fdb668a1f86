"""Who competes: agents with their defaults, one set for all landscapes, and the references that they have to beat."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slot_rl.agents import AGENTS
from slot_rl.agents.base import Options, changed
from slot_rl.agents.logged import LoggedOptions


@dataclass(frozen=True)
class Contestant:
    """An agent with its defaults but for what is named here.

    Attributes:
        name: Its name in the table.
        agent: The agent's name; None for the estimator's exhaustive optimum, which no agent is.
        changes: Options that differ from the defaults.
    """

    name: str
    agent: str | None
    changes: tuple[tuple[str, Any], ...] = ()

    def options(self, logged: Path, **changes: Any) -> Options:
        """Returns the agent's options.

        Args:
            logged: Rows to imitate, for agents that do.
            changes: Further options that differ.
        """
        assert self.agent is not None
        defaults = AGENTS[self.agent].options
        rows = {"logged": logged} if isinstance(defaults, LoggedOptions) else {}
        return changed(defaults, {**dict(self.changes), **rows, **changes})


def _searching(agent: str, calls: int) -> Contestant:
    return Contestant(f"{agent}_{calls}", agent, (("calls_per_context", calls),))


ARGMAX = "estimator_argmax"
IMITATE, GUMBEL, RLOO, COLLAPSED = "expert_iteration", "gumbel", "rloo", "gumbel_no_entropy"
GUIDED, LOCAL = "guided_search_400", "local_search_400"

CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(IMITATE, "expert_iteration"),
        Contestant(GUMBEL, "gumbel"),
        Contestant(RLOO, "rloo"),
        Contestant("straight_through", "straight_through"),
        Contestant("reinforce", "reinforce"),
        Contestant("ppo", "ppo"),
        Contestant("reproduction", "reproduction"),
        Contestant("aligned", "aligned"),
        Contestant(COLLAPSED, "gumbel", (("entropy", 0.0),)),
        Contestant("random", "random"),
        Contestant("best_constant", "best_constant"),
        _searching("guided_search", 31),
        _searching("guided_search", 400),
        _searching("local_search", 31),
        _searching("local_search", 400),
        Contestant(ARGMAX, None),
    )
}
