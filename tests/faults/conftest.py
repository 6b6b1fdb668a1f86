"""Collects the lines of the table that ``make faults`` prints."""

from collections.abc import Callable

import pytest

from slot_rl.console import print_table

LINE = "promise and figure"
Promise = Callable[[str, str], None]


@pytest.fixture
def promise(record_property: Callable[[str, object], None]) -> Promise:
    """Returns ``promise(what, figure)``: call it before the assertions, so that a broken promise is in the table."""

    def line(what: str, figure: str) -> None:
        record_property(LINE, (what, figure))

    return line


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was promised, the figure, and whether it held."""
    lines = []
    for outcome, holds in (("passed", "yes"), ("failed", "NO")):
        for report in terminalreporter.getreports(outcome):
            lines += [[*value, holds] for name, value in report.user_properties if name == LINE]
    if lines:
        terminalreporter.ensure_newline()
        print_table("faults", ["promise", "figure", "holds"], lines)
