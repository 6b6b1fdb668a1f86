"""Optimality over estimator calls for each request, for policies and for searches.

A single request says little about a search that starts at random, so requests are repeated until there are at least 96
answers in all, each from its own start or draws. The mean is the expected score of one answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from slot_rl.agents import AGENTS, Agent
from slot_rl.agents.searches import SearchOptions
from slot_rl.agents.serving import Serving, serve
from slot_rl.console import print_table
from slot_rl.evaluation import Evaluation
from slot_rl.plots import Panel, plot_curves
from slot_rl.problems import Observation
from slot_rl.seeding import generator_from

ServingCurve = list[tuple[int, float]]
"""Estimator calls for each request and optimality, by rising calls."""

SERVED = (2, 4, 6, 11, 16, 20, 31, 64)
SEARCHED = (1, 2, 4, 6, 11, 16, 20, 31, 61, 98, 162, 405, 810)
FEWEST_ANSWERS = 96
WAYS = {"draws": "best of draws", "search": "pass + swaps"}
RIVALS = {"guided search": "guided_search", "local search": "local_search"}


def policy_curves(
    agent: Agent, evaluation: Evaluation, seed: int, served: Sequence[int] = SERVED
) -> dict[str, ServingCurve]:
    """Returns a policy's curves from its answer in one pass on: the best of several draws, and guided swaps."""
    observation, problem = often(evaluation.observation), evaluation.problem
    bare = _optimality(evaluation, serve(agent, problem, observation, Serving("pass")).score)
    curves: dict[str, ServingCurve] = {"draws": [(0, bare)], "search": [(0, bare)]}
    for calls in served:
        draws = serve(agent, problem, observation, Serving("draws", calls), generator_from(seed))
        curves["draws"].append((calls, _optimality(evaluation, draws.score)))
        found = serve(agent, problem, observation, Serving("search", calls))
        curves["search"].append((calls, _optimality(evaluation, found.score)))
    return curves


def search_curve(
    name: str,
    evaluation: Evaluation,
    seed: int,
    searched: Sequence[int] = SEARCHED,
    options: SearchOptions | None = None,
) -> ServingCurve:
    """Returns the curve of a search from random starts.

    Args:
        name: The agent's name.
        evaluation: The requests.
        seed: Seeds the starts.
        searched: Calls for each request.
        options: The agent's options but for the calls; its defaults if None.
    """
    observation, problem = often(evaluation.observation), evaluation.problem
    kind = AGENTS[name]
    asked = options or kind.options
    assert isinstance(asked, SearchOptions)
    curve: ServingCurve = []
    for calls in searched:
        agent = kind(problem.with_fresh_budget(), replace(asked, calls_per_context=calls), seed)
        curve.append((calls, _optimality(evaluation, problem.score(observation, agent.choose(observation)))))
    return curve


def report_serving(agent: Agent, evaluation: Evaluation, seed: int, title: str, picture: Path) -> None:
    """Prints and draws the optimality of an agent's answers and of searches, by estimator calls.

    Args:
        agent: An agent with a policy.
        evaluation: The requests.
        seed: Seeds draws and starts.
        title: Says who answers what.
        picture: The PNG file.
    """
    curves = {WAYS[way]: curve for way, curve in policy_curves(agent, evaluation, seed).items()}
    curves |= {shown: search_curve(name, evaluation, seed) for shown, name in RIVALS.items()}
    print_table(f"optimality by calls per request: {title}", ["calls", *curves], _rows(curves))
    plot_serving(picture, {title: curves})


def plot_serving(path: Path, panels: Mapping[str, Mapping[str, ServingCurve]]) -> None:
    """Draws curves of optimality against calls, a panel each, the calls on a logarithmic scale."""
    drawn = [
        Panel(title, "optimality", {name: ([c for c, _ in curve], [o for _, o in curve]) for name, curve in by.items()})
        for title, by in panels.items()
    ]
    plot_curves(path, drawn, "estimator calls for each request", log_along=True)


def often(observation: Observation) -> Observation:
    """Returns every request equally often, 96 rows at least."""
    times = -(-FEWEST_ANSWERS // len(observation))
    return observation[torch.arange(len(observation)).repeat(times)]


def _rows(curves: Mapping[str, ServingCurve]) -> list[list[str]]:
    by_name = [dict(curve) for curve in curves.values()]
    every = sorted({calls for curve in by_name for calls in curve})
    return [[str(calls), *(f"{curve[calls]:.4f}" if calls in curve else "" for curve in by_name)] for calls in every]


def _optimality(evaluation: Evaluation, scores: torch.Tensor) -> float:
    return evaluation.optimality(float(scores.double().mean()))
