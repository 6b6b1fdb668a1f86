"""One run: train a contestant on a landscape with one seed, judge it, and keep what was found as one small file.

A run's file holds what the run depends on; a run whose file is there and says the same is not repeated.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Logger

from benchmarks.landscapes.contestants import GUIDED, LOCAL, Contestant
from benchmarks.landscapes.grounds import Ground, evaluation_on
from slot_rl.agents import Agent, LearningAgent, make_agent
from slot_rl.agents.base import to_json
from slot_rl.evaluation import Evaluation, Row
from slot_rl.io import read_json, write_json
from slot_rl.search import configurations
from slot_rl.serving_curves import FEWEST_ANSWERS, policy_curves, search_curve

SERVED = (2, 4, 8, 16, 32, 64)
SEARCHED = (1, 2, 4, 8, 15, 31, 49, 98, 196, 400, 784, 1000)
FIGURES = (
    "score",
    "optimality",
    "hit_rate",
    "true_score",
    "true_normalised",
    "true_worst",
    "gap",
    "measured_share",
    "forwards",
    "backwards",
    "calls_per_context",
    "seconds",
    "cpu_seconds",
)


@dataclass(frozen=True)
class Task:
    """A run to be done.

    Attributes:
        ground: The landscape.
        contestant: Who runs.
        seed: Seeds the training.
    """

    ground: Ground
    contestant: Contestant
    seed: int

    @property
    def title(self) -> str:
        """A short name."""
        return f"{self.ground.landscape.name}, {self.contestant.name}, seed {self.seed}"

    @property
    def path(self) -> Path:
        """The run's file."""
        name = f"{self.ground.landscape.name}__{self.contestant.name}__s{self.seed}.json"
        return self.ground.out / "runs" / name

    def config(self) -> dict[str, Any]:
        """Returns what the run depends on; the landscape's estimator must be there."""
        # The place of the logged rows does not matter, and which they are follows from the estimator's card.
        logged = Path(self.ground.logged.name)
        options = None if self.contestant.agent is None else to_json(self.contestant.options(logged))
        found: dict[str, Any] = _from_json(
            {
                "landscape": self.ground.landscape.name,
                "estimator": self.ground.estimator(),
                "calls": self.ground.landscape.calls,
                "contestant": self.contestant.name,
                "agent": self.contestant.agent,
                "options": options,
                "seed": self.seed,
                "levels": (SERVED, SEARCHED, FEWEST_ANSWERS),
            }
        )
        return found

    def is_done(self) -> bool:
        """Returns whether the file is there and holds this very run."""
        return self.path.is_file() and read_json(self.path).get("config") == self.config()


def do(task: Task) -> None:
    """Trains and judges one contestant and writes the run's file."""
    config = task.config()
    evaluation = evaluation_on(task.ground, config["estimator"])
    if task.contestant.agent is None:
        row = next(row for row in evaluation.references if row.name == "best")
        costs = {"forwards": 0, "backwards": 0, "calls_per_context": configurations(evaluation.problem)}
        costs |= {"seconds": 0, "cpu_seconds": 0}
        found: dict[str, Any] = {"figures": _figures(row, costs), "curves": {}}
    else:
        found = _train_and_judge(task, evaluation)
    task.path.parent.mkdir(parents=True, exist_ok=True)
    write_json(task.path, {"config": config, **found})


def _train_and_judge(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    problem = evaluation.problem.with_fresh_budget()
    options = task.contestant.options(task.ground.logged)
    assert task.contestant.agent is not None
    agent = make_agent(task.contestant.agent, problem, options, task.seed)
    if isinstance(agent, LearningAgent):
        agent.set_logger(Logger(folder=None, output_formats=[]))
    start, start_cpu = time.perf_counter(), time.process_time()
    agent.learn(task.ground.landscape.calls)
    costs = {
        "forwards": problem.budget.forwards,
        "backwards": problem.budget.backwards,
        "calls_per_context": agent.calls_per_context,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
    }
    figures = _figures(evaluation.judge(agent.choose), costs)
    return {"figures": figures, "curves": _curves(task, agent, evaluation)}


def _curves(task: Task, agent: Agent, evaluation: Evaluation) -> dict[str, list[tuple[int, float]]]:
    if agent.policy is not None:
        return policy_curves(agent, evaluation, task.seed, SERVED)
    if task.contestant.name in (GUIDED, LOCAL):
        return {"search": search_curve(agent.name, evaluation, task.seed, SEARCHED)}
    return {}


def _figures(row: Row, costs: dict[str, Any]) -> dict[str, Any]:
    found = {**row.figures, **costs}
    return {name: found[name] for name in FIGURES}


def _from_json(values: Any) -> Any:
    """Returns values as JSON gives them back: tuples become lists."""
    if isinstance(values, dict):
        return {name: _from_json(value) for name, value in values.items()}
    return [_from_json(value) for value in values] if isinstance(values, list | tuple) else values
