"""Rebuilds the Weights & Biases run of run folders from their own files; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

import tyro

from slot_rl.console import run
from slot_rl.resyncing import ResyncConfig, resync


def main() -> None:
    """Parses the flags and rebuilds."""
    resync(tyro.cli(ResyncConfig, config=(tyro.conf.PositionalRequiredArgs,)))


if __name__ == "__main__":
    sys.exit(run(main))
