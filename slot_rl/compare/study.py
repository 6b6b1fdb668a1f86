"""A study: every task with every agent and every seed is a run, whose name follows from what its result depends on.

A study comes from flags or from a YAML file. A run depends on the problem's contents, the agent and its options, the
budget, the evaluation requests, the seed, and the versions that shape a result. Their hash is part of its folder's
name, so a finished run is recognised and never mistaken for another.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from slot_rl.agents import AGENTS, make_agent
from slot_rl.agents.base import options_from_json, to_json
from slot_rl.checkpoints import CheckpointConfig
from slot_rl.compare.presets import read_presets
from slot_rl.compare.statistics import FEWEST_SEEDS
from slot_rl.compare.task import Task, hash_of_file, task_of
from slot_rl.documents import as_declared, read_yaml
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import SUMMARY, read_json
from slot_rl.problems.named import short_name
from slot_rl.provenance import versions
from slot_rl.spelling import nearest
from slot_rl.tracking import WandbMode
from slot_rl.wandb_labels import NO_FLAGS, WandbFlags

RUNS, FAILURE, PARTIAL = "runs", "failure.json", ".partial"
SHAPELESS = ("python", "wandb")
"""Versions that shape no result."""
STUDY_KEYS = ("agents", "tasks", "timesteps", "seeds", "first_seed", "failure_threshold", "serving")

DEFAULT_SEEDS = range(100, 110)
"""Not the seeds that the shipped presets were tuned on."""

State = Literal["finished", "failed", "open"]


@dataclass(frozen=True)
class Tracking:
    """Where runs are tracked besides their folders, and how often they are saved; changes no result.

    Attributes:
        wandb: Weights & Biases mode.
        tensorboard: Whether TensorBoard's files are written as well.
        saving: How often checkpoints are written, from which a run goes on whose worker was killed.
        labels: What the user says of the runs on Weights & Biases, variables included.
        groups: The group of each task's runs there, by the task's label; one of our own if left out.
        git: The commit of the working folder.
    """

    wandb: WandbMode = "offline"
    tensorboard: bool = False
    saving: CheckpointConfig = CheckpointConfig()
    labels: WandbFlags = NO_FLAGS
    groups: Mapping[str, str] = field(default_factory=dict)
    git: dict[str, Any] | None = None


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
            options["logged"] = hash_of_file(Path(options["logged"]))
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
        """Returns the folder that is filled; it gets the run's name when the run has ended."""
        return out / RUNS / f".{self.name}{PARTIAL}"

    def state(self, out: Path) -> State:
        """Returns whether the run has ended, and how; its folder is only there once it has."""
        if (self.folder(out) / FAILURE).is_file():
            return "failed"
        return "finished" if (self.folder(out) / SUMMARY).is_file() else "open"

    def failure(self, out: Path) -> str:
        """Returns why a failed run failed, in one line."""
        path = self.folder(out) / FAILURE
        return as_declared(str, read_json(path).get("error"), str(path))


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
                f"got {', '.join(unknown or names) or 'none'}{nearest(unknown[0], AGENTS) if unknown else ''}"
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
        document = _filled(read_yaml(path, "a study"), variables)
        unknown = set(document) - set(STUDY_KEYS)
        if unknown:
            names = sorted(map(str, unknown))
            raise ValueError(f"unknown keys {', '.join(names)}{nearest(names[0], STUDY_KEYS)}")
        numbers = {"timesteps": int, "failure_threshold": float}
        found: dict[str, Any] = {key: number(document[key]) for key, number in numbers.items() if key in document}
        found["agents"] = [
            StudyAgent(label, (entry or {}).get("agent", label), (entry or {}).get("options", {}))
            for label, entry in document["agents"].items()
        ]
        found["tasks"] = [task_of(dict(task), trust, path.parent) for task in document["tasks"]]
        first = int(document.get("first_seed", DEFAULT_SEEDS.start))
        found["seeds"] = range(first, first + int(document.get("seeds", len(DEFAULT_SEEDS))))
        serving = document.get("serving", {})
        found["serving"] = ServingCalls(**{name: tuple(calls) for name, calls in serving.items()})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        found_instead = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"expected a study in {path}, got: {' '.join(found_instead.split())}") from error
    return found


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
