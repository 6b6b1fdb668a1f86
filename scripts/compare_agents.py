"""Compares agents: ``compare_agents.py --agents gumbel ppo --env SlotRL/Slots-v0 --out DIR``; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

import tyro

from slot_rl.compare.command import CompareConfig, run_comparison
from slot_rl.console import run


def main() -> int:
    """Parses the flags and compares."""
    return run_comparison(tyro.cli(CompareConfig, description=__doc__, config=(tyro.conf.OmitArgPrefixes,)))


if __name__ == "__main__":
    sys.exit(run(main))
