"""How an agent is drawn: one colour, dash and marker for each name, the same in every picture of every command.

A look depends on the name alone, so it is the same whoever else is in the picture. Every agent of the registry has a
look that was chosen by hand: selectors differ from each other in colour, and so do agents that are often compared.
Learners have solid lines, searches dashed ones, most selectors dotted ones. No two of them share colour and dash, or
colour and marker, so colour-blind readers can tell them apart, too. Other names get a look from a hash.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any
from zlib import crc32

COLOURS = """#3f90da #bd1f01 #ffa90e #2a7f3f #832db6 #e377c2 #b9ac70 #92dadd #a96b59 #e76300 #1b2a6b #94a4a2
#717581""".split()
"""Petroff's ten colours (arXiv:2107.02270), which colour-blind readers can tell apart, with green, pink and navy."""
GREYS = 2
"""How many of them, at the end, are greys: for references."""

MARKERS = "os^Dv<>PX*phd"
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))

VARIANTS = (len(DASHES) - 1) * (len(MARKERS) - 1)

CHOSEN = (
    "gumbel multistart ppo reinforce expert_iteration learned_critic a2c aligned reproduction maskable_ppo "
    "straight_through random best_constant",
    "- - - nevergrad - cross_entropy local genetic multi_swap mean_field guided best_seen exhaustive",
    "- rloo reinmax - gumbel_rao screened_expectation gapped softmax intermediate_loss local_expectation - rebar exact",
)
"""Who has which colour (the place in the line) and which dash (the line); a hyphen is nobody."""


@dataclass(frozen=True)
class Look:
    """How a name is drawn: matplotlib's colour, line style and marker."""

    colour: str
    dash: Any
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """The settings of a line without markers."""
        return {"color": self.colour, "linestyle": self.dash}

    @property
    def marked(self) -> dict[str, Any]:
        """The settings of a line with markers."""
        return self.line | {"marker": self.marker}


def look_of(name: str) -> Look:
    """Returns the look of a name.

    ``guided_search``, ``guided search`` and ``guided-search`` are one name. What follows a comma or a plus sign names a
    variant, as in "gumbel, tau .3" or "gumbel + 31 calls": it keeps the agent's colour.
    """
    agent = name.replace(" + ", ", ").partition(", ")[0]
    plain = _KNOWN.get(_key(agent))
    if plain is None:
        hashed = crc32(_key(agent).encode())
        plain = Look(COLOURS[hashed % (len(COLOURS) - GREYS)], DASHES[3], MARKERS[hashed // 16 % len(MARKERS)])
    return plain if agent == name else variant(plain, crc32(name.encode()))


def variant(look: Look, number: int) -> Look:
    """Returns a look of the same colour; numbers below :data:`VARIANTS` give as many looks."""
    others = [
        (dash, marker) for marker, dash in product(MARKERS, DASHES) if dash != look.dash and marker != look.marker
    ]
    return Look(look.colour, *others[number % len(others)])


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """Returns the looks of names in one picture: of two with one colour and dash, the later one gets a variant."""
    found: dict[str, Look] = {}
    for name in dict.fromkeys(names):
        plain, taken = look_of(name), list(found.values())
        looks = [plain, *(variant(plain, number) for number in range(VARIANTS))]
        lines = [look for look in looks if all(look.line != other.line for other in taken)]
        free = lines or [look for look in looks if look not in taken]
        found[name] = free[0] if free else plain
    return found


def looks_in_order(names: Iterable[str]) -> dict[str, Look]:
    """Returns looks of names that are no agents, by their order in the picture."""
    return {
        name: Look(COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def _key(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_").removesuffix("_search")


_KNOWN = {
    name: Look(COLOURS[place], DASHES[line], MARKERS[(place + 4 * line) % len(MARKERS)])
    for line, names in enumerate(CHOSEN)
    for place, name in enumerate(names.split())
    if name != "-"
}
