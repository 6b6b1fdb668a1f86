"""The plan of a comparison: every run, its name, and whether it has been done.

A run is what its result depends on: the problem's contents, the agent, its options, the budget, the requests to judge
on, the seed, and the versions that shape a result. Their hash is part of its folder's name, so that a finished run is
recognised and never mistaken for another.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from slot_rl.compare.tasks import Task
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import SUMMARY, read_json
from slot_rl.problems.named import short_name
from slot_rl.provenance import versions
from slot_rl.tracking import WandbMode

COMPARISON = "comparison.json"
"""What a comparison was asked for; marks its folder."""

RUNS, FAILURE = "runs", "failure.json"

PARTIAL = ".partial"
SHAPELESS = ("python", "wandb")
"""Versions that shape no result."""

State = Literal["finished", "failed", "open"]


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
class Run:
    """One agent, one task, one seed.

    Attributes:
        task: The problem.
        agent: A name in ``slot_rl.agents.AGENTS``.
        options: The agent's options, all of them, as JSON holds them; their classes do not travel between processes.
        seed: The training seed.
        timesteps: Configurations to score in training.
        evaluation: The requests to judge on.
        tracking: Where it is tracked.
    """

    task: Task
    agent: str
    options: dict[str, Any]
    seed: int
    timesteps: int
    evaluation: EvaluationConfig
    tracking: Tracking = Tracking()

    @cached_property
    def document(self) -> dict[str, Any]:
        """What the result depends on, ready for JSON."""
        return {
            **self.task.document(),
            "agent": self.agent,
            "options": self.options,
            "seed": self.seed,
            "budget": self.timesteps,
            "evaluation": asdict(self.evaluation),
            "versions": {name: known for name, known in versions().items() if name not in SHAPELESS},
        }

    @cached_property
    def name(self) -> str:
        """``env__agent__s<seed>__<hash>``, the run's folder."""
        text = json.dumps(self.document, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{short_name(self.task.env)}__{self.agent}__s{self.seed}__{digest}"

    @property
    def title(self) -> str:
        """A short name for people."""
        return f"{self.task.label}, {self.agent}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Returns the run's folder in a comparison's."""
        return out / RUNS / self.name

    def partial_folder(self, out: Path) -> Path:
        """Returns where this process puts the run together; no other finds it."""
        return out / RUNS / f".{self.name}.{os.getpid()}{PARTIAL}"

    def state(self, out: Path) -> State:
        """Returns what has become of the run; a folder is only there once the run has ended."""
        folder = self.folder(out)
        if (folder / FAILURE).is_file():
            return "failed"
        return "finished" if (folder / SUMMARY).is_file() else "open"

    def failure(self, out: Path) -> str:
        """Returns why a failed run failed, in one line."""
        return str(read_json(self.folder(out) / FAILURE)["error"])
