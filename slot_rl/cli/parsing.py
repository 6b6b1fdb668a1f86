"""Flags as dataclasses by tyro, whose errors become one line in the style of all others."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from typing import Any, TypeVar

import tyro

from slot_rl.example_tables import with_examples
from slot_rl.spelling import nearest, unknown

Parsed = TypeVar("Parsed")


def _left_to_tyro(hook: Callable[[Any], None]) -> AbstractContextManager[None]:
    return nullcontext()


try:
    from tyro._errors import on_parse_error
except ImportError:  # an earlier or a later tyro: its errors are shown in its own style
    on_parse_error = _left_to_tyro  # type: ignore[assignment]


def parse(kind: Callable[..., Parsed], prog: str, arguments: Sequence[str], *markers: Any, **further: Any) -> Parsed:
    """Returns the flags of a command.

    Args:
        kind: A dataclass whose fields are the flags.
        prog: The command, as the help names it.
        arguments: What was typed after it; ``example:NAME`` stands for a table that comes with the package.
        markers: Tyro's markers.
        further: Tyro's further arguments.

    Raises:
        ValueError: If a flag is unknown, missing, or has a value of no use.
    """

    def call(typed: Sequence[str]) -> Parsed:
        parsed: Parsed = tyro.cli(kind, prog=prog, args=[*map(with_examples, typed)], config=markers, **further)
        return parsed

    def refuse(event: Any) -> None:
        message = _message(event, prog, lambda: _flags(call))
        if message is not None:
            raise ValueError(message)

    with on_parse_error(refuse):
        return call(arguments)


def listed(summaries: Mapping[str, str]) -> list[str]:
    """Returns a line for each command: its name and what it is for."""
    width = max(map(len, summaries))
    return [f"  {name.ljust(width)}  {summary}" for name, summary in summaries.items()]


def parse_one_of(kinds: Mapping[str, type[Any]], prog: str, arguments: Sequence[str], *markers: Any) -> Any:
    """Returns the flags of one of several commands, which is named first; arguments as of :func:`parse`.

    Raises:
        SystemExit: After the list of commands, which ``--help`` and no word at all show.
        ValueError: If the command is unknown, or as :func:`parse` says.
    """
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        lines = listed({each: (kind.__doc__ or "").splitlines()[0] for each, kind in kinds.items()})
        print("\n".join([f"usage: {prog} NAME [FLAGS]", "", *lines, "", f"{prog} NAME --help lists its flags."]))
        raise SystemExit(0)
    if name not in kinds:
        raise ValueError(unknown(f"expected a name after {prog},", kinds, name))
    return parse(kinds[name], f"{prog} {name}", rest, *markers)


def _message(event: Any, prog: str, flags: Callable[[], Sequence[str]]) -> str | None:
    """Returns what is wrong with what was typed, in a line; None for what tyro says itself."""
    kind, argument = type(event).__name__, getattr(event, "argument", None)
    tokens = getattr(event, "tokens", None) or getattr(event, "unrecognized_tokens", None)
    if tokens:
        names = [token for token in tokens if token.startswith("-")]
        if not names:
            return f"expected no further word after the flags of {prog}, got {' '.join(tokens)}"
        return f"expected flags of {prog} (--help lists them), got {', '.join(names)}{nearest(names[0], flags())}"
    if kind == "MissingArgs":
        return f"expected {', '.join(_typed(each.arg) for each in event.missing_arguments)} for {prog}, got none"
    if kind == "InvalidChoice":
        return unknown(f"expected {_name(argument)} to be one of", sorted({*event.choices} - {"None"}), event.value)
    if kind == "InstantiationFailure":
        return str(event.message) if argument is None else f"expected {_typed(argument)}: {event.message}"
    if kind == "BadValue" and event.reason == "too_few_values":
        return f"expected {_typed(argument)}, got no value"
    return None


def _name(argument: Any) -> str:
    return str(argument.lowered.metavar) if argument.is_positional() else str(argument.lowered.name_or_flags[0])


def _typed(argument: Any) -> str:
    """Returns a flag with the kind of value that it takes."""
    kind = "" if argument.is_positional() else str(argument.lowered.metavar or "").removeprefix("{None}|")
    return f"{_name(argument)} {kind}".strip()


def _flags(call: Callable[[Sequence[str]], object]) -> list[str]:
    """Returns the flags that the help lists."""
    shown = io.StringIO()
    with redirect_stdout(shown), suppress(SystemExit):
        call(["--help"])
    return sorted(set(re.findall(r"--[a-z][a-z0-9-]*", shown.getvalue())))
