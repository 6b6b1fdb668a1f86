"""Agents without an environment: they answer as before, cannot learn, and learn on in an environment that they get."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slot_rl.agents import AGENTS, GumbelAgent, MultistartAgent, load_agent
from slot_rl.agents.sb3 import LearningAgent
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem, make_problem
from slot_rl.problems.constraints import AtLeast, AtMost, Constraint, Distinct, Feasible, Fixed, NotTogether
from slot_rl.problems.constraints.written import as_entry, constraints_of
from slot_rl.search import is_allowed
from slot_rl.seeding import generator_from
from tests.helpers.limited import KINDS, pages
from tests.helpers.logged_table import ENCODING, row_problem, write_log
from tests.helpers.options import POLICY_AGENTS
from tests.helpers.small_agents import tiny

NUMBERED: Any = {np.int64(2): np.int64(4)}
UNKNOWN = "expected an environment whose estimator is known, got an agent that was loaded without one"


def pool_problem(*constraints: Constraint, items: int | None = None) -> SlotProblem:
    pool = torch.randn(6, 2, generator=generator_from(1))
    labels = {"shop": ["a", "a", "b", "b", "c", "c"]}
    contexts = torch.randn(30, 3, generator=generator_from(2))
    return SlotProblem(
        lambda vectors, context: vectors.sum((-1, -2)) * context[..., 0],
        3,
        items,
        pool=pool,
        contexts=contexts,
        item_labels=labels,
        constraints=constraints,
    )


def loaded_twice(agent: LearningAgent, folder: Path, problem: Problem) -> tuple[Any, Any]:
    agent.save(folder)
    return load_agent(folder, problem), load_agent(folder)


@pytest.mark.parametrize("name", POLICY_AGENTS)
def test_every_policy_answers_without_an_environment(name: str, tmp_path: Path) -> None:
    logged = name in ("reproduction", "aligned")
    problem = row_problem() if logged else make_problem("SlotRL/PickValue-v0")
    agent = AGENTS[name](problem, tiny(name, **{"logged": write_log(tmp_path / "log.csv")} if logged else {}))
    assert isinstance(agent, LearningAgent)
    _, alone = loaded_twice(agent, tmp_path / "agent", problem)
    requests = problem.sample(20, generator_from(3))
    assert torch.equal(alone.choose(requests), agent.choose(requests))
    with pytest.raises(ValueError, match=UNKNOWN):
        alone.learn(10)
    assert alone.num_timesteps == 0


@pytest.mark.parametrize("name", ["gumbel", "ppo", "maskable_ppo", "multistart"])
def test_an_environment_lets_it_learn_on(name: str, tmp_path: Path) -> None:
    problem = make_problem("SlotRL/Slate-v0")
    agent = AGENTS[name](problem, tiny(name))
    assert isinstance(agent, LearningAgent)
    _, alone = loaded_twice(agent, tmp_path, problem)
    alone.set_env(problem)
    assert alone.problem is problem
    alone.learn(64)
    assert alone.num_timesteps == problem.budget.forwards > 0


@pytest.mark.parametrize(
    "problem",
    [
        pool_problem(),
        pool_problem(Distinct(), AtMost(1, "shop")),
        pool_problem(AtLeast(2, "shop", "b"), NotTogether([(0, 1), ((0, 2), (1, 3))])),
        pool_problem(AtMost(1, "shop"), items=4),
        row_problem(),
        row_problem().with_constraints([Fixed({"b": "p"}), AtMost(1, {"a": ["k", "l"], "c": ["s"]})]),
        pages(),
        pool_problem(AtMost(1, "shop", np.str_("b")), Fixed(NUMBERED), Distinct()),
        KINDS["constrained rows"](),
    ],
    ids=lambda problem: f"{problem.name}, {problem.constraints}",
)
def test_answers_keep_what_the_problem_allows(problem: Problem, tmp_path: Path) -> None:
    agent, alone = loaded_twice(GumbelAgent(problem, seed=3), tmp_path, problem)
    requests = problem.sample(64, generator_from(0))
    assert torch.equal(alone.choose(requests), agent.choose(requests))
    draws, _ = alone.predict(requests)
    assert is_allowed(problem, requests, torch.as_tensor(draws)).all()
    alone.save(tmp_path / "again")
    assert torch.equal(load_agent(tmp_path / "again").choose(requests), agent.choose(requests))


def test_requests_may_have_other_numbers_of_candidates(tmp_path: Path) -> None:
    problem = SlotProblem(lambda vectors: vectors.sum((-1, -2)), 2, 5, 3, constraints=[Distinct()])
    agent, alone = loaded_twice(GumbelAgent(problem), tmp_path, problem)
    wider = problem.with_items(9).sample(16, generator_from(0))
    assert torch.equal(alone.choose(wider), agent.choose(wider))


def test_observations_of_environments_and_of_problems(tmp_path: Path) -> None:
    problem = make_problem("SlotRL/Slots-v0")
    agent = GumbelAgent(problem).learn(600)
    agent.save(tmp_path)
    alone = GumbelAgent.load(tmp_path)
    env = SlotVecEnv(problem, 8, seed=0)
    obs = env.reset()
    assert isinstance(obs, Mapping)
    choice, state = alone.predict(obs, deterministic=True)
    same, _ = alone.predict(Observation.of(obs), deterministic=True)
    assert (choice == same).all() and choice.shape == (8, 4) and state is None
    single, _ = alone.predict({name: part[0] for name, part in obs.items()}, deterministic=True)
    assert (single == choice[0]).all()


def test_another_number_of_environments_is_refused(tmp_path: Path) -> None:
    GumbelAgent(SlotVecEnv("SlotRL/PickValue-v0", 4)).save(tmp_path)
    agent = GumbelAgent.load(tmp_path)
    with pytest.raises(ValueError, match="expected 4 environments at once, got 8: load"):
        agent.set_env(SlotVecEnv("SlotRL/PickValue-v0", 8))
    agent.set_env(SlotVecEnv("SlotRL/PickValue-v0", 4))
    assert agent.learn(100).num_timesteps >= 100


def test_what_a_checkpoint_cannot_say_is_refused(tmp_path: Path) -> None:
    problem = row_problem().with_constraints([Feasible(lambda rows: rows[:, 0] == 0)])
    GumbelAgent(problem).save(tmp_path / "computed")
    with pytest.raises(
        ValueError, match="expected the environment of rows, whose constraints a checkpoint cannot write down"
    ):
        GumbelAgent.load(tmp_path / "computed")
    encoding = replace(ENCODING, features={"0": tuple("klmn"), "2": tuple("opqr"), "1": tuple("stu")})
    numbers = RowProblem(EstimatorNet(EstimatorShape(3, 4, (8,), (4, 4, 3), (3,))), [[0]], encoding=encoding)
    GumbelAgent(numbers.with_constraints([Fixed({1: 0})])).save(tmp_path / "numbers")
    with pytest.raises(ValueError, match="expected the environment of rows, whose constraints"):
        GumbelAgent.load(tmp_path / "numbers")
    AGENTS["guided_search"](problem).save(tmp_path / "search")
    with pytest.raises(ValueError, match="expected the environment for 'guided_search', which has no policy, got none"):
        load_agent(tmp_path / "search")
    with pytest.raises(ValueError, match="expected a checkpoint of 'multistart' in"):
        MultistartAgent.load(tmp_path / "computed", problem)


def test_a_constraint_is_read_as_it_was_written() -> None:
    held = [
        Distinct(),
        Distinct(("a", "b")),
        Fixed({"a": 1}),
        AtMost(2, "shop"),
        AtLeast(1, "shop", "b"),
        AtMost(1, {"a": ["x", 2]}),
        NotTogether([("p", "q"), (("a", 1), ("b", "q"))]),
    ]
    entries = [as_entry(each) for each in held]
    assert [*map(str, constraints_of([entry for entry in entries if entry is not None]))] == [*map(str, held)]
    assert as_entry(Feasible(lambda rows: rows[:, 0] == 0)) is None
    assert as_entry(AtMost(1, torch.tensor([0, 0, 1]))) is None
