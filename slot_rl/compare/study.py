"""A study: every task with every agent and every seed is a run, whose name follows from what its result depends on.

A study comes from flags or from a YAML file. A run depends on the problem's contents, the agent and its options, the
budget, the evaluation requests, the seed, and the versions that shape a result. Their hash is part of its folder's
name, so a finished run is recognised and never mistaken for another.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

import yaml

from slot_rl.agents import AGENTS, make_agent
from slot_rl.agents.base import options_from_json, to_json
from slot_rl.compare.presets import read_presets
from slot_rl.compare.statistics import FEWEST_SEEDS
from slot_rl.estimators.trusted import parse_reference
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.io import SUMMARY, read_json
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
from slot_rl.provenance import versions
from slot_rl.tracking import WandbMode

TASK_KEYS = ("estimator", "truth", "unmeasured", "logged", "problem", "constraints", "own_constraints", "name")
FORBIDDEN = "=<>@"
"""Characters with a meaning in a dashboard's filters, in a group's name, or in a claim."""
RUNS, FAILURE, PARTIAL = "runs", "failure.json", ".partial"
SHAPELESS = ("python", "wandb")
"""Versions that shape no result."""
STUDY_KEYS = ("agents", "tasks", "timesteps", "seeds", "first_seed", "failure_threshold", "serving")

DEFAULT_SEEDS = range(100, 110)
"""Not the seeds that the shipped presets were tuned on."""

_PROCESS = token_hex(8)
"""Tells problems that were built in this process from those of any other."""

State = Literal["finished", "failed", "open"]


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

    def make_problem(self) -> Problem:
        """Builds the problem."""
        limits = self.constraints, self.own_constraints
        if self.built is not None:
            return constrained(self.built.with_fresh_budget(), *limits, self.trust)
        settings: dict[str, Any] = {"trust": self.trust, "problem": self.problem, "unmeasured": self.unmeasured}
        return make_problem(self.env, self.estimator, self.truth, None, **settings, **self._limits())

    def _limits(self) -> dict[str, Any]:
        return {"constraints": list(self.constraints), "own_constraints": self.own_constraints}

    def document(self) -> dict[str, Any]:
        """Returns what a run's result depends on: contents, not places."""
        document: dict[str, Any] = {"env": self.env, "estimator_sha256": estimator_hash(self.env, self.estimator)}
        document["truth_sha256"] = None if self.truth is None else _hash_of(self.truth)
        if self.truth is not None:
            document["unmeasured"] = self.unmeasured
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
        return {**places, "unmeasured": self.unmeasured, **self._limits()}


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
        expected += "[,constraints=FILE.yaml][,own_constraints=no][,name=LABEL]"
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
    kinds |= {"constraints": (*written, *constraints), "own_constraints": own_too in ("yes", "true")}
    return Task(label, env, folder, **paths, timesteps=timesteps, trust=trust, **kinds)


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
def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Tracking:
    """Where runs are tracked besides their folders; changes no result.

    Attributes:
        wandb: Weights & Biases mode.
        tensorboard: Whether TensorBoard's files are written as well.
    """

    wandb: WandbMode = "offline"
    tensorboard: bool = False


@dataclass(frozen=True)
class ServingCalls:
    """The numbers of estimator calls for each request at which answers are judged after a training.

    Attributes:
        policies: For policies.
        searches: For searches.
    """

    policies: tuple[int, ...] = (2, 4, 8, 16, 31)
    searches: tuple[int, ...] = (1, 2, 4, 8, 16, 31, 64, 128)


@dataclass(frozen=True)
class Run:
    """One agent on one task with one seed.

    Attributes:
        task: The task.
        agent: The agent's label in tables and pictures.
        kind: Its name in ``slot_rl.agents.AGENTS``.
        options: All its options, as JSON holds them.
        seed: The training seed.
        timesteps: Estimator calls in training.
        evaluation: The evaluation requests.
        serving: The calls at which its answers are judged.
        tracking: Where it is tracked.
    """

    task: Task
    agent: str
    kind: str
    options: dict[str, Any]
    seed: int
    timesteps: int
    evaluation: EvaluationConfig
    serving: ServingCalls = ServingCalls()
    tracking: Tracking = Tracking()

    @cached_property
    def document(self) -> dict[str, Any]:
        """What the result depends on, ready for JSON."""
        options = dict(self.options)
        if options.get("logged"):
            options["logged"] = _hash_of(Path(options["logged"]))
        return {
            **self.task.document(),
            "agent": self.kind,
            "options": options,
            "seed": self.seed,
            "budget": self.timesteps,
            "evaluation": asdict(self.evaluation),
            "serving": asdict(self.serving),
            "versions": {name: known for name, known in versions().items() if name not in SHAPELESS},
        }

    @cached_property
    def digest(self) -> str:
        """A hash of everything that the result depends on."""
        return hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """``env__agent__s<seed>__<digest>``, the run's folder."""
        return f"{short_name(self.task.env)}__{self.kind}__s{self.seed}__{self.digest}"

    @property
    def title(self) -> str:
        """A short name for people."""
        return f"{self.task.label}, {self.agent}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Returns the run's folder in a comparison's."""
        return out / RUNS / self.name

    def partial_folder(self, out: Path) -> Path:
        """Returns the folder that this process fills; it gets the run's name when the run has ended."""
        return out / RUNS / f".{self.name}.{os.getpid()}{PARTIAL}"

    def state(self, out: Path) -> State:
        """Returns whether the run has ended, and how; its folder is only there once it has."""
        if (self.folder(out) / FAILURE).is_file():
            return "failed"
        return "finished" if (self.folder(out) / SUMMARY).is_file() else "open"

    def failure(self, out: Path) -> str:
        """Returns why a failed run failed, in one line."""
        return str(read_json(self.folder(out) / FAILURE)["error"])


@dataclass(frozen=True)
class StudyAgent:
    """An agent of a study.

    Attributes:
        label: Its label.
        kind: Its name in ``slot_rl.agents.AGENTS``.
        options: Options that differ from its defaults, as JSON holds them.
    """

    label: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Tasks, agents and seeds.

    Attributes:
        tasks: The tasks, each with a label of its own.
        agents: The agents, each with a label of its own.
        seeds: The training seeds.
        timesteps: Estimator calls of each training, where a task has no number of its own.
        failure_threshold: Optimality below which a run counts as a failure.
        presets: Folder of presets; the shipped ones for None; not used if False.
        evaluation: The evaluation requests.
        serving: The calls at which answers are judged.
    """

    tasks: Sequence[Task]
    agents: Sequence[StudyAgent]
    seeds: Sequence[int]
    timesteps: int
    failure_threshold: float = 0.8
    presets: Path | Literal[False] | None = False
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    serving: ServingCalls = field(default_factory=ServingCalls)

    def __post_init__(self) -> None:
        """Refuses too few seeds, empty budgets, unknown agents, and labels that are not unique."""
        if len(self.seeds) < FEWEST_SEEDS:
            raise ValueError(f"expected --seeds of at least {FEWEST_SEEDS} to conclude anything, got {len(self.seeds)}")
        if self.timesteps < 1 or min(self.seeds) < 0:
            raise ValueError(f"expected timesteps >= 1 and first-seed >= 0, got {self.timesteps} and {min(self.seeds)}")
        labels = [task.label for task in self.tasks]
        if len(set(labels)) < max(1, len(labels)):
            raise ValueError(f"expected --env to name tasks with labels of their own (name=LABEL), got {labels}")
        names = [agent.label for agent in self.agents]
        unknown = [agent.kind for agent in self.agents if agent.kind not in AGENTS]
        if unknown or len(set(names)) < max(1, len(names)):
            raise ValueError(
                f"expected --agents to name some of {', '.join(sorted(AGENTS))}, each once, "
                f"got {', '.join(unknown or names) or 'none'}"
            )

    def runs(self, tracking: Tracking) -> list[Run]:
        """Returns every run, task by task and seed by seed.

        Raises:
            ValueError: If an agent does not fit a task, or a seed is one that presets were tuned on.
        """
        runs = []
        for task in self.tasks:
            options = {agent.label: self._options(agent, task) for agent in self.agents}
            timesteps = task.timesteps or self.timesteps
            self._refuse_misfits(task, options, timesteps)
            for seed in self.seeds:
                for agent in self.agents:
                    settings = (seed, timesteps, self.evaluation, self.serving, tracking)
                    runs.append(Run(task, agent.label, agent.kind, options[agent.label], *settings))
        return runs

    def _options(self, agent: StudyAgent, task: Task) -> dict[str, Any]:
        defaults = AGENTS[agent.kind].options
        if self.presets is not False:
            presets = read_presets(task.env, self.presets)
            tuned_on = sorted(set(self.seeds) & set(presets.tuning.seeds if presets.tuning else ()))
            if tuned_on:
                raise ValueError(
                    f"expected seeds that the presets of {task.env} were not tuned on, got {tuned_on}; see --first-seed"
                )
            defaults = presets.options(agent.kind)
        options = to_json(options_from_json(agent.options, defaults))
        if "logged" in options and options["logged"] is None and task.logged is not None:
            options["logged"] = str(task.logged)
        return options

    def _refuse_misfits(self, task: Task, options: Mapping[str, dict[str, Any]], timesteps: int) -> None:
        """Builds every agent once, so that a misfit is reported now and not after an hour."""
        problem = task.make_problem()
        for agent in self.agents:
            built = options_from_json(options[agent.label], AGENTS[agent.kind].options)
            make_agent(agent.kind, problem, built).check_timesteps(timesteps)


def read_study(path: Path, variables: Mapping[str, str], trust: bool = False) -> dict[str, Any]:
    """Reads a study from a YAML file.

    Args:
        path: The file; docs/comparing.md shows one.
        variables: Values for the names in braces in the file's texts, such as ``{data}``.
        trust: Whether estimators may be Python files to execute.

    Returns:
        The arguments of :class:`Study` that the file holds; ``seeds`` as a range.

    Raises:
        ValueError: If the file is not a study.
    """
    if not path.is_file():
        raise ValueError(f"expected a study in {path}, got no such file")
    try:
        document = _filled(yaml.safe_load(path.read_text(encoding="utf-8")), variables)
        unknown = set(document) - set(STUDY_KEYS)
        if unknown:
            raise ValueError(f"unknown keys {', '.join(map(str, sorted(unknown)))}")
        numbers = {"timesteps": int, "failure_threshold": float}
        found: dict[str, Any] = {key: number(document[key]) for key, number in numbers.items() if key in document}
        found["agents"] = [
            StudyAgent(label, (entry or {}).get("agent", label), (entry or {}).get("options", {}))
            for label, entry in document["agents"].items()
        ]
        found["tasks"] = [_task_of(dict(task), trust) for task in document["tasks"]]
        first = int(document.get("first_seed", DEFAULT_SEEDS.start))
        found["seeds"] = range(first, first + int(document.get("seeds", len(DEFAULT_SEEDS))))
        serving = document.get("serving", {})
        found["serving"] = ServingCalls(**{name: tuple(calls) for name, calls in serving.items()})
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        found_instead = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"expected a study in {path}, got: {' '.join(found_instead.split())}") from error
    return found


def _task_of(values: dict[str, Any], trust: bool) -> Task:
    if "problem" in values:
        values.setdefault("env", OWN)
    env, timesteps = str(values.pop("env")), values.pop("timesteps", None)
    budget = None if timesteps is None else int(timesteps)
    # A list of entries, or the name of a file with one.
    listed = isinstance(values.get("constraints"), list)
    entries = resolved_entries(values.pop("constraints")) if listed else []
    texts = {key: str(value) for key, value in values.items()}
    return make_task(env, texts, budget, trust, {"env": env, **values}, entries)


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Returns a document with the variables in its texts replaced."""
    if isinstance(value, dict):
        return {key: _filled(part, variables) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, variables) for part in value]
    if not isinstance(value, str):
        return value
    try:
        return value.format_map(variables)
    except KeyError as error:
        raise ValueError(f"no value for {{{error.args[0]}}}; --set {error.args[0]}=VALUE gives one") from error
