"""Estimators written in Python: ``path.py:build`` names a function in a file of the user that builds one.

All other input of slot_rl is data. This is code with all the rights of the user, so it runs only if the caller says
that it is trusted. The bytes that run are the bytes that were hashed; files that they import or load are not hashed.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.freezing import Score
from slot_rl.seeding import seeded_initialisation


@dataclass(frozen=True)
class RowEstimator:
    """An estimator of the rows of a table, with the names that belong to its indices.

    Attributes:
        module: Scores indices ``(batch, features)``, with a context ``(batch, columns)`` if there is one; it must be
            possible to soften it, see :func:`slot_rl.estimators.soften`.
        encoding: Names of the features and contexts, and their categories in the order of their indices.
        contexts: Long tensor ``(contexts, columns)`` of the contexts of requests; None without contexts.
    """

    module: nn.Module
    encoding: TableEncoding
    contexts: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuses wrong types at once, because they would fail much later."""
        for name, kind in (("module", nn.Module), ("encoding", TableEncoding), ("contexts", Tensor | None)):
            if not isinstance(getattr(self, name), kind):
                found = type(getattr(self, name)).__name__
                raise TypeError(f"expected {name} of type {getattr(kind, '__name__', 'Tensor')}, got {found}")


@dataclass(frozen=True)
class Reference:
    """The name of a function in a Python file."""

    path: Path
    function: str

    def __str__(self) -> str:
        """Returns ``path.py:function``."""
        return f"{self.path}:{self.function}"

    def resolved(self) -> "Reference":
        """Returns the reference with an absolute path."""
        return Reference(self.path.resolve(), self.function)

    def read(self) -> bytes:
        """Returns the content of the file; raises ValueError if there is none."""
        if not self.path.is_file():
            raise ValueError(f"expected a Python file with {self.function}(), got {self.path}, which is no file")
        return self.path.read_bytes()

    def sha256(self) -> str:
        """Returns the hash of the file; raises ValueError if there is none."""
        return hashlib.sha256(self.read()).hexdigest()


def parse_reference(estimator: str | Path) -> Reference | None:
    """Parses ``path.py:function``; returns None if the text does not name a Python file, for example for a folder.

    Raises:
        ValueError: If a Python file is named without a function.
    """
    text = str(estimator)
    path, _, function = text.rpartition(":")
    if path.endswith(".py") and not Path(text).is_dir():
        if not function.isidentifier():
            raise ValueError(f"expected path.py:function, got {text!r}, whose {function!r} is no function's name")
        return Reference(Path(path), function)
    if text.endswith(".py") and not Path(text).is_dir():
        raise ValueError(f"expected path.py:function, as in {text}:build, got {text!r} without a function")
    return None


def load_trusted(reference: Reference, what: str = "an estimator") -> Any:
    """Executes a Python file, calls one of its functions without arguments, and returns the result.

    The global generator has a fixed seed during the call, so that random weights are the same every time. The file may
    import files beside it.

    Args:
        reference: The function.
        what: What it builds, for messages.

    Raises:
        ValueError: If there is no such file or function, or the code raises an error.
    """
    with seeded_initialisation(0), _importable(reference.path.resolve().parent):
        build = _function(reference, f"build {what}")
        with _blaming(reference, f"build {what}"):
            built = build()
        _check_default_dtype(reference)
        return built


def load_function(reference: Reference) -> Callable[..., Any]:
    """Executes a Python file and returns one of its functions; raises ValueError as :func:`load_trusted` does."""
    with seeded_initialisation(0), _importable(reference.path.resolve().parent):
        return _function(reference, "define it")


def _function(reference: Reference, task: str) -> Callable[..., Any]:
    content = reference.read()
    with _blaming(reference, task):
        module = _executed(content, reference.path.resolve())
    found = getattr(module, reference.function, None)
    if not callable(found):
        instead = "no such name" if found is None else f"{type(found).__name__}, which cannot be called"
        raise ValueError(f"expected a function {reference.function} in {reference.path}, got {instead}")
    _check_default_dtype(reference)
    function: Callable[..., Any] = found
    return function


def _check_default_dtype(reference: Reference) -> None:
    found = torch.get_default_dtype()
    if found != torch.float32:
        torch.set_default_dtype(torch.float32)
        raise ValueError(f"expected {reference} to leave torch's default dtype at float32, got {found}")


def load_row_estimator(reference: Reference) -> RowEstimator:
    """Returns the RowEstimator that a function builds; raises ValueError as :func:`load_trusted` does."""
    found = load_trusted(reference)
    if not isinstance(found, RowEstimator):
        raise ValueError(f"expected {reference} to return a RowEstimator, got {type(found).__name__}")
    return found


def load_vector_score(reference: Reference) -> Score:
    """Returns the estimator that a function builds; a problem tries it out.

    Raises:
        ValueError: As :func:`load_trusted`, or if the result cannot be called.
    """
    score = load_trusted(reference)
    if not callable(score):
        raise ValueError(f"expected {reference} to return a callable, got {type(score).__name__}")
    estimator: Score = score
    return estimator


def _executed(content: bytes, path: Path) -> ModuleType:
    # A unique name cannot hide another module. Dataclasses look their module up in sys.modules.
    name = f"_slot_rl_trusted_{hashlib.sha256(content).hexdigest()[:16]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    module = sys.modules[name] = module_from_spec(spec)
    exec(compile(content, str(path), "exec"), module.__dict__)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets code import the files of a folder; they come last, so that they cannot hide an installed module."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _blaming(reference: Reference, task: str) -> Iterator[None]:
    """Turns every error of the file's code into a ValueError of one line that names the file and the line in it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        line = _line(error, str(reference.path.resolve()))
        where = f"{reference}" if line is None else f"{reference}, line {line},"
        said = " ".join(str(error).split())
        raise ValueError(f"expected {where} to {task}, got {type(error).__name__}: {said}") from error


def _line(error: BaseException, path: str) -> int | None:
    found, trace = error.lineno if isinstance(error, SyntaxError) else None, error.__traceback__
    while trace is not None:
        found = trace.tb_lineno if trace.tb_frame.f_code.co_filename == path else found
        trace = trace.tb_next
    return found
