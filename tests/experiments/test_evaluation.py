"""The evaluation: fixed requests, honest references, exact figures on problems small enough to work out by hand."""

import pytest
import torch
from torch import Tensor

from slot_rl.experiments.evaluation import GUIDED_CALLS, Evaluation, EvaluationConfig
from slot_rl.problems import Observation, SlotProblem, make_problem
from slot_rl.problems.truths import pick_value
from slot_rl.search import enumerate_landscape, random_choice
from slot_rl.seeding import generator_from

SMALL = EvaluationConfig(eval_seed=0, eval_size=50)


def first_items(observation: Observation) -> Tensor:
    return torch.zeros(len(observation), 4, dtype=torch.long)


def best_items(observation: Observation) -> Tensor:
    assert observation.candidates is not None
    nearest = (observation.candidates.squeeze(-1) - 0.5).abs().argmin(dim=-1)
    return nearest.unsqueeze(1).expand(-1, 4)


def test_random_is_zero_best_is_one_and_a_collapsed_policy_is_seen_through() -> None:
    evaluation = Evaluation(make_problem("SlotRL/PickValue-v0"), SMALL)
    best, collapsed = evaluation.judge(best_items), evaluation.judge(first_items)
    assert best.optimality == pytest.approx(1.0, abs=1e-6)
    assert best.hit_rate == 1.0
    assert collapsed.optimality < 0.3
    assert collapsed.hit_rate < 0.4
    draws = [
        evaluation.judge(lambda o, s=seed: random_choice(evaluation.problem, o, generator_from(s))).optimality  # type: ignore[misc]
        for seed in range(40)
    ]
    assert sum(draws) / len(draws) == pytest.approx(0.0, abs=0.05)


def test_every_reference_is_in_the_table_and_the_constant_is_the_best_of_all_constants() -> None:
    problem = make_problem("SlotRL/PickValue-v0")
    evaluation = Evaluation(problem, SMALL)
    by_name = {row.name: row for row in evaluation.references}
    assert list(by_name) == ["random", "best constant", "constant, best true", "guided search", "best"]
    landscape = enumerate_landscape(problem, evaluation.observation, problem.score)
    assert by_name["best constant"].score == pytest.approx(float(landscape.constant_scores.mean()), abs=1e-6)
    assert by_name["best"].optimality == pytest.approx(1.0)
    assert by_name["random"].optimality == 0.0
    assert by_name["random"].hit_rate < 0.02  # one of 4,096 but for ties
    assert by_name["guided search"].calls == GUIDED_CALLS


def test_the_requests_depend_on_the_evaluation_seed_alone_and_spend_no_budget() -> None:
    problem = make_problem("SlotRL/PickValue-v0")
    first, second = Evaluation(problem, SMALL), Evaluation(problem, SMALL)
    other = Evaluation(problem, EvaluationConfig(eval_seed=1, eval_size=50))
    assert torch.equal(first.observation.tensors()["candidates"], second.observation.tensors()["candidates"])
    assert first.references == second.references
    assert not torch.equal(first.observation.tensors()["candidates"], other.observation.tensors()["candidates"])
    assert problem.budget.forwards == problem.budget.backwards == 0


def test_both_searches_cost_what_the_table_says() -> None:
    evaluation = Evaluation(make_problem("SlotRL/PickValue-v0"), SMALL)
    before = evaluation.problem.budget.forwards
    row = evaluation.judge_with_search(first_items)
    # The last 50 score the answers for the table.
    assert evaluation.problem.budget.forwards - before == 50 * GUIDED_CALLS + 50
    assert row.calls == GUIDED_CALLS
    assert row.score >= evaluation.judge(first_items).score


def test_a_wrong_estimator_is_unmasked_by_the_true_score() -> None:
    # The estimator loves what the truth hates: the policy that is best for one is worst for the other.
    problem = SlotProblem(lambda vectors: -pick_value(vectors), 4, 8, 1, truth=pick_value)
    evaluation = Evaluation(problem, SMALL)

    def extreme(observation: Observation) -> Tensor:
        assert observation.candidates is not None
        return (observation.candidates.squeeze(-1) - 0.5).abs().argmax(dim=-1).unsqueeze(1).expand(-1, 4)

    row = evaluation.judge(extreme)
    assert row.optimality == pytest.approx(1.0, abs=1e-6)
    true = evaluation.true_optimality(row.true_score)
    assert true is not None and true < -0.5


def test_without_a_truth_nothing_is_claimed_about_it() -> None:
    evaluation = Evaluation(SlotProblem(pick_value, 4, 8, 1), SMALL)
    row = evaluation.judge(first_items)
    assert row.true_score is None
    assert evaluation.true_optimality(row.true_score) is None
    assert evaluation.measured_share(first_items) is None


def test_where_enumeration_is_too_large_the_best_is_known_not_exact() -> None:
    evaluation = Evaluation(make_problem("SlotRL/SlotsLarge-v0"), EvaluationConfig(eval_size=8))
    assert not evaluation.best_is_exact
    assert [row.name for row in evaluation.references][-1] == "best known"
    assert evaluation.optimality(float(evaluation.best.mean())) == pytest.approx(1.0, abs=1e-6)
    guided = next(row for row in evaluation.references if row.name == "guided search")
    assert 0.7 < guided.optimality < 1.0


def test_an_empty_evaluation_is_refused() -> None:
    with pytest.raises(ValueError, match="eval_size >= 1, got 0"):
        EvaluationConfig(eval_size=0)
