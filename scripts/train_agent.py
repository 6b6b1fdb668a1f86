"""Trains an agent on an environment: ``train_agent.py --agent gumbel``; ``--agent NAME --help`` lists its flags."""

import argparse
import sys
from dataclasses import field, make_dataclass
from typing import Any

import tyro

from slot_rl.agents import AGENTS
from slot_rl.experiments.console import run
from slot_rl.experiments.training import RunConfig, train


def main() -> int:
    """Reads ``--agent``, parses that agent's flags, and trains."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--agent", choices=sorted(AGENTS), default="gumbel")
    chosen, rest = chooser.parse_known_args()
    flags = tyro.cli(
        _flags_of(chosen.agent),
        args=rest,
        prog=f"train_agent.py --agent {chosen.agent}",
        description=f"Trains an agent; --agent is one of {', '.join(sorted(AGENTS))}.",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return train(chosen.agent, flags.run, flags.agent)


def _flags_of(agent: str) -> Any:
    """Returns a dataclass of the run's flags and the agent's own."""
    options = AGENTS[agent].options_type
    run_field = ("run", RunConfig, field(default_factory=RunConfig))
    return make_dataclass("Flags", [run_field, ("agent", options, field(default_factory=options))], frozen=True)


if __name__ == "__main__":
    sys.exit(run(main))
