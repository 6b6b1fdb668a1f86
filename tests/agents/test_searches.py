"""What the agents without a policy promise: their answers are those of the searches by hand, and every call counts."""

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

from slot_rl.agents import AGENTS, load_agent
from slot_rl.agents.base import Options
from slot_rl.agents.searches import (
    CrossEntropyOptions,
    GeneticOptions,
    GuidedSearchOptions,
    LocalSearchOptions,
    MeanFieldOptions,
    MultiSwapOptions,
)
from slot_rl.envs import SlotsEnv, SlotVecEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.io import BundleError, read_json
from slot_rl.problems import Budget, Observation, Problem, RowProblem, SlotProblem, check_choice, make_problem
from slot_rl.problems.candidate_draws import unit_uniform
from slot_rl.problems.truths import pick_value
from slot_rl.search import (
    enumerate_landscape,
    local_search,
    mean_field_search,
    multi_swap_search,
    random_choice,
    search_constant,
    single_swap_search,
)
from slot_rl.seeding import generator_from, seeded_initialisation
from tests.helpers.limited_cases import make_case
from tests.helpers.options import SEARCHES, options_of
from tests.helpers.rugged import refuse

ROOT = Path(__file__).resolve().parents[2]
SIZES = (2, 5, 3)
OPTIONS: dict[str, Options] = {
    "random": Options(),
    "best_constant": Options(),
    "local_search": LocalSearchOptions(calls_per_context=9),
    "guided_search": GuidedSearchOptions(calls_per_context=9),
    "multi_swap": MultiSwapOptions(calls_per_context=9),
    "mean_field": MeanFieldOptions(calls_per_context=9),
    "genetic": GeneticOptions(calls_per_context=9),
    "cross_entropy": CrossEntropyOptions(calls_per_context=9),
    "exhaustive_search": Options(),
}
COST = {
    "random": (0, 0),
    "best_constant": (0, 0),
    "local_search": (9, 0),
    "guided_search": (9, 9),
    "multi_swap": (9, 9),
    "mean_field": (9, 9),
    "genetic": (9, 0),
    "cross_entropy": (9, 0),
}


def row_problem(seed: int = 0) -> RowProblem:
    with seeded_initialisation(seed):
        net = EstimatorNet(EstimatorShape(3, 3, (16,), SIZES, (4,), context_dim=2))
    return RowProblem(net, torch.arange(4).unsqueeze(-1))


def slot_problem(fewest_items: int | None = None) -> SlotProblem:
    return SlotProblem(pick_value, 3, 5, 1, unit_uniform, fewest_items=fewest_items)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "slots": slot_problem,
    "varying slots": lambda: slot_problem(fewest_items=1),
    "rows": row_problem,
}
names = pytest.mark.parametrize("name", OPTIONS)
problems = pytest.mark.parametrize("build_problem", PROBLEMS.values(), ids=PROBLEMS)


def build(name: str, problem: Problem | None = None, options: Options | None = None, seed: int = 0) -> Any:
    env = SlotVecEnv(slot_problem() if problem is None else problem, 2, seed=0)
    return AGENTS[name](env, OPTIONS[name] if options is None else options, seed=seed)


@names
@pytest.mark.parametrize("case_name", ["permutation", "masked", "quotas", "constant sum", "by context"])
def test_constraints_bind_every_reference(name: str, case_name: str, tmp_path: Path) -> None:
    if name == "mean_field":
        pytest.skip("refuses constraints")
    case = make_case(case_name, tmp_path)
    # The check of each scored row knows a single request's rules, enumeration scores what any request allows.
    problem = case.plain if name == "exhaustive_search" else case.problem
    agent = AGENTS[name](problem, OPTIONS[name]).learn(300)
    assert problem.budget.forwards <= 300 and (problem.budget.forwards > 0) == (name == "best_constant")
    problem.budget = Budget()
    choice = agent.choose(case.observation)
    refuse(case.problem, case.observation, choice)
    if name == "exhaustive_search":
        torch.testing.assert_close(case.free.score(case.observation, choice), case.best(), atol=1e-4, rtol=1e-4)
        assert problem.budget.forwards <= agent.calls_per_context * len(case.observation)
    else:
        assert problem.budget == Budget(*(6 * cost for cost in COST[name]))
    assert torch.equal(agent.choose(case.observation), choice)


def test_every_reference_is_an_agent_with_options_of_its_own() -> None:
    # Nevergrad is optional, and best_seen needs an estimator's table: they have tests of their own.
    assert set(SEARCHES) == {*OPTIONS, "nevergrad", "best_seen"}
    assert all(AGENTS[name].build.name == name for name in SEARCHES)
    assert not any(isinstance(build(name), BaseAlgorithm) for name in OPTIONS)
    env = SlotVecEnv(slot_problem(), 2)
    assert AGENTS["guided_search"](env).options == GuidedSearchOptions(calls_per_context=31)
    assert AGENTS["local_search"](env).options == LocalSearchOptions(calls_per_context=31)
    assert AGENTS["random"](env).options == AGENTS["best_constant"](env).options == Options()


@names
@problems
def test_answers_are_allowed_repeated_and_counted(name: str, build_problem: Callable[[], Problem]) -> None:
    problem = build_problem()
    agent = build(name, problem).learn(200)
    observation = problem.sample(20, generator_from(1))
    problem.budget = Budget()
    first = agent.choose(observation)
    forwards, backwards = COST.get(name, (prod(problem.sizes), 0))
    assert (agent.calls_per_context, agent.backwards_per_context, agent.policy_parameters) == (forwards, backwards, 0)
    assert problem.budget == Budget(20 * forwards, 20 * backwards)
    check_choice(problem, observation, first)
    before = torch.get_rng_state()
    assert torch.equal(agent.choose(observation), first)
    assert problem.budget == Budget(40 * forwards, 40 * backwards)
    assert torch.equal(torch.get_rng_state(), before)
    if name not in ("best_constant", "exhaustive_search", "mean_field"):
        assert not torch.equal(build(name, problem, seed=1).choose(observation), first)


@problems
def test_exhaustive_search_finds_the_best_of_enumeration(build_problem: Callable[[], Problem]) -> None:
    problem = build_problem()
    observation = problem.sample(15, generator_from(1))
    agent = build("exhaustive_search", problem)
    score = problem.score(observation, agent.choose(observation))
    drawn = [random_choice(problem, observation, generator_from(seed)) for seed in range(300)]
    scores = torch.stack([problem.score(observation, choice) for choice in drawn])
    assert bool((score >= scores.max(dim=0).values).all()) and bool((score > scores.mean(dim=0)).any())
    if observation.mask is None:
        torch.testing.assert_close(score, enumerate_landscape(problem, observation, problem.score).best)


def test_exhaustive_search_refuses_too_many_configurations() -> None:
    with pytest.raises(ValueError, match="expected at most 200,000 configurations to enumerate, got"):
        AGENTS["exhaustive_search"](make_problem("SlotRL/SlotsLarge-v0"))


@problems
def test_random_and_local_search_answer_as_the_functions_do(build_problem: Callable[[], Problem]) -> None:
    problem = build_problem()
    observation = problem.sample(15, generator_from(1))
    drawn = random_choice(problem, observation, generator_from(5))
    assert torch.equal(build("random", problem, seed=5).choose(observation), drawn)
    found = local_search(problem, observation, 9, generator_from(5))
    assert torch.equal(build("local_search", problem, seed=5).choose(observation), found.choice)
    assert not torch.equal(found.choice, drawn)


@pytest.mark.parametrize("calls", [1, 7, 40])
@pytest.mark.parametrize(
    ("name", "search"),
    [("guided_search", single_swap_search), ("multi_swap", multi_swap_search), ("mean_field", mean_field_search)],
)
def test_searches_by_slope_answer_as_the_functions_do(name: str, search: Any, calls: int) -> None:
    problem = row_problem()
    observation = problem.sample(6, generator_from(1))
    choice = build(name, problem, options_of(name, calls_per_context=calls), seed=4).choose(observation)
    assert problem.budget == Budget(6 * calls, 6 * calls)
    assert torch.equal(choice, search(problem, observation, calls, generator_from(4)).choice)


def test_mean_field_is_refused_where_mixtures_are(tmp_path: Path) -> None:
    case = make_case("distinct", tmp_path)
    with pytest.raises(ValueError, match=r"expected a problem without constraints .* got Distinct\(\)"):
        build("mean_field", case.problem)

    def steps(vectors: Tensor) -> Tensor:
        return vectors.detach().sum(dim=(-1, -2))

    def rows_alone(vectors: Tensor) -> Tensor:
        if bool((vectors.sum(dim=-1) - vectors.amax(dim=-1) > 1e-6).any()):
            raise ValueError("not one-hot")
        return vectors.sum(dim=(-1, -2))

    for estimator, what in ((steps, "gives no gradient"), (rows_alone, "not one-hot")):
        problem = SlotProblem(estimator, 2, 3, 3, lambda shape, _: torch.eye(3).expand(shape))
        with pytest.raises(ValueError, match=f"expected an estimator that is differentiable at mixtures .*{what}"):
            build("mean_field", problem)
        assert problem.budget == Budget()


def test_the_best_constant_is_that_of_enumeration() -> None:
    exact = 0
    for seed in range(6):
        problem = row_problem(seed)
        agent = build("best_constant", problem).learn(80)
        observation = problem.evaluation_observations(4, generator_from(0))
        landscape = enumerate_landscape(problem, observation, problem.score)
        assert torch.equal(agent.constant, search_constant(problem, observation, 2))
        mean = float(problem.score(observation, agent.constant.expand(4, -1)).double().mean())
        best = float(landscape.constant_scores.double().mean())
        assert mean <= best + 1e-6
        exact += torch.equal(agent.constant, landscape.constant)
        answers = agent.choose(problem.sample(9, generator_from(2)))
        assert torch.equal(answers, agent.constant.expand(9, -1))
    assert exact >= 4


def test_the_best_constant_of_independent_slots_is_exact() -> None:
    # The mean of three requests: item 0 has 5/3 in slot 0 and -5/3 in slot 1, item 1 has 4/3 and -4/3.
    problem = SlotProblem(lambda vectors: vectors[..., 0, 0] - vectors[..., 1, 0], 2, 2, 1)
    observation = Observation(torch.tensor([[[0.0], [4.0]], [[5.0], [0.0]], [[0.0], [0.0]]]))
    problem.sample = lambda batch, generator: observation[:batch]  # type: ignore[method-assign]
    assert build("best_constant", problem).learn(3 * 2 * 4).constant.tolist() == [0, 1]
    # Two requests have means of 5/2 and 2; the first alone, 0 and 4.
    assert build("best_constant", problem).learn(2 * 2 * 4).constant.tolist() == [0, 1]
    assert build("best_constant", problem).learn(1).constant.tolist() == [1, 0]


@pytest.mark.parametrize(("timesteps", "spent"), [(80, 80), (1_000, 960), (79, 60), (20, 20), (1, 20)])
def test_the_best_constant_stays_within_its_budget(timesteps: int, spent: int) -> None:
    # Two sweeps over 2 + 5 + 3 items cost 20 calls a request, and there are four requests; the rest goes into starts.
    problem = row_problem()
    agent = build("best_constant", problem).learn(timesteps)
    assert agent.num_timesteps == spent and problem.budget == Budget(spent, 0)


def test_a_continued_training_spends_its_own_timesteps() -> None:
    problem = row_problem()
    agent = build("best_constant", problem).learn(40)
    agent.learn(40, reset_num_timesteps=False)
    assert agent.num_timesteps == 80 and problem.budget == Budget(80, 0)
    agent.learn(60)
    assert agent.num_timesteps == 60 and problem.budget == Budget(140, 0)


@pytest.mark.parametrize("name", ["random", "local_search", "guided_search"])
def test_searches_learn_nothing_and_spend_nothing_on_it(name: str) -> None:
    problem = slot_problem()
    agent = build(name, problem).learn(1_000)
    assert agent.num_timesteps == 0 and problem.budget == Budget(0, 0)


def test_a_masked_constant_becomes_the_first_allowed_item() -> None:
    problem = slot_problem(fewest_items=1)
    agent = build("best_constant", problem)
    agent.constant = torch.tensor([4, 0, 2])
    mask = torch.ones(3, 3, 5, dtype=torch.bool)
    mask[1, 0, 3:] = False
    mask[1, 1, :2] = False
    mask[2, 2] = torch.tensor([False, False, False, False, True])
    observation = Observation(torch.zeros(3, 5, 1), mask)
    answers = agent.choose(observation)
    assert answers.tolist() == [[4, 0, 2], [0, 2, 2], [4, 0, 4]]
    check_choice(problem, observation, answers)


@names
@problems
def test_a_checkpoint_answers_as_the_agent_did(name: str, build_problem: Callable[[], Problem], tmp_path: Path) -> None:
    problem = build_problem()
    agent: Any = build(name, problem, seed=7).learn(100)
    if name == "best_constant":
        agent.constant = torch.tensor([1, 4, 2])
    agent.save(tmp_path)
    again: Any = load_agent(tmp_path, SlotVecEnv(problem, 2))
    assert type(again) is type(agent) and again.options == agent.options
    assert (again.seed, again.num_timesteps) == (7, agent.num_timesteps)
    observation = problem.sample(20, generator_from(1))
    answers = agent.choose(observation)
    assert torch.equal(again.choose(observation), answers)
    if name == "best_constant":
        assert torch.equal(again.constant, agent.constant)


@pytest.mark.parametrize(
    "constant",
    [
        torch.tensor([2, 0, 0]),
        torch.tensor([0, 0, -1]),
        torch.tensor([0, 0]),
        torch.tensor([[0, 0, 0]]),
        torch.tensor([0.0, 0.5, 0.0]),
    ],
)
def test_a_constant_that_is_no_choice_of_the_problem_is_refused(constant: Tensor, tmp_path: Path) -> None:
    agent = build("best_constant", row_problem())
    agent.constant = constant
    agent.save(tmp_path)
    with pytest.raises(BundleError, match=r"expected a constant for slots of \(2, 5, 3\) items, got \["):
        load_agent(tmp_path, SlotVecEnv(row_problem(), 2))


def test_a_bad_constants_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = SlotVecEnv(row_problem(), 2)
    agent = build("best_constant", row_problem())
    monkeypatch.setattr(agent, "state", lambda: ({"another": torch.zeros(3, dtype=torch.long)}, {}))
    agent.save(tmp_path / "constant")
    with pytest.raises(BundleError, match=r"expected a constant for slots of \(2, 5, 3\) items, got \[\]"):
        load_agent(tmp_path / "constant", env)
    build("local_search", row_problem()).save(tmp_path / "local")
    manifest = tmp_path / "local" / "manifest.json"
    document = read_json(manifest)
    assert document["options"] == {"calls_per_context": 9}
    document["options"] = {"calls_per_start": 9}
    manifest.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="expected options of LocalSearchOptions, got unknown ones: calls_per_start"):
        load_agent(tmp_path / "local", env)


@names
@problems
def test_predict_answers_as_choose_does(name: str, build_problem: Callable[[], Problem]) -> None:
    problem = build_problem()
    agent = build(name, problem).learn(100)
    batch = SlotVecEnv(problem, 6, seed=3).reset()
    choices, state = agent.predict(batch, deterministic=True)
    assert choices.shape == (6, 3) and choices.dtype == np.int64 and state is None
    assert np.array_equal(choices, agent.choose(Observation.of(batch)).numpy())
    one = {name: part[4] for name, part in batch.items()}
    choice, _ = agent.predict(one)
    assert choice.shape == (3,)
    assert np.array_equal(choice, agent.choose(Observation.of(batch)[4:5])[0].numpy())
    with pytest.raises(TypeError, match="expected a dict observation, got ndarray"):
        agent.predict(np.zeros(3))


@names
@problems
def test_evaluate_policy_gives_the_scores_of_the_answers(name: str, build_problem: Callable[[], Problem]) -> None:
    agent = build(name, build_problem()).learn(100)
    env = VecMonitor(SlotVecEnv(build_problem(), 10, seed=5))
    rewards, lengths = evaluate_policy(agent, env, n_eval_episodes=20, return_episode_rewards=True)
    by_hand = SlotVecEnv(build_problem(), 10, seed=5)
    obs: Any = by_hand.reset()
    expected: list[float] = []
    for _ in range(2):
        obs, scores, _, _ = by_hand.step(agent.choose(Observation.of(obs)).numpy())
        expected += scores.tolist()
    assert lengths == [1] * 20
    assert rewards == pytest.approx(expected, abs=1e-6)


@names
def test_an_environment_without_a_problem_is_refused(name: str) -> None:
    class Blind(SlotVecEnv):
        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            if attr_name == "problem":
                raise AttributeError(attr_name)
            return super().get_attr(attr_name, indices)

    env = SlotsEnv("SlotRL/PickValue-v0")
    agent: Any = AGENTS[name](env, OPTIONS[name]).learn(64)
    assert agent.problem is env.problem
    choice, _ = agent.predict(env.reset(seed=0)[0])
    env.step(choice)
    with pytest.raises(
        ValueError, match=f"expected an environment with an estimator to ask for '{name}' .*got one without"
    ):
        AGENTS[name](Blind("SlotRL/PickValue-v0", 2), OPTIONS[name])


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("random", LocalSearchOptions()),
        ("random", options_of("gumbel")),
        ("best_constant", GuidedSearchOptions()),
        ("local_search", GuidedSearchOptions()),
        ("local_search", Options()),
        ("guided_search", LocalSearchOptions()),
    ],
)
def test_options_of_another_agent_are_refused(name: str, other: Options) -> None:
    wanted = f"expected {type(OPTIONS[name]).__name__} for {AGENTS[name].build.__name__}, got {type(other).__name__}"
    with pytest.raises(TypeError, match=wanted):
        build(name, options=other)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (LocalSearchOptions, {"calls_per_context": 0}, "expected calls_per_context >= 1, got 0"),
        (GuidedSearchOptions, {"calls_per_context": -1}, "expected calls_per_context >= 1, got -1"),
        (MeanFieldOptions, {"calls_per_context": 0}, "expected calls_per_context >= 1, got 0"),
    ],
)
def test_answers_and_starts_without_a_call_are_refused(kind: Any, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_a_whole_run_is_judged_again_alike(script: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out, flags = tmp_path / "run", ("--env", "SlotRL/PickValue-v0", "--timesteps", 1000, "--eval-size", 20)
    code, _, errors = script(
        ROOT / "scripts" / "train_agent.py",
        *("--agent", "guided_search", "--calls-per-context", 7, *flags, "--wandb", "disabled", "--out", out),
    )
    assert code == 0, errors
    summary = read_json(out / "summary.json")
    wanted = {"agent": "guided_search", "status": "finished", "timesteps": 0, "policy_parameters": 0}
    wanted |= {"calls_per_context": 7, "backwards_per_context": 7, "estimator_forwards": 0, "estimator_backwards": 0}
    assert {key: summary[key] for key in wanted} == wanted
    # Seven calls are better than none and do not always find the best.
    assert 0.3 < summary["optimality"] < 1 and summary["hit_rate"] < 1
    options = read_json(out / "config.json")["options"]
    assert options == {"calls_per_context": 7}
    code, shown, errors = script(ROOT / "scripts" / "evaluate_agent.py", out)
    assert code == 0, errors
    row = next(line for line in shown.splitlines() if "agent: guided_search" in line)
    for figure in (summary["score"], summary["optimality"]):
        assert f"{figure:.4f}" in row
