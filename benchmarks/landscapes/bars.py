"""What was promised, what was measured, and when a policy has paid back what its training cost.

A policy costs its training once and nothing for an answer; search costs nothing ahead and its calls for every answer.
The break-even is the number of contexts from which on the policy has cost fewer calls for answers as good.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, inf, log

from benchmarks.landscapes.contestants import (
    ARGMAX,
    COLLAPSED,
    GUIDED,
    GUMBEL,
    IMITATE,
    RLOO,
)
from benchmarks.landscapes.medians import Medians, SearchResult
from slot_rl.serving_curves import ServingCurve

FACTORS, SUZUKI = "tf-2000", "suzuki-80"
FEW_CALLS = 16
WITH_CONTEXTS = ("tf-2000", "tf-8000", "suzuki-30", "suzuki-80")


@dataclass(frozen=True)
class Bar:
    """A figure that was promised.

    Attributes:
        what: Which figure of whom, where.
        bound: The promised figure.
        measured: The measured one; None if it was not measured.
        at_most: Whether the bound is an upper one.
    """

    what: str
    bound: float
    measured: float | None
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """Says met, or missed by how much."""
        if self.measured is None:
            return "not measured"
        lacking = self.measured - self.bound if self.at_most else self.bound - self.measured
        return "met" if lacking <= 0 else f"missed by {lacking:.3f}"


@dataclass(frozen=True)
class BreakEven:
    """From how many contexts on a policy is cheaper than guided search with as good answers.

    Attributes:
        landscape: The landscape.
        contestant: The policy.
        calls: What the policy's answer costs per context.
        optimality: How good it is.
        guided_calls: What guided search needs per context for the same; infinite if its curve ends below.
        contexts: The break-even; infinite if guided search needs no more calls than the policy's answer. If guided
            search's curve ends below, an upper bound.
    """

    landscape: str
    contestant: str
    calls: int
    optimality: float
    guided_calls: float
    contexts: float


def bars(found: SearchResult) -> list[Bar]:
    """Returns every bar with what was measured for it."""
    return [*_learning_bars(found), *_truth_bars(found), *_serving_bars(found), *_maximum_bars(found)]


def _learning_bars(found: SearchResult) -> Iterator[Bar]:
    yield Bar(f"{FACTORS}: {IMITATE}, optimality", 0.98, _figure(found, FACTORS, IMITATE, "optimality"))
    yield Bar(f"{FACTORS}: {IMITATE}, hit rate", 0.85, _figure(found, FACTORS, IMITATE, "hit_rate"))
    for name in (GUMBEL, RLOO):
        yield Bar(f"{FACTORS}: {name}, optimality", 0.95, _figure(found, FACTORS, name, "optimality"))
    yield Bar(f"{FACTORS}: {COLLAPSED}, optimality", 0.80, _figure(found, FACTORS, COLLAPSED, "optimality"), True)
    yield Bar(f"{FACTORS}: {COLLAPSED}, hit rate", 0.0, _figure(found, FACTORS, COLLAPSED, "hit_rate"), True)


def _truth_bars(found: SearchResult) -> Iterator[Bar]:
    ours, best = (_figure(found, SUZUKI, name, "true_score") for name in (IMITATE, ARGMAX))
    yield Bar(f"{SUZUKI}: {IMITATE}, true score / argmax's", 0.97, _ratio(ours, best))


def _serving_bars(found: SearchResult) -> Iterator[Bar]:
    for landscape in WITH_CONTEXTS:
        answer = best_answer(found.get(landscape, {}).get(IMITATE), FEW_CALLS)
        guided = _figure(found, landscape, GUIDED, "optimality")
        what = f"{landscape}: {IMITATE}, opt, {FEW_CALLS} calls / guided 400"
        yield Bar(what, 0.99, _ratio(None if answer is None else answer[1], guided))


def _maximum_bars(found: SearchResult) -> Iterator[Bar]:
    for landscape in ("gb1-384", "gb1-8000", "tfbind8"):
        yield Bar(f"{landscape}: {IMITATE}, optimality", 0.95, _figure(found, landscape, IMITATE, "optimality"))


def break_evens(found: SearchResult) -> list[BreakEven]:
    """Returns the break-evens of the bare answer and of the best answer for up to 16 calls, of each served policy."""
    return [
        break_even(landscape, name, contestants[name], answer, contestants[GUIDED].curves["search"])
        for landscape, contestants in found.items()
        if landscape in WITH_CONTEXTS and GUIDED in contestants
        for name in (IMITATE, GUMBEL)
        # Where calls do not help, the best answer is the bare one, and stands here once.
        for answer in dict.fromkeys(best_answer(contestants.get(name), most) for most in (0, FEW_CALLS))
        if answer is not None
    ]


def break_even(
    landscape: str, name: str, policy: Medians, answer: tuple[int, float], guided: ServingCurve
) -> BreakEven:
    """Compares one answer of a policy with guided search.

    Args:
        landscape: The landscape.
        name: The policy's name.
        policy: The policy's runs, for the calls of its training.
        answer: Calls per context and optimality of its answer.
        guided: Guided search's curve.
    """
    calls, optimality = answer
    needed = calls_needed(guided, optimality)
    saved = min(needed, guided[-1][0]) - calls
    contexts = policy.figure("forwards") / saved if saved > 0 else inf
    return BreakEven(landscape, name, calls, optimality, needed, contexts)


def calls_needed(curve: ServingCurve, optimality: float) -> float:
    """Returns the calls at which a curve first reaches an optimality, straight over the logarithm of calls.

    Infinite if it never does; the first point's calls if it starts above.
    """
    before: tuple[int, float] | None = None
    for calls, value in curve:
        if value >= optimality:
            if before is None:
                return float(calls)
            share = (optimality - before[1]) / (value - before[1])
            return exp(log(before[0]) + share * (log(calls) - log(before[0])))
        before = calls, value
    return inf


def best_answer(policy: Medians | None, most: int) -> tuple[int, float] | None:
    """Returns calls and optimality of a policy's best way to answer for at most so many calls, the cheapest of equals.

    None without a policy's curves.
    """
    points = [] if policy is None else [point for curve in policy.curves.values() for point in curve]
    allowed = [point for point in points if point[0] <= most]
    return min(allowed, key=lambda point: (-point[1], point[0])) if allowed else None


def _figure(found: SearchResult, landscape: str, contestant: str, name: str) -> float | None:
    medians = found.get(landscape, {}).get(contestant)
    return None if medians is None else medians.figures[name]


def _ratio(value: float | None, of: float | None) -> float | None:
    return None if value is None or of is None else value / of
