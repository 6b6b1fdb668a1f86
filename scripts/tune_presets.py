"""Tunes an environment's presets: ``tune_presets.py --presets FOLDER --env ID --out DIR``; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

import tyro

from slot_rl.compare.tuning import TuneConfig, tune
from slot_rl.console import run


def main() -> None:
    """Parses the flags and tunes."""
    tune(tyro.cli(TuneConfig, description=__doc__, config=(tyro.conf.OmitArgPrefixes,)))


if __name__ == "__main__":
    sys.exit(run(main))
