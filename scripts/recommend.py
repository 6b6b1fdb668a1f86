"""Writes what a trained agent recommends for a file of requests; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

import tyro

from slot_rl.console import run
from slot_rl.recommending import RecommendConfig, recommend


def main() -> None:
    """Parses the flags and recommends."""
    recommend(tyro.cli(RecommendConfig))


if __name__ == "__main__":
    sys.exit(run(main))
