"""The race between selectors: it finds what trains best where slopes mislead, and each training keeps to its budget."""

import pytest
import torch
from torch import Tensor

from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.problems import Problem, SlotProblem
from slot_rl.problems.constraints import Distinct
from slot_rl.race import RaceResult, entrants, run_race
from slot_rl.selectors import NAMES


def counted(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Candidates 0, 1, 2 and 3 in every slot."""
    return torch.arange(4.0).view(1, 4, 1).expand(shape)


def deceptive(vectors: Tensor) -> Tensor:
    """The sum of the items, whose slope is -2 at each of them."""
    x = vectors[..., 0]
    return (x - 3 * torch.sin(2 * torch.pi * x) / (2 * torch.pi)).sum(dim=-1)


def problem(slots: int = 2) -> Problem:
    return SlotProblem(deceptive, slots, 4, 1, counted, name="deceptive")


def evaluation(of: Problem | None = None) -> Evaluation:
    return Evaluation(of or problem(), EvaluationConfig(eval_size=4))


def ignore(name: str) -> None:
    pass


def test_the_race_is_won_by_values_where_slopes_mislead() -> None:
    found = run_race(evaluation(), ["straight_through", "rloo", "gumbel", "reinforce"], 3_000, [0, 1], ignore)
    assert [one.name for one in found[:2]] in (["rloo", "reinforce"], ["reinforce", "rloo"])
    for one in found[:2]:
        assert min(one.optimality) > 0.9
    straight = next(one for one in found if one.name == "straight_through")
    # Slopes lead to the worst item of all; random choices have 0.
    assert max(straight.optimality) < 0 and not straight.reaches(found[0])


def test_results_are_sorted_by_their_mean_over_seeds() -> None:
    names = ["straight_through", "rloo", "reinforce", "softmax"]
    found = run_race(evaluation(), names, 1_000, [0, 1, 2], ignore)
    assert sorted(one.name for one in found) == sorted(names)
    assert all(len(one.optimality) == 3 for one in found)
    means = [one.mean for one in found]
    assert means == sorted(means, reverse=True)


def test_a_seed_gives_the_same_result_alone_and_among_others() -> None:
    among = run_race(evaluation(), ["rloo", "reinforce"], 512, [3, 4], ignore)
    alone = run_race(evaluation(), ["rloo"], 512, [4], ignore)
    assert alone[0].optimality[0] == next(one for one in among if one.name == "rloo").optimality[1]
    others = run_race(evaluation(), ["rloo"], 512, range(5, 10), ignore)
    assert len(set(others[0].optimality)) > 1


def test_every_training_keeps_to_the_calls_and_spends_no_budget() -> None:
    rows: list[int] = []

    def count(vectors: Tensor) -> Tensor:
        rows.append(vectors[..., 0, 0].numel())
        return deceptive(vectors)

    judge = evaluation(SlotProblem(count, 2, 4, 1, counted))
    told: list[str] = []
    for name in NAMES:
        rows.clear()
        before = judge.problem.budget.forwards
        run_race(judge, [name], 1_024, [0], told.append)
        # The answers to four requests are scored at the end; an update of local expectations has 73 requests, of 7.
        assert 1_024 <= sum(rows) - 4 <= 1_024 + 512, name
        assert judge.problem.budget.forwards - before == 4
    assert told == list(NAMES)


def test_mean_spread_and_reach_are_those_by_hand() -> None:
    best, near, far = RaceResult("a", (0.5, 0.7)), RaceResult("b", (0.5, 0.1)), RaceResult("c", (0.49, 0.3))
    assert (best.mean, best.spread) == pytest.approx((0.6, 0.2))
    assert near.reaches(best) and not far.reaches(best)
    assert RaceResult("d", (0.5,)).spread == 0


def test_selectors_that_cannot_take_a_step_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    # Two requests of 4^4 configurations are the smallest update of exact gradients.
    assert entrants(problem(4), 512) == list(NAMES)
    assert capsys.readouterr().out == ""
    assert "exact" not in entrants(problem(5), 512)
    assert "not raced: exact: one update costs 2,048 calls" in capsys.readouterr().out
    # 4^9 configurations exceed what the selector itself enumerates.
    assert "exact" not in entrants(problem(9), 10**9)
    assert "not raced: exact: expected" in capsys.readouterr().out


def test_a_selector_that_refuses_constraints_is_not_raced(capsys: pytest.CaptureFixture[str]) -> None:
    assert entrants(problem().with_constraints([Distinct()]), 10_000) == [name for name in NAMES if name != "rebar"]
    assert "not raced: rebar: expected another selector than rebar" in " ".join(capsys.readouterr().out.split())


def test_a_race_without_an_entrant_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="expected a race of at least the 256 calls of one update, got 100"):
        entrants(problem(), 100)
