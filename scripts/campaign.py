"""Proposes which rows of a table to measure next, round by round; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

import tyro

from slot_rl.campaign_command import CampaignConfig, run_campaign
from slot_rl.console import run


def main() -> None:
    """Parses the flags and proposes."""
    run_campaign(tyro.cli(CampaignConfig, config=(tyro.conf.OmitArgPrefixes,)))


if __name__ == "__main__":
    sys.exit(run(main))
