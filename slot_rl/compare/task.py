"""A task of a study: a problem with a label, from the command line or from an entry of a YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

from slot_rl.estimators.pessimism import MemberObjective, Pessimism
from slot_rl.estimators.trusted import parse_reference
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.io import sha256_of
from slot_rl.problems import Problem, Unmeasured, make_problem
from slot_rl.problems.constraints.written import Entry, contents_of, read_entries, resolved_entries
from slot_rl.problems.named import (
    OWN,
    OWN_CONSTRAINTS,
    check_unmeasured,
    constrained,
    estimator_hash,
    own_reference,
    resolved_estimator,
    short_name,
)

TASK_KEYS = (
    *("estimator", "truth", "unmeasured", "logged", "problem", "pessimism", "beta"),
    *("constraints", "own_constraints", "name"),
)
FORBIDDEN = "=<>@"
"""Characters with a meaning in a dashboard's filters, in a group's name, or in a claim."""

_PROCESS = token_hex(8)
"""Tells problems that were built in this process from those of any other."""


@dataclass(frozen=True)
class Task:
    """A problem with a label.

    Attributes:
        label: Its name in tables and pictures.
        env: The environment's id.
        estimator: Folder of a pretrained estimator, or path.py:function; None for the environment's own.
        truth: Table with the true scores.
        logged: Table with rows to imitate, for agents that do.
        timesteps: Estimator calls of each training; the study's if None.
        trust: Whether a path.py may be executed.
        problem: path.py:function of the user's own problem.
        built: The problem itself, if it exists in this process only; its runs are never continued by another call.
        unmeasured: What answers count as that the truth has not measured.
        constraints: Further constraints as entries; see ``slot_rl.problems.constraints.written``.
        own_constraints: Whether the problem's own constraints hold.
        objective: What is maximised, where the estimator is an ensemble.
    """

    label: str
    env: str
    estimator: str | None = None
    truth: Path | None = None
    logged: Path | None = None
    timesteps: int | None = None
    trust: bool = False
    problem: str | None = None
    built: Problem | None = None
    unmeasured: Unmeasured = "omit"
    constraints: tuple[Entry, ...] = field(default=(), hash=False)  # mappings have no hash
    own_constraints: bool = True
    objective: Pessimism = Pessimism()

    def make_problem(self) -> Problem:
        """Builds the problem."""
        limits = self.constraints, self.own_constraints
        if self.built is not None:
            return constrained(self.built.with_fresh_budget(), *limits, self.trust)
        settings: dict[str, Any] = {"trust": self.trust, "problem": self.problem, "unmeasured": self.unmeasured}
        settings |= asdict(self.objective)
        return make_problem(self.env, self.estimator, self.truth, None, **settings, **self._limits())

    def _limits(self) -> dict[str, Any]:
        return {"constraints": list(self.constraints), "own_constraints": self.own_constraints}

    def document(self) -> dict[str, Any]:
        """Returns what a run's result depends on: contents, not places."""
        document: dict[str, Any] = {"env": self.env, "estimator_sha256": estimator_hash(self.env, self.estimator)}
        document["truth_sha256"] = None if self.truth is None else hash_of_file(self.truth)
        if self.truth is not None:
            document["unmeasured"] = self.unmeasured
        if self.objective != Pessimism():
            document |= asdict(self.objective)
        if self.constraints or not self.own_constraints:
            document |= self._limits() | {"constraints": contents_of(self.constraints)}
        if self.own_constraints and self.env in OWN_CONSTRAINTS:
            document["constraints_of_env"] = ", ".join(map(str, OWN_CONSTRAINTS[self.env]))
        if self.problem is not None:
            document["problem_sha256"] = own_reference(self.problem).sha256()
        if self.built is not None:
            document["problem_in_memory"] = f"{_PROCESS} {id(self.built)}"
        return document

    def places(self) -> dict[str, Any]:
        """Returns where its files are, which changes no result, and how unmeasured answers count."""
        truth = None if self.truth is None else str(self.truth)
        places = {"task": self.label, "problem": self.problem, "estimator": self.estimator, "truth": truth}
        # Also without a truth, in case one is given later.
        return {**places, "unmeasured": self.unmeasured, **asdict(self.objective), **self._limits()}


def make_task(
    env: str,
    values: Mapping[str, str],
    timesteps: int | None = None,
    trust: bool = False,
    source: object = None,
    constraints: Sequence[Entry] = (),
) -> Task:
    """Builds a task from its environment and the values of :data:`TASK_KEYS`.

    Args:
        env: The environment's id.
        values: The values as text.
        timesteps: Estimator calls of each training; the study's if None.
        trust: Whether an estimator may be a Python file to execute.
        source: What the user wrote, for messages.
        constraints: Constraints as entries, with those of the file that the values name.

    Raises:
        ValueError: If a key is unknown, a value is empty or not of its kind, a file is missing, or the label is not
            usable.
    """
    if not all(key in TASK_KEYS and value for key, value in values.items()):
        expected = "ID[,estimator=FOLDER][,truth=FILE[,unmeasured=worst]][,logged=FILE][,problem=FILE.py:FUNCTION]"
        expected += "[,pessimism=minimum|lower[,beta=NUMBER]][,constraints=FILE.yaml][,own_constraints=no][,name=LABEL]"
        raise ValueError(f"expected --env {expected}, got {source or values!r}")
    estimator = values.get("estimator")
    files = {key: Path(values[key]) for key in ("truth", "logged") if key in values}
    for key, path in files.items():
        if not path.is_file():
            raise ValueError(f"expected a table in {key}={path}, got no such file")
    short, own = short_name(env), values.get("problem")
    by_default = short if estimator is None else f"{short} {Path(estimator.rpartition(':')[2]).name}"
    label = values.get("name", by_default if own is None else own_reference(own).path.stem)
    if not set(FORBIDDEN).isdisjoint(label):
        raise ValueError(f"expected a label without any of {FORBIDDEN}, got {label!r}; name=LABEL gives another")
    paths: dict[str, Any] = {key: path.resolve() for key, path in files.items()}
    folder = None if estimator is None else resolved_estimator(estimator)
    problem = None if own is None else str(own_reference(own).resolved())
    unmeasured = check_unmeasured(values.get("unmeasured", "omit"), files.get("truth"))
    written = read_entries(Path(values["constraints"])) if "constraints" in values else []
    own_too = values.get("own_constraints", "yes").lower()
    if own_too not in ("yes", "no", "true", "false"):
        raise ValueError(f"expected own_constraints to be yes or no, got {own_too!r}")
    kinds: dict[str, Any] = {"problem": problem, "unmeasured": unmeasured}
    kinds["objective"] = _objective(values)
    kinds |= {"constraints": (*written, *constraints), "own_constraints": own_too in ("yes", "true")}
    return Task(label, env, folder, **paths, timesteps=timesteps, trust=trust, **kinds)


def _objective(values: Mapping[str, str]) -> Pessimism:
    try:
        beta = float(values.get("beta", Pessimism.beta))
    except ValueError:
        raise ValueError(f"expected beta to be a number, got {values['beta']!r}") from None
    return Pessimism(cast(MemberObjective, values.get("pessimism", Pessimism.pessimism)), beta)


def parse_task(text: str, trust: bool = False) -> Task:
    """Reads a task from the command line: its environment's id, then ``,KEY=VALUE`` for some of :data:`TASK_KEYS`.

    ``path.py:function`` in place of the id is the task of this own problem.

    Raises:
        ValueError: If it reads otherwise; see :func:`make_task`.
    """
    env, *rest = text.split(",")
    if parse_reference(env) is not None:
        env, rest = OWN, [f"problem={env}", *rest]
    pairs = [part.partition("=") for part in rest]
    values = {key: value for key, _, value in pairs}
    if len(values) < len(rest):
        values[""] = ""  # a key stands twice
    return make_task(env, values, trust=trust, source=text)


@lru_cache(maxsize=2)
def evaluation_on(task: Task, config: EvaluationConfig) -> Evaluation:
    """Returns a task's evaluation; a process that runs many agents on a task measures its references once."""
    return Evaluation(task.make_problem(), config)


@lru_cache
def hash_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file's content, read once."""
    return sha256_of(path)


FILES = ("problem", "estimator", "truth", "logged", "constraints")
"""Keys of a task whose values are files or folders, perhaps with a function."""


def task_of(values: dict[str, Any], trust: bool, folder: Path = Path()) -> Task:
    """Builds a task from a study's entry; raises ValueError as :func:`make_task` does, and KeyError without an env.

    Args:
        values: The entry.
        trust: Whether a ``path.py`` may be executed.
        folder: The study's, in which its files are looked for first, and then where the command was called.
    """
    if "problem" in values:
        values.setdefault("env", OWN)
    env, timesteps = str(values.pop("env")), values.pop("timesteps", None)
    budget = None if timesteps is None else int(timesteps)
    # A list of entries, or the name of a file with one.
    listed = isinstance(values.get("constraints"), list)
    entries = resolved_entries(_beside_too(folder, values.pop("constraints"))) if listed else []
    texts = {key: _beside(folder, str(value)) if key in FILES else str(value) for key, value in values.items()}
    return make_task(env, texts, budget, trust, {"env": env, **values}, entries)


def _beside_too(folder: Path, entries: list[Any]) -> list[Any]:
    """Returns constraints as entries whose file is looked for as those of a task are."""
    return [
        {**entry, "feasible": _beside(folder, entry["feasible"])}
        if isinstance(entry, Mapping) and isinstance(entry.get("feasible"), str)
        else entry
        for entry in entries
    ]


def _beside(folder: Path, text: str) -> str:
    """Returns a file's name with a folder, if the folder has such a file; it may have a function behind it."""
    reference = parse_reference(text)
    path = Path(text) if reference is None else reference.path
    return str(folder / text) if not path.is_absolute() and (folder / path).exists() else text
