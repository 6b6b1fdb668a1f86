"""Random problems with constraints, and what they allow by enumeration: each constraint is decided here in Python."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.problems import Observation
from slot_rl.problems.constraints import AtLeast, AtMost, Constraint, Distinct, Feasible, Fixed, ItemSpace, NotTogether
from slot_rl.problems.constraints.base import ListedRows

Row = tuple[int, ...]
Labels = list[list[int]]
Holds = Callable[[Row, Labels, int], bool]
"""Whether a row is allowed, given the labels of the request's items, and the request's context."""
NAMES = {"advertiser": ("a", "b", "c"), "new": ("no", "yes")}


@dataclass(frozen=True)
class ConstrainedCase:
    """Constraints with what they mean, and some requests.

    Attributes:
        space: The slots and items.
        constraints: The constraints.
        holds: What each means.
        requests: The requests.
        most_listed: Configurations up to which all are listed.
        seed: Seeds what is drawn in the test.
    """

    space: ItemSpace
    constraints: tuple[Constraint, ...]
    holds: tuple[Holds, ...]
    requests: Observation
    most_listed: int
    seed: int

    @property
    def size(self) -> tuple[int, int]:
        slots, items = self.space.mask.shape
        return slots, items

    def allowed(self, request: int, with_mask: bool = True) -> Tensor:
        """Returns every configuration that a request allows, ``(rows, slots)``."""
        slots, items = self.size
        asked = self.requests[request : request + 1]
        mask = self.space.mask if asked.mask is None or not with_mask else self.space.mask & asked.mask[0]
        labels = [] if asked.labels is None else asked.labels[0].tolist()
        context = 0 if asked.context is None else int(asked.context)
        rows = [
            row
            for row in product(range(items), repeat=slots)
            if all(bool(mask[slot, item]) for slot, item in enumerate(row))
            and all(holds(row, labels, context) for holds in self.holds)
        ]
        return torch.tensor(rows, dtype=torch.long).view(-1, slots)


Written = tuple[Constraint, Holds]


def _counts(row: Row, groups: Callable[[int, int], Any]) -> Counter[Any]:
    return Counter(groups(slot, item) for slot, item in enumerate(row))


def _some_of(kinds: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(kinds), min_size=1, max_size=4, unique=True)


@st.composite
def _distinct(draw: st.DrawFn, slots: int, items: int) -> list[Written]:
    order = draw(st.permutations(range(slots)))
    sizes = draw(st.sampled_from([[slots], [slots], [2], [2, 2], [3]]))
    found: list[Written] = []
    for size in sizes:
        members, order = list(order[: min(size, items)]), order[size:]
        if members:
            whole = len(members) == slots and draw(st.booleans())
            found.append((Distinct() if whole else Distinct(members), partial(_all_different, members)))
    return found


def _all_different(slots: list[int], row: Row, labels: Labels, context: int) -> bool:
    return len({row[slot] for slot in slots}) == len(slots)


@st.composite
def _fixed(draw: st.DrawFn, mask: Tensor) -> Written:
    chosen = draw(st.lists(st.integers(0, len(mask) - 1), min_size=1, max_size=2, unique=True))
    items: dict[int | str, int | str] = {
        slot: draw(st.sampled_from(mask[slot].nonzero().flatten().tolist())) for slot in chosen
    }
    return Fixed(items), lambda row, labels, context: all(row[int(slot)] == item for slot, item in items.items())


@st.composite
def _quota_by_label(draw: st.DrawFn, slots: int) -> Written:
    count, most, column = draw(st.sampled_from([2, 1, 1, 3, 0])), draw(st.booleans()), draw(st.integers(0, 1))
    name = list(NAMES)[column]
    value = draw(st.sampled_from([None, *range(len(NAMES[name]))]))
    kind: type[AtMost] | type[AtLeast] = AtMost if most else AtLeast
    if not most and value is None:
        count = min(count, 1)

    def holds(row: Row, labels: Labels, context: int) -> bool:
        found = _counts(row, lambda slot, item: labels[item][column])
        meant = range(len(NAMES[name])) if value is None else [value]
        return all(found[each] <= count if most else found[each] >= count for each in meant)

    return kind(count, name, None if value is None else NAMES[name][value]), holds


@st.composite
def _quota_by_item(draw: st.DrawFn, slots: int, items: int) -> Written:
    count, most, form = draw(st.sampled_from([2, 1, 1, 3, 0])), draw(st.booleans()), draw(st.sampled_from("tgsn"))
    kind: type[AtMost] | type[AtLeast] = AtMost if most else AtLeast
    if form == "n":
        named = {slot: draw(st.lists(st.integers(0, 1), min_size=1, max_size=2)) for slot in range(0, slots, 2)}
        holds: Holds = lambda row, labels, context: _within(  # noqa: E731
            sum(row[slot] in held for slot, held in named.items()), count, most
        )
        return kind(count, named), holds
    if form == "s":
        by_slot = draw(_grid(slots, items, st.booleans()))
        return kind(count, torch.tensor(by_slot)), lambda row, labels, context: _within(
            sum(by_slot[slot][item] for slot, item in enumerate(row)), count, most
        )
    if form == "t":
        (meant,) = draw(_grid(1, items, st.booleans()))
        return kind(count, torch.tensor(meant)), lambda row, labels, context: _within(
            sum(meant[item] for item in row), count, most
        )
    (groups,) = draw(_grid(1, items, st.integers(0, 2)))
    return kind(count, groups), lambda row, labels, context: all(
        _within(_counts(row, lambda slot, item: groups[item])[each], count, most) for each in range(max(groups) + 1)
    )


def _within(found: int, count: int, most: bool) -> bool:
    return found <= count if most else found >= count


def _grid(slots: int, items: int, cell: st.SearchStrategy[Any]) -> st.SearchStrategy[list[list[Any]]]:
    return st.lists(st.lists(cell, min_size=items, max_size=items), min_size=slots, max_size=slots)


@st.composite
def _not_together(draw: st.DrawFn, mask: Tensor, same_items: bool) -> Written:
    def place() -> tuple[int, int] | int:
        slot = draw(st.integers(0, len(mask) - 1))
        item = int(draw(st.sampled_from(mask[slot].nonzero().flatten().tolist())))
        return item if same_items and draw(st.booleans()) else (slot, item)

    pairs = [(place(), place()) for _ in range(draw(st.integers(1, 3)))]

    def held(row: Row, what: tuple[int, int] | int) -> set[int]:
        return {s for s, item in enumerate(row) if what in (item, (s, item))}

    def holds(row: Row, labels: Labels, context: int) -> bool:
        return not any(one != two for a, b in pairs for one in held(row, a) for two in held(row, b))

    return NotTogether(pairs), holds


@st.composite
def _feasible(draw: st.DrawFn, rows: Sequence[Row], contexts: bool) -> tuple[Written, ListedRows | None]:
    """A predicate, or a table with repeated rows and, perhaps, a context beside each."""
    if draw(st.booleans()):
        allowed = draw(st.sets(st.sampled_from(rows), min_size=1))
        return (
            Feasible(lambda batch: torch.tensor([tuple(row) in allowed for row in batch.tolist()])),
            lambda row, labels, context: row in allowed,
        ), None
    listed = draw(st.lists(st.tuples(st.sampled_from(rows), st.integers(0, 2)), min_size=1, max_size=12))
    beside = torch.tensor([[context] for _, context in listed]).double() if contexts else None
    table = ListedRows(torch.tensor([row for row, _ in listed]), beside)
    return (
        Feasible.from_table("valid.csv"),
        lambda row, labels, context: any(row == r and (not contexts or context == c) for r, c in listed),
    ), table


def _as_read(table: ListedRows, path: Path) -> ListedRows:
    return table


@st.composite
def constrained_cases(draw: st.DrawFn) -> ConstrainedCase:
    """Up to four slots of up to four items, one to four constraints, and one to three requests."""
    slots, items = draw(st.sampled_from([3, 3, 4, 2, 2, 1])), draw(st.sampled_from([4, 3, 3, 2, 2, 1]))
    batch = draw(st.integers(1, 3))
    fixed = draw(st.sampled_from([True, True, False]))
    sizes = [items] * slots
    if fixed and draw(st.integers(0, 3)) == 0:
        sizes = draw(st.lists(st.integers(1, items), min_size=slots, max_size=slots))
    mask = torch.arange(items) < torch.tensor(sizes).unsqueeze(1)
    same_items = len(set(sizes)) == 1
    labelled = not fixed or draw(st.booleans())
    labels = torch.tensor(
        draw(_grid(1 if fixed else batch, items, st.tuples(st.integers(0, 2), st.integers(0, 1)))), dtype=torch.long
    )
    space = ItemSpace("p", mask, same_items=same_items, fixed=fixed, labels=NAMES if labelled else {})
    contexts = draw(st.booleans())
    parts: dict[str, Tensor] = {"context": torch.tensor([[draw(st.integers(0, 2))] for _ in range(batch)])}
    if labelled:
        parts["labels"] = labels.expand(batch, -1, -1)
        space = replace(space, fixed_labels=labels[0] if fixed else None)
    kinds = {
        "distinct": same_items,
        "fixed": True,
        "label": labelled,
        "another label": labelled,
        "item": fixed and same_items,
        "apart": fixed,
        "feasible": fixed,
    }
    found: list[Written] = []
    for kind in draw(_some_of([kind for kind, possible in kinds.items() if possible])):
        if kind == "distinct":
            found += draw(_distinct(slots, items))
        elif kind == "fixed":
            found.append(draw(_fixed(mask)))
        elif kind == "item":
            found.append(draw(_quota_by_item(slots, items)))
        elif kind == "apart":
            found.append(draw(_not_together(mask, same_items)))
        elif kind == "feasible":
            written, table = draw(_feasible(list(product(*map(range, sizes))), contexts))
            found.append(written)
            space = replace(space, read_rows=None if table is None else partial(_as_read, table))
        else:
            found.append(draw(_quota_by_label(slots)))
    by_slot = draw(st.sampled_from([None, None, False, True]))
    if by_slot is not None:
        most = st.integers(0, 5).map(lambda number: number < 5)
        given = [draw(_grid(slots if by_slot else 1, items, most)) for _ in range(batch)]
        parts["mask"] = torch.tensor(given).expand(batch, slots, items)
    constraints, holds = zip(*draw(st.permutations(found)), strict=True)
    return ConstrainedCase(
        space,
        constraints,
        holds,
        Observation(**parts),
        draw(st.sampled_from([200_000, 200_000, 0])),
        draw(st.integers(0, 999)),
    )
