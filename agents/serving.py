"""Serving: how a trained agent answers, with its own answer alone or with more estimator calls for each request.

``pass`` is the agent's own answer and costs no call. ``draws`` takes the best of k answers, the agent's own and k - 1
draws of its policy: k forwards. ``search`` lets r rounds of guided swaps improve the agent's own answer: ``1 + r``
forwards and as many backwards. No mode scores below the pass, by the estimator's score.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from slot_rl.agents.base import Agent
from slot_rl.problems import Observation, Problem
from slot_rl.search import SearchResult, allowed_items, best_of, guided_search
from slot_rl.selectors.categorical import draw, one_hot, swap_effects

Mode = Literal["pass", "draws", "search"]
DEFAULT_CALLS: dict[Mode, int] = {"pass": 0, "draws": 4, "search": 4}
_FEWEST: dict[Mode, int] = {"pass": 0, "draws": 1, "search": 2}


@dataclass(frozen=True)
class Serving:
    """How to answer, and for how many calls of the estimator a request.

    Attributes:
        mode: The agent's own answer, the best of several draws, or guided swaps from the agent's own answer.
        calls: Estimator calls for each request, K: 0 for a pass, K draws, or K - 1 rounds of swaps; 4 if None.
    """

    mode: Mode = "search"
    calls: int | None = None

    def __post_init__(self) -> None:
        """Refuses an unknown mode and calls that it cannot use."""
        if self.mode not in DEFAULT_CALLS:
            raise ValueError(f"expected mode pass, draws or search, got {self.mode!r}")
        fewest = _FEWEST[self.mode]
        if not isinstance(self.budget, int) or self.budget < fewest or (self.mode == "pass" and self.budget > 0):
            expected = "0 calls" if self.mode == "pass" else f"at least {fewest} call{'s' * (fewest > 1)}"
            raise ValueError(f"expected {expected} for mode {self.mode}, got {self.budget}")

    @classmethod
    def of(cls, agent: Agent, mode: Mode | None, calls: int | None) -> "Serving":
        """Returns the serving where the mode may be left out.

        0 calls mean a pass, any other number a search. Without a number it is a search from a policy's answer, and the
        bare answer of any other agent.
        """
        bare = calls == 0 or (calls is None and agent.policy is None)
        return cls(mode or ("pass" if bare else "search"), calls)

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
        The answers and their estimated scores. A pass needs no score; the call that reports it is not counted in the
        problem's budget.

    Raises:
        ValueError: If draws are asked for without a generator, or of an agent without a policy.
    """
    start = agent.choose(observation)
    if serving.mode == "search":
        return guided_search(problem, observation, start, serving.budget - 1)
    if serving.mode == "pass":
        return SearchResult(start, problem.with_fresh_budget().score(observation, start))
    if generator is None or agent.policy is None:
        raise ValueError(f"expected a generator and an agent with a policy for draws, got {generator} and {agent.name}")
    best = SearchResult(start, problem.score(observation, start))
    with torch.no_grad():
        logits = agent.policy.point(observation)[0]
    # One draw of every request at a time, so that memory does not grow with the calls.
    for _ in range(serving.budget - 1):
        choice = draw(logits, generator)
        best = best_of([best, SearchResult(choice, problem.score(observation, choice))])
    return best


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

    The estimator's slope at the answer names the 2 (top - 1) most promising swaps, and these are scored.

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
    allowed = allowed_items(problem, observation) & (one_hot(found.choice, problem.items, torch.bool) == 0)
    effects = swap_effects(slope, found.choice).masked_fill(~allowed, -torch.inf).flatten(1)
    effect, swap = effects.topk(min(2 * (top - 1), effects.shape[1]), dim=1)
    swapped = choice.repeat(1, swap.shape[1], 1)
    swapped.scatter_(2, (swap // problem.items).unsqueeze(2), (swap % problem.items).unsqueeze(2))
    scores = problem.score(observation, swapped.transpose(0, 1)).T.masked_fill(effect == -torch.inf, -torch.inf)
    ranked, order = torch.cat([score, scores], dim=1).topk(min(top, 1 + swap.shape[1]), dim=1)
    choices = torch.cat([choice, swapped], dim=1)
    return RankedAnswers(choices.gather(1, order.unsqueeze(2).expand(-1, -1, problem.slots)), ranked)
