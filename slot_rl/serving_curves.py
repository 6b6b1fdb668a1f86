"""Optimality over estimator calls and over seconds for each request, of policies and of searches, and break-evens.

A single request says little about a search that starts at random, so requests are repeated until there are at least 96
answers in all, each from its own start or draws. The mean is the expected score of one answer.

An answer takes its own seconds (passes of the policy, a search's bookkeeping) and the estimator's. The latter depend on
the estimator, so a break-even is the cost of a call above which a policy's answer is cheaper than a search's. Seconds
are the processor's, medians of several repetitions in one process. They are noisy: no figure that must be the same
again may depend on them.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slot_rl.agents import AGENTS, Agent
from slot_rl.agents.searches import SearchOptions
from slot_rl.agents.serving import Mode, Serving, serve
from slot_rl.console import print_table, say
from slot_rl.evaluation import Evaluation
from slot_rl.looks import Look, look_of, variant
from slot_rl.plots import SMALLER, Panel, plot_curves
from slot_rl.problems import Observation, Problem
from slot_rl.seeding import generator_from

ServingCurve = list[tuple[int, float]]
"""Estimator calls for each request and optimality, by rising calls."""
AnswerRequests = Callable[[Observation], Tensor]

SERVED = (1, 2, 4, 8, 16, 31, 64)
SEARCHED = (1, 2, 4, 6, 8, 11, 14, 16, 20, 31, 61, 98, 162, 405)
FEWEST_ANSWERS = 96
PASSES: dict[Mode, str] = {"pass": "one pass", "confident": "confident first", "ranked": "ranked starts"}
"""A policy's ways of answering without a call; the last one needs a critic of starts."""
WITH_CALLS: dict[Mode, tuple[str, Mode]] = {
    "starts": ("starts + swaps", "confident"),
    "search": ("pass + swaps", "pass"),
    "draws": ("best of draws", "pass"),
}
"""Its ways of answering with calls, the default one first, and what each of them begins at."""
RIVALS = ("mean_field", "multi_swap", "guided_search", "local_search")
"""The searches that a policy is compared with."""

LARGE_BATCH = 256
MOST_REPEATS, ENOUGH_SECONDS = 11, 0.2
AS_GOOD = 1e-6
"""Optimality that rounding may take: an answer that is worse by less is as good."""
BREAK_EVEN_TITLE = "cost of an estimator call, in microseconds, at which the policy is cheaper (calls of the search)"
"""What :meth:`BreakEven.cell` holds."""


@dataclass(frozen=True)
class Way:
    """A way of answering.

    Attributes:
        title: What it is called.
        build: Returns what answers, for a problem, whose budget counts the calls, and a number of calls.
        calls: The numbers of calls at which it is measured.
    """

    title: str
    build: Callable[[Problem, int], AnswerRequests]
    calls: tuple[int, ...]


class CallCost(NamedTuple):
    """Seconds of an estimator call for each request of a batch: of a forward alone, and with its backward."""

    forward: float
    both: float

    def share(self, forwards: float, backwards: float) -> float:
        """Returns calls with their backwards that cost as much as so many forwards and backwards."""
        return backwards + (forwards - backwards) * self.forward / self.both


class Timing(NamedTuple):
    """What an answer takes: calls, seconds, those that are not the estimator's, and calls at the price of a whole one.

    A call without its backward counts as the share of a whole one that it costs.
    """

    calls: int
    seconds: float
    own_seconds: float
    paid_calls: float


@dataclass(frozen=True)
class BreakEven:
    """The cost of an estimator call at which a policy's answer is cheaper than a search's that is as good.

    Attributes:
        calls: Calls that the search needs; None if it was never as good.
        tried: Most calls that it was tried with.
        above: Seconds of a call above which the policy is cheaper.
        below: Seconds of a call below which it is cheaper.
    """

    calls: int | None
    tried: int
    above: float = 0.0
    below: float = inf

    def cell(self) -> str:
        """Returns microseconds of a call, and the search's calls, for a table."""
        if self.calls is None:
            return f"unreached ({self.tried})"
        cost = "any"
        if self.above > 0:
            cost = f"> {microseconds(self.above)}"
        elif self.below < inf:
            cost = f"< {microseconds(self.below)}" if self.below > 0 else "none"
        return f"{cost} ({self.calls})"

    def sentence(self, answer: str, search: str) -> str:
        """Says the same in words."""
        if self.calls is None:
            return f"{answer} is never reached by {search} with up to {_calls(self.tried)}"
        where = "at any cost of a call"
        if self.above > 0:
            where = f"where a call costs more than {microseconds(self.above)} us"
        elif self.below == 0:
            where = "at no cost of a call"
        elif self.below < inf:
            where = f"where a call costs less than {microseconds(self.below)} us"
        return f"{answer} ties with {search} at {_calls(self.calls)}; it is cheaper {where}"


def policy_ways(agent: Agent, seed: int, served: Sequence[int] = SERVED) -> dict[str, Way]:
    """Returns an agent's ways of answering; those with calls begin at its answer in one pass.

    Args:
        agent: An agent with a policy.
        seed: Seeds draws.
        served: Calls for each request; a way leaves out those that are too few for it.
    """

    def build(mode: Mode, first: Mode, problem: Problem, calls: int) -> AnswerRequests:
        serving = Serving(mode if calls else first, calls)
        return lambda observation: serve(agent, problem, observation, serving, generator_from(seed)).choice

    passes = {mode: title for mode, title in PASSES.items() if mode != "ranked" or agent.ranks_starts}
    ways = {str(mode): Way(title, partial(build, mode, mode), (0,)) for mode, title in passes.items()}
    for mode, (title, first) in WITH_CALLS.items():
        possible = (calls for calls in served if _possible(mode, calls))
        first = "ranked" if mode == "starts" and agent.ranks_starts else first
        ways[mode] = Way(title, partial(build, mode, first), (0, *possible))
    return ways


def search_way(name: str, seed: int, searched: Sequence[int] = SEARCHED, options: SearchOptions | None = None) -> Way:
    """Returns a search from random starts.

    Args:
        name: The agent's name.
        seed: Seeds the starts.
        searched: Calls for each request.
        options: The agent's options but for the calls; its defaults if None.
    """
    kind = AGENTS[name]
    asked = options or kind.options
    assert isinstance(asked, SearchOptions)

    def build(problem: Problem, calls: int) -> AnswerRequests:
        return kind(problem, replace(asked, calls_per_context=calls), seed).choose

    return Way(name.replace("_", " "), build, tuple(searched))


def serving_curve(way: Way, evaluation: Evaluation) -> ServingCurve:
    """Returns a way's optimality by calls."""
    observation, problem = often(evaluation.observation), evaluation.problem
    curve: ServingCurve = []
    for calls in way.calls:
        choice = way.build(problem.with_fresh_budget(), calls)(observation)
        score = problem.score(observation, choice).double().mean()
        curve.append((calls, evaluation.optimality(float(score))))
    return curve


def call_cost(problem: Problem, observation: Observation) -> CallCost:
    """Measures an estimator call on a batch of requests."""
    asked = problem.with_fresh_budget()
    choice = AGENTS["random"](asked).choose(observation)
    forward = _seconds(lambda: asked.score(observation, choice))
    both = _seconds(lambda: asked.score_and_slope(observation, choice))
    return CallCost(median(forward) / len(observation), median(both) / len(observation))


def timings(way: Way, problem: Problem, observation: Observation, cost: CallCost) -> list[Timing]:
    """Measures what a way takes for each request of a batch.

    Args:
        way: How to answer.
        problem: The problem.
        observation: The batch.
        cost: What a call costs for this batch.
    """
    found = []
    for calls in way.calls:
        asked = problem.with_fresh_budget()
        answer = way.build(asked, calls)
        seconds = _seconds(partial(answer, observation))
        rows = len(observation) * len(seconds)
        # An answer without a call is scored in order to report it, which is no part of the answer.
        each = median(seconds) / len(observation) - (cost.forward if calls == 0 else 0.0)
        # A search that asks about many configurations of a request at once pays less for each of them.
        paid = min(cost.share(asked.budget.forwards / rows, asked.budget.backwards / rows), each / cost.both)
        found.append(Timing(calls, each, each - paid * cost.both, paid))
    return found


def serving_times(
    ways: Mapping[str, Way], problem: Problem, batch: Observation
) -> tuple[CallCost, dict[str, list[Timing]]]:
    """Measures an estimator call, and what ways of answering take, on a batch of requests."""
    cost = call_cost(problem, batch)
    return cost, {name: timings(way, problem, batch, cost) for name, way in ways.items()}


def large_batch(evaluation: Evaluation) -> Observation:
    """Returns the batch of an evaluation's requests for which times are measured."""
    return often(evaluation.observation)[:LARGE_BATCH]


def break_even(optimality: float, timing: Timing, curve: ServingCurve, rival: Sequence[Timing]) -> BreakEven:
    """Returns where an answer is cheaper than a search's with the fewest calls that is as good.

    Args:
        optimality: The answer's.
        timing: What it takes.
        curve: The search's optimality by calls.
        rival: What the search takes, with the same numbers of calls.
    """
    tried = curve[-1][0]
    needed = next((calls for calls, reached in curve if reached >= optimality - AS_GOOD), None)
    if needed is None:
        return BreakEven(None, tried)
    theirs = next(each for each in rival if each.calls == needed)
    slower, saved = timing.own_seconds - theirs.own_seconds, theirs.paid_calls - timing.paid_calls
    if saved > 0:
        return BreakEven(needed, tried, above=max(0.0, slower / saved))
    if saved < 0:
        return BreakEven(needed, tried, below=max(0.0, slower / saved))
    return BreakEven(needed, tried, below=inf if slower < 0 else 0.0)


def report_serving(agent: Agent, evaluation: Evaluation, seed: int, title: str, picture: Path) -> None:
    """Prints and draws what an agent's answers and searches reach and take, and where the agent is cheaper.

    Args:
        agent: An agent with a policy.
        evaluation: The requests.
        seed: Seeds draws and starts.
        title: Says who answers what.
        picture: The PNG file.
    """
    ways = {way.title: way for way in policy_ways(agent, seed).values()}
    curves = {name: serving_curve(way, evaluation) for name, way in ways.items()}
    rivals, refused = _searches(evaluation, seed)
    ways |= {name: way for name, (way, _) in rivals.items()}
    curves |= {name: curve for name, (_, curve) in rivals.items()}
    _print_by_calls(f"optimality by calls per request: {title}", curves, "{:.4f}".format)
    for line in refused:
        say(line)
    many = large_batch(evaluation)
    for batch in (many[:1], many):
        cost, taken = serving_times(ways, evaluation.problem, batch)
        _print_break_evens(list(rivals), curves, taken, len(batch))
        say(f"{cost_sentence(cost, len(batch))}.")
    _print_by_calls(
        f"microseconds by calls per request, in brackets without the estimator's; batch of {len(many)}",
        {name: [(each.calls, each) for each in times] for name, times in taken.items()},
        lambda each: f"{microseconds(each.seconds)} ({microseconds(each.own_seconds)})",
    )
    plot_serving(picture, title, curves, taken, len(many), way_looks(agent.name, ways))


def plot_serving(
    path: Path,
    title: str,
    curves: Mapping[str, ServingCurve],
    taken: Mapping[str, Sequence[Timing]],
    batch: int,
    looks: Mapping[str, Look],
) -> None:
    """Draws the distance to the best against calls and against seconds, all on logarithmic scales."""
    optimality = {name: [value for _, value in curve] for name, curve in curves.items()}
    calls = {name: ([float(at) for at, _ in curve], optimality[name]) for name, curve in curves.items()}
    seconds = {name: ([1e6 * each.seconds for each in taken[name]], optimality[name]) for name in curves}
    shown = {"nearness": True, "log_along": True, "marked": True}
    by_calls = Panel(title, SMALLER, calls, along="estimator calls for each request", **shown)
    along = f"microseconds for each request, batch of {batch}"
    by_seconds = Panel("the same by time", "", seconds, along=along, **shown)
    plot_curves(path, [by_calls, by_seconds], looks=looks)


def way_looks(agent: str, ways: Iterable[str]) -> dict[str, Look]:
    """Returns how ways of answering are drawn: a policy's in its agent's colour, a search as it is everywhere.

    The way that comparisons show, starts and swaps, has the agent's own look.
    """
    shown, own = next(iter(WITH_CALLS.values()))[0], look_of(agent)
    policys = [*PASSES.values(), *(title for title, _ in WITH_CALLS.values())]
    variants = {name: own if name == shown else variant(own, 7 * i) for i, name in enumerate(policys)}
    return {name: look_of(name) for name in ways} | variants


def often(observation: Observation) -> Observation:
    """Returns every request equally often, 96 rows at least."""
    times = -(-FEWEST_ANSWERS // len(observation))
    return observation[torch.arange(len(observation)).repeat(times)]


def microseconds(seconds: float) -> str:
    """Returns seconds as microseconds with two digits; the others are noise."""
    return f"{float(f'{1e6 * seconds:.2g}'):,.10g}"


def cost_sentence(cost: CallCost, batch: int) -> str:
    """Says what an estimator call costs here."""
    both, forward = microseconds(cost.both), microseconds(cost.forward)
    return f"here a call costs {both} us with its backward and {forward} us without, in a batch of {batch}"


def _calls(number: int) -> str:
    return f"{number} call{'s' * (number != 1)}"


def _possible(mode: Mode, calls: int) -> bool:
    try:
        Serving(mode, calls)
    except ValueError:
        return False
    return True


def _searches(evaluation: Evaluation, seed: int) -> tuple[dict[str, tuple[Way, ServingCurve]], list[str]]:
    """Returns the searches that the problem allows, with their curves, and why the others are left out."""
    found, refused = {}, []
    for name in RIVALS:
        way = search_way(name, seed)
        try:
            found[way.title] = way, serving_curve(way, evaluation)
        except ValueError as reason:
            refused.append(f"{way.title} is left out: {reason}")
    return found, refused


def _seconds(action: Callable[[], object]) -> list[float]:
    """Returns the processor's seconds of several repetitions; one that takes long is not repeated."""
    seconds: list[float] = []
    while len(seconds) < MOST_REPEATS and sum(seconds) < ENOUGH_SECONDS:
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return seconds


def _print_by_calls(title: str, curves: Mapping[str, Iterable[tuple[int, Any]]], shown: Callable[[Any], str]) -> None:
    """Prints a policy's ways and searches in tables of their own: all of them together do not fit into 80 columns."""
    searches = [way.replace("_", " ") for way in RIVALS]
    for names in ([name for name in curves if name not in searches], [name for name in curves if name in searches]):
        by_name = [dict(curves[name]) for name in names]
        every = sorted({calls for curve in by_name for calls in curve})
        rows = [[str(calls), *(shown(curve[calls]) if calls in curve else "" for curve in by_name)] for calls in every]
        print_table(title, ["calls", *names], rows)


def _print_break_evens(
    rivals: Sequence[str], curves: Mapping[str, ServingCurve], taken: Mapping[str, Sequence[Timing]], batch: int
) -> None:
    """Prints where a policy's answers are cheaper than searches: in a table, and in words for those without a call."""
    rows, sentences = [], []
    passes = [name for name in PASSES.values() if name in curves]
    for name in (*passes, next(iter(WITH_CALLS.values()))[0]):
        for (calls, value), timing in zip(curves[name], taken[name], strict=True):
            if calls == 0 and name not in passes:
                continue  # The pass has a row of its own.
            label = f"{name}, {_calls(calls)}" if calls else name
            found = {rival: break_even(value, timing, curves[rival], taken[rival]) for rival in rivals}
            answer = f"{label}: {value:.4f} in {microseconds(timing.seconds)} us"
            rows.append([answer, *(each.cell() for each in found.values())])
            sentences += [f"{each.sentence(name, rival)}." for rival, each in found.items() if calls == 0]
    print_table(f"{BREAK_EVEN_TITLE}; batch of {batch}", ["answer", *rivals], rows)
    for sentence in sentences:
        say(sentence)
