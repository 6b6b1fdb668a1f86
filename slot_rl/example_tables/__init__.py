"""Tables that come with the package: ``example:suzuki`` at the command line, ``example("suzuki")`` in Python.

Each has a card, ``<name>.md``, with its source and licence.
"""

import re
from pathlib import Path

from slot_rl.spelling import unknown

FOLDER = Path(__file__).parent
PREFIX = "example:"


def example(name: str) -> Path:
    """Returns the file of a table that comes with the package.

    Args:
        name: For example "suzuki", or "suzuki-requests" for requests to a policy that was trained on it.

    Raises:
        ValueError: If there is no such table.
    """
    known = {path.stem: path for path in sorted(FOLDER.glob("*.csv"))}
    if name not in known:
        raise ValueError(unknown("expected an example table, one of", known, name))
    return known[name]


def with_examples(word: str) -> str:
    """Returns a word of a command line with the file in place of ``example:NAME``, also behind an equals sign.

    Raises:
        ValueError: If there is no such table.
    """
    return re.sub(rf"(^|=){PREFIX}([^,]*)", lambda found: f"{found[1]}{example(found[2])}", word)
