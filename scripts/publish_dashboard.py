"""Publishes a comparison's dashboard, as ``slot-rl dashboard`` does; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

from slot_rl.cli.entry import run_command

if __name__ == "__main__":
    sys.exit(run_command("dashboard", "publish_dashboard.py", sys.argv[1:]))
