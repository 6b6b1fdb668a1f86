"""Each agent's options for each environment, as YAML files that also say how they were chosen.

A file holds, for one environment, the trials of every agent (options that differ from its defaults) and the optimality
that each trial reached in tuning; the best one is used. All agents have the same number of trials, on the same seeds
and with the same budget. A comparison refuses the seeds that its presets were tuned on.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import NotRequired, TypedDict

from slot_rl.agents import AGENTS
from slot_rl.agents.base import Options, options_from_json
from slot_rl.documents import as_declared, read_yaml
from slot_rl.io import SEAL, BundleError, as_written, digest_of, write_atomically
from slot_rl.problems.named import short_name

SHIPPED_PRESETS = Path(__file__).parent / "shipped_presets"
PRESETS_FORMAT, BY_HAND = "slot_rl presets 2", "slot_rl presets 1"
"""Files that are written here hold their own hash; those that a person writes or changes have another format."""


@dataclass(frozen=True)
class Tuning:
    """How a file's options were chosen.

    Attributes:
        tasks: The tasks, as the command line named them.
        seeds: Training seeds of every trial.
        timesteps: Estimator calls in each run of a trial.
        command: The command that chose.
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    timesteps: int
    command: str


@dataclass(frozen=True)
class AgentPreset:
    """One agent's options in one environment.

    Attributes:
        trials: Options that differ from the agent's defaults, of each trial.
        scores: Mean optimality of each trial in tuning; None before the tuning.
    """

    trials: tuple[Mapping[str, Any], ...]
    scores: tuple[float, ...] | None = None

    @property
    def chosen(self) -> int:
        """The number of the trial with the highest score, the first of equals; 0 before the tuning."""
        return 0 if self.scores is None else max(range(len(self.trials)), key=self.scores.__getitem__)


@dataclass(frozen=True)
class Presets:
    """The presets of one environment.

    Attributes:
        env: The environment's id.
        version: Counts changes of the file.
        tuning: How they were chosen; None if they were not.
        agents: The presets by agent.
    """

    env: str
    version: int
    tuning: Tuning | None
    agents: Mapping[str, AgentPreset]

    def options(self, agent: str) -> Options:
        """Returns an agent's options; its defaults where the file does not name it."""
        return self.trials(agent)[self.agents[agent].chosen if agent in self.agents else 0]

    def trials(self, agent: str) -> list[Options]:
        """Returns the options of every trial; of the defaults alone where the file does not name the agent."""
        defaults = AGENTS[agent].options
        trials = self.agents[agent].trials if agent in self.agents else ({},)
        return [options_from_json(trial, defaults) for trial in trials]


class Trial(TypedDict):
    """A trial in a file."""

    options: dict[str, Any]
    optimality: NotRequired[float]


class PresetsFile(TypedDict):
    """The contents of a file."""

    env: str
    version: int
    tuning: NotRequired[Tuning]
    agents: dict[str, list[Trial]]


def preset_file(env: str, folder: Path) -> Path:
    """Returns where a folder has the presets of an environment: ``Slots-v0.yaml`` for ``SlotRL/Slots-v0``."""
    return folder / f"{short_name(env)}.yaml"


def read_presets(env: str, folder: Path | None = None) -> Presets:
    """Reads the presets of an environment from its file, see :func:`preset_file`.

    Args:
        env: The environment's id.
        folder: A folder with such files; those that come with slot_rl if None.

    Returns:
        The presets; without any agent where there is no file for the environment.

    Raises:
        ValueError: If the folder is none, or the file holds something else.
    """
    folder = folder or SHIPPED_PRESETS
    if not folder.is_dir():
        raise ValueError(f"expected a folder of presets, got {folder}, which is none")
    path = preset_file(env, folder)
    if not os.path.lexists(path):
        return Presets(env, 0, None, {})
    presets = _from_document(read_yaml(path, "presets"), path)
    with as_written(f"presets in {path}"):
        for agent in presets.agents:
            presets.trials(agent)
    if presets.env != env:
        raise ValueError(f"expected presets of {env} in {path}, got those of {presets.env}")
    return presets


def write_presets(path: Path, presets: Presets) -> None:
    """Writes a file of presets, whole or not at all."""
    document: dict[str, Any] = {"format": PRESETS_FORMAT, "env": presets.env, "version": presets.version}
    if presets.tuning is not None:
        tuning = presets.tuning
        document["tuning"] = {
            "command": tuning.command,
            "tasks": list(tuning.tasks),
            "seeds": list(tuning.seeds),
            "timesteps": tuning.timesteps,
        }
    document["agents"] = {name: _agent_document(preset) for name, preset in presets.agents.items()}
    document[SEAL] = digest_of(document)
    text = yaml.safe_dump(document, sort_keys=False, width=120, default_flow_style=None)
    write_atomically(path, text.encode())


def _agent_document(preset: AgentPreset) -> list[dict[str, Any]]:
    scores = preset.scores or [None] * len(preset.trials)
    return [
        {"options": dict(trial), **({} if score is None else {"optimality": score})}
        for trial, score in zip(preset.trials, scores, strict=True)
    ]


def _from_document(document: Any, path: Path) -> Presets:
    if not isinstance(document, dict) or document.get("format") not in (PRESETS_FORMAT, BY_HAND):
        raise BundleError(f"expected presets ({PRESETS_FORMAT}, by hand {BY_HAND}) in {path}, got something else")
    seal = document.pop(SEAL, None)
    with as_written(f"presets in {path}"):
        if document["format"] == PRESETS_FORMAT and seal != digest_of(document):
            raise BundleError(
                f"expected {path} as it was written, got one that was altered; whoever changes it by hand leaves out "
                f"{SEAL} and says {BY_HAND!r}"
            )
        found = as_declared(PresetsFile, document, "presets")
        unknown = [name for name in found["agents"] if name not in AGENTS]
        if unknown:
            raise BundleError(f"expected presets of known agents in {path}, got {', '.join(unknown)}")
        agents = {name: _agent_preset(trials) for name, trials in found["agents"].items()}
    return Presets(found["env"], found["version"], found.get("tuning"), agents)


def _agent_preset(trials: list[Trial]) -> AgentPreset:
    known = [trial["optimality"] for trial in trials if "optimality" in trial]
    if not trials or len(known) not in (0, len(trials)):
        raise ValueError("trials of which some have an optimality and some do not, or none at all")
    return AgentPreset(tuple(trial["options"] for trial in trials), tuple(known) or None)
