"""Calls against score: curves that begin at the bare answer, never fall, and end where enumeration says."""

from pathlib import Path

import pytest
import torch

from slot_rl.agents import GumbelAgent
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.problems import Observation, RowProblem
from slot_rl.seeding import seeded_initialisation
from slot_rl.serving_curves import often, policy_curves, search_curve
from tests.conftest import ROOT, Command


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 3, (16,), (3, 4, 2), (5,), context_dim=2))
    with torch.no_grad():
        for part in net.parameters():
            part.mul_(3)  # rugged, so that one start does not do
    return Evaluation(RowProblem(net, torch.arange(5).unsqueeze(-1)), EvaluationConfig())


def test_every_request_is_asked_equally_often() -> None:
    rows = often(Observation(context=torch.arange(5).unsqueeze(-1)))
    assert torch.equal(rows.tensors()["context"].flatten().bincount(), torch.full((5,), 20))


def test_a_policys_curves_begin_at_its_answer_and_never_fall(evaluation: Evaluation) -> None:
    agent = GumbelAgent(SlotVecEnv(evaluation.problem.with_fresh_budget(), 8), seed=3)
    curves = policy_curves(agent, evaluation, 0, (2, 5, 40))
    bare = evaluation.judge(agent.choose).figure("optimality")
    for curve in curves.values():
        assert [calls for calls, _ in curve] == [0, 2, 5, 40]
        assert curve[0][1] == pytest.approx(bare, abs=1e-6)
        values = [value for _, value in curve]
        assert values == sorted(values) and values[-1] > bare + 0.05
    # 24 configurations: 40 draws of an untrained policy find nearly every context's best.
    assert curves["draws"][-1][1] > 0.9


@pytest.mark.parametrize("name", ["guided_search", "local_search"])
def test_a_searchs_curve_leads_from_random_to_the_best(evaluation: Evaluation, name: str) -> None:
    curve = dict(search_curve(name, evaluation, 0, (1, 400)))
    assert abs(curve[1]) < 0.25  # 100 random answers around an optimality of 0
    assert curve[400] == pytest.approx(1.0, abs=1e-5)


def test_the_flag_prints_draws_and_needs_a_policy(script: Command, tmp_path: Path) -> None:
    common = ["--env", "SlotRL/PickValue-v0", "--timesteps", 600, "--wandb", "disabled", "--eval-size", 8, "--out"]
    assert script(ROOT / "scripts/train_agent.py", *common, tmp_path / "policy", "--batch-size", 64)[0] == 0
    code, shown, _ = script(ROOT / "scripts/evaluate_agent.py", tmp_path / "policy", "--serving")
    assert code == 0 and "best of draws" in shown and "local search" in shown and " 810 " in shown
    assert (tmp_path / "policy/serving.png").read_bytes().startswith(b"\x89PNG")
    assert script(ROOT / "scripts/train_agent.py", "--agent", "random", *common, tmp_path / "random")[0] == 0
    code, _, error = script(ROOT / "scripts/evaluate_agent.py", tmp_path / "random", "--serving")
    assert code == 2 and "expected an agent with a policy for --serving, got 'random'" in error
