"""The command: do the runs that are not done yet, and report on all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from slot_rl.compare.conclusions import Conclusions, conclude
from slot_rl.compare.differences import parse_claim
from slot_rl.compare.report import print_claims, publish_report
from slot_rl.compare.results import read_results
from slot_rl.compare.runner import COMPARISON, InProcessLauncher, Launcher, LauncherName, do_runs, make_launcher, opened
from slot_rl.compare.study import DEFAULT_SEEDS, Study, StudyAgent, Tracking, read_study
from slot_rl.compare.task import Task, parse_task
from slot_rl.compare.wandb import sync_command
from slot_rl.console import say
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import write_json
from slot_rl.problems import Problem
from slot_rl.problems.constraints.written import ConstraintFlags
from slot_rl.problems.named import OWN
from slot_rl.provenance import provenance
from slot_rl.spelling import unknown
from slot_rl.tracking import WandbMode, check_tensorboard, run_group, wandb_mode
from slot_rl.wandb_labels import PROJECT, WandbFlags

UNESTABLISHED = 1
Labelled = TypeVar("Labelled")


@dataclass(frozen=True)
class CompareConfig:
    """Compares agents on tasks at equal budget; takes long, and continues where it stopped.

    Attributes:
        out: Where everything goes; runs that are finished there are not repeated.
        agents: The agents by name; with ppo among them, the others are timed on its final score. With --study, some of
            its labels.
        env: Tasks, each ID[,estimator=FOLDER][,truth=FILE[,unmeasured=worst]][,logged=FILE][,problem=FILE.py:FUNCTION]
            [,pessimism=minimum|lower[,beta=NUMBER]][,constraints=FILE.yaml][,own_constraints=no][,name=LABEL]. With
            --study, some of its labels.
        problem: Tasks of your own, each FILE.py:FUNCTION[,name=LABEL], with --trust.
        study: A YAML file with agents, tasks and settings, in place of --agents and --env; flags below overrule it.
        variables: Values for the names in braces in the study's texts, each NAME=VALUE.
        timesteps: Estimator calls in each training; 200,000 if left out.
        seeds: Training seeds of each agent on each task; 10 or more for intervals that hold; 10 if left out.
        first_seed: The first of them; none may be one that the presets were tuned on; 100 if left out.
        failure_threshold: Optimality below which a run counts as a failure; .8 if left out.
        presets: Folder of presets, a YAML file for each environment; the shipped ones if left out. A study has none.
        claims: Claims such as "gumbel>ppo" or "gumbel>ppo@Slots-v0"; the exit code is 1 unless all are established.
        workers: Runs at the same time.
        launcher: "local" for this machine, "ray" for a cluster (extra [ray]).
        retry_failed: Repeat runs that failed in an earlier call.
        wandb: Weights & Biases mode; WANDB_MODE if left out, offline without it.
        tensorboard: Also write TensorBoard's files (extra [tensorboard]).
        trust: Execute the Python files that tasks name as estimators, with all your rights.
        constraints: What answers are allowed, in every task.
        evaluation: The requests to judge on.
        labels: Where the runs go on Weights & Biases, and what they are found by.
    """

    out: Path
    agents: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    problem: tuple[str, ...] = ()
    study: Path | None = None
    variables: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    timesteps: int | None = None
    seeds: int | None = None
    first_seed: int | None = None
    failure_threshold: float | None = None
    presets: Path | None = None
    claims: Annotated[tuple[str, ...], tyro.conf.arg(name="assert")] = ()
    workers: int = 2
    launcher: LauncherName = "local"
    retry_failed: bool = False
    wandb: WandbMode | None = None
    tensorboard: bool = False
    trust: bool = False
    constraints: ConstraintFlags = field(default_factory=ConstraintFlags)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    labels: WandbFlags = field(default_factory=WandbFlags)

    def resolved(self, tasks: Sequence[Task] = ()) -> Study:
        """Returns the study that the flags and the file describe.

        Args:
            tasks: Tasks to use in place of ``env`` and ``problem``.

        Raises:
            ValueError: If they contradict each other, or describe none.
        """
        if self.study is None:
            if len(self.agents) < 2:
                raise ValueError(f"expected --agents with two or more agents, got {', '.join(self.agents) or 'none'}")
            found: dict[str, Any] = {
                "agents": [StudyAgent(name, name) for name in self.agents],
                "tasks": tasks or [parse_task(text, self.trust) for text in (*self.env, *self.problem)],
                "seeds": DEFAULT_SEEDS,
                "presets": self.presets,
            }
        else:
            if self.presets is not None or self.problem:
                raise ValueError(
                    "expected no --presets and --problem with --study, whose agents say their options and whose tasks "
                    f"their problem, got {self.presets} and {', '.join(self.problem) or 'none'}"
                )
            pairs = [text.partition("=") for text in self.variables]
            if not all(name and sign for name, sign, _ in pairs):
                raise ValueError(f"expected --set NAME=VALUE, got {' '.join(self.variables)}")
            found = read_study(self.study, {name: value for name, _, value in pairs}, self.trust)
            found["agents"] = _chosen("--agents", self.agents, found["agents"])
            found["tasks"] = _chosen("--env", self.env, found["tasks"])
        first = found["seeds"].start if self.first_seed is None else self.first_seed
        count = len(found["seeds"]) if self.seeds is None else self.seeds
        found["seeds"] = range(first, first + count)
        found["tasks"] = self._constrained(found["tasks"])
        flags = {"timesteps": self.timesteps, "failure_threshold": self.failure_threshold}
        given = {name: value for name, value in flags.items() if value is not None}
        study = Study(**{"timesteps": 200_000, "evaluation": self.evaluation, **found, **given})
        if self.timesteps is None:
            return study
        return replace(study, tasks=[replace(task, timesteps=None) for task in study.tasks])

    def _constrained(self, tasks: Sequence[Task]) -> list[Task]:
        """Adds the constraints of the flags to those of the tasks."""
        entries, own = self.constraints.entries(), self.constraints.own_constraints
        return [
            replace(task, constraints=(*task.constraints, *entries), own_constraints=task.own_constraints and own)
            for task in tasks
        ]


def _chosen(flag: str, labels: Sequence[str], entries: Sequence[Any]) -> list[Any]:
    """Returns the entries with these labels, in the study's order; all for none."""
    known = [entry.label for entry in entries]
    for label in labels:
        if label not in known:
            raise ValueError(unknown(f"expected {flag} to be of", known, label))
    return [entry for entry in entries if not labels or entry.label in labels]


def run_comparison(config: CompareConfig) -> int:
    """Does what is not done yet, reports on everything, and checks the claims.

    Returns:
        The exit code: 0, or 1 if a claim is not established.

    Raises:
        ValueError: If the input is bad; then nothing was run.
    """
    study = config.resolved()
    agents = [agent.label for agent in study.agents]
    claims = [parse_claim(text, agents, [task.label for task in study.tasks]) for text in config.claims]
    found = _compared(config, study, make_launcher(config.launcher, config.workers))
    return 0 if print_claims(claims, found) else UNESTABLISHED


def compare_problems(
    problems: Problem | str | Sequence[Problem | str] | Mapping[str, Problem | str],
    agents: Sequence[str],
    *,
    out: Path | str,
    **settings: Any,
) -> Conclusions:
    """Compares agents on problems, as ``slot-rl compare`` does; ``slot_rl.compare`` is this function.

    Args:
        problems: What to compare on, perhaps by label: built problems, or tasks as at the command line (an id,
            ``path.py:function``, each with ``,key=value``). With a built problem, runs are done in this process and
            are never continued by another call.
        agents: The agents' names.
        out: Where everything goes; runs that are finished there are not repeated.
        settings: Further fields of :class:`CompareConfig`, for example ``seeds=3``, ``timesteps=50_000``.

    Returns:
        The conclusions; ``.summaries`` and ``.pairs`` are data frames.

    Raises:
        TypeError: If a setting is unknown, or the problems are none.
        ValueError: If the input is bad; then nothing was run.
    """
    given = [problems] if isinstance(problems, Problem | str) else problems
    if not isinstance(given, Mapping | Sequence):
        raise TypeError(f"expected a problem, a task, or several, got {type(given).__name__}")
    labelled = given if isinstance(given, Mapping) else {f"own {i}" if i else "own": one for i, one in enumerate(given)}
    config = CompareConfig(out=Path(out), agents=tuple(agents), **settings)
    named = isinstance(given, Mapping)
    tasks = [
        Task(label, OWN, built=one) if isinstance(one, Problem) else _task(one, label if named else None, config.trust)
        for label, one in labelled.items()
    ]
    launcher = make_launcher(config.launcher, config.workers)
    here = any(task.built is not None for task in tasks)
    return _compared(config, config.resolved(tasks), InProcessLauncher() if here else launcher)


def _task(text: str, label: str | None, trust: bool) -> Task:
    return parse_task(text if label is None else f"{text},name={label}", trust)


def _compared(config: CompareConfig, study: Study, launcher: Launcher) -> Conclusions:
    mode = wandb_mode(config.wandb)
    if config.tensorboard:
        check_tensorboard()
    flags = config.labels.with_variables()
    document = _document(config, study, flags)
    groups = {task["label"]: task["group"] for task in document["tasks"]}
    runs = study.runs(Tracking(mode, config.tensorboard, labels=flags, groups=groups, git=document["git"]))
    with opened(config.out):
        write_json(config.out / COMPARISON, document)
        do_runs(runs, config.out, launcher, config.retry_failed)
        found = conclude(read_results(runs, config.out), study.failure_threshold)
        publish_report(config.out, found, document, mode, flags)
    sync = sync_command(config.out)
    if sync is not None:
        say(f"to send it to Weights & Biases: {sync}")
    return found


def _document(config: CompareConfig, study: Study, flags: WandbFlags) -> dict[str, Any]:
    budgets = {task.label: task.timesteps or study.timesteps for task in study.tasks}
    tasks = [
        {
            "label": task.label,
            "env": task.env,
            "timesteps": budgets[task.label],
            "group": _group(flags, task.label, budgets),
            "unmeasured": None if task.truth is None else task.unmeasured,
        }
        for task in study.tasks
    ]
    names = {
        "agents": [agent.label for agent in study.agents],
        "seeds": list(study.seeds),
        "wandb_project": flags.wandb_project or PROJECT,
        "wandb_entity": flags.wandb_entity,
    }
    return {**provenance(config), "tasks": tasks, **names}


def _group(flags: WandbFlags, label: str, budgets: Mapping[str, int]) -> str:
    """Returns the group of a task's runs on Weights & Biases; runs of two tasks must not be averaged."""
    if flags.wandb_group is None:
        return run_group(label, budgets[label])
    return flags.wandb_group if len(budgets) == 1 else f"{flags.wandb_group}__{label}"
