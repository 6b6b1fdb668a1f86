"""Pessimism: objectives by hand, a false peak that fools the mean alone, and every door that takes the option."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from torch import Tensor

import slot_rl
from slot_rl.agents import make_agent
from slot_rl.compare.task import parse_task
from slot_rl.diagnosis import DiagnosisConfig
from slot_rl.estimators import load_estimator, save_estimator
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.net_ensemble import NetEnsemble, NetEnsembleShape
from slot_rl.estimators.pessimism import Pessimism, Pessimistic
from slot_rl.estimators.product_gp import ProductGP
from slot_rl.estimators.row_scorer import MemberScorer
from slot_rl.evaluation import EvaluationConfig
from slot_rl.problems import Observation, Problem, RowProblem, make_problem
from slot_rl.reevaluation import problem_of_run
from slot_rl.search import (
    SearchResult,
    cross_entropy_search,
    enumerate_landscape,
    genetic_search,
    local_search,
    mean_field_search,
    multi_swap_search,
    single_swap_search,
)
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command
from tests.helpers.options import options_of

Search = Callable[[Problem, Observation, int, torch.Generator], SearchResult]
SEARCHES = (
    *(local_search, genetic_search, cross_entropy_search, single_swap_search, multi_swap_search, mean_field_search),
)
PEAK, FALSE_PEAK = [2, 2, 2], [0, 0, 0]
PESSIMISTIC = (Pessimism("minimum"), Pessimism("lower", 2.0))
SIZES = (3, 3, 3)


class OneErrs(MemberScorer):
    """Three members that count the features that are 2; one of them scores features that are 0 far higher."""

    def member_scores(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the members' scores, linear in the rows, so that searches by slopes see them exactly."""
        rows = features if features.is_floating_point() else torch.nn.functional.one_hot(features, 3).float()
        right, wrong = rows[..., 2].sum(dim=-1), rows[..., 0].sum(dim=-1)
        return torch.stack([right, right, right + 30 * wrong])


def problem_of(objective: Pessimism) -> RowProblem:
    return RowProblem(objective.of_model(OneErrs()), sizes=SIZES)


def test_objectives_by_hand() -> None:
    members = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert Pessimism().of_members(members).tolist() == [2, 5]
    assert Pessimism("minimum").of_members(members).tolist() == [1, 5]
    found = Pessimism("lower", 0.5).of_members(members)
    assert found.tolist() == pytest.approx([2 - 0.5 * 2**0.5, 5])


@pytest.mark.parametrize("objective", PESSIMISTIC)
def test_members_that_agree_leave_a_finite_gradient(objective: Pessimism) -> None:
    members = torch.ones(3, 4, requires_grad=True)
    objective.of_members(members).sum().backward()
    assert members.grad is not None and torch.allclose(members.grad.sum(dim=0), torch.ones(4))


@pytest.mark.parametrize("objective", PESSIMISTIC)
def test_gradients_of_the_objectives(objective: Pessimism) -> None:
    members = torch.randn(4, 3, generator=generator_from(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(objective.of_members, (members,))


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_walks_into_a_false_peak_of_the_mean_alone(search: Search) -> None:
    answers = []
    for objective in (Pessimism(), *PESSIMISTIC):
        problem = problem_of(objective)
        answers.append(search(problem, problem.sample(1, generator_from(0)), 200, generator_from(1)).choice[0].tolist())
    assert answers == [FALSE_PEAK, PEAK, PEAK]


@pytest.mark.parametrize("agent", ["gumbel", "reinforce"])
def test_agents_learn_the_objective_that_they_are_given(agent: str) -> None:
    answers = []
    for objective in (Pessimism(), Pessimism("lower", 2.0)):
        problem = problem_of(objective)
        trained = make_agent(agent, problem, options_of(agent, batch_size=64)).learn(3_000)
        answers.append(trained.choose(problem.sample(1, generator_from(0)))[0].tolist())
    assert answers == [FALSE_PEAK, PEAK]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    nets = NetEnsemble(NetEnsembleShape(SIZES, (), 3, dim=4, hidden=(8,)), generator_from(0))
    encoding = TableEncoding("y", {name: ("0", "1", "2") for name in "abc"}, {})
    save_estimator(tmp_path / "e", nets, {}, encoding)
    return tmp_path / "e"


def test_the_option_makes_the_objective_of_a_stored_ensemble(stored: Path) -> None:
    nets = load_estimator(stored).net
    assert isinstance(nets, NetEnsemble)
    every = torch.cartesian_prod(*map(torch.arange, SIZES))
    with torch.no_grad():
        members = nets.member_scores(every)
        for objective in (Pessimism(), *PESSIMISTIC):
            option = {"pessimism": objective.pessimism, "beta": objective.beta}
            problem = make_problem("SlotRL/Rows-v0", estimator=stored, **option)  # type: ignore[arg-type]
            observation = problem.evaluation_observations(1, generator_from(0))
            expected = objective.of_members(members)
            assert float(enumerate_landscape(problem, observation, problem.score).best) == pytest.approx(
                float(expected.max()), abs=1e-6
            )
    env = gym.make("slot_rl:SlotRL/Rows-v0", estimator=stored, pessimism="minimum")
    env.reset(seed=0)
    assert env.step(every[5].numpy())[1] == pytest.approx(float(members[:, 5].min()), abs=1e-6)


def test_a_run_keeps_its_objective(stored: Path, tmp_path: Path) -> None:
    run = slot_rl.train(
        "SlotRL/Rows-v0",
        "random",
        estimator=str(stored),
        objective=Pessimism("lower", 0.5),
        timesteps=200,
        out=tmp_path / "run",
        wandb="disabled",
        evaluation=EvaluationConfig(),
    )
    config = json.loads((tmp_path / "run/config.json").read_text(encoding="utf-8"))
    assert (config["pessimism"], config["beta"]) == ("lower", 0.5)
    again = slot_rl.load(tmp_path / "run").problem
    observation = again.evaluation_observations(1, generator_from(0))
    choice = torch.tensor([[0, 1, 2]])
    assert torch.equal(again.score(observation, choice), run.problem.score(observation, choice))
    # A config of an earlier version is one of the mean.
    old = {name: value for name, value in config.items() if name not in ("pessimism", "beta")}
    mean = problem_of_run(old)
    assert not torch.equal(mean.score(observation, choice), again.score(observation, choice))


def test_the_commands_take_the_option(stored: Path, tmp_path: Path, script: Command) -> None:
    flags = ["--agent", "gumbel", "--env", "SlotRL/Rows-v0", "--estimator", stored, "--timesteps", 200]
    flags += ["--wandb", "disabled", "--pessimism", "lower", "--beta", 2, "--out", tmp_path / "run"]
    code, _, error = script(ROOT / "scripts/train_agent.py", *flags)
    assert code == 0, error
    code, _, error = script(ROOT / "scripts/recommend.py", tmp_path / "run", "--out", tmp_path / "answers.csv")
    assert code == 0, error
    (cells,) = csv.DictReader((tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines())
    nets = load_estimator(stored).net
    assert isinstance(nets, NetEnsemble)
    with torch.no_grad():
        members = nets.member_scores(torch.tensor([[int(cells[name]) for name in "abc"]]))
    expected = float(members.mean() - 2 * members.std(dim=0))
    assert float(cells["estimated_score"]) == pytest.approx(expected, abs=1e-4)


def test_a_task_of_a_comparison_has_its_objective(stored: Path) -> None:
    plain, lower = (parse_task(f"SlotRL/Rows-v0,estimator={stored}{rest}") for rest in ("", ",pessimism=lower,beta=2"))
    assert lower.objective == Pessimism("lower", 2.0) and plain.objective == Pessimism()
    choice = torch.tensor([[0, 1, 2]])
    found = []
    for task in (plain, lower):
        problem = task.make_problem()
        found.append(float(problem.score(problem.evaluation_observations(1, generator_from(0)), choice)))
    assert found[0] > found[1]
    # Runs that are finished under an earlier version keep their names.
    assert "pessimism" not in plain.document() and lower.document()["beta"] == 2
    with pytest.raises(ValueError, match="expected beta to be a number, got 'two'"):
        parse_task(f"SlotRL/Rows-v0,estimator={stored},pessimism=lower,beta=two")


def test_a_built_problem_has_its_own_objective() -> None:
    with pytest.raises(ValueError, match="expected no objective with a built problem"):
        slot_rl.train(problem_of(Pessimism()), "random", objective=Pessimism("minimum"))
    with pytest.raises(ValueError, match="expected the objective of the run with --policy, got minimum"):
        DiagnosisConfig(policy=Path("run"), objective=Pessimism("minimum")).make_problem()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("minimal", 1.0), "expected pessimism to be one of mean, minimum, lower, got 'minimal'"),
        (("lower", -1.0), "expected a finite beta >= 0, got -1.0"),
        (("lower", float("nan")), "expected a finite beta >= 0, got nan"),
        (("minimum", 2.0), "expected beta with pessimism lower alone, got 2.0 with minimum"),
    ],
)
def test_an_objective_that_says_nothing_is_refused(values: tuple[str, float], message: str, stored: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_problem("SlotRL/Rows-v0", estimator=stored, pessimism=values[0], beta=values[1])  # type: ignore[arg-type]


def test_estimators_without_members_are_refused() -> None:
    with pytest.raises(ValueError, match="expected pessimism mean for SlotRL/Slots-v0, whose estimator has no members"):
        make_problem("SlotRL/Slots-v0", pessimism="minimum")
    gp = ProductGP(SIZES, (), 1)
    assert Pessimism().of_model(gp) is gp
    with pytest.raises(ValueError, match="expected an estimator with members for pessimism lower .*, got ProductGP"):
        Pessimism("lower").of_model(gp)
    single = NetEnsemble(NetEnsembleShape(SIZES, (), 1), generator_from(0))
    with pytest.raises(ValueError, match="two members"):
        Pessimistic(single, Pessimism("lower"))(torch.zeros(1, 3, dtype=torch.long))
