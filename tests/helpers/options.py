"""Options of any agent by its name, with changes."""

from typing import Any

from slot_rl.agents import AGENTS
from slot_rl.agents.base import changed
from slot_rl.agents.learning_options import LearningOptions

POLICY_AGENTS = [name for name, kind in AGENTS.items() if isinstance(kind.options, LearningOptions)]
SEARCHES = [name for name in AGENTS if name not in POLICY_AGENTS]


def options_of(name: str, **changes: Any) -> Any:
    return changed(AGENTS[name].options, changes)
