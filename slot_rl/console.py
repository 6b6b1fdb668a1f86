"""What a person sees at the terminal: progress bars, tables, and one clear line for bad input; Markdown tables."""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isnan
from typing import Any
from unicodedata import category

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from slot_rl.problems.guard import BadScore

BAD_INPUT = 2
EXIT_CODES = {"finished": 0, "interrupted": 130, "terminated": 143}
"""By how a command ended: well, after Ctrl-C (SIGINT), after SIGTERM."""

# A notebook is written to like a file: rich's bars there would need ipywidgets, and warn where it is missing.
_TERMINAL = False if "ipykernel" in sys.modules else None
# Text from data is never read as markup.
console = Console(highlight=False, markup=False, emoji=False, force_jupyter=False, force_terminal=_TERMINAL)
_errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False, force_jupyter=False)


def visible(text: str) -> str:
    """Returns a text whose control characters, with which data could steer a terminal, are shown as escapes."""
    return "".join(each if each in "\n\t" or category(each)[0] != "C" else ascii(each)[1:-1] for each in text)


def say(text: str) -> None:
    """Prints one line as it is: not folded, however narrow the terminal is, and without markup."""
    console.print(visible(text), soft_wrap=True)


class _Text(TextColumn):
    """A column of a progress bar with text from data."""

    def render(self, task: Task) -> Text:
        return Text(visible(self.text_format.format(task=task)))


def progress_bar() -> Progress:
    """Returns a progress bar with count, remaining time, and a free text field ``note``; fits into 80 columns."""
    return Progress(
        _Text("{task.description}"),
        BarColumn(bar_width=14),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        _Text("{task.fields[note]}"),
        console=console,
    )


@contextmanager
def fit_progress(total: int, figure: str) -> Iterator[Callable[[int, float | None], None]]:
    """Shows the progress of a fit; gives what reports the steps done and, now and then, the figure."""
    with progress_bar() as progress:
        task = progress.add_task("fitting", total=total, note="")

        def report(done: int, value: float | None) -> None:
            note: dict[str, Any] = {} if value is None else {"note": f"{figure} {value:.4g}"}
            progress.update(task, completed=done, **note)

        yield report


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table; the first column is text, the others are figures.

    In a table that is wider than the terminal, headers and texts of several words break into lines; where that is not
    enough, figures of several words do, too.
    """
    title, columns, rows = visible(title), list(map(visible, columns)), [list(map(visible, row)) for row in rows]
    if breaks := _left_for_text(columns, rows) < max(len(row[0]) for row in (columns, *rows)):
        columns = [columns[0], *(column.replace(" ", "\n") for column in columns[1:])]
    if _left_for_text(columns, rows) < max(map(_longest, (columns[0].split(), *(row[0].split() for row in rows)))):
        rows = [[name, *(figure.replace(" ", "\n") for figure in figures)] for name, *figures in rows]
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=number > 0 or not breaks)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _left_for_text(columns: list[str], rows: list[list[str]]) -> int:
    """Returns how wide the first column may be beside the others."""
    widths = [max(_longest(cell.split("\n")) for cell in cells) for cells in zip(columns, *rows, strict=True)][1:]
    return console.width - sum(widths) - 3 * (1 + len(widths)) - 1


def _longest(parts: Sequence[str]) -> int:
    return max(map(len, parts), default=0)


def print_figures(title: str, figures: Mapping[str, str]) -> None:
    """Prints named figures as a table of two columns."""
    print_table(title, ["", "value"], [[name, value] for name, value in figures.items()])


def share(value: float) -> str:
    """Returns a share with three decimals, without the zero before the point; nothing for NaN."""
    if isnan(value):
        return ""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table whose columns stand in line; the first is text, the others are figures."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(columns), line(rule), *map(line, rows)]


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: files are whole, and there is one line."""


@contextmanager
def once_at(numbers: Sequence[int], handle: Callable[[int], None]) -> Iterator[None]:
    """Handles the first of some signals; after it, and after the block, they do what they did before.

    Signals reach the main thread alone: in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle_once(number: int, frame: object) -> None:
        restore()
        handle(number)

    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, handle_once)
    try:
        yield
    finally:
        restore()


def _terminate(number: int) -> None:
    raise Terminated


def run(main: Callable[[], int | None]) -> int:
    """Runs a command and turns bad input into one line and exit code 2.

    Args:
        main: The command; returns its exit code, or None for success.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # commands leave it to the system while Python imports
    # Two threads on a contended core can turn 0.4 ms into 200 ms, and bit-equal runs need one.
    torch.set_num_threads(1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A letter that the stream's encoding lacks must not end a command.
    try:
        with once_at([signal.SIGTERM], _terminate):
            return main() or 0
    except KeyboardInterrupt as stop:
        how = "terminated" if isinstance(stop, Terminated) else "interrupted"
        _errors.print(how)
        return EXIT_CODES[how]
    except (ValueError, TypeError, OSError, BadScore) as error:
        if os.environ.get("SLOT_RL_DEBUG"):
            raise
        _errors.print(visible(f"error: {error}"))
        return BAD_INPUT
