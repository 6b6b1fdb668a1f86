"""Under constraints every agent learns, answers and serves allowed answers only; without them, it would not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from slot_rl.agents import AGENTS, GumbelAgent, LearningAgent, PPOAgent, load_agent
from slot_rl.agents.serving import Mode, Serving, best_swaps, propensity, serve
from slot_rl.envs import SlotVecEnv
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.networks import PointerSize
from slot_rl.problems import Problem
from slot_rl.problems.constraints import Distinct
from slot_rl.search import enumerate_landscape
from slot_rl.seeding import generator_from
from tests.helpers.limited import forbidden, limited_rows, pages
from tests.helpers.logged_table import write_log
from tests.helpers.options import POLICY_AGENTS, options_of

SMALL: dict[str, Any] = {"policy": PointerSize(width=16, hidden=32, rounds=1)}
PROBLEMS = {"pages": pages, "rows": limited_rows}
LOGGED = ("reproduction", "aligned")
REFUSING = ("rebar", "mean_field")
LOOKED_UP = "best_seen"
"""Needs the table of an estimator; test_best_seen.py tests it."""
SLOWER = ("ppo", "expert_iteration")
MODES: dict[Mode, int] = {"pass": 0, "confident": 0, "starts": 4, "draws": 3, "search": 4, "sample": 0}


def build(name: str, problem: Problem, folder: Path, **changes: Any) -> Any:
    options: dict[str, Any] = dict(SMALL) if name in POLICY_AGENTS else {}
    if name == "multistart":
        options = {"policy": PointerSize(16, 32, 1, 4)}
    if name == "learned_critic":
        options |= {"fit_steps": 20, "fewest_steps": 20, "actor_steps": 1, "actor_batch": 16, "batch_size": 100}
    if name in LOGGED:
        options["logged"] = write_log(folder / "log.csv")
    if name == "maskable_ppo":
        pytest.importorskip("sb3_contrib")
        options = {}
    return AGENTS[name](problem, options_of(name, **options, **changes))


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", [name for name in AGENTS if name not in (*REFUSING, LOOKED_UP)])
def test_no_agent_names_what_is_forbidden(name: str, kind: str, tmp_path: Path) -> None:
    if name in LOGGED and kind == "pages":
        pytest.skip("a log is rows of a table")
    problem = PROBLEMS[kind]()
    if name == "nevergrad":
        pytest.importorskip("nevergrad")
    agent = build(name, problem, tmp_path).learn(300)
    observation = problem.sample(20 if name == "nevergrad" else 100, generator_from(3))
    assert forbidden(problem, observation, agent.choose(observation)) == 0
    if isinstance(agent, LearningAgent):
        for mode, calls in MODES.items():
            found = serve(agent, problem, observation, Serving(mode, calls), generator_from(4))
            ranked = best_swaps(problem, observation, found, 3)
            several = torch.where((ranked.score > -torch.inf).unsqueeze(2), ranked.choice, found.choice.unsqueeze(1))
            assert forbidden(problem, observation, several.transpose(0, 1)) == 0


def test_what_cannot_keep_rules_says_so_at_once() -> None:
    with pytest.raises(ValueError, match="expected another selector than rebar"):
        AGENTS["rebar"](pages())
    with pytest.raises(ValueError, match="expected a problem without constraints for mean-field annealing, got Dist"):
        AGENTS["mean_field"](pages())


@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_same_policy_without_rules_names_forbidden_answers(kind: str) -> None:
    problem = PROBLEMS[kind]()
    free = GumbelAgent(problem.with_constraints([]), **SMALL).learn(700)
    observation = problem.sample(200, generator_from(3))
    assert forbidden(problem, observation, free.choose(observation)) > 20


def test_a_checkpoint_keeps_its_answers(tmp_path: Path) -> None:
    problem = pages()
    agent = GumbelAgent(problem, **SMALL).learn(700)
    agent.save(tmp_path / "checkpoint")
    observation = problem.sample(50, generator_from(3))
    loaded = load_agent(tmp_path / "checkpoint", SlotVecEnv(problem, 2))
    assert torch.equal(loaded.choose(observation), agent.choose(observation))


def test_draws_have_the_probability_that_propensity_says() -> None:
    problem = pages()
    agent = GumbelAgent(problem, **SMALL).learn(2_000)
    observation = problem.sample(1, generator_from(5))
    many = observation[torch.zeros(40_000, dtype=torch.long)]
    drawn = agent.policy.draw(many, generator_from(6)).detach()
    rows, counts = drawn.unique(dim=0, return_counts=True)
    chances = propensity(agent, observation[torch.zeros(len(rows), dtype=torch.long)], rows)
    spread = (chances * (1 - chances) / len(drawn)).sqrt()
    assert bool(((counts / len(drawn) - chances).abs() < 5 * spread + 1e-4).all())
    assert float(chances.sum()) == pytest.approx(1, abs=0.01)


def test_a_penalty_trains_without_masks_and_answers_with_them() -> None:
    problem = pages((Distinct(),))
    agent = PPOAgent(problem, infeasible="penalise", batch_size=128, minibatch_size=64, **SMALL)
    observation = problem.sample(400, generator_from(3))
    with torch.no_grad():
        tried = agent.policy.get_distribution(observation.tensors()).sample()
    assert forbidden(problem, observation, tried) > 50
    agent.learn(1_000)
    assert forbidden(problem, observation, agent.choose(observation)) == 0


def test_a_penalty_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected infeasible mask or penalise, got 'ignore'"):
        options_of("ppo", infeasible="ignore")


@pytest.mark.parametrize("name", ["gumbel", "rloo", *(pytest.param(each, marks=pytest.mark.slow) for each in SLOWER)])
def test_it_learns_under_constraints_and_random_does_not(name: str, tmp_path: Path) -> None:
    problem = pages()
    evaluation = Evaluation(problem, EvaluationConfig(eval_size=128))
    agent = build(name, problem, tmp_path, learning_rate=3e-3, batch_size=256).learn(12_000)
    assert evaluation.judge(agent.choose).figure("optimality") > 0.8
    control = build("random", problem, tmp_path)
    assert evaluation.judge(control.choose).figure("optimality") < 0.3


def test_the_references_of_an_evaluation_keep_the_constraints() -> None:
    problem = pages()
    evaluation = Evaluation(problem, EvaluationConfig(eval_size=64))
    observation = evaluation.observation
    best = enumerate_landscape(problem, observation, problem.score)
    assert forbidden(problem, observation, best.choice) == 0
    free = enumerate_landscape(pages(()), observation, problem.score)
    assert float(free.best.mean()) > float(best.best.mean()) + 0.1
    assert all(row.figure("optimality") <= 1 + 1e-6 for row in evaluation.references)
