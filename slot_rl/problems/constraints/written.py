"""Constraints as text: flags of the command line, entries of a YAML file, and what a run's config keeps.

An entry is a mapping with one key:

    distinct: true                                   or a list of slots
    fixed: {slot_1: item_7}
    at_most: {count: 2, of: advertiser}              value: x  for one group alone
    at_least: {count: 1, of: {ligand: [L1, L2]}}
    not_together: [[item_1, item_2], [{ligand: L1}, {base: B2}]]
    feasible: valid.csv                              or path.py:function, with --trust
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slot_rl.documents import read_yaml
from slot_rl.estimators.trusted import load_function, parse_reference
from slot_rl.problems.constraints.base import Constraint
from slot_rl.problems.constraints.distinct import Distinct
from slot_rl.problems.constraints.feasible import Feasible
from slot_rl.problems.constraints.fixed import Fixed
from slot_rl.problems.constraints.not_together import NotTogether
from slot_rl.problems.constraints.quotas import AtLeast, AtMost

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class ConstraintFlags:
    """What answers are allowed.

    Attributes:
        distinct: No item twice.
        fixed: Slots with a given item, each SLOT=ITEM; an item is a name, or its place in the list from 0.
        at_most: Most slots with items of each category of an attribute, each COUNT:ATTRIBUTE, or of one category, each
            COUNT:ATTRIBUTE=VALUE.
        at_least: Fewest slots with items of a category, each COUNT:ATTRIBUTE=VALUE.
        feasible: Table of the allowed answers, CSV or Parquet with a column for each slot and perhaps the context
            columns; or path.py:function with --trust, which says of a batch of rows which are allowed.
        constraints: YAML file with more: a list of entries such as "not_together: [[a, b]]".
        own_constraints: Whether the environment's own constraints hold too.
    """

    distinct: bool = False
    fixed: tuple[str, ...] = ()
    at_most: tuple[str, ...] = ()
    at_least: tuple[str, ...] = ()
    feasible: str | None = None
    constraints: Path | None = None
    own_constraints: bool = True

    def entries(self) -> list[Entry]:
        """Returns the constraints as entries, with absolute paths and the hashes of files.

        Raises:
            ValueError: If a flag is not of its form, or a file is missing or not of its form.
        """
        found: list[Entry] = [] if self.constraints is None else read_entries(self.constraints)
        found += [{"distinct": True}] if self.distinct else []
        if self.fixed:
            pairs = [_split("--fixed SLOT=ITEM", text, "=") for text in self.fixed]
            if len(dict(pairs)) < len(pairs):
                raise ValueError(f"expected --fixed with each slot once, got {' '.join(self.fixed)}")
            found.append({"fixed": dict(pairs)})
        found += [{"at_most": _quota("--at-most", text)} for text in self.at_most]
        found += [{"at_least": _quota("--at-least", text)} for text in self.at_least]
        found += [{"feasible": self.feasible}] if self.feasible is not None else []
        return [_resolved(entry, Path()) for entry in found]


def read_entries(path: Path) -> list[Entry]:
    """Reads a YAML file with a list of entries; paths in it are relative to its folder.

    Raises:
        ValueError: If there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"expected a YAML file with constraints in {path}, got no such file")
    return resolved_entries(read_yaml(path, "constraints"), path.parent, str(path))


def resolved_entries(found: Any, folder: Path = Path(), source: str = "constraints") -> list[Entry]:
    """Returns entries with absolute paths and the hashes of files.

    Raises:
        ValueError: If it is no list of entries, or a file is missing.
    """
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) and len(entry) == 1 for entry in found):
        raise ValueError(f"expected a list of constraints with one key each in {source}, got {found!r}")
    entries = [_resolved(entry, folder) for entry in found]
    for entry in entries:
        _kind(entry)
    return entries


def constraints_of(entries: Sequence[Entry | Constraint], trust: bool = False) -> list[Constraint]:
    """Builds constraints from entries; a constraint that is built already stays as it is.

    Raises:
        TypeError: If it is no list.
        ValueError: If an entry is not of its form, a file has another content than the entry's hash says, or an entry
            names a function and is not trusted.
    """
    if isinstance(entries, str | Mapping) or not isinstance(entries, Sequence):
        raise TypeError(f"expected a list of constraints, got {entries!r}")
    return [entry if isinstance(entry, Constraint) else _built(entry, trust) for entry in entries]


def as_entry(constraint: Constraint) -> dict[str, Any] | None:
    """Returns the entry that says a constraint; None for one that a file or numbers of the items say.

    As in every file, a slot's number stands as text: where a slot has a number for its name, it means the name.
    """
    if isinstance(constraint, Distinct):
        return {"distinct": True if constraint.slots is None else list(constraint.slots)}
    if isinstance(constraint, Fixed):
        return {"fixed": {str(slot): item for slot, item in constraint.items.items()}}
    if isinstance(constraint, AtMost | AtLeast) and isinstance(constraint.of, str | Mapping):
        of = constraint.of if isinstance(constraint.of, str) else {str(slot): of for slot, of in constraint.of.items()}
        quota = {"count": constraint.count, "of": of, "value": constraint.value}
        return {"at_most" if isinstance(constraint, AtMost) else "at_least": quota}
    if isinstance(constraint, NotTogether):
        pairs = ((_written(first), _written(second)) for first, second in constraint.pairs)
        return {"not_together": [list(pair) for pair in pairs]}
    return None


def _written(place: Any) -> Any:
    """Returns an item, or one slot with its item, as an entry says it; see :func:`_place`."""
    return {str(place[0]): place[1]} if isinstance(place, tuple) else place


def moved_entries(entries: Sequence[Entry], feasible: str | None) -> list[Entry]:
    """Returns entries whose file of allowed answers lies elsewhere, with the hash that it must have.

    Raises:
        ValueError: If it has moved and there is none.
    """
    if feasible is not None and not any("feasible" in entry for entry in entries):
        raise ValueError(f"expected no --feasible for a run without a table of allowed answers, got {feasible}")
    return [
        {"feasible": {**entry["feasible"], "file": feasible}} if feasible is not None and "feasible" in entry else entry
        for entry in entries
    ]


def contents_of(entries: Sequence[Entry]) -> list[Entry]:
    """Returns what entries say, with the hashes of files in place of their paths."""
    return [{"feasible": entry["feasible"]["sha256"]} if "feasible" in entry else dict(entry) for entry in entries]


def _kind(entry: Entry) -> tuple[str, Any]:
    if not isinstance(entry, Mapping) or len(entry) != 1 or next(iter(entry)) not in _KINDS:
        raise ValueError(f"expected a constraint, one of {', '.join(_KINDS)}, got {entry!r}")
    return next(iter(entry.items()))


def _built(entry: Entry, trust: bool) -> Constraint:
    name, value = _kind(entry)
    return _KINDS[name](value, trust)


def _distinct(value: Any, trust: bool) -> Constraint:
    if value is True:
        return Distinct()
    if not isinstance(value, list):
        raise ValueError(f"expected distinct: true, or a list of slots, got {value!r}")
    return Distinct(tuple(value))


def _fixed(value: Any, trust: bool) -> Constraint:
    return Fixed(dict(_mapping("fixed", value)))


def _quota_of(kind: type[AtMost] | type[AtLeast]) -> Callable[[Any, bool], Constraint]:
    def build(value: Any, trust: bool) -> Constraint:
        unknown = _mapping("a quota", value).keys() - {"count", "of", "value"}
        if unknown or not {"count", "of"} <= value.keys():
            raise ValueError(f"expected count, of and perhaps value in a quota, got {', '.join(map(str, value))}")
        return kind(value["count"], value["of"], value.get("value"))

    return build


def _not_together(value: Any, trust: bool) -> Constraint:
    if not isinstance(value, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        raise ValueError(f"expected a list of pairs in not_together, got {value!r}")
    return NotTogether(tuple((_place(first), _place(second)) for first, second in value))


def _place(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if len(value) != 1:
        raise ValueError(f"expected an item, or one slot with its item, in not_together, got {value!r}")
    return next(iter(value.items()))


def _mapping(what: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping in {what}, got {value!r}")
    return value


def _feasible(value: Any, trust: bool) -> Constraint:
    entry = _resolved({"feasible": value}, Path())["feasible"]
    known = value.get("sha256") if isinstance(value, Mapping) else None
    if known not in (None, entry["sha256"]):
        raise ValueError(
            f"expected what says which answers are allowed with hash {known[:12]}, got {entry['sha256'][:12]} in "
            f"{entry['file']}"
        )
    reference = parse_reference(entry["file"])
    if reference is None:
        return Feasible.from_table(entry["file"])
    if not trust:
        raise ValueError(f"expected --trust (trust=True) with {reference}, which would be executed, got none")
    return Feasible(load_function(reference))


_KINDS: dict[str, Callable[[Any, bool], Constraint]] = {
    "distinct": _distinct,
    "fixed": _fixed,
    "at_most": _quota_of(AtMost),
    "at_least": _quota_of(AtLeast),
    "not_together": _not_together,
    "feasible": _feasible,
}
"""What builds each kind of constraint from its entry."""


def _resolved(entry: Entry, folder: Path) -> Entry:
    """Returns an entry whose file has an absolute path and a hash."""
    if "feasible" not in entry:
        return entry
    value = entry["feasible"]
    text = value.get("file") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        raise ValueError(f"expected a file in feasible, got {value!r}")
    reference = parse_reference(text)
    if reference is None:
        path = (folder / text).resolve()
        if not path.is_file():
            raise ValueError(f"expected a table of allowed answers in {path}, got no such file")
        return {"feasible": {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
    resolved = type(reference)((folder / reference.path).resolve(), reference.function)
    return {"feasible": {"file": str(resolved), "sha256": resolved.sha256()}}


def _split(flag: str, text: str, sign: str) -> tuple[str, str]:
    left, found, right = text.partition(sign)
    if not (left and found and right):
        raise ValueError(f"expected {flag}, got {text!r}")
    return left, right


def _quota(flag: str, text: str) -> dict[str, Any]:
    count, of = _split(f"{flag} COUNT:ATTRIBUTE[=VALUE]", text, ":")
    if not (count.isascii() and count.isdecimal()):
        raise ValueError(f"expected {flag} COUNT:ATTRIBUTE[=VALUE] with a whole number, got {text!r}")
    name, sign, value = of.partition("=")
    if sign and not (name and value):
        raise ValueError(f"expected {flag} COUNT:ATTRIBUTE[=VALUE], got {text!r}")
    return {"count": int(count), "of": name, **({"value": value} if sign else {})}
