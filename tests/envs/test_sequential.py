"""The sequential environment: what it lets an agent name is exactly what is allowed, one slot a step.

Everything is compared with :func:`check_choice` and ``problem.score`` by walking through every episode that there is.
"""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec, registry
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from slot_rl.envs import SequentialEnv, SequentialVecEnv, SequentialVectorEnv, SlotsEnv
from slot_rl.envs.episodes import to_arrays
from slot_rl.envs.registration import ENV_IDS, SEQUENTIAL_IDS
from slot_rl.envs.slot_by_slot import OpenItems, SlotBySlot
from slot_rl.problems import Observation, Problem, make_problem
from slot_rl.problems.constraints import Distinct, Infeasible
from slot_rl.seeding import generator_from
from tests.envs.test_single import global_states
from tests.helpers.limited import KINDS, SLOTS, allowed_answers, distinct_slots, one_request
from tests.helpers.rugged import arbitrary_mask

kinds = pytest.mark.parametrize("kind", KINDS)
Episode = tuple[tuple[int, ...], list[float]]


def episodes(env: SequentialEnv, request: Observation) -> Iterator[Episode]:
    """Walks through every episode that the masks allow, and yields its answer and its rewards."""
    options = {"observation": {name: part[0] for name, part in to_arrays(request).items()}}

    def walk(actions: tuple[int, ...]) -> Iterator[Episode]:
        env.reset(options=options)
        steps = [env.step(np.int64(action)) for action in actions]
        if steps and steps[-1][2]:
            yield actions, [step[1] for step in steps]
            return
        for action in env.action_masks().nonzero()[0].tolist():
            yield from walk((*actions, action))

    return walk(())


def walked(kind: str, **options: Any) -> tuple[Problem, Observation, list[Episode]]:
    """Returns a problem, a request with an odd mask if the problem has masks, and all of its episodes."""
    problem = KINDS[kind]()
    request = problem.sample(1, generator_from(0))
    if kind == "masked":
        mask = arbitrary_mask(1, 3, 5, 3)
        mask[0, 0] = torch.tensor([True, True, False, False, False])
        mask[0, 2] = torch.tensor([True, True, False, True, False])
        request = Observation(request.candidates, mask)
    return problem, request, list(episodes(SequentialEnv(problem, **options), request))


@kinds
def test_the_episodes_are_the_allowed_answers_and_their_scores(kind: str) -> None:
    problem, request, found = walked(kind)
    assert sorted(answer for answer, _ in found) == allowed_answers(problem, request)
    choice = torch.tensor([answer for answer, _ in found])
    expected = torch.cat([problem.with_fresh_budget().score(request, row.unsqueeze(0)) for row in choice])
    rewards = np.array([rewards for _, rewards in found])
    assert (rewards[:, :-1] == 0).all()
    np.testing.assert_allclose(rewards[:, -1], expected.numpy(), atol=1e-6)
    assert problem.budget.forwards == len(found)


@pytest.mark.parametrize("kind", ["distinct", "quota", "masked"])
def test_the_walk_can_fail(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    careful = OpenItems.__init__

    def careless(self: OpenItems, problem: Problem, observation: Observation) -> None:
        careful(self, problem.with_constraints([]), observation)

    monkeypatch.setattr(OpenItems, "__init__", careless)
    with pytest.raises((AssertionError, Infeasible)):
        test_the_episodes_are_the_allowed_answers_and_their_scores(kind)


@kinds
def test_shaping_changes_no_return_at_a_call_a_step(kind: str) -> None:
    _, _, plain = walked(kind)
    problem, _, shaped = walked(kind, shaping="potential")
    assert [answer for answer, _ in shaped] == [answer for answer, _ in plain]
    rewards = np.array([rewards for _, rewards in shaped])
    assert (rewards[:, 0] != 0).all()
    np.testing.assert_allclose(rewards.sum(axis=1), [sum(rewards) for _, rewards in plain], atol=2e-6)
    # The walk replays the beginning of every episode: count one episode alone.
    env = SequentialEnv(problem, shaping="potential")
    problem.budget.forwards = 0
    env.reset()
    for _ in range(problem.slots):
        env.step(np.int64(env.action_masks().argmax()))
    assert problem.budget.forwards == problem.slots


def test_the_comparison_of_returns_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SlotBySlot._potentials

    def lasting(self: SlotBySlot, done: torch.Tensor) -> torch.Tensor:
        return right(self, torch.zeros_like(done))

    monkeypatch.setattr(SlotBySlot, "_potentials", lasting)
    with pytest.raises(AssertionError):
        test_shaping_changes_no_return_at_a_call_a_step("distinct")


def test_potentials_by_hand() -> None:
    env = SequentialEnv("SlotRL/PickValue-v0", shaping="potential")
    observation, _ = env.reset(seed=0)
    values = observation["candidates"][:, 0].astype(np.float64)
    cost = -((values - 0.5) ** 2)
    # The first item fills the open slots; the last reward takes the last potential back.
    potentials = [cost[3] + 3 * cost[0], cost[3] + cost[5] + 2 * cost[0], cost[[3, 5, 1]].sum() + cost[0]]
    rewards = [env.step(np.int64(item))[1] for item in (3, 5, 1, 7)]
    score = cost[[3, 5, 1, 7]].sum()
    expected = [potentials[0], potentials[1] - potentials[0], potentials[2] - potentials[1], score - potentials[2]]
    np.testing.assert_allclose(rewards, expected, atol=1e-6)


def test_under_distinct_the_potential_completes_with_others() -> None:
    env = SequentialEnv(one_request(Distinct()), shaping="potential")
    env.reset()
    problem, request = env.problem, env.problem.sample(1, generator_from(0))
    reward = env.step(np.int64(1))[1]
    score = problem.score(request, torch.tensor([[1, 0, 2]]))
    assert reward == pytest.approx(float(score))


def test_a_penalised_episode_returns_the_penalty_when_shaped() -> None:
    env = SequentialEnv(one_request(Distinct()), infeasible="penalise", penalty=-3.0, shaping="potential")
    env.reset()
    first, second = env.step(np.int64(2)), env.step(np.int64(2))
    assert first[1] != 0 and second[2] and first[1] + second[1] == pytest.approx(-3.0, abs=1e-6)
    assert env.problem.budget.forwards == 2


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_masks_are_what_some_allowed_answer_begins_with(data: st.DataObject) -> None:
    problem = KINDS[data.draw(st.sampled_from(sorted(KINDS)))]()
    env = SequentialEnv(problem)
    observation, info = env.reset(seed=data.draw(st.integers(0, 99)))
    rows = allowed_answers(problem, Observation.of({name: part[None] for name, part in observation.items()}))
    answer: tuple[int, ...] = ()
    for slot in range(problem.slots):
        wanted = {row[slot] for row in rows if row[:slot] == answer}
        mask = env.action_masks()
        assert mask.dtype == np.bool_ and info["action_mask"].dtype == np.int8
        assert set(mask.nonzero()[0].tolist()) == wanted == set(info["action_mask"].nonzero()[0].tolist())
        assert observation["answer"].tolist() == [*(item + 1 for item in answer), *[0] * (problem.slots - slot)]
        assert int(observation["slot"]) == slot and env.observation_space.contains(observation)
        answer = (*answer, data.draw(st.sampled_from(sorted(wanted))))
        observation, _, terminated, truncated, info = env.step(np.int64(answer[-1]))
        assert (terminated, truncated) == (slot == problem.slots - 1, False)
    assert answer in rows and int(observation["slot"]) == problem.slots
    assert observation["answer"].tolist() == [item + 1 for item in answer]
    assert not env.action_masks().any() and not info["action_mask"].any()
    assert env.observation_space.contains(observation)


def test_every_id_has_a_sequential_form() -> None:
    assert tuple(SEQUENTIAL_IDS) == ENV_IDS and set(SEQUENTIAL_IDS.values()) <= set(registry)
    assert SEQUENTIAL_IDS[SLOTS] == "SlotRL/SlotsSequential-v0"
    assert SEQUENTIAL_IDS["SlotRL/Slates-v0"] == "SlotRL/SlatesSequential-v0"
    for problem, env_id in SEQUENTIAL_IDS.items():
        spec = gym.spec(env_id)
        assert spec.kwargs == {"problem": problem} and EnvSpec.from_json(spec.to_json()) == spec
        assert spec.entry_point == "slot_rl.envs.sequential:SequentialEnv"
        assert spec.vector_entry_point == "slot_rl.envs.sequential_vector:SequentialVectorEnv"
        assert spec.max_episode_steps is None


@pytest.mark.parametrize("name", ["Slots", "SlotsLarge", "PickValue", "Slate"])
def test_an_id_makes_the_environment(name: str) -> None:
    env = gym.make(f"SlotRL/{name}Sequential-v0", disable_env_checker=True)
    assert isinstance(env.unwrapped, SequentialEnv)
    observation, info = env.reset(seed=0)
    rewards = []
    env.action_space.seed(0)
    for _ in range(env.unwrapped.problem.slots):
        observation, reward, terminated, _, info = env.step(env.action_space.sample(mask=info["action_mask"]))
        rewards.append(reward)
    assert terminated and rewards[-1] != 0 and not any(rewards[:-1]) and env.observation_space.contains(observation)


CHECKED = [
    pytest.param(lambda: SequentialEnv(SLOTS), id="Slots"),
    pytest.param(lambda: SequentialEnv("SlotRL/SlotsLarge-v0", shaping="potential"), id="SlotsLarge shaped"),
    pytest.param(lambda: SequentialEnv(distinct_slots(), infeasible="penalise"), id="Distinct"),
    pytest.param(lambda: SequentialEnv(SLOTS, fewest_items=5, infeasible="penalise"), id="mask"),
    pytest.param(lambda: SequentialEnv(KINDS["rows"](), infeasible="penalise"), id="rows"),
]


# Candidates are normal draws, which no finite bounds contain.
@pytest.mark.filterwarnings("ignore:.*A Box observation space minimum value is -infinity:UserWarning")
@pytest.mark.filterwarnings("ignore:.*A Box observation space maximum value is infinity:UserWarning")
@pytest.mark.parametrize("make", CHECKED)
def test_gymnasiums_checker_passes(make: Any) -> None:
    check_env(make(), skip_render_check=True)


# A set of vectors is neither an image nor one vector, whatever its shape; SB3 recommends to flatten it.
@pytest.mark.filterwarnings("ignore:Your observation .* has an unconventional shape:UserWarning")
@pytest.mark.parametrize("make", CHECKED)
def test_stable_baselines3s_checker_passes(make: Any) -> None:
    sb3_check_env(make())


def test_an_item_that_is_not_open_is_refused_with_its_slot() -> None:
    env = SequentialEnv(distinct_slots())
    env.reset(seed=0)
    env.step(np.int64(5))
    message = r"expected an item that is open to slot 1 under Distinct\(\), got item 5"
    with pytest.raises(ValueError, match=message):
        env.step(np.int64(5))
    env.step(np.int64(4))  # nothing has happened
    env = SequentialEnv(KINDS["rows"]())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected an item that is open to slot 0, got item 2$"):
        env.step(np.int64(2))
    assert env.problem.budget.forwards == 0


def test_or_ends_the_episode_with_the_penalty() -> None:
    env = SequentialEnv(distinct_slots(), infeasible="penalise", penalty=-7.5)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(np.int64(5))
    assert (reward, terminated, info["infeasible"]) == (0.0, False, False) and env.problem.budget.forwards == 0
    observation, reward, terminated, truncated, info = env.step(np.int64(5))
    assert (reward, terminated, truncated, info["infeasible"]) == (-7.5, True, False, True)
    assert env.problem.budget.forwards == 1
    assert observation["answer"].tolist() == [6, 6, 0, 0] and int(observation["slot"]) == 4
    assert not info["action_mask"].any() and env.observation_space.contains(observation)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (8, "expected an item from 0 to 7, got 8"),
        (-1, "expected an item from 0 to 7, got -1"),
        (0.5, "expected integer actions, got float64"),
        ([0, 1], r"expected actions of shape \(1,\), got \(1, 2\)"),
    ],
)
def test_an_action_that_names_no_item_is_refused(action: Any, message: str) -> None:
    env = SequentialEnv(SLOTS, infeasible="penalise")
    env.reset(seed=0)
    with pytest.raises((ValueError, TypeError), match=message):
        env.step(action)


def test_steps_outside_an_episode_are_refused() -> None:
    env = SequentialEnv(SLOTS)
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before step\(\), got a step with no open request"):
        env.step(np.int64(0))
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before action_masks\(\), got no open request"):
        env.action_masks()
    env.reset()
    for _ in range(4):
        env.step(np.int64(0))
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before step\(\), got a step with no open request"):
        env.step(np.int64(0))


def test_wrong_options_are_refused() -> None:
    wrong: Any = "dense"
    with pytest.raises(ValueError, match="expected shaping none or potential, got 'dense'"):
        SequentialEnv(SLOTS, shaping=wrong)
    env = SequentialEnv(SLOTS)
    observation, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="expected only candidates in the given observation, got answer, slot"):
        env.reset(options={"observation": observation})
    with pytest.raises(TypeError, match="expected a mapping as the given observation, got list"):
        env.reset(options={"observation": []})


def test_a_request_that_allows_nothing_is_refused_at_the_reset() -> None:
    problem = make_problem(SLOTS, fewest_items=4).with_constraints([Distinct()])
    env = SequentialEnv(problem)
    mask = np.zeros((4, 8), np.int8)
    mask[:, :3] = 1
    with pytest.raises(ValueError, match=r"expected a configuration that satisfies Distinct\(\)"):
        env.reset(options={"observation": {"candidates": np.zeros((8, 4), np.float32), "mask": mask}})


def test_a_seed_fixes_all_further_requests() -> None:
    def walk(env: SequentialEnv, seed: int) -> list[bytes]:
        return [env.reset(seed=seed if number == 0 else None)[0]["candidates"].tobytes() for number in range(3)]

    env = SequentialEnv(SLOTS)
    first = walk(env, 5)
    assert walk(env, 5) == first == walk(SequentialEnv(SLOTS), 5) and len(set(first)) == 3
    assert not set(walk(env, 6)) & set(first)


def test_the_global_generators_are_left_alone() -> None:
    before = global_states()
    env = SequentialEnv(distinct_slots(), infeasible="penalise", shaping="potential")
    for seed in (None, 3):
        env.reset(seed=seed)
        env.step(np.int64(0))
        env.step(np.int64(0))
    assert global_states() == before


def test_consecutive_observations_share_no_memory() -> None:
    env = SequentialEnv(SLOTS, fewest_items=5)
    seen = [env.reset(seed=0)[0], *(env.step(np.int64(0))[0] for _ in range(4)), env.reset()[0]]
    for name in ("candidates", "mask", "answer"):
        parts = [observation[name] for observation in seen]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(parts) for b in parts[:i])
    masks = [env.action_masks(), env.action_masks()]
    masks[0][:] = False
    assert masks[1].any() and env.action_masks().any()


@pytest.mark.parametrize("face", [SequentialEnv, SequentialVecEnv, SequentialVectorEnv])
def test_a_face_takes_the_problems_id_and_its_own(face: Any) -> None:
    by_problem, by_own = face("SlotRL/PickValue-v0"), face("SlotRL/PickValueSequential-v0")
    assert by_own.observation_space == by_problem.observation_space and by_own.problem.slots == 4
    with pytest.raises(ValueError, match="got 'SlotRL/OtherSequential-v0'"):
        face("SlotRL/OtherSequential-v0")


def test_a_mask_is_a_table_of_int8_that_torchrl_takes() -> None:
    env = SlotsEnv("SlotRL/Slots-v0", fewest_items=5)
    space = env.observation_space["mask"]  # type: ignore[index]
    assert isinstance(space, gym.spaces.Box) and space.dtype == np.int8 and space.shape == (4, 8)
    assert space.contains(env.reset(seed=0)[0]["mask"])
