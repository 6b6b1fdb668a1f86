"""Freezing: estimators are called as frozen copies, so that the caller's module never changes.

A module may also stand behind a function, a bound method, a partial call or an object that can be called. Such a
callable is copied as far as it leads to modules or trainable tensors: through closures, defaults, globals, attributes
and containers. What only a class or another Python file holds cannot be copied along; it must be frozen already.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dis import get_instructions
from functools import partial
from itertools import islice
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn

Score = Callable[..., Tensor]
Frozen = TypeVar("Frozen", bound=Score)

MOST_PARTS = 10_000
"""How many objects are looked at behind a callable."""
_LIBRARIES = ("builtins", "numpy", "torch", "slot_rl")
_CONTAINERS = (list, tuple, set, dict)
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__")


def frozen(score: Frozen) -> Frozen:
    """Returns a copy whose modules are in eval mode and that has no trainable parameters.

    Anything that leads to no module and no trainable tensor is returned unchanged.

    Raises:
        ValueError: If it leads to a module that cannot be copied along and is not frozen.
    """
    twin: Frozen = _Copier(score).copy(score)
    for part in _reached(twin, lambda thing: [*_parts(thing), *_attached(thing)]):
        if (isinstance(part, nn.Module) and part.training) or _trainable(part):
            raise ValueError(
                f"expected {estimator_name(score)} to use frozen modules, got a {type(part).__name__} that is not and "
                "that cannot be copied along: give the module itself, or call eval().requires_grad_(False) on it"
            )
    return twin


def estimator_name(score: object) -> str:
    """Returns what messages call an estimator: a function's name (a lambda's place), or the type of anything else."""
    if isinstance(score, FunctionType) and score.__name__ == "<lambda>":
        return f"the lambda at {Path(score.__code__.co_filename).name}:{score.__code__.co_firstlineno}"
    if isinstance(score, partial):
        return estimator_name(score.func)
    if isinstance(score, MethodType):
        return f"{type(score.__self__).__name__}.{score.__name__}"
    return getattr(score, "__name__", type(score).__name__)


def code_place(error: BaseException) -> str:
    """Returns where the user's code raised an error, as `` at FILE:3``; nothing if it did not."""
    found, trace = "", error.__traceback__
    while trace is not None:
        code, name = trace.tb_frame.f_code, trace.tb_frame.f_globals.get("__name__", "")
        found = f" at {Path(code.co_filename).name}:{trace.tb_lineno}" if _own(name) else found
        trace = trace.tb_next
    return found


class _Copier:
    """Copies the parts of a callable that lead to modules or trainable tensors, and leaves all others as they are."""

    def __init__(self, score: object) -> None:
        leads: dict[int, list[object]] = {}  # to what holds each part
        parts = list(_reached(score, _parts, leads))
        found = deque(part for part in parts if isinstance(part, nn.Module) or _trainable(part))
        self._kept = parts  # as long as their ids are in use
        self._changes: set[int] = set()
        while found:
            part = found.popleft()
            if id(part) not in self._changes:
                self._changes.add(id(part))
                found.extend(leads[id(part)])
        self._copies: dict[int, Any] = {}

    def copy(self, thing: Any) -> Any:
        """Returns the copy of something, or itself if it leads to nothing."""
        if id(thing) not in self._changes:
            return thing
        if id(thing) not in self._copies:
            twin = self._copies[id(thing)] = self._shell(thing)
            if twin is not thing:  # some types are never copied
                self._fill(thing, twin)
        return self._copies[id(thing)]

    def _shell(self, thing: Any) -> Any:
        """Returns a copy whose parts are still the old ones, since they may lead back to it; or at once the whole."""
        if isinstance(thing, nn.Module):
            return _frozen_module(thing)
        if isinstance(thing, Tensor):
            return thing.detach().clone()
        if isinstance(thing, FunctionType):
            cells = None if thing.__closure__ is None else tuple(CellType() for _ in thing.__closure__)
            changed = any(id(part) in self._changes for part in _globals(thing).values())
            known = dict(thing.__globals__) if changed else thing.__globals__
            return FunctionType(thing.__code__, known, thing.__name__, thing.__defaults__, cells)
        if isinstance(thing, MethodType):
            return MethodType(self.copy(thing.__func__), self.copy(thing.__self__))
        if isinstance(thing, partial):
            given = {name: self.copy(part) for name, part in thing.keywords.items()}
            return partial(self.copy(thing.func), *map(self.copy, thing.args), **given)
        if type(thing) in (tuple, set):
            return type(thing)(map(self.copy, thing))
        return copy.copy(thing)

    def _fill(self, thing: Any, twin: Any) -> None:
        """Gives a shell its parts."""
        if isinstance(thing, nn.Module | Tensor | MethodType | partial) or type(thing) in (tuple, set):
            return
        if isinstance(thing, FunctionType):
            for cell, new in zip(thing.__closure__ or (), twin.__closure__ or (), strict=True):
                for content in _content(cell):
                    new.cell_contents = self.copy(content)
            twin.__globals__.update({name: self.copy(part) for name, part in _globals(thing).items()})
            twin.__defaults__ = None if thing.__defaults__ is None else tuple(map(self.copy, thing.__defaults__))
            twin.__kwdefaults__ = {name: self.copy(part) for name, part in (thing.__kwdefaults__ or {}).items()} or None
        elif type(thing) is list:
            twin[:] = map(self.copy, thing)
        elif type(thing) is dict:
            twin.update({name: self.copy(part) for name, part in thing.items()})
        for name, part in _attributes(thing).items():
            object.__setattr__(twin, name, self.copy(part))


def _frozen_module(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    # Modules in a plain list are not registered, and eval() does not reach them.
    for part in _reached(twin, lambda thing: vars(thing).values() if isinstance(thing, nn.Module) else _held(thing)):
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    return twin


def _trainable(thing: object) -> bool:
    return isinstance(thing, Tensor) and thing.requires_grad


def _reached(
    start: object, parts: Callable[[Any], Iterable[Any]], leads: dict[int, list[object]] | None = None
) -> Iterator[Any]:
    """Yields everything that something leads to, itself included; ``leads`` takes what holds each part."""
    leads = {} if leads is None else leads
    leads[id(start)] = []
    known, waiting = [start], deque([start])
    while waiting:
        thing = waiting.popleft()
        yield thing
        for part in parts(thing):
            if id(part) not in leads and len(known) < MOST_PARTS:
                leads[id(part)] = []
                known.append(part)  # an id is of use as long as its object lives
                waiting.append(part)
            if id(part) in leads:
                leads[id(part)].append(thing)


def _parts(thing: Any) -> list[Any]:
    """Returns what a callable holds and can be given a copy of."""
    if isinstance(thing, nn.Module | Tensor):
        return []
    if isinstance(thing, FunctionType):
        cells = [content for cell in thing.__closure__ or () for content in _content(cell)]
        defaults = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        return [*cells, *defaults, *_globals(thing).values(), *_attributes(thing).values()]
    return _held(thing)


def _held(thing: Any) -> list[Any]:
    """Returns what a container or an object holds as data."""
    if isinstance(thing, MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if type(thing) in _CONTAINERS:
        return list(islice(thing.values() if isinstance(thing, dict) else thing, MOST_PARTS))
    return list(_attributes(thing).values())


def _attached(thing: Any) -> list[Any]:
    """Returns what a callable uses and cannot be given a copy of."""
    if isinstance(thing, FunctionType):
        files = [part for part in _globals(thing).values() if isinstance(part, ModuleType) and _own(part.__name__)]
        names = {name for code in _codes(thing.__code__) for name in code.co_names}
        return [vars(each)[name] for each in files for name in names & vars(each).keys()]
    if isinstance(thing, type | ModuleType):
        return []
    classes = [each for each in type(thing).__mro__ if _own(each.__module__)]
    methods = [part for each in classes for name, part in vars(each).items() if name not in _CONSTRUCTORS]
    held = list(vars(thing).values()) if isinstance(thing, nn.Module) else []
    return [*held, *(getattr(part, "__func__", getattr(part, "fget", part)) for part in methods)]


def _attributes(thing: Any) -> dict[str, Any]:
    """Returns an object's attributes; a class and a Python file have none of their own here."""
    if isinstance(thing, type | ModuleType | nn.Module | Tensor):
        return {}
    slots = [name for each in type(thing).__mro__ for name in vars(each).get("__slots__", ()) if _own(each.__module__)]
    found = {name: getattr(thing, name) for name in slots if isinstance(name, str) and hasattr(thing, name)}
    return {**found, **getattr(thing, "__dict__", {})}


def _globals(function: FunctionType) -> dict[str, Any]:
    """Returns the globals that a function of the user's reads."""
    known = function.__globals__
    if not _own(known.get("__name__", "")):
        return {}
    steps = (step for code in _codes(function.__code__) for step in get_instructions(code))
    return {step.argval: known[step.argval] for step in steps if step.opname == "LOAD_GLOBAL" and step.argval in known}


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yields a function's code and that of the functions inside."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _content(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # a variable that has no value yet
        return []


def _own(module: str) -> bool:
    """Returns whether a Python module is the user's, as far as can be told."""
    return module.partition(".")[0] not in _LIBRARIES
