"""Publishes a comparison's dashboard on Weights & Biases, or writes down what it would publish."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

import tyro

from slot_rl.compare.dashboard import DashboardConfig, publish_dashboard
from slot_rl.console import run


def main() -> None:
    """Parses the flags and publishes."""
    publish_dashboard(tyro.cli(DashboardConfig, config=(tyro.conf.PositionalRequiredArgs,)))


if __name__ == "__main__":
    sys.exit(run(main))
