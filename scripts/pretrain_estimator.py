"""Fits an estimator, as ``slot-rl pretrain`` does; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys

from slot_rl.cli.entry import run_command

if __name__ == "__main__":
    sys.exit(run_command("pretrain", "pretrain_estimator.py", sys.argv[1:]))
