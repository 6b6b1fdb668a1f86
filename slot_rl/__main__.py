"""``python -m slot_rl``: the ``slot-rl`` command."""

import sys

from slot_rl.cli.entry import slot_rl_command

if __name__ == "__main__":
    sys.exit(slot_rl_command())
