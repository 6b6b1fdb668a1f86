"""Measures every selector's gradient on a problem and recommends one; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

import tyro

from slot_rl.console import run
from slot_rl.diagnosis import DiagnosisConfig, diagnose


def main() -> None:
    """Parses the flags and diagnoses."""
    diagnose(tyro.cli(DiagnosisConfig, config=(tyro.conf.OmitArgPrefixes,)))


if __name__ == "__main__":
    sys.exit(run(main))
