"""Answers that are not allowed, in one step: refused by name at all three faces, or penalised and counted."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from slot_rl.envs import SequentialEnv, SequentialVecEnv, SequentialVectorEnv, SlotsEnv, SlotsVectorEnv, SlotVecEnv
from slot_rl.envs import episodes as episodes_module
from slot_rl.envs.episodes import default_penalty, to_arrays
from slot_rl.problems import Problem, make_problem
from slot_rl.problems.constraints import Distinct, Fixed, Infeasible
from slot_rl.search import random_choice
from slot_rl.seeding import generator_from
from tests.helpers.limited import SLOTS, distinct_slots
from tests.helpers.rugged import Watched, slot_problem

MIXED = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [7, 6, 5, 4], [3, 3, 3, 3], [4, 0, 6, 2]])
"""Answers to five requests; the second and the fourth repeat an item."""
ALLOWED = np.array([True, False, True, False, True])


def open_face(face: str, problem: Problem, count: int, seed: int = 0, **options: Any) -> Any:
    """Opens the same requests at a face; the single environment opens the last of them."""
    arrays = to_arrays(problem.sample(count, generator_from(seed)))
    if face == "single":
        env: Any = SlotsEnv(problem, **options)
        env.reset(options={"observation": {name: part[-1] for name, part in arrays.items()}})
    elif face == "vector":
        env = SlotsVectorEnv(problem, count, **options)
        env.reset(options={"observation": arrays})
    else:
        env = SlotVecEnv(problem, count, **options)
        env.set_options({"observation": arrays})
        env.reset()
    return env


def answered(face: str, env: Any, actions: npt.NDArray[np.int64]) -> tuple[list[float], list[bool]]:
    """Returns the rewards and what the infos say of each answer; the single environment gives the last one."""
    found = env.step(actions[-1] if face == "single" else actions)
    if face == "single":
        return [found[1]], [found[4]["infeasible"]]
    if face == "vector":
        told = found[4]["final_info"]
        assert told["_infeasible"].all() and told["infeasible"].dtype == np.bool_
        return found[1].tolist(), told["infeasible"].tolist()
    return found[1].tolist(), [info["infeasible"] for info in found[3]]


faces = pytest.mark.parametrize("face", ["single", "vector", "vec"])


@faces
def test_a_broken_constraint_is_refused_by_its_name(face: str) -> None:
    problem = make_problem(SLOTS).with_constraints([Fixed({0: 0}), Distinct()])
    for row, name in (([0, 1, 2, 1], r"Distinct\(\)"), ([1, 0, 2, 3], r"Fixed\(.*0.*\)")):
        env = open_face(face, problem, 5)
        actions = np.array([[0, 1, 2, 3]] * 4 + [row])
        with pytest.raises(Infeasible, match=f"expected a configuration that satisfies {name}, got"):
            env.step(actions[-1] if face == "single" else actions)
        assert problem.budget.forwards == 0


@faces
def test_penalised_answers_cost_a_call_and_others_get_scores(face: str) -> None:
    problem = distinct_slots()
    env = open_face(face, problem, 5, infeasible="penalise", penalty=-7.5)
    assert env.penalty == -7.5 and problem.budget.forwards == 0
    observation = problem.sample(5, generator_from(0))
    expected = np.where(ALLOWED, problem.with_fresh_budget().score(observation, torch.as_tensor(MIXED)).numpy(), -7.5)
    rewards, infeasible = answered(face, env, MIXED)
    count = len(rewards)
    np.testing.assert_allclose(rewards, expected[-count:], atol=1e-6)
    assert infeasible == (~ALLOWED)[-count:].tolist()
    assert problem.budget.forwards == count
    again = open_face(face, problem, 5, infeasible="penalise", penalty=-7.5)
    before = problem.budget.forwards
    assert answered(face, again, np.zeros((5, 4), dtype=np.int64)) == ([-7.5] * count, [True] * count)
    assert problem.budget.forwards == before + count


@faces
def test_a_masked_item_is_penalised(face: str) -> None:
    problem = make_problem(SLOTS, fewest_items=3)
    # The last request of this batch has fewer than 8 items.
    env = open_face(face, problem, 5, seed=2, infeasible="penalise", penalty=-7.5)
    length = int(problem.sample(5, generator_from(2)).mask[-1, 0].sum())  # type: ignore[index]
    assert length < 8
    actions = np.zeros((5, 4), dtype=np.int64)
    actions[-1, 2] = length
    rewards, infeasible = answered(face, env, actions)
    assert rewards[-1] == -7.5 and -7.5 not in rewards[:-1]
    assert infeasible == [False] * (len(rewards) - 1) + [True]


def test_an_estimator_is_never_asked_about_them() -> None:
    problem = slot_problem().with_constraints([Distinct()])
    assert isinstance(problem, Watched)
    env = SlotVecEnv(problem, 3, seed=0, infeasible="penalise", penalty=-1.0)
    problem.asked = []
    env.reset()
    env.step(np.array([[0, 1, 2], [1, 1, 2], [3, 2, 0]]))
    env.step(np.array([[0, 0, 2], [1, 1, 2], [3, 3, 0]]))
    assert [choice.tolist() for choice, _ in problem.asked] == [[[0, 1, 2], [3, 2, 0]]]
    assert problem.budget.forwards == 6


def test_all_infos_tell_and_the_last_hundred_carry_episodes() -> None:
    env = SlotVecEnv(distinct_slots(), 150, seed=0, infeasible="penalise")
    env.reset()
    actions = np.tile([0, 1, 2, 3], (150, 1))
    actions[[3, 149]] = 0
    rewards, infos = env.step(actions)[1], env.step(actions)[3]
    assert [i for i, info in enumerate(infos) if info["infeasible"]] == [3, 149]
    assert ["episode" in info for info in infos] == [False] * 50 + [True] * 100
    assert rewards[3] == rewards[149] == np.float32(env.penalty) and (rewards != rewards[3]).sum() == 148


@faces
def test_without_anything_forbidden_nothing_changes(face: str) -> None:
    problem = make_problem(SLOTS)
    plain, penalised = open_face(face, problem, 5), open_face(face, problem, 5, infeasible="penalise")
    action = MIXED[-1] if face == "single" else MIXED
    first, second = plain.step(action), penalised.step(action)
    assert np.asarray(first[1]).tobytes() == np.asarray(second[1]).tobytes()
    assert plain.penalty is None and problem.budget.forwards == 2 * (1 if face == "single" else 5)


@faces
def test_what_names_no_item_is_refused_all_the_same(face: str) -> None:
    env = open_face(face, distinct_slots(), 2, infeasible="penalise")
    action = np.array([0, 1, 2, 8])
    with pytest.raises(ValueError, match="expected an item from 0 to 7 in slot 3, got 8"):
        env.step(action if face == "single" else np.array([[0, 1, 2, 3], action]))
    assert env.problem.budget.forwards == 0


def test_the_default_penalty_is_that_of_256_random_answers() -> None:
    problem = distinct_slots()
    generator = generator_from(0)
    observation = problem.sample(256, generator)
    choice = random_choice(problem, observation, generator)
    scores = problem.with_fresh_budget().score(observation, choice).numpy().astype(np.float64)
    expected = scores.mean() - 3 * scores.std(ddof=1)
    assert all(len(set(row)) == 4 for row in choice.tolist()) and expected < scores.min()
    envs = [open_face(face, problem, 2, infeasible="penalise") for face in ("single", "vector", "vec")]
    envs += [kind(problem, infeasible="penalise") for kind in (SequentialEnv, SequentialVectorEnv, SequentialVecEnv)]
    assert [env.penalty for env in envs] == [pytest.approx(expected)] * 6
    assert problem.budget.forwards == 0 and default_penalty(problem) == envs[0].penalty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"infeasible": "mask"}, "expected infeasible refuse or penalise, got 'mask'"),
        ({"penalty": -1.0}, "expected no penalty with infeasible='refuse', got -1.0"),
        ({"infeasible": "penalise", "penalty": float("nan")}, "expected a finite number as penalty, got nan"),
        ({"infeasible": "penalise", "penalty": 1e39}, r"expected a finite number as penalty, got 1e\+39"),
        ({"infeasible": "penalise", "penalty": "low"}, "expected a finite number as penalty, got 'low'"),
        ({"infeasible": "penalise", "penalty": True}, "expected a finite number as penalty, got True"),
    ],
)
@pytest.mark.parametrize(
    "kind", [SlotsEnv, SlotsVectorEnv, SlotVecEnv, SequentialEnv, SequentialVectorEnv, SequentialVecEnv]
)
def test_wrong_options_are_refused_everywhere(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(SLOTS, **options)


def test_the_test_of_penalties_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes_module, "is_allowed", lambda problem, observation, choice: choice[:, 0] >= 0)
    with pytest.raises(AssertionError):
        test_penalised_answers_cost_a_call_and_others_get_scores("vec")
