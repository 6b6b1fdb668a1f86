"""The evaluation: fixed requests, honest references, exact figures on problems small enough to work out by hand."""

from dataclasses import replace
from itertools import product
from math import nan
from pathlib import Path

import pytest
import torch
from torch import Tensor

import slot_rl.evaluation as module
from slot_rl.agents import GumbelAgent
from slot_rl.agents.base import changed
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.estimators.fitting import TableFit
from slot_rl.evaluation import Choose, Evaluation, EvaluationConfig, Row
from slot_rl.io import read_json
from slot_rl.metrics import GUIDED_CALLS, METRICS, OF_ANSWERS, Scores
from slot_rl.networks import PointerSize
from slot_rl.pretraining import PretrainConfig, pretrain
from slot_rl.problems import Observation, RowProblem, SlotProblem, Unmeasured, make_problem
from slot_rl.problems.constraints import Distinct
from slot_rl.problems.truth_table import TruthTable
from slot_rl.problems.truths import pick_value
from slot_rl.reevaluation import ReevaluationConfig, reevaluate
from slot_rl.search import enumerate_landscape, random_choice
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.summary_tables import MOST_CONTEXTS, print_contexts, print_judgement
from slot_rl.training import RunConfig, train_run
from tests.conftest import ROOT, Command

SMALL = EvaluationConfig(eval_seed=0, eval_size=50)
TRUTH = ("true_score", "true_normalised", "true_worst", "gap", "measured_share")


def first_items(observation: Observation) -> Tensor:
    return torch.zeros(len(observation), 4, dtype=torch.long)


def best_items(observation: Observation) -> Tensor:
    assert observation.candidates is not None
    nearest = (observation.candidates.squeeze(-1) - 0.5).abs().argmin(dim=-1)
    return nearest.unsqueeze(1).expand(-1, 4)


def test_random_is_zero_best_is_one_collapse_is_seen() -> None:
    evaluation = Evaluation(make_problem("SlotRL/PickValue-v0"), SMALL)
    best, collapsed = evaluation.judge(best_items), evaluation.judge(first_items)
    assert best.figure("optimality") == pytest.approx(1.0, abs=1e-6)
    assert best.figure("hit_rate") == 1.0
    assert collapsed.figure("optimality") < 0.3
    assert collapsed.figure("hit_rate") < 0.4
    draws = [
        evaluation.judge(lambda o, s=seed: random_choice(evaluation.problem, o, generator_from(s))).figure("optimality")  # type: ignore[misc]
        for seed in range(40)
    ]
    assert sum(draws) / len(draws) == pytest.approx(0.0, abs=0.05)


def test_a_hit_is_as_near_for_scores_with_an_offset() -> None:
    for offset in (0.0, 1_000.0):
        problem = SlotProblem(lambda vectors, by=offset: pick_value(vectors) + by, 4, 8, 1)
        evaluation = Evaluation(problem, SMALL)
        assert evaluation.hit_rate(evaluation.best) == 1.0
        assert evaluation.hit_rate(evaluation.best - 1e-3) == 0.0


def test_every_reference_is_there_and_the_constant_is_best() -> None:
    problem = make_problem("SlotRL/PickValue-v0")
    evaluation = Evaluation(problem, SMALL)
    by_name = {row.name: row for row in evaluation.references}
    searches = ["guided search", "multi-swap search", "mean-field search"]
    assert list(by_name) == ["random", "best constant", "constant, best true", *searches, "best"]
    landscape = enumerate_landscape(problem, evaluation.observation, problem.score)
    assert by_name["best constant"].figure("score") == pytest.approx(float(landscape.constant_scores.mean()), abs=1e-6)
    assert by_name["best"].figure("optimality") == pytest.approx(1.0)
    assert by_name["random"].figure("optimality") == 0.0
    assert by_name["random"].figure("hit_rate") < 0.02  # one of 4,096 but for ties
    assert (
        {by_name[name].calls for name in searches} == {by_name[name].backwards for name in searches} == {GUIDED_CALLS}
    )
    assert by_name["best"].calls is None
    limited = Evaluation(problem.with_constraints([Distinct()]), SMALL)
    assert [row.name for row in limited.references[3:]] == ["guided search", "multi-swap search", "best"]


def test_requests_depend_on_their_seed_and_spend_no_budget() -> None:
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
    agent = GumbelAgent(evaluation.problem, policy=PointerSize(8, 16))
    row = evaluation.judge_agent(agent)[1]
    # The others score the answers of both rows.
    assert evaluation.problem.budget.forwards - before == 50 * GUIDED_CALLS + 2 * 50
    assert row.calls == GUIDED_CALLS
    assert row.figure("score") >= evaluation.judge(agent.choose).figure("score")
    assert evaluation.judge_agent(agent)[1] == row


def test_a_wrong_estimator_is_unmasked_by_the_true_score() -> None:
    # The estimator loves what the truth hates: the policy that is best for one is worst for the other.
    problem = SlotProblem(lambda vectors: -pick_value(vectors), 4, 8, 1, truth=pick_value)
    evaluation = Evaluation(problem, SMALL)

    def extreme(observation: Observation) -> Tensor:
        assert observation.candidates is not None
        return (observation.candidates.squeeze(-1) - 0.5).abs().argmax(dim=-1).unsqueeze(1).expand(-1, 4)

    row = evaluation.judge(extreme)
    assert row.figure("optimality") == pytest.approx(1.0, abs=1e-6)
    assert row.figure("true_optimality") < -0.5


def test_without_a_truth_nothing_is_claimed_about_it() -> None:
    evaluation = Evaluation(SlotProblem(pick_value, 4, 8, 1), SMALL)
    row = evaluation.judge(first_items)
    assert [row.figures[key] for key in (*TRUTH, "true_optimality")] == [None] * 6


def test_without_enumeration_the_best_is_only_known() -> None:
    evaluation = Evaluation(make_problem("SlotRL/SlotsLarge-v0"), EvaluationConfig(eval_size=8))
    assert not evaluation.best_is_exact
    best = evaluation.references[-1]
    assert best.name == "best known" and best.calls == best.backwards == module.STRONG_CALLS
    assert evaluation.optimality(float(evaluation.best.mean())) == pytest.approx(1.0, abs=1e-6)
    guided = next(row for row in evaluation.references if row.name == "guided search")
    assert 0.7 < guided.figure("optimality") < 1.0


def test_an_empty_evaluation_is_refused() -> None:
    with pytest.raises(ValueError, match="eval_size >= 1, got 0"):
        EvaluationConfig(eval_size=0)


Cell = tuple[int, int, int]


def measured_as(table: dict[Cell, float], contexts: int, unmeasured: Unmeasured) -> RowProblem:
    """A problem of two features with two and three categories, held against a table of context and features."""
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(2, 4, (8,), (2, 3), (contexts,), context_dim=3))
    cells, sizes = torch.tensor(list(table)), (contexts, 2, 3)
    truth = TruthTable(cells[:, 1:], cells[:, :1], torch.tensor(list(table.values())), sizes, unmeasured)
    return RowProblem(net, torch.arange(contexts).unsqueeze(1), truth)


def with_gaps(unmeasured: Unmeasured = "omit", contexts: int = 3) -> tuple[RowProblem, dict[Cell, float]]:
    """A problem in a few contexts; of each context's six rows, (0, 0) was never measured."""
    table = {
        (c, a, b): 10.0 * c + (c + 1) * (2 * a - b)
        for c, a, b in product(range(contexts), range(2), range(3))
        if (a, b) != (0, 0)
    }
    return measured_as(table, contexts, unmeasured), table


def answering(*answers: tuple[int, int]) -> Choose:
    return lambda observation: torch.tensor(answers)


def test_true_figures_are_means_over_the_measured_answers() -> None:
    problem, _ = with_gaps()
    evaluation = Evaluation(problem, SMALL)
    row = evaluation.judge(answering((1, 0), (0, 0), (0, 1)))
    # The second answer is not measured. In context c, the measured scores are 10 c + (c + 1) {-2, -1, 0, 1, 2}.
    assert row.figure("true_score") == pytest.approx((2 + 17) / 2)
    assert row.figure("true_normalised") == pytest.approx((1 + 0.25) / 2)
    assert row.figure("true_worst") == pytest.approx(0.25)
    assert row.figure("measured_share") == pytest.approx(2 / 3)
    estimated = problem.score(evaluation.observation, torch.tensor([(1, 0), (0, 0), (0, 1)])).tolist()
    assert row.figure("gap") == pytest.approx((estimated[0] - 2 + estimated[2] - 17) / 2, abs=1e-5)
    # In contexts 0 and 2 alone, random choices have 0 and 20, the best ones 2 and 26.
    assert row.figure("true_optimality") == pytest.approx((9.5 - 10) / (14 - 10))
    assert row.logged()["eval/measured_share"] == pytest.approx(2 / 3)


def test_random_choices_count_where_they_are_measured() -> None:
    problem, table = with_gaps()
    evaluation = Evaluation(problem, SMALL)
    random = evaluation.references[0]
    assert random.figure("true_score") == pytest.approx(10)
    assert random.figure("true_normalised") == random.figure("true_worst") == pytest.approx(0.5)
    assert random.figure("measured_share") == pytest.approx(5 / 6)
    assert random.figure("true_optimality") == pytest.approx(0)
    every = {(a, b): problem.score(evaluation.observation, torch.tensor([(a, b)] * 3)).tolist() for _, a, b in table}
    gaps = [every[a, b][c] - score for (c, a, b), score in table.items()]
    assert random.figure("gap") == pytest.approx(sum(gaps) / 15, abs=1e-5)


def test_random_choices_are_known_without_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _ = with_gaps()
    exact = Evaluation(problem, SMALL)
    monkeypatch.setattr(module, "MOST_CONFIGURATIONS", 1)
    evaluation = Evaluation(problem, SMALL)
    assert exact.best_is_exact and not evaluation.best_is_exact
    for key in ("true_score", "true_normalised", "true_worst", "measured_share", "true_optimality"):
        assert evaluation.references[0].figure(key) == pytest.approx(exact.references[0].figure(key))
    # The gap is that of 64 draws, of which each context's unmeasured sixth is left out.
    gap, score = exact.references[0].figure("gap"), exact.references[0].figure("score")
    assert evaluation.references[0].figure("gap") == pytest.approx(gap, abs=1) and gap != pytest.approx(score - 10)
    row = evaluation.judge(answering((1, 0), (0, 0), (0, 1)))
    assert row.figure("true_optimality") == pytest.approx(-0.125)


def test_without_a_measured_answer_nothing_true_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = Evaluation(with_gaps()[0], SMALL)
    row = evaluation.judge(answering((0, 0), (0, 0), (0, 0)))
    unknown = ("true_score", "true_optimality", "true_normalised", "true_worst", "gap")
    assert [row.figures[key] for key in unknown] == [None] * 5 and row.figure("measured_share") == 0
    assert row.logged().keys() & {"eval/true_score", "eval/measured_share"} == {"eval/measured_share"}
    assert [METRICS[key].text(row.figures[key]) for key in unknown] == ["not measured"] * 5
    print_contexts(evaluation, answering((0, 0), (0, 0), (0, 0)))
    assert capsys.readouterr().out.count("not measured") == 6


def test_a_context_without_any_measurement_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    table = {cell: score for cell, score in with_gaps()[1].items() if cell[0] != 1}
    evaluation = Evaluation(measured_as(table, 3, "omit"), SMALL)
    row = evaluation.judge(answering((1, 0), (1, 0), (0, 1)))
    assert row.figure("true_score") == 9.5 and row.figure("measured_share") == pytest.approx(2 / 3)
    assert row.figure("true_optimality") == pytest.approx(-0.125)
    rows = {each.name: each for each in evaluation.references}
    assert rows["random"].figure("true_score") == pytest.approx(10)
    assert rows["random"].figure("measured_share") == pytest.approx(10 / 18)
    assert "constant, best true" not in rows  # No configuration is measured in the second context.
    print_contexts(evaluation, answering((1, 0), (1, 0), (0, 1)))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    cells = [line for line in lines if line and line[0].startswith("(")]
    assert [line[0] for line in cells] == ["(2,)", "(0,)", "(1,)"]
    assert [line[2:] for line in cells[1:]] == [["2.0000", "2.0000", "1.0000"], ["not measured"] * 3]


def test_the_best_true_constant_is_measured_everywhere() -> None:
    table = {cell: score for cell, score in with_gaps()[1].items() if cell != (1, 1, 0)}
    rows = {row.name: row for row in Evaluation(measured_as(table, 3, "omit"), SMALL).references}
    # (1, 0) is best on average where it is measured; (1, 1) has 1, 12 and 23.
    assert rows["constant, best true"].figure("true_score") == pytest.approx(12)
    assert rows["constant, best true"].figure("measured_share") == 1


def test_unmeasured_answers_count_as_the_worst_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = Evaluation(with_gaps("worst")[0], SMALL)
    summary = {"unmeasured": "worst", "best_is_exact": True, "measured_share": 1.0, "status": "finished"}
    known = {key: 0 for key, metric in METRICS.items() if metric.printed} | {"agent": "a", "env": "b", "seed": 0}
    print_judgement(known | summary, evaluation.references)
    shown = capsys.readouterr().out
    assert "against the truth, unmeasured = worst" in shown and "true score, unmeasured = worst" in shown
    print_contexts(evaluation, answering((0, 0), (0, 0), (0, 0)))
    shown = capsys.readouterr().out
    assert " true, unmeasured = worst " in shown and "not measured" not in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_at_worst_true_scores_are_normalised_in_each_context() -> None:
    problem, table = with_gaps("worst")
    evaluation = Evaluation(problem, SMALL)
    answers = [(1, 0), (0, 0), (0, 1)]
    row = evaluation.judge(lambda observation: torch.tensor(answers))
    # In context c the measured scores lie between 10 c - 2 (c + 1) and 10 c + 2 (c + 1).
    assert row.figure("true_score") == pytest.approx((2.0 + (10 - 4) + (20 - 3)) / 3)
    assert row.figure("true_normalised") == pytest.approx((1.0 + 0.0 + 0.25) / 3)
    assert row.figure("true_worst") == 0.0
    assert row.figure("measured_share") == pytest.approx(2 / 3)
    assert row.figure("gap") == pytest.approx(row.figure("score") - (2.0 + 6.0 + 17.0) / 3, abs=1e-5)
    assert evaluation.true_bests is not None and evaluation.true_bests.tolist() == [2.0, 14.0, 26.0]


def test_at_worst_random_choices_have_exact_true_figures() -> None:
    problem, table = with_gaps("worst")
    random = Evaluation(problem, SMALL).references[0]
    lows = {c: 10.0 * c - 2 * (c + 1) for c in range(3)}
    true = [table.get((c, a, b), lows[c]) for c, a, b in product(range(3), range(2), range(3))]
    normalised = [(value - lows[i // 6]) / (4 * (i // 6 + 1)) for i, value in enumerate(true)]
    assert random.figure("true_score") == pytest.approx(sum(true) / 18, abs=1e-5)
    assert random.figure("true_normalised") == pytest.approx(sum(normalised) / 18, abs=1e-6)
    assert random.figure("true_worst") == pytest.approx(
        min(sum(normalised[i : i + 6]) / 6 for i in (0, 6, 12)), abs=1e-6
    )
    assert random.figure("measured_share") == pytest.approx(5 / 6)
    assert random.figure("gap") == pytest.approx(random.figure("score") - sum(true) / 18, abs=1e-5)


def test_every_row_is_compared_with_the_truth() -> None:
    for row in Evaluation(with_gaps()[0], SMALL).references:
        assert None not in [row.figures[key] for key in TRUTH]
    # A formula has neither gaps nor a known scale: its worst is a true score.
    evaluation = Evaluation(make_problem("SlotRL/PickValue-v0"), SMALL)
    row = evaluation.judge(first_items)
    scores = pick_value(evaluation.observation.tensors()["candidates"][:, :1].expand(-1, 4, -1))
    assert row.figure("true_worst") == pytest.approx(float(scores.min()))
    assert row.figure("gap") == pytest.approx(0.0, abs=1e-6)
    assert row.figures["true_normalised"] is None and row.figures["measured_share"] is None
    large = Evaluation(make_problem("SlotRL/SlotsLarge-v0"), EvaluationConfig(eval_size=4))
    for row in large.references:
        assert row.figure("gap") == pytest.approx(row.figure("score") - row.figure("true_score"), abs=1e-5)


def test_figures_weigh_requests_by_how_often_they_were_made() -> None:
    scores = Scores(
        torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]), torch.tensor([0.0, 0.5]), torch.tensor([False, True])
    )
    weighted = replace(scores, weights=torch.tensor([3, 1]))
    figures = {key: METRICS[key].compute(weighted, None) for key in ("score", *TRUTH)}
    assert figures == {
        "score": 1.25,
        "true_score": 1.0,
        "true_normalised": 0.125,
        "true_worst": 0.0,
        "gap": 0.25,
        "measured_share": 0.25,
    }


def test_the_worst_contexts_stand_first_and_only_so_many(capsys: pytest.CaptureFixture[str]) -> None:
    problem, _ = with_gaps("worst", contexts=40)
    evaluation = Evaluation(problem, SMALL)
    # The higher the context, the better the answer, as seen from its own scale.
    order = [(0, 0), (0, 2), (0, 1), (1, 2), (1, 1), (1, 0)]
    print_contexts(evaluation, lambda observation: torch.tensor([order[context * 6 // 40] for context in range(40)]))
    shown = capsys.readouterr().out
    assert f"the worst {MOST_CONTEXTS} of 40 contexts" in shown
    figures = [line.split("│")[1:-1] for line in shown.splitlines() if line.startswith("│")]
    assert [cells[0].strip() for cells in figures] == [f"({context},)" for context in range(MOST_CONTEXTS)]
    normalised = [float(cells[-1]) for cells in figures]
    assert normalised == sorted(normalised) and normalised[0] == 0.0
    assert float(figures[20][2]) == 200 and float(figures[20][3]) == 200 + 2 * 21
    assert max(map(len, shown.splitlines())) <= 100


def test_figures_weigh_the_measured_requests_alone() -> None:
    scores = Scores(
        torch.tensor([1.0, 2.0, 6.0]),
        torch.tensor([0.0, 4.0, nan]),
        torch.tensor([0.0, 0.5, nan]),
        torch.tensor([True, True, False]),
        torch.tensor([3, 1, 4]),
    )
    figures = {key: METRICS[key].compute(scores, None) for key in ("score", *TRUTH)}
    assert figures == {
        "score": 29 / 8,
        "true_score": 1.0,
        "true_normalised": 0.125,
        "true_worst": 0.0,
        "gap": (3 - 2) / 4,
        "measured_share": 0.5,
    }


def test_no_contexts_are_shown_where_requests_have_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    print_contexts(Evaluation(make_problem("SlotRL/PickValue-v0"), SMALL), first_items)
    assert capsys.readouterr().out == ""


def test_a_run_without_a_truth_is_held_against_one_later(script: Command, tmp_path: Path) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "estimator"
    long = "a very long name of a context that no table would hold"
    rows = [
        f"{u},{a},{b},{(a - 2) * (1 if u == long else -1) + b}" for u, a, b in product([long, "x"], range(4), range(4))
    ]
    table.write_text("\n".join(["u,a,b,y", *rows]) + "\n", encoding="utf-8")
    fast = TableFit(epochs=5, patience=5, batch_size=16, dim=2, hidden=(8,))
    pretrain(PretrainConfig(table=table, score="y", context=("u",), out=out, fit=fast))
    run = RunConfig("SlotRL/Rows-v0", str(out), timesteps=128, out=tmp_path / "run", wandb="disabled")
    options = changed(GumbelAgent.default_options, {"batch_size": 64, "policy": PointerSize(8, 16)})
    train_run("gumbel", run, options)
    summary = read_json(tmp_path / "run" / "summary.json")
    assert [summary[name] for name in TRUTH] == [None] * 5
    evaluate = ROOT / "scripts" / "evaluate_agent.py"
    code, shown, errors = script(evaluate, tmp_path / "run")
    assert (code, errors) == (0, "") and "against the truth" not in shown
    code, shown, errors = script(evaluate, tmp_path / "run", "--truth", table)
    assert (code, errors) == (0, "")
    assert "against the truth" in shown and "contexts, the worst first" in shown and "a very long …" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert all(shown.count(f" {name} ") >= 2 for name in ("policy, one pass", "random", "best constant", "best"))
    # A training with the truth sums its agent up in the same words.
    train_run("gumbel", replace(run, out=tmp_path / "knowing", truth=table), options)
    summary = read_json(tmp_path / "knowing" / "summary.json")
    later = reevaluate(ReevaluationConfig(tmp_path / "run", truth=table))
    assert None not in [summary[name] for name in TRUTH]
    assert [later[name] for name in TRUTH] == [summary[name] for name in TRUTH]
    code, shown, errors = script(evaluate, tmp_path / "run", "--truth", tmp_path / "gone.csv")
    assert (code, shown) == (2, "") and "gone.csv" in errors


def test_metrics_have_unique_keys_labels_and_log_keys() -> None:
    log_keys = [metric.log_key for metric in METRICS.values() if metric.log_key]
    labels = [metric.label for metric in METRICS.values()]
    assert len(set(log_keys)) == len(log_keys) and len(set(labels)) == len(labels)
    assert all(key == metric.key for key, metric in METRICS.items())


def test_the_documentation_lists_every_metric_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for metric in METRICS.values():
        log_key = f"`{metric.log_key}`" if metric.log_key else ""
        assert f"| `{metric.key}` | {metric.label} | {log_key} | {metric.meaning} |" in page, metric.key
    assert len([line for line in page.splitlines() if line.startswith("| `")]) >= len(METRICS)


def test_a_metric_of_answers_is_computed_for_every_row() -> None:
    row = Evaluation(make_problem("SlotRL/PickValue-v0"), SMALL).references[1]
    assert isinstance(row, Row) and list(row.figures) == list(OF_ANSWERS)


@pytest.mark.parametrize(("size", "remarked"), [(0.0, True), (1e-7, True), (1e-3, False)])
def test_an_estimator_that_tells_nothing_apart_is_remarked_on(size: float, remarked: bool) -> None:
    problem = SlotProblem(lambda items: 3 + size * items.sum(dim=(-1, -2)), 2, 4, 3)
    evaluation = Evaluation(problem, EvaluationConfig(eval_size=8))
    said = "note: every configuration scores 3: each is the best, and optimality is 1 or noise"
    assert evaluation.remark == (said if remarked else None)
    assert size or evaluation.optimality(3.0) == 1
