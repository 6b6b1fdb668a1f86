"""Trains an agent on an environment: ``train_agent.py --agent gumbel``; ``--agent NAME --help`` lists its flags.

``--preset`` takes the options that were tuned for the environment as the agent's defaults.
"""

import argparse
import sys
from dataclasses import field, make_dataclass
from typing import Any

import tyro

from slot_rl.agents import AGENTS
from slot_rl.agents.options import Options
from slot_rl.compare.presets import read_presets
from slot_rl.console import run
from slot_rl.training import RunConfig, train


def main() -> int:
    """Reads ``--agent``, parses that agent's flags, and trains."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--agent", choices=sorted(AGENTS), default="gumbel")
    chooser.add_argument("--preset", action="store_true")
    chooser.add_argument("--env", default=RunConfig.env)
    chosen, rest = chooser.parse_known_args()
    tuned = read_presets(chosen.env).options(chosen.agent) if chosen.preset else None
    flags = tyro.cli(
        _flags_of(chosen.agent, tuned or AGENTS[chosen.agent].options_type()),
        args=["--env", chosen.env, *rest],
        prog=f"train_agent.py --agent {chosen.agent}",
        description=f"Trains an agent; --agent is one of {', '.join(sorted(AGENTS))}. "
        "--preset takes the options that were tuned for the environment as the agent's defaults.",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return train(chosen.agent, flags.run, flags.agent)


def _flags_of(agent: str, options: Options) -> Any:
    """Returns a dataclass of the run's flags and the agent's own, with these options as defaults."""
    run_field = ("run", RunConfig, field(default_factory=RunConfig))
    agent_field = ("agent", AGENTS[agent].options_type, field(default_factory=lambda: options))
    return make_dataclass("Flags", [run_field, agent_field], frozen=True)


if __name__ == "__main__":
    sys.exit(run(main))
