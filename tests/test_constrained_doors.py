"""A million random requests under random constraints: no door names what is forbidden. Slow, with a short version."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.agents.policy import drawn, most_probable
from slot_rl.envs import SlotsEnv
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem
from slot_rl.problems.constraints import AtLeast, AtMost, Constraint, Distinct, Feasible, Fixed, NotTogether
from slot_rl.search import (
    cross_entropy_search,
    genetic_search,
    guided_search,
    local_search,
    multi_swap_search,
    random_choice,
)
from slot_rl.seeding import generator_from
from tests.helpers.limited import forbidden
from tests.helpers.logged_table import row_problem

FEW, MANY = 20, 10_000
DOORS = 8
"""Answers to each request that are looked at: drawn, decoded, at random, and by five searches."""


@dataclass(frozen=True)
class DoorCase:
    """A problem with random constraints, and the seed of requests and policies."""

    problem: Problem
    seed: int


@st.composite
def _slot_cases(draw: st.DrawFn) -> Problem:
    slots = draw(st.integers(2, 4))
    fewest = draw(st.integers(2 * slots, 2 * slots + 2))
    seed = draw(st.integers(0, 2**16))
    pool = torch.randn(3 * fewest, 3, generator=generator_from(seed))
    groups, new = draw(st.integers(slots, 2 * slots)), draw(st.integers(2, 3))
    labels: dict[str, list[object]] = {
        "group": [i % groups for i in range(len(pool))],
        "new": [i % new == 0 for i in range(len(pool))],
    }
    fixed = draw(st.booleans())
    constraints: list[Constraint] = [Distinct()] if draw(st.booleans()) else [Distinct([0, slots - 1])]
    if constraints[0] == Distinct():
        constraints += [AtMost(draw(st.integers(1, 2)), "group")] if draw(st.booleans()) else []
        constraints += [AtLeast(1, "new", True)] if draw(st.booleans()) else []
    if fixed:
        constraints += [Fixed({draw(st.integers(0, slots - 1)): draw(st.integers(0, fewest - 1))})][
            : len(constraints) < 2
        ]
    most = fewest + draw(st.integers(0, 2))
    problem = SlotProblem(_score, slots, most, fewest_items=fewest, pool=pool, item_labels=labels)
    return problem.with_constraints(constraints)


@st.composite
def _row_cases(draw: st.DrawFn) -> Problem:
    least, parity = draw(st.integers(1, 4)), draw(st.integers(0, 1))
    problem: RowProblem = row_problem()
    kinds: list[Constraint] = [Feasible(lambda rows: rows.sum(dim=1) >= least)]
    if draw(st.booleans()):
        kinds.append(NotTogether([(("a", "k"), ("b", "o")), (("a", "m"), ("c", "u"))]))
    if draw(st.booleans()):
        kinds.append(AtMost(1, {"a": ["l", "m"], "b": ["q"], "c": ["t"]}))
    if parity:
        kinds.append(Feasible(lambda rows: rows[:, 0] != rows[:, 1]))
    return problem.with_constraints(kinds)


cases = st.builds(DoorCase, _slot_cases() | _row_cases(), st.integers(0, 2**31))


def _score(items: Tensor) -> Tensor:
    return items.sum(dim=(-1, -2)).sin() + items[..., 0, 0]


def check(case: DoorCase, requests: int) -> None:
    problem, generator = case.problem, generator_from(case.seed)
    observation = problem.sample(requests, generator)
    for part in torch.arange(requests).split(2_500):
        asked = observation[part]
        assert forbidden(problem, asked, torch.stack(answers(problem, asked, generator))) == 0


def answers(problem: Problem, asked: Observation, generator: torch.Generator) -> list[Tensor]:
    mask, rules = problem.mask(asked), problem.rules(asked)
    spread = 10 ** (2 * torch.rand(len(asked), 1, 1, generator=generator) - 1)
    logits = spread * torch.randn(len(asked), problem.slots, problem.items, generator=generator)
    logits = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
    chosen = drawn(logits, rules, generator)
    found = [
        chosen,
        most_probable(logits, rules),
        random_choice(problem, asked, generator),
        guided_search(problem, asked, chosen, 2).choice,
        multi_swap_search(problem, asked, 4, generator).choice,
        local_search(problem, asked, 6, generator).choice,
        genetic_search(problem, asked, 8, generator).choice,
        cross_entropy_search(problem, asked, 8, generator).choice,
    ]
    assert len(found) == DOORS
    return found


@given(cases)
@settings(max_examples=25, deadline=None)
def test_no_door_names_what_is_forbidden(case: DoorCase) -> None:
    check(case, FEW)


@pytest.mark.slow
@given(cases)
@settings(max_examples=100, deadline=None)
def test_no_door_in_a_million_requests(case: DoorCase) -> None:
    check(case, MANY)


@given(cases)
@settings(max_examples=15, deadline=None)
def test_an_environment_refuses_what_is_forbidden_only(case: DoorCase) -> None:
    env = SlotsEnv(case.problem)
    generator = generator_from(case.seed)
    for step in range(5):
        obs, _ = env.reset(seed=case.seed % 1_000 + step)
        asked = Observation.of({name: part[None] for name, part in obs.items()})
        sizes = torch.tensor(case.problem.sizes)
        action = (torch.rand(len(sizes), generator=generator) * sizes).long()
        if forbidden(case.problem, asked, action.unsqueeze(0)):
            with pytest.raises(ValueError, match="expected"):
                env.step(action.numpy())
        else:
            env.step(action.numpy())


def test_a_door_without_rules_would_fail() -> None:
    problem = SlotProblem(_score, 3, 6, 2).with_constraints([Distinct()])
    observation = problem.sample(50, generator_from(0))
    free = torch.randint(6, (50, 3), generator=generator_from(1))
    assert forbidden(problem, observation, free) > 5
