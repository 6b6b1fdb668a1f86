"""Collects the lines of the table that ``make faults`` prints."""

import re
from collections.abc import Callable

import pytest

from slot_rl.console import print_table

LINE = "promise and figure"
Promise = Callable[[str, str], None]


@pytest.fixture
def promise(record_property: Callable[[str, object], None]) -> Promise:
    """Returns ``promise(what, figure)``: call it before the assertions, so that a broken promise is in the table.

    The numbers in the figures of several tests with the same promise are added up.
    """

    def line(what: str, figure: str) -> None:
        record_property(LINE, (what, figure))

    return line


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was promised, the figure, and whether it held."""
    lines: dict[str, list[str]] = {}
    for outcome, holds in (("passed", "yes"), ("failed", "NO")):
        for report in terminalreporter.getreports(outcome):
            for what, figure in (value for name, value in report.user_properties if name == LINE):
                before = lines[what][1] if what in lines else ""
                lines[what] = [what, added(before, figure) if before else figure, holds]
    if lines:
        terminalreporter.ensure_newline()
        print_table("faults", ["promise", "figure", "holds"], [lines[what] for what in sorted(lines)])


def added(first: str, second: str) -> str:
    """Returns a figure whose whole numbers are the sums of those of two."""
    numbers = iter(re.findall(r"\d+", first))
    return re.sub(r"\d+", lambda found: str(int(found[0]) + int(next(numbers))), second)
