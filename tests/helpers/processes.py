"""Looks for processes below one, as Linux lists them."""

from pathlib import Path


def descendants(process: int) -> dict[int, str]:
    """Returns the number and the name of every process below one."""
    parents, names = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            start, _, rest = status.read_text().rpartition(")")
        except OSError:  # it has ended meanwhile
            continue
        number, _, name = start.partition(" (")
        names[int(number)], parents[int(number)] = name, int(rest.split()[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {number: names[number] for number in found - {process}}


def runs(process: int) -> bool:
    """Returns whether a process has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
