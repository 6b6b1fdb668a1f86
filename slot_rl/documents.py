"""Values from JSON and YAML as the types that the code declares: one reader that refuses what is of another type.

What a document lacks, what it holds too much, and what has a wrong type is said in one line, with its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, overload

import yaml
from typing_extensions import NotRequired, get_type_hints, is_typeddict

from slot_rl.io import BundleError, as_written, read_text

MOST = 2**63
"""Whole numbers are below it, either way: tensors and generators hold no larger ones."""
Declared = TypeVar("Declared")


def read_yaml(path: Path, what: str) -> Any:
    """Returns the values in a YAML file.

    Args:
        path: The file.
        what: What is expected in it, for messages.

    Raises:
        BundleError: If it is no file, or holds no YAML.
    """
    text = read_text(path)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BundleError(f"expected {what} in {path}, got: {' '.join(str(error).split())[:300]}") from error


@overload
def as_declared(kind: type[Declared], value: Any, place: str) -> Declared: ...


@overload
def as_declared(kind: Any, value: Any, place: str) -> Any: ...


def as_declared(kind: Any, value: Any, place: str) -> Any:
    """Returns a value from JSON as a declared type.

    A dataclass is built from a mapping, a tuple from a list, a path from a text. A ``TypedDict`` stays a mapping, whose
    keys may be more than the declared ones. Numbers are finite.

    Args:
        kind: The type: of a dataclass, a ``TypedDict``, a container, a union, a literal, or a plain one.
        value: What was read.
        place: Where it stands, for messages.

    Raises:
        BundleError: If it is of another type, or a key is missing or unknown.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if kind in _PLAIN:
        if not _PLAIN[kind](value):
            raise _refused(getattr(kind, "__name__", "a value"), value, place)
        return Path(value) if kind is Path else value
    if origin is Literal:
        if not any(value == each and type(value) is type(each) for each in arguments):
            raise _refused(f"one of {', '.join(map(repr, arguments))}", value, place)
        return value
    if origin in (Union, UnionType):
        return _of_union(arguments, value, place)
    if cast(Any, origin) is NotRequired:
        return as_declared(arguments[0], value, place)
    if is_dataclass(kind) or is_typeddict(kind):
        return _of_fields(kind, value, place)
    if origin in (tuple, list, Sequence):
        return _of_list(origin, arguments, value, place)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _refused("a mapping of texts", value, place)
        return {key: as_declared(arguments[1], each, f"{place}.{key}") for key, each in value.items()}
    raise TypeError(f"expected a type that documents can hold, got {kind!r}")


_PLAIN = {
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST,
    float: lambda value: isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value),
    str: lambda value: isinstance(value, str),
    Path: lambda value: isinstance(value, str | Path) and "\0" not in str(value),
    NoneType: lambda value: value is None,
}


def _is_finite(value: float) -> bool:
    return abs(value) < MOST if isinstance(value, int) else isfinite(value)


def _of_union(kinds: Sequence[Any], value: Any, place: str) -> Any:
    failures = []
    for kind in kinds:
        try:
            return as_declared(kind, value, place)
        except BundleError as error:
            failures.append(error)
    raise next(failure for kind, failure in zip(kinds, failures, strict=True) if kind is not NoneType)


def _of_list(origin: Any, arguments: Sequence[Any], value: Any, place: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _refused("a list", value, place)
    same = len(arguments) == 1 or arguments[-1] is Ellipsis
    kinds = [arguments[0]] * len(value) if same else arguments
    if len(kinds) != len(value):
        raise _refused(f"a list of {len(kinds)}", value, place)
    found = [as_declared(kind, each, f"{place}[{i}]") for i, (kind, each) in enumerate(zip(kinds, value, strict=True))]
    return found if origin is list else tuple(found)


def _of_fields(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise _refused("a mapping", value, place)
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        needed, known = set(kind.__required_keys__), {*hints, *value}
    else:
        known = {each.name for each in fields(kind) if each.init}
        needed = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    if needed - value.keys() or value.keys() - known:
        shown = [f"without {name}" for name in sorted(needed - value.keys())]
        shown += [f"with {name!r}" for name in sorted(map(str, value.keys() - known))]
        raise BundleError(f"expected {place} as it was written, got one {', '.join(shown)[:200]}")
    found = {name: as_declared(hints.get(name, Any), each, f"{place}.{name}") for name, each in value.items()}
    if is_typeddict(kind):
        return found
    with as_written(place):
        return kind(**found)


def _refused(expected: str, value: Any, place: str) -> BundleError:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a number with too many digits
        text = type(value).__name__
    return BundleError(f"expected {expected} at {place}, got {text if len(text) <= 60 else text[:60] + '…'}")
