"""Where a command begins: it is found by its name, and its errors become one line."""

import sys
from collections.abc import Sequence
from functools import partial

from slot_rl import __version__
from slot_rl.cli.commands import COMMANDS
from slot_rl.cli.parsing import listed
from slot_rl.spelling import unknown

UNKNOWN_COMMAND = 2
FIRST_TRY = (
    "pretrain --table example:suzuki --score yield --context electrophile nucleophile --out estimator",
    "train --agent expert_iteration --env SlotRL/Rows-v0 --estimator estimator --timesteps 20000 --out run",
    "recommend run --requests example:suzuki-requests --out answers.csv",
)


def slot_rl_command(arguments: Sequence[str] | None = None) -> int:
    """Runs ``slot-rl COMMAND FLAGS``.

    Args:
        arguments: What was typed after ``slot-rl``; ``sys.argv`` if None.

    Returns:
        The exit code; see :func:`slot_rl.console.run`.
    """
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name == "--version":
        print(__version__)
        return 0
    if name in ("--help", "-h"):
        print(_help())
        return 0
    if name not in COMMANDS:
        print(f"error: {unknown('expected a command of slot-rl,', COMMANDS, name)}", file=sys.stderr)
        return UNKNOWN_COMMAND
    return run_command(name, f"slot-rl {name}", rest)


def run_command(name: str, prog: str, arguments: Sequence[str]) -> int:
    """Runs a command by its name.

    Args:
        name: One of ``COMMANDS``.
        prog: How the help names it.
        arguments: Its flags.

    Returns:
        The exit code; see :func:`slot_rl.console.run`.
    """
    from slot_rl.console import run  # loads torch, which --help needs not

    return run(partial(COMMANDS[name].call, prog, arguments))


def _help() -> str:
    return "\n".join(
        [
            "usage: slot-rl COMMAND [FLAGS]",
            "",
            "Trains policies that name a high-scoring configuration of a frozen estimator in one forward pass.",
            "",
            *listed({name: command.summary for name, command in COMMANDS.items()}),
            "",
            "slot-rl COMMAND --help lists a command's flags. A first try, which needs no file:",
            "",
            *(f"  slot-rl {line}" for line in FIRST_TRY),
        ]
    )
