"""Small runs that end in a second, and what can be compared of what they leave."""

from pathlib import Path
from typing import Any

from slot_rl.agents.base import to_json
from slot_rl.compare.study import Run, Tracking
from slot_rl.compare.task import Task, parse_task
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import read_json
from slot_rl.networks import PointerSize
from tests.helpers.options import options_of
from tests.helpers.small_agents import left_in

PICK_VALUE = parse_task("SlotRL/PickValue-v0")
SMALL: dict[str, dict[str, Any]] = {
    "gumbel": {"batch_size": 64, "policy": PointerSize(16, 32)},
    "ppo": {"batch_size": 128, "minibatch_size": 64, "policy": PointerSize(16, 32)},
    "guided_search": {},
    "random": {},
}


def run(agent: str = "gumbel", seed: int = 0, task: Task = PICK_VALUE, timesteps: int = 2_000, **changes: Any) -> Run:
    options = to_json(options_of(agent, **(SMALL[agent] | changes)))
    evaluation, tracking = EvaluationConfig(eval_size=40), Tracking("disabled")
    return Run(task, agent, agent, options, seed, timesteps, evaluation, tracking=tracking)


def contents(folder: Path) -> dict[str, Any]:
    """Returns what a run found, without the time it took."""
    return {**left_in(folder), "serving": read_json(folder / "serving.json")}


def all_contents(out: Path) -> dict[str, Any]:
    return {folder.name: contents(folder) for folder in sorted((out / "runs").iterdir())}
