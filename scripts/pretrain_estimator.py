"""Fits an estimator on a table or on a synthetic ground truth; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

import tyro

from slot_rl.console import run
from slot_rl.pretraining import PretrainConfig, pretrain


def main() -> None:
    """Parses the flags and pretrains."""
    config = tyro.cli(PretrainConfig, config=(tyro.conf.OmitArgPrefixes,))
    pretrain(config)


if __name__ == "__main__":
    sys.exit(run(main))
