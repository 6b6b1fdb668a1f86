"""What a person sees at the terminal: progress bars, tables, and one clear line for bad input."""

import os
import sys
from collections.abc import Callable, Mapping

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from slot_rl.problems.base import NonFiniteScore

BAD_INPUT = 2
INTERRUPTED = 130

console = Console(highlight=False)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Prints one line as it is: neither folded, however narrow the terminal is or a log file seems, nor marked up."""
    console.print(text, soft_wrap=True, markup=False, emoji=False)


def progress_bar() -> Progress:
    """Returns a progress bar with count, remaining time, and a free text field ``note``; fits into 80 columns."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=14),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_figures(title: str, figures: Mapping[str, str]) -> None:
    """Prints named figures as a table of two columns."""
    print_table(title, ["", "value"], [[name, value] for name, value in figures.items()])


def run(main: Callable[[], int | None]) -> int:
    """Runs a command and turns bad input into one line and exit code 2.

    Args:
        main: The command; returns its exit code, or None for success.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    # Two threads on a contended core can turn 0.4 ms into 200 ms, and bit-equal runs need one.
    torch.set_num_threads(1)
    try:
        return main() or 0
    except KeyboardInterrupt:
        _errors.print("interrupted")
        return INTERRUPTED
    except (ValueError, TypeError, OSError, NonFiniteScore) as error:
        if os.environ.get("SLOT_RL_DEBUG"):
            raise
        _errors.print(f"error: {error}", markup=False, emoji=False)
        return BAD_INPUT


def command_line() -> str:
    """Returns the command as it was typed, for cards and configs."""
    return " ".join(["python", *sys.argv])
