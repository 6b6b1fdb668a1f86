"""Serving: how a trained agent answers, with its own answer alone or with more estimator calls for each request.

``pass`` is the agent's own answer and costs no call. ``confident`` decides the most confident slot first and lets the
policy think again about the others: it costs no call either, but more passes through a part of the network. ``ranked``
takes the best of several such answers by the critic of starts, for an agent that has one (``multistart`` with
``--rank-starts``).

``starts`` spends k calls, each a forward and a backward: three fifths of them, rounded, on different starts of the
policy, and the rest on guided swaps of the best one, which go on from a random row where they fail. With a critic of
starts the first one is the ranked one. A policy without
further starts, as all but ``multistart``'s, has its confident answer alone, and the rest are swaps. ``draws`` takes the
best of k answers, the agent's own and k - 1 draws of its policy: k forwards. ``search`` lets r rounds of guided swaps
improve the agent's own answer: ``1 + r`` forwards and as many backwards. Draws and searches never score below the pass,
by the estimator's score. ``sample`` answers with a draw of the policy and costs no call: its probability is known, so
its logged outcome can be used to learn from.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from slot_rl.agents.base import Agent
from slot_rl.agents.policy import SlotPolicy
from slot_rl.problems import Observation, Problem
from slot_rl.search import SearchResult, best_of, guided_search, moves_of
from slot_rl.search.base import better_of
from slot_rl.seeding import generator_from

Mode = Literal["pass", "confident", "ranked", "starts", "draws", "search", "sample"]
WITHOUT_CALLS: tuple[Mode, ...] = ("pass", "confident", "ranked", "sample")
DEFAULT_CALLS: dict[Mode, int] = {**dict.fromkeys(WITHOUT_CALLS, 0), "starts": 4, "draws": 4, "search": 4}
_FEWEST: dict[Mode, int] = {**dict.fromkeys(WITHOUT_CALLS, 0), "starts": 1, "draws": 1, "search": 2}
STARTS_SHARE = 0.6
"""Share of the calls that go into starts and not into swaps of the best one.

Measured with ``multistart`` at 8 and 31 calls: on SlotsLarge-v0 three quarters is the best share, on Slots-v0 with its
former estimator one half; at three fifths neither loses more than .0006. Swaps of several slots at once are no better.
"""
SERVING_PATIENCE, NEW_STARTS_SEED = 4, 0
"""Failures in a row at swaps of an answer after which the next calls go on from a random row.

On tables, where the starts of a policy agree, 31 calls stay at .943 of tf-2000 without it. Four is the best of 4, 8 and
12 on SlotsLarge-v0, tf-2000, Slots-v0 with its former estimator, and Slate-v0, where it costs .0006 at 31 calls and
brings .0012 at 64.
"""


@dataclass(frozen=True)
class Serving:
    """How to answer, and for how many calls of the estimator a request.

    Attributes:
        mode: The agent's own answer, its most confident slots first, the start that its critic ranks best, the best of
            several starts with swaps, the best of several draws, guided swaps from the agent's own answer, or a draw.
        calls: Estimator calls for each request, K: 0 for a pass, a confident or ranked answer or a sample, K starts and
            swaps, K draws, or K - 1 rounds of swaps; 4 if None.
    """

    mode: Mode = "starts"
    calls: int | None = None

    def __post_init__(self) -> None:
        """Refuses an unknown mode and calls that it cannot use."""
        if self.mode not in DEFAULT_CALLS:
            raise ValueError(f"expected mode {', '.join(DEFAULT_CALLS)}, got {self.mode!r}")
        fewest = _FEWEST[self.mode]
        if not isinstance(self.budget, int) or self.budget < fewest or (fewest == 0 and self.budget > 0):
            expected = "0 calls" if fewest == 0 else f"at least {fewest} call{'s' * (fewest > 1)}"
            raise ValueError(f"expected {expected} for mode {self.mode}, got {self.budget}")

    @classmethod
    def of(cls, agent: Agent, mode: Mode | None, calls: int | None) -> "Serving":
        """Returns the serving where the mode may be left out.

        0 calls mean a pass, any other number a policy's starts, or a search from another agent's answer. Without a
        number it is a policy's starts, and the bare answer of any other agent.
        """
        bare = calls == 0 or (calls is None and agent.policy is None)
        return cls(mode or ("pass" if bare else "search" if agent.policy is None else "starts"), calls)

    @property
    def budget(self) -> int:
        """Forwards a request."""
        return DEFAULT_CALLS[self.mode] if self.calls is None else self.calls


def serve(
    agent: Agent,
    problem: Problem,
    observation: Observation,
    serving: Serving,
    generator: torch.Generator | None = None,
) -> SearchResult:
    """Answers requests.

    Args:
        agent: A trained agent.
        problem: What the agent was trained on; its budget counts the calls.
        observation: The requests.
        serving: How to answer.
        generator: Source of the draws.

    Returns:
        The answers and their estimated scores. A pass or a sample needs no score; the call that reports it is not
        counted in the problem's budget.

    Raises:
        ValueError: If draws are asked for without a generator, any of these of an agent without a policy, or a ranking
            of an agent without a critic of starts.
    """
    if serving.mode == "starts":
        return _best_start(agent, problem, observation, serving.budget)
    if serving.mode in WITHOUT_CALLS:
        choice = _without_calls(agent, observation, serving.mode, generator)
        return SearchResult(choice, problem.with_fresh_budget().score(observation, choice))
    start = agent.choose(observation)
    if serving.mode == "search":
        return guided_search(problem, observation, start, serving.budget - 1)
    draws = _policy(agent).draws(observation, _given(generator))
    best = SearchResult(start, problem.score(observation, start))
    # One draw of every request at a time, so that memory does not grow with the calls.
    for choice in islice(draws, serving.budget - 1):
        best = best_of([best, SearchResult(choice, problem.score(observation, choice))])
    return best


def _without_calls(agent: Agent, observation: Observation, mode: Mode, generator: torch.Generator | None) -> Tensor:
    if mode == "pass":
        return agent.choose(observation)
    policy = _policy(agent)
    if mode == "sample":
        return policy.draw(observation, _given(generator))
    if mode == "confident":
        return policy.confident(observation)
    if not agent.ranks_starts:
        raise ValueError(
            "expected an agent that ranks its starts (multistart with --rank-starts, where that helps), "
            f"got {agent.name} without such a ranking"
        )
    return next(agent.starts(observation))


def _best_start(agent: Agent, problem: Problem, observation: Observation, calls: int) -> SearchResult:
    """Asks about several starts, and spends the rest of the calls on swaps of the best one."""
    best: SearchResult | None = None
    # One start of every request at a time, so that memory does not grow with the calls.
    for choice in islice(agent.starts(observation), max(1, round(STARTS_SHARE * calls))):
        found = SearchResult(choice, *problem.score_and_slope(observation, choice))
        best = found if best is None else better_of(best, found)
        calls -= 1
    assert best is not None
    generator = generator_from(NEW_STARTS_SEED)
    return guided_search(problem, observation, best, calls, SERVING_PATIENCE, generator, shared=True)


def _policy(agent: Agent) -> SlotPolicy:
    if agent.policy is None:
        raise ValueError(f"expected an agent with a policy, got {agent.name}")
    return agent.policy


def _given(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise ValueError("expected a generator for draws, got none")
    return generator


def propensity(agent: Agent, observation: Observation, choice: Tensor) -> Tensor:
    """Returns the probability ``(batch,)`` with which an agent's policy draws choices ``(batch, slots)``.

    Raises:
        ValueError: If the agent has no policy.
    """
    if agent.policy is None:
        raise ValueError(f"expected an agent with a policy for a propensity, got {agent.name}")
    with torch.no_grad():
        return agent.policy.log_probability(observation, choice).exp()


@dataclass(frozen=True)
class RankedAnswers:
    """Different answers to each request, the best first.

    Attributes:
        choice: Long tensor of shape ``(batch, answers, slots)``.
        score: Estimated scores ``(batch, answers)``; -inf where a request has fewer answers.
    """

    choice: Tensor
    score: Tensor


def best_swaps(problem: Problem, observation: Observation, found: SearchResult, top: int) -> RankedAnswers:
    """Returns an answer together with the best of its single swaps, ``top`` in all.

    The estimator's slope at the answer names the 2 (top - 1) most promising swaps, and these are scored. Under
    constraints they are allowed ones, and exchanges of two slots' items are among them.

    Args:
        problem: The problem, whose budget counts the calls.
        observation: The requests.
        found: The answers.
        top: How many answers each request gets.
    """
    choice, score = found.choice.unsqueeze(1), found.score.unsqueeze(1)
    if top == 1:
        return RankedAnswers(choice, score)
    slope = problem.score_and_slope(observation, found.choice)[1] if found.slope is None else found.slope
    moves = moves_of(problem, observation)
    moves.look(found.choice, slope)
    swaps = moves.best(2 * (top - 1))
    swapped = moves.rows(swaps)
    scores = problem.score(observation, swapped.transpose(0, 1)).T.masked_fill(~moves.open_among(swaps), -torch.inf)
    ranked, order = torch.cat([score, scores], dim=1).topk(min(top, 1 + swaps.shape[1]), dim=1)
    choices = torch.cat([choice, swapped], dim=1)
    return RankedAnswers(choices.gather(1, order.unsqueeze(2).expand(-1, -1, problem.slots)), ranked)
