"""Contexts, slot features, pools and known requests of slot problems, from the estimator's arguments to the spaces."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slot_rl.agents import AGENTS
from slot_rl.agents.base import changed
from slot_rl.agents.policy import SlotPolicy
from slot_rl.envs import SlotsEnv, SlotVecEnv
from slot_rl.networks import PointerSize
from slot_rl.problems import Observation, SlotProblem
from slot_rl.problems.candidate_draws import different_rows
from slot_rl.seeding import generator_from

SMALL = PointerSize(8, 16)


def weighed(items: Tensor, context: Tensor) -> Tensor:
    """The sum of what the context's numbers make of each item."""
    return (items * context.unsqueeze(-2)).sum(dim=(-1, -2))


def test_the_context_reaches_the_estimator_by_hand() -> None:
    problem = SlotProblem(weighed, 2, 2, 2, context_dim=2)
    observation = Observation(
        candidates=torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 3.0]]]),
        context_vector=torch.tensor([[5.0, 7.0], [1.0, -1.0]]),
    )
    choice = torch.tensor([[0, 1], [1, 1]])
    assert problem.score(observation, choice).tolist() == [12.0, -6.0]
    both = torch.stack([choice, torch.zeros_like(choice)])
    assert problem.score(observation, both).tolist() == [[12.0, -6.0], [10.0, 4.0]]
    score, slope = problem.score_and_slope(observation, choice)
    assert score.tolist() == [12.0, -6.0]
    assert slope[0].tolist() == [[5.0, 7.0]] * 2 and slope[1].tolist() == [[2.0, -3.0]] * 2
    assert problem.budget.forwards == 8


@pytest.mark.parametrize("parts", [(), ("vector",), ("categories",), ("vector", "categories")])
@pytest.mark.parametrize("features", [None, "fixed", "given"])
def test_the_estimator_gets_what_the_problem_has(parts: tuple[str, ...], features: str | None) -> None:
    seen: list[tuple[Any, ...]] = []

    def estimator(items: Tensor, *given: Any) -> Tensor:
        seen.append(given)
        return items.sum(dim=(-1, -2))

    known = {"vector": torch.rand(5, 3), "categories": torch.randint(4, (5, 2))}
    names = {"vector": "context_vector", "categories": "context"}
    given: dict[str, Any] = {names[part]: known[part] for part in parts}
    if features == "given":
        given["slot_features"] = torch.rand(5, 2, 6)
    fixed = torch.rand(2, 6) if features == "fixed" else None
    problem = SlotProblem(estimator, 2, 4, 3, requests=Observation(**given) if given else None, slot_features=fixed)
    observation = problem.sample(7, generator_from(0))
    problem.score(observation, torch.zeros(4, 7, 2, dtype=torch.long))
    arguments = seen[-2]  # the last one is a row that is asked about again
    assert len(arguments) == (2 if features else 1 if parts else 0)
    if parts:
        context = arguments[0] if len(parts) == 2 else (arguments[0],)
        assert [tuple(part.shape) for part in context] == [(28, 3) if part == "vector" else (28, 2) for part in parts]
    elif features:
        assert arguments[0] is None
    if features:
        assert arguments[1].shape == (28, 2, 6)


@pytest.mark.parametrize("out", [lambda score: score, lambda score: score.unsqueeze(-1)])
def test_scores_may_be_a_column(out: Any) -> None:
    problem = SlotProblem(lambda items: out(items.sum(dim=(-1, -2))), 2, 3, 1)
    observation = problem.sample(4, generator_from(0))
    assert problem.score(observation, torch.zeros(3, 4, 2, dtype=torch.long)).shape == (3, 4)


def test_a_module_that_knows_one_batch_dimension_will_do() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.head = nn.Linear(8, 1)

        def forward(self, items: Tensor) -> Tensor:
            scores: Tensor = self.head(self.mix(items).flatten(1))
            return scores

    problem = SlotProblem(Plain(), 2, 3, 4)
    observation, choice = problem.sample(5, generator_from(0)), torch.zeros(6, 5, 2, dtype=torch.long)
    assert torch.allclose(problem.score(observation, choice)[2], problem.score(observation, choice[2]), atol=1e-6)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            lambda items: items.sum(),
            r"scores of shape \(3,\) from the lambda at .*, given items \(3, 2, 3\), got torch.float32 \(\)",
        ),
        (lambda items: items.sum(-1), r"scores of shape \(3,\) from .*, got torch.float32 \(3, 2\)"),
        (
            lambda items: items.sum((-1, -2)) - items.mean(),
            "the same score for a row among others and alone from .*",
        ),
        (lambda items: torch.rand(len(items)), "the same score when asked twice from the lambda at .*, got"),
        (lambda items: torch.rand(len(items)).sort().values, "the same score when asked twice"),
        (
            lambda items: items.argmax(dim=-1)[:, 0],
            r"scores of shape .*, got torch.int64 \(3,\)",
        ),
        (lambda items: items[:2, 0, 0], r"scores of shape .*, got torch.float32 \(2,\)"),
        (lambda items: [1.0, 2.0, 3.0], "scores of shape .*, got list"),
        (nn.Linear(7, 1), r"expected scores from Linear for slots, given items \(3, 2, 3\), got RuntimeError: mat1"),
        (lambda items, context: items, "expected scores from .*, got TypeError"),
    ],
)
def test_a_misfit_is_reported_when_the_problem_is_built(estimator: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlotProblem(estimator, 2, 4, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": None}, "expected items and dim, or a pool"),
        ({"pool": torch.zeros(3, 3)}, r"expected a pool of at least 4 vectors of length 3, got \(3, 3\)"),
        ({"pool": torch.zeros(9, 2)}, r"expected a pool of at least 4 vectors of length 3, got \(9, 2\)"),
        ({"pool": [["a"]]}, "expected numbers as pool, got list"),
        ({"pool": [[1.0], [1.0, 2.0]]}, "expected numbers as pool, got list"),
        ({"draw": lambda shape, generator: torch.zeros(3, 3)}, r"expected draw to return float32 \(3, 4, 3\), got"),
        ({"draw": lambda shape, generator: torch.zeros(shape).double()}, "got torch.float64"),
        ({"truth": lambda items: items.sum()}, "expected true scores of shape"),
        ({"pool": torch.full((6, 3), torch.nan)}, "expected finite pool, got NaN or infinity in row 0"),
        ({"contexts": torch.zeros(5)}, "expected contexts with 2 dimensions, got shape"),
        ({"contexts": torch.zeros(5, 2), "context_dim": 2}, "expected no context_dim"),
        ({"contexts": torch.zeros(5, 2), "requests": Observation()}, "expected either contexts or requests"),
        ({"requests": Observation(candidates=torch.zeros(2, 4, 3))}, "expected known requests with context"),
        ({"requests": Observation(context=torch.tensor([[-1]]))}, "expected context categories from 0 on, got -1"),
        (
            {"requests": Observation(context=torch.zeros(2, 1).long(), context_vector=torch.zeros(3, 1))},
            "expected equally many known requests",
        ),
        ({"slot_features": torch.zeros(3, 1)}, "expected slot_features of 2 slots"),
        ({"pool": torch.rand(4, 3), "item_ids": ["a", "b", "b", "c"]}, "expected 4 different item_ids"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"items": 4, "dim": 3} | changes
    with pytest.raises(ValueError, match=message):
        SlotProblem(lambda items, *given: items.sum(dim=(-1, -2)), 2, **settings)


def test_arrays_and_lists_become_tensors() -> None:
    pool, contexts = np.arange(12).reshape(4, 3), [[0.5, 1.0, 2.0], [1.0, 0.0, 0.0]]
    features = ((1,), (2,))
    problem = SlotProblem(
        lambda items, *_: items.sum((-1, -2)), 2, pool=pool, contexts=contexts, slot_features=features
    )
    assert problem.pool is not None and problem.pool.dtype == torch.float32
    assert (problem.items, problem.dim, problem.context_dim, problem.slot_dim) == (4, 3, 3, 1)
    observation = problem.sample(2, generator_from(0))
    assert problem.score(observation, torch.tensor([[0, 1], [2, 3]])).tolist() == [15.0, 51.0]


def test_known_requests_are_drawn_and_judged_on_once() -> None:
    contexts = torch.arange(30.0).unsqueeze(1)
    problem = SlotProblem(weighed, 2, 4, 1, contexts=contexts)
    judged = problem.evaluation_observations(100, generator_from(0))
    assert judged.context_vector is not None
    assert sorted(judged.context_vector.squeeze(1).tolist()) == contexts.squeeze(1).tolist()
    assert len(problem.evaluation_observations(7, generator_from(0))) == 7
    drawn = problem.sample(2_000, generator_from(1)).context_vector
    assert drawn is not None and set(drawn.squeeze(1).tolist()) == set(range(30))


def test_a_whole_pool_is_every_requests_list() -> None:
    pool = torch.rand(9, 2)
    problem = SlotProblem(lambda items: items.sum(dim=(-1, -2)), 3, pool=pool)
    observation = problem.sample(4, generator_from(0))
    assert observation.candidates is not None and problem.items == 9
    assert torch.equal(observation.candidates, pool.expand(4, -1, -1)) and observation.mask is None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 60), st.integers(0, 10_000))
def test_drawn_rows_are_different(batch: int, count: int, more: int, seed: int) -> None:
    found = different_rows(batch, count, count + more, generator_from(seed))
    assert found.shape == (batch, count) and int(found.min()) >= 0 and int(found.max()) < count + more
    assert all(len(set(row)) == count for row in found.tolist())


def test_every_set_is_drawn_equally_often() -> None:
    found = different_rows(60_000, 2, 5, generator_from(0))
    counts = torch.bincount(found[:, 0] * 5 + found[:, 1], minlength=25)
    pairs = counts[counts > 0].double()
    assert len(pairs) == 20
    assert float((pairs / 60_000 - 0.05).abs().max()) < 5 * (0.05 * 0.95 / 60_000) ** 0.5


def test_environments_and_spaces_carry_every_part() -> None:
    requests = Observation(
        context=torch.tensor([[0, 1], [2, 0]]), context_vector=torch.rand(2, 3), slot_features=torch.rand(2, 2, 4)
    )
    problem = SlotProblem(
        lambda items, context, features: items.sum(dim=(-1, -2)), 2, 5, 3, fewest_items=2, requests=requests
    )
    env = SlotsEnv(problem)
    space = env.observation_space
    assert isinstance(space, gym.spaces.Dict)
    shapes = {"candidates": (5, 3), "mask": (2, 5), "context": (2,), "context_vector": (3,), "slot_features": (2, 4)}
    assert {name: part.shape for name, part in space.spaces.items()} == shapes
    observation, _ = env.reset(seed=0)
    assert space.contains(observation)
    back = Observation.of({name: part[None] for name, part in observation.items()})
    assert {name: tuple(part.shape[1:]) for name, part in back.tensors().items()} == shapes
    given = {name: np.array(part) for name, part in observation.items()}
    again, _ = env.reset(options={"observation": given})
    assert all(np.array_equal(again[name], observation[name]) for name in observation)


@pytest.mark.parametrize("name", ["gumbel", "reinforce", "ppo", "expert_iteration", "guided_search", "genetic"])
def test_agents_learn_and_load_with_every_part(name: str, tmp_path: Any) -> None:
    requests = Observation(
        context=torch.randint(3, (20, 1)), context_vector=torch.rand(20, 2), slot_features=torch.rand(20, 2, 2)
    )
    problem = SlotProblem(
        lambda items, context, features: (
            (items.sum(dim=-1) * features.sum(dim=-1)).sum(dim=-1) + context[0].sum(dim=-1)
        ),
        2,
        4,
        3,
        requests=requests,
    )
    options = AGENTS[name].options
    if hasattr(options, "policy"):
        changes = {"policy": SMALL, "batch_size": 32} | ({"minibatch_size": 16} if name == "ppo" else {})
        options = changed(options, changes)
    agent = AGENTS[name](SlotVecEnv(problem, options.num_envs), options)
    agent.learn(128)
    agent.save(tmp_path)
    again = AGENTS[name].build.load(tmp_path, SlotVecEnv(problem, 2), options)
    observation = problem.sample(9, generator_from(3))
    assert torch.equal(agent.choose(observation), again.choose(observation))


def policy_of(problem: SlotProblem, size: PointerSize = SMALL) -> SlotPolicy:
    agent = AGENTS["gumbel"](problem, policy=size, batch_size=8)
    assert agent.policy is not None
    return agent.policy


def test_the_units_of_contexts_and_items_do_not_matter() -> None:
    contexts, pool = torch.rand(50, 2), torch.rand(8, 3)

    def estimator(items: Tensor, context: Tensor) -> Tensor:
        return items.sum(dim=(-1, -2)) + context.sum(dim=-1)

    plain = SlotProblem(estimator, 2, pool=pool, contexts=contexts)
    scaled = SlotProblem(estimator, 2, pool=1_000 * pool + 7, contexts=1e-3 * contexts - 5)
    logits = [policy_of(each).point(each.sample(6, generator_from(0)))[0] for each in (plain, scaled)]
    assert torch.allclose(logits[0], logits[1], atol=1e-2)


def test_a_blind_policy_ignores_the_context() -> None:
    problem = SlotProblem(weighed, 2, 4, 2, context_dim=2)
    observation = problem.sample(6, generator_from(0))
    other = Observation(observation.candidates, context_vector=torch.rand(6, 2))
    blind, seeing = (policy_of(problem, PointerSize(8, 16, context=see)) for see in (False, True))
    assert torch.equal(blind.point(observation)[0], blind.point(other)[0])
    assert not torch.equal(seeing.point(observation)[0], seeing.point(other)[0])
