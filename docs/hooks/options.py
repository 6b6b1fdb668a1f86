"""The table of an agent's options, made of its options class while the site is built.

A page asks for it with `<!-- options: gumbel -->`, so no default is written down twice.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from griffe import Docstring, DocstringSectionAttributes

from slot_rl.agents import AGENTS

MARK = re.compile(r"^<!-- options: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Puts the tables where a page asks for them."""
    return MARK.sub(lambda mark: table(mark[1]), markdown)


def table(agent: str) -> str:
    """Returns an agent's options, their defaults and meanings, as a table of Markdown.

    Raises:
        KeyError: If there is no such agent.
    """
    rows = [
        f"| `--{name.replace('_', '-')}` | `{default}` | {text} |"
        for name, default, text in options(AGENTS[agent].options)
    ]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows]) if rows else "It has no options."


def options(value: Any) -> Iterator[tuple[str, str, str]]:
    """Yields name, default and meaning of each option; those of a selector and of the policy are flags of their own."""
    meanings = described(type(value))
    for field in fields(value):
        default = getattr(value, field.name)
        if is_dataclass(default):
            yield from options(default)
        else:
            yield field.name, f"{default:.4g}" if isinstance(default, float) else str(default), meanings[field.name]


def described(kind: type) -> dict[str, str]:
    """Returns what the docstrings of a class and of its bases say about attributes."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        for section in Docstring(inspect.cleandoc(base.__doc__ or ""), parser="google").parsed:
            if isinstance(section, DocstringSectionAttributes):
                meanings |= {entry.name: " ".join(entry.description.split()) for entry in section.value}
    return meanings
