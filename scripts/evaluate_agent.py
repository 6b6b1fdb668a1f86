"""Loads a trained agent from its run folder and prints how good it is; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

import tyro

from slot_rl.console import run
from slot_rl.reevaluation import ReevaluationConfig, reevaluate


def main() -> None:
    """Parses the flags and evaluates."""
    reevaluate(tyro.cli(ReevaluationConfig, config=(tyro.conf.PositionalRequiredArgs,)))


if __name__ == "__main__":
    sys.exit(run(main))
