"""``python -m slot_rl``: the ``slot-rl`` command."""

import sys

from slot_rl.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
