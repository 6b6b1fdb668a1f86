"""The problems that agents are compared on, as a command line names them."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.problems import Problem, make_problem
from slot_rl.problems.named import estimator_hash, resolved_estimator, short_name

KEYS = ("estimator", "truth", "name")
FORBIDDEN = "=<>@"
"""Characters with a meaning in a dashboard's filters, in a group's name, or in a claim."""


@dataclass(frozen=True)
class Task:
    """A problem with a name of its own.

    Attributes:
        label: What tables and pictures call it.
        env: The environment's id.
        estimator: Folder of a pretrained estimator, or path.py:function; None for the environment's own.
        truth: Table with the true scores.
        trust: Whether a path.py may be executed.
    """

    label: str
    env: str
    estimator: str | None = None
    truth: Path | None = None
    trust: bool = False

    def problem(self) -> Problem:
        """Builds the problem."""
        return make_problem(self.env, estimator=self.estimator, truth=self.truth, trust=self.trust)

    def document(self) -> dict[str, Any]:
        """Returns what a run's result depends on: contents, not places."""
        return {
            "env": self.env,
            "estimator_sha256": estimator_hash(self.env, self.estimator),
            "truth_sha256": None if self.truth is None else _hash_of(self.truth),
        }


def parse_task(text: str, trust: bool = False) -> Task:
    """Reads a task as it stands at the command line: ``ID[,estimator=FOLDER][,truth=FILE][,name=LABEL]``.

    Args:
        text: The task.
        trust: Whether an estimator may be a Python file to execute.

    Raises:
        ValueError: If it reads otherwise, or names a file that is not there.
    """
    env, *rest = text.split(",")
    pairs = [part.partition("=") for part in rest]
    values = {key: value for key, _, value in pairs}
    if len(values) < len(rest) or not all(key in KEYS and value for key, _, value in pairs):
        raise ValueError(f"expected --env ID[,estimator=FOLDER][,truth=FILE][,name=LABEL], got {text!r}")
    estimator, truth = values.get("estimator"), values.get("truth")
    if truth is not None and not Path(truth).is_file():
        raise ValueError(f"expected a table in truth={truth}, got no such file")
    short = short_name(env)
    label = values.get("name", short if estimator is None else f"{short} {Path(estimator.rpartition(':')[2]).name}")
    if not set(FORBIDDEN).isdisjoint(label):
        raise ValueError(f"expected a label without any of {FORBIDDEN}, got {label!r}; name=LABEL gives another")
    return Task(
        label,
        env,
        None if estimator is None else resolved_estimator(estimator),
        None if truth is None else Path(truth).resolve(),
        trust,
    )


def parse_tasks(texts: tuple[str, ...], trust: bool = False) -> list[Task]:
    """Reads several tasks; raises ValueError, too, if there are none or two have one label."""
    tasks = [parse_task(text, trust) for text in texts]
    labels = [task.label for task in tasks]
    if len(set(labels)) < max(1, len(labels)):
        raise ValueError(f"expected --env to name tasks with labels of their own (name=LABEL), got {labels}")
    return tasks


@lru_cache(maxsize=2)
def evaluation_on(task: Task, config: EvaluationConfig) -> Evaluation:
    """Returns a task's evaluation; a process that runs many agents on a task measures its references once."""
    return Evaluation(task.problem(), config)


@lru_cache
def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
