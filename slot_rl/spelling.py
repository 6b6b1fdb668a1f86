"""Names that are not known: the message lists those that are, and suggests the nearest one."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: object, known: Iterable[str]) -> str:
    """Returns ``; did you mean 'x'?`` with the known name that is most like a name; nothing if none is like it."""
    folded = {each.casefold(): each for each in known}
    found = get_close_matches(str(name).casefold(), folded, n=1)
    return f"; did you mean {folded[found[0]]!r}?" if found else ""


def missing_column(name: str, columns: Iterable[object], path: object) -> str:
    """Returns the message for a column that a file does not have."""
    names = list(map(str, columns))
    return f"expected a column {name!r} in {path}, got {', '.join(map(repr, names)) or 'none'}{nearest(name, names)}"


def unknown(expected: str, known: Iterable[str], name: object) -> str:
    """Returns the message for a name that is not among the known ones: ``expected one of a, b, got 'c'; ...``.

    Args:
        expected: What goes before the known names, such as "expected one of".
        known: The known names.
        name: The name that is not known.
    """
    names = list(known)
    return f"{expected} {', '.join(names)}, got {name!r}{nearest(name, names)}"
