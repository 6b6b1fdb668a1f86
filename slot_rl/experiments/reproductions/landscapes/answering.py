"""Calls per context against score: what an answer gains from asking the estimator, for policies and for searches.

A single context says little about a search that starts at random, so every context is asked often enough for 96
answers in all, each from its own start or draws; the mean is what one answer may be expected to score.
"""

from pathlib import Path
from typing import Any

import torch

from slot_rl.agents import AGENTS
from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.agents.serving import Serving, serve
from slot_rl.envs import SlotVecEnv
from slot_rl.experiments.evaluation import Evaluation
from slot_rl.experiments.reproductions.landscapes.contestants import Contestant
from slot_rl.problems import Observation
from slot_rl.seeding import generator_from

Curve = list[tuple[int, float]]
"""Calls per context and optimality, by rising calls."""

SERVED = (2, 4, 8, 16, 32, 64)
SEARCHED = (1, 2, 4, 8, 15, 31, 49, 98, 196, 400, 784, 1000)
FEWEST_ANSWERS = 96
LEVELS = (SERVED, SEARCHED, FEWEST_ANSWERS)


def policy_curves(agent: CheckpointedAgent, evaluation: Evaluation, seed: int) -> dict[str, Curve]:
    """Returns a policy's curves, best of several draws and guided swaps, both from its bare answer on."""
    observation, problem = often(evaluation.observation), evaluation.problem
    bare = _optimality(evaluation, serve(agent, problem, observation, Serving("pass")).score)
    curves: dict[str, Curve] = {"draws": [(0, bare)], "search": [(0, bare)]}
    for calls in SERVED:
        draws = serve(agent, problem, observation, Serving("draws", calls), generator_from(seed))
        curves["draws"].append((calls, _optimality(evaluation, draws.score)))
        found = serve(agent, problem, observation, Serving("search", calls))
        curves["search"].append((calls, _optimality(evaluation, found.score)))
    return curves


def search_curve(contestant: Contestant, evaluation: Evaluation, seed: int) -> Curve:
    """Returns the curve of a reference that searches from random starts."""
    observation, problem = often(evaluation.observation), evaluation.problem
    assert contestant.agent is not None
    build: Any = AGENTS[contestant.agent]
    curve: Curve = []
    for calls in SEARCHED:
        options = contestant.options(Path(), calls_per_context=calls)
        agent: CheckpointedAgent = build(SlotVecEnv(problem.with_fresh_budget(), 1), options, seed=seed)
        curve.append((calls, _optimality(evaluation, problem.score(observation, agent.choose(observation)))))
    return curve


def often(observation: Observation) -> Observation:
    """Returns every request equally often, 96 rows at least."""
    times = -(-FEWEST_ANSWERS // len(observation))
    return observation[torch.arange(len(observation)).repeat(times)]


def _optimality(evaluation: Evaluation, scores: torch.Tensor) -> float:
    return evaluation.optimality(float(scores.double().mean()))
