"""Curves of what answers reach and take, and break-evens worked out by hand."""

import time
from functools import partial
from math import inf
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from torch import Tensor

from slot_rl.agents import AGENTS, AgentKind, GuidedSearchAgent, GumbelAgent
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.looks import looks_of
from slot_rl.problems import Observation, Problem, RowProblem
from slot_rl.seeding import seeded_initialisation
from slot_rl.serving_curves import (
    PASSES,
    RIVALS,
    BreakEven,
    CallCost,
    Timing,
    Way,
    break_even,
    call_cost,
    large_batch,
    microseconds,
    often,
    plot_serving,
    policy_ways,
    report_serving,
    search_way,
    serving_curve,
    serving_times,
    timings,
)
from tests.conftest import ROOT, Command


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 3, (16,), (3, 4, 2), (5,), context_dim=2))
    with torch.no_grad():
        for part in net.parameters():
            part.mul_(3)  # rugged, so that one start does not do
    return Evaluation(RowProblem(net, torch.arange(5).unsqueeze(-1)), EvaluationConfig())


@pytest.fixture(scope="module")
def agent(evaluation: Evaluation) -> GumbelAgent:
    return GumbelAgent(SlotVecEnv(evaluation.problem.with_fresh_budget(), 8), seed=3)


def test_every_request_is_asked_equally_often() -> None:
    rows = often(Observation(context=torch.arange(5).unsqueeze(-1)))
    assert torch.equal(rows.tensors()["context"].flatten().bincount(), torch.full((5,), 20))


def test_a_policys_curves_begin_at_its_answers(evaluation: Evaluation, agent: GumbelAgent) -> None:
    ways = policy_ways(agent, 0, (1, 2, 5, 400))
    curves = {name: serving_curve(way, evaluation) for name, way in ways.items()}
    # A search of one call would be its start alone, which serving refuses.
    asked = {"pass": [0], "confident": [0], "search": [0, 2, 5, 400]}
    assert [calls for calls, _ in curves["starts"]] == [calls for calls, _ in curves["draws"]] == [0, 1, 2, 5, 400]
    assert {name: [calls for calls, _ in curves[name]] for name in asked} == asked
    assert curves["pass"][0][1] == pytest.approx(evaluation.judge(agent.choose).figure("optimality"), abs=1e-6)
    for name, curve in curves.items():
        first = "confident" if name == "starts" else name if name in ("pass", "confident") else "pass"
        values = [value for _, value in curve]
        # More calls may part otherwise between starts and swaps; of the others, none is worse for a call more.
        assert values[0] == curves[first][0][1] == min(values) and (name == "starts" or values == sorted(values))
        assert len(values) == 1 or values[-1] > values[0]
    # 24 configurations: 400 draws of an untrained policy find nearly every context's best.
    assert curves["draws"][-1][1] > 0.9
    again = {name: serving_curve(way, evaluation) for name, way in ways.items()}
    assert again == curves  # to the last bit


@pytest.mark.parametrize("name", RIVALS)
def test_a_searchs_curve_leads_from_random_to_the_best(evaluation: Evaluation, name: str) -> None:
    curve = dict(serving_curve(search_way(name, 0, (1, 400)), evaluation))
    assert abs(curve[1]) < 0.25  # 100 random answers around an optimality of 0
    assert curve[400] == pytest.approx(1.0, abs=1e-5)


def test_seconds_are_those_of_the_estimator_and_the_rest(evaluation: Evaluation, agent: GumbelAgent) -> None:
    cost, taken = serving_times(policy_ways(agent, 0, (1, 8)), evaluation.problem, large_batch(evaluation))
    assert len(large_batch(evaluation)) == 100 and 0 < cost.forward < cost.both
    for each in [timing for times in taken.values() for timing in times]:
        assert each.seconds == pytest.approx(each.own_seconds + each.paid_calls * cost.both)
        assert each.own_seconds >= 0 and (each.paid_calls == 0) == (each.calls == 0)
    # Swaps ask with the backward. Draws are scored without, and such a call costs less.
    assert taken["search"][1].paid_calls == pytest.approx(8)
    assert taken["draws"][2].paid_calls == pytest.approx(8 * cost.forward / cost.both)


def test_a_call_without_its_backward_is_a_share_of_one() -> None:
    assert CallCost(1e-6, 4e-6).share(10, 10) == 10
    assert CallCost(1e-6, 4e-6).share(10, 2) == 2 + 8 / 4


def test_own_seconds_are_what_the_way_spends_itself(evaluation: Evaluation) -> None:
    def busy(problem: Problem, observation: Observation, calls: int) -> Tensor:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        choice = torch.zeros(len(observation), 3, dtype=torch.long)
        for _ in range(calls):
            problem.score_and_slope(observation, choice)
        return choice

    way = Way("busy", lambda problem, calls: lambda requests: busy(problem, requests, calls), (0, 4))
    batch = large_batch(evaluation)
    for each in timings(way, evaluation.problem, batch, call_cost(evaluation.problem, batch)):
        assert each.paid_calls == each.calls and 0.015 < len(batch) * each.own_seconds < 0.03


# A search with 1, 4 and 16 calls takes 2, 5 and 17 us of its own and reaches .2, .6 and .9.
CURVE = [(1, 0.2), (4, 0.6), (16, 0.9)]
RIVAL = [Timing(calls, inf, (1 + calls) * 1e-6, calls) for calls, _ in CURVE]


@pytest.mark.parametrize(
    "optimality, calls, own, expected, cell, sentence",
    [
        # 41 us against 17 and 16 calls: each call may cost 1.5 us.
        (0.7, 0, 41, (16, 1.5e-6, inf), "> 1.5 (16)", "16 calls; it is cheaper where a call costs more than 1.5 us"),
        (0.6, 0, 41, (4, 9e-6, inf), "> 9 (4)", "4 calls; it is cheaper where a call costs more than 9 us"),
        (0.6, 2, 15, (4, 5e-6, inf), "> 5 (4)", "4 calls; it is cheaper where a call costs more than 5 us"),
        (0.6, 0, 5, (4, 0, inf), "any (4)", "4 calls; it is cheaper at any cost of a call"),
        (0.6, 4, 4, (4, 0, inf), "any (4)", "4 calls; it is cheaper at any cost of a call"),
        (0.6, 4, 6, (4, 0, 0), "none (4)", "4 calls; it is cheaper at no cost of a call"),
        (0.2, 3, 1, (1, 0, 0.5e-6), "< 0.5 (1)", "1 call; it is cheaper where a call costs less than 0.5 us"),
        (0.2, 3, 9, (1, 0, 0), "none (1)", "1 call; it is cheaper at no cost of a call"),
    ],
)
def test_break_evens_of_ties(
    optimality: float, calls: int, own: float, expected: tuple[int, float, float], cell: str, sentence: str
) -> None:
    found = break_even(optimality, Timing(calls, inf, own * 1e-6, calls), CURVE, RIVAL)
    assert (found.calls, found.tried) == (expected[0], 16)
    assert (found.above, found.below) == pytest.approx(expected[1:], abs=1e-12)
    assert (
        found.cell() == cell and found.sentence("one pass", "a search") == f"one pass ties with a search at {sentence}"
    )
    # At a cost within the bounds the policy is cheaper, and outside it is not.
    u, m = next((each.own_seconds, each.paid_calls) for each in RIVAL if each.calls == found.calls)
    for cost in (1e-7, 4e-7, 6e-7, 1.4e-6, 1.6e-6, 4.9e-6, 5.1e-6, 8.9e-6, 9.1e-6, 1.0):
        assert (found.above < cost < found.below) == (own * 1e-6 + calls * cost < u + m * cost - 1e-15)


def test_an_answer_that_a_search_never_reaches() -> None:
    found = break_even(0.91, Timing(0, inf, 1.0, 0), CURVE, RIVAL)
    assert found == BreakEven(None, 16) and found.cell() == "unreached (16)"
    assert found.sentence("one pass", "a search") == "one pass is never reached by a search with up to 16 calls"
    # What rounding may take makes no answer better.
    assert break_even(0.9 + 1e-8, Timing(0, inf, 1.0, 0), CURVE, RIVAL).calls == 16


def test_a_break_even_is_of_the_calls_that_are_paid() -> None:
    # 16 calls without their backwards, at a quarter of the price: 24 us more for 4 calls less.
    cheap = [each._replace(paid_calls=each.calls / 4) for each in RIVAL]
    assert break_even(0.7, Timing(0, inf, 41e-6, 0), CURVE, cheap).above == pytest.approx(6e-6)


def test_microseconds_have_two_digits() -> None:
    assert [microseconds(each) for each in (0.0, 4.04e-6, 0.0123, 2.5e-8)] == ["0", "4", "12,000", "0.025"]


class _Refusing(GuidedSearchAgent):
    """Refuses every problem."""

    name = "refusing"

    def __init__(self, *_: object, **__: object) -> None:
        raise ValueError("expected no constraints, got some")


def test_a_search_that_refuses_is_left_out_with_its_reason(
    evaluation: Evaluation,
    agent: GumbelAgent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(AGENTS, "refusing", AgentKind(_Refusing, GuidedSearchAgent.default_options))
    monkeypatch.setattr("slot_rl.serving_curves.RIVALS", ("refusing", "local_search"))
    monkeypatch.setattr("slot_rl.serving_curves.search_way", partial(search_way, searched=(1, 2)))
    monkeypatch.setattr("slot_rl.serving_curves.policy_ways", partial(policy_ways, served=(2,)))
    report_serving(agent, evaluation, 0, "an agent", tmp_path / "serving.png")
    shown = capsys.readouterr().out
    assert shown.count("refusing") == 1 and "refusing is left out: expected no constraints, got some" in shown
    assert "one pass ties with local search at" in shown or "one pass is never reached by local search" in shown


def test_panels_by_calls_and_by_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Axes] = []
    monkeypatch.setattr(pyplot, "close", lambda figure: drawn.extend(figure.axes))
    curves = {"pass": [(0, 0.9)], "search": CURVE, "best": [(400, 1.01)]}
    taken = {"pass": [Timing(0, 2e-4, 2e-4, 0)], "search": RIVAL, "best": [Timing(400, 4e-3, 0.0, 400)]}
    taken["search"] = [each._replace(seconds=each.calls * 1e-5) for each in RIVAL]
    plot_serving(tmp_path / "serving.png", "who", curves, taken, 256, looks_of(curves))
    by_calls, by_seconds = drawn
    assert [(axes.get_xscale(), axes.get_yscale()) for axes in drawn] == [("symlog", "log"), ("log", "log")]
    assert "calls" in by_calls.get_xlabel() and by_seconds.get_xlabel() == "microseconds for each request, batch of 256"
    assert by_calls.get_ylabel() == "distance to the best\n(1 - optimality), smaller is better"
    points = [[line.get_xydata().tolist() for line in axes.lines] for axes in drawn]  # type: ignore[union-attr]
    assert points[0] == [[[0, pytest.approx(0.1)]], [[1, 0.8], [4, 0.4], [16, pytest.approx(0.1)]], [[400, 0.001]]]
    assert [at for at, _ in points[1][1]] == pytest.approx([10, 40, 160]) and points[1][0][0][0] == pytest.approx(200)
    assert by_calls.get_xlim()[0] < 0 and by_calls.get_xlim()[1] > 400  # no point on the edge


def test_the_flag_prints_draws_and_needs_a_policy(
    script: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slot_rl.serving_curves.search_way", partial(search_way, searched=(1, 2, 16)))
    monkeypatch.setattr("slot_rl.serving_curves.policy_ways", partial(policy_ways, served=(2, 31)))
    common = ["--env", "SlotRL/PickValue-v0", "--timesteps", 600, "--wandb", "disabled", "--eval-size", 8, "--out"]
    assert script(ROOT / "scripts/train_agent.py", *common, tmp_path / "policy", "--batch-size", 64)[0] == 0
    code, shown, _ = script(ROOT / "scripts/evaluate_agent.py", tmp_path / "policy", "--serving")
    assert code == 0 and "swaps, 31" in shown
    assert "ranked starts" not in shown  # gumbel has no critic of starts
    for name in list(PASSES.values())[:2]:
        for rival in RIVALS:
            rival = rival.replace("_", " ")
            assert f"{name} ties with {rival} at " in shown or f"{name} is never reached by {rival} with " in shown
    assert "in a batch of 1." in shown and "in a batch of 96." in shown and "here a call costs " in shown
    assert (tmp_path / "policy/serving.png").read_bytes().startswith(b"\x89PNG")
    assert script(ROOT / "scripts/train_agent.py", "--agent", "random", *common, tmp_path / "random")[0] == 0
    code, _, error = script(ROOT / "scripts/evaluate_agent.py", tmp_path / "random", "--serving")
    assert code == 2 and "expected an agent with a policy for --serving, got 'random'" in error
