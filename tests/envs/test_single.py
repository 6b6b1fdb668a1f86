"""The single environment: both libraries' checkers pass it, its episodes are one step, and every wrong input is named.

Rewards are anchored in PickValue, whose estimator is a formula that can be worked out by hand.
"""

import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import MultiDiscrete
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from slot_rl.envs import SlotsEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape, save_estimator
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.io import BundleError
from slot_rl.problems import SlotProblem
from slot_rl.seeding import seeded_initialisation

SLOTS, LARGE, PICK, ROWS = "SlotRL/Slots-v0", "SlotRL/SlotsLarge-v0", "SlotRL/PickValue-v0", "SlotRL/Rows-v0"
CASES = [
    pytest.param(SLOTS, {}, id="Slots"),
    pytest.param(LARGE, {}, id="SlotsLarge"),
    pytest.param(PICK, {}, id="PickValue"),
    pytest.param(ROWS, {"estimator": "FOLDER"}, id="Rows"),
    pytest.param(SLOTS, {"fewest_items": 5}, id="Slots with mask"),
]


@pytest.fixture(scope="session")
def estimator_of_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unfitted estimator of three features with 2, 3 and 4 categories, in 2 x 3 contexts of which two occur."""
    folder = tmp_path_factory.mktemp("rows")
    shape = EstimatorShape(3, 4, (8,), vocabulary=(2, 3, 4), contexts=(2, 3))
    encoding = TableEncoding(
        "y", {"a": tuple("pq"), "b": tuple("pqr"), "c": tuple("pqrs")}, {"u": tuple("01"), "v": tuple("012")}
    )
    with seeded_initialisation(0):
        save_estimator(folder, EstimatorNet(shape), {}, encoding, torch.tensor([[0, 0], [1, 2]]))
    return folder


def made(env_id: str, options: dict[str, Any], folder: Path) -> SlotsEnv:
    """Makes an environment by its id through gymnasium's registry."""
    given: dict[str, Any] = {name: str(folder) if value == "FOLDER" else value for name, value in options.items()}
    env = gym.make(env_id, **given)
    assert isinstance(env.unwrapped, SlotsEnv)
    return env.unwrapped


def always_allowed(env: SlotsEnv, options: dict[str, Any]) -> None:
    # The checkers draw actions without a look at the mask; so they get the items that no request is without.
    if "fewest_items" in options:
        env.action_space = MultiDiscrete([options["fewest_items"]] * env.problem.slots)


# Candidates are normal draws, which no finite bounds contain.
@pytest.mark.filterwarnings("ignore:.*A Box observation space minimum value is -infinity:UserWarning")
@pytest.mark.filterwarnings("ignore:.*A Box observation space maximum value is infinity:UserWarning")
@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_gymnasiums_checker_passes(env_id: str, options: dict[str, Any], estimator_of_rows: Path) -> None:
    env = made(env_id, options, estimator_of_rows)
    always_allowed(env, options)
    check_env(env)


# A set of vectors, or its mask, is neither an image nor one vector, whatever its shape; SB3 recommends to flatten it.
@pytest.mark.filterwarnings("ignore:Your observation (candidates|mask) has an unconventional shape:UserWarning")
@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_stable_baselines3s_checker_passes(env_id: str, options: dict[str, Any], estimator_of_rows: Path) -> None:
    env = made(env_id, options, estimator_of_rows)
    always_allowed(env, options)
    sb3_check_env(env)


@pytest.mark.parametrize(
    ("env_id", "options", "shapes", "sizes"),
    [
        pytest.param(SLOTS, {}, {"candidates": (8, 4)}, [8] * 4, id="Slots"),
        pytest.param(LARGE, {}, {"candidates": (64, 8)}, [64] * 12, id="SlotsLarge"),
        pytest.param(PICK, {}, {"candidates": (8, 1)}, [8] * 4, id="PickValue"),
        pytest.param(ROWS, {"estimator": "FOLDER"}, {"context": (2,)}, [2, 3, 4], id="Rows"),
        pytest.param(SLOTS, {"fewest_items": 8}, {"candidates": (8, 4)}, [8] * 4, id="Slots without a need for a mask"),
        pytest.param(SLOTS, {"fewest_items": 5}, {"candidates": (8, 4), "mask": (4, 8)}, [8] * 4, id="Slots with mask"),
    ],
)
def test_an_observation_holds_what_varies_and_nothing_else(
    env_id: str, options: dict[str, Any], shapes: dict[str, tuple[int, ...]], sizes: list[int], estimator_of_rows: Path
) -> None:
    env = made(env_id, options, estimator_of_rows)
    observation, info = env.reset(seed=0)
    assert {name: part.shape for name, part in observation.items()} == shapes
    assert env.observation_space.contains(observation)
    assert info == {}
    assert isinstance(env.action_space, MultiDiscrete)
    assert env.action_space.nvec.tolist() == sizes
    dtypes = {"candidates": np.float32, "mask": np.int8, "context": np.int64}
    assert all(part.dtype == dtypes[name] for name, part in observation.items())


def test_rewards_of_pick_value_by_hand() -> None:
    env = SlotsEnv(PICK)
    observation, _ = env.reset(seed=0)
    values = observation["candidates"][:, 0].astype(np.float64)
    choice = np.array([3, 3, 0, 7])
    same, reward, terminated, truncated, info = env.step(choice)
    assert reward == pytest.approx(-((values[choice] - 0.5) ** 2).sum(), abs=1e-6)
    assert type(reward) is float
    assert (terminated, truncated, info) == (True, False, {})
    assert np.array_equal(same["candidates"], observation["candidates"])
    nearest = np.abs(values - 0.5).argmin()
    env.reset(options={"observation": observation})
    best = env.step(np.full(4, nearest))[1]
    assert best == pytest.approx(-4 * (values[nearest] - 0.5) ** 2, abs=1e-6) and best > reward


def test_each_step_scores_one_configuration() -> None:
    env = SlotsEnv(SLOTS)
    for episode in range(5):
        env.reset()
        assert env.problem.budget.forwards == episode
        env.step(np.zeros(4, dtype=np.int64))
    assert (env.problem.budget.forwards, env.problem.budget.backwards) == (5, 0)


def test_nothing_masked_can_be_chosen() -> None:
    env = SlotsEnv(SLOTS, fewest_items=5)
    counts = set()
    for episode in range(40):
        observation, _ = env.reset(seed=0 if episode == 0 else None)
        mask = observation["mask"]
        count = int(mask[0].sum())
        counts.add(count)
        assert np.array_equal(mask, np.tile(np.arange(8) < count, (4, 1)))
        assert not observation["candidates"][count:].any()
        assert observation["candidates"][:count].all()
        if count < 8:
            choice = np.zeros(4, dtype=np.int64)
            choice[2] = count
            with pytest.raises(ValueError, match=f"expected an allowed item in slot 2, got masked item {count}"):
                env.step(choice)
        env.step(np.full(4, count - 1))
    assert counts == {5, 6, 7, 8}
    assert env.problem.budget.forwards == 40  # nothing that was refused was scored


def test_the_mask_is_what_gymnasiums_sample_takes() -> None:
    env = SlotsEnv(SLOTS, fewest_items=1)
    env.action_space.seed(0)
    for _ in range(50):
        observation, _ = env.reset()
        env.step(env.action_space.sample(mask=tuple(observation["mask"])))
    assert env.problem.budget.forwards == 50


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, 0, 0, 8], "expected an item from 0 to 7 in slot 3, got 8"),
        ([0, -1, 0, 0], "expected an item from 0 to 7 in slot 1, got -1"),
        ([0, 0, 0], r"expected a choice of shape \(1, 4\), got \(1, 3\)"),
        ([[0, 0, 0, 0]], r"expected a choice of shape \(1, 4\), got \(1, 1, 4\)"),
        (3, r"expected a choice of shape \(1, 4\), got \(1,\)"),
        ([0.5, 1.9, 0.0, 0.0], "expected .*integer.*, got .*float"),
    ],
)
def test_an_action_that_names_no_item_is_refused(action: Any, message: str) -> None:
    env = SlotsEnv(SLOTS)
    env.reset(seed=0)
    with pytest.raises((ValueError, TypeError), match=message):
        env.step(action)
    assert env.problem.budget.forwards == 0


def test_the_range_of_an_item_is_its_own_slots(estimator_of_rows: Path) -> None:
    env = made(ROWS, {"estimator": "FOLDER"}, estimator_of_rows)
    env.reset(seed=0)
    env.step(np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="expected an item from 0 to 1 in slot 0, got 2"):
        env.step(np.array([2, 2, 3]))


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before step\(\), got a step with no open request"):
        SlotsEnv(SLOTS).step(np.zeros(4, dtype=np.int64))


def test_a_seed_fixes_all_further_requests() -> None:
    def walk(env: SlotsEnv, seed: int) -> list[bytes]:
        observations = [env.reset(seed=seed)[0], *(env.reset()[0] for _ in range(3))]
        return [observation["candidates"].tobytes() for observation in observations]

    env = SlotsEnv(SLOTS)
    first = walk(env, 5)
    assert walk(env, 5) == first == walk(SlotsEnv(SLOTS), 5)
    assert len(set(first)) == 4
    assert not set(walk(env, 6)) & set(first)


def test_two_environments_that_nobody_seeded_differ() -> None:
    one, two = (SlotsEnv(SLOTS).reset()[0]["candidates"] for _ in range(2))
    assert not np.array_equal(one, two)


def test_consecutive_observations_share_no_memory(estimator_of_rows: Path) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [(SLOTS, {"fewest_items": 5}), (ROWS, {"estimator": "FOLDER"})]
    for env_id, options in cases:
        env = made(env_id, options, estimator_of_rows)
        first, _ = env.reset(seed=0)
        action = np.zeros(env.problem.slots, dtype=np.int64)
        observations = [first, env.step(action)[0], env.reset()[0], env.step(action)[0]]
        for name in first:
            parts = [observation[name] for observation in observations]
            assert not any(np.shares_memory(a, b) for i, a in enumerate(parts) for b in parts[:i])


def test_writing_into_an_observation_does_not_change_the_request() -> None:
    env = SlotsEnv(PICK)
    observation, _ = env.reset(seed=0)
    mine = {"candidates": observation["candidates"].copy()}
    env.reset(options={"observation": mine})
    mine["candidates"][:] = 0.5
    values = observation["candidates"][:, 0].copy()
    observation["candidates"][:] = 0.5
    assert env.step(np.zeros(4, dtype=np.int64))[1] == pytest.approx(-4 * (values[0] - 0.5) ** 2, abs=1e-6)


def global_states() -> tuple[Any, ...]:
    # Read, not drawn from: the tests are that nobody else draws from it either.
    numpy = np.random.get_state(legacy=True)  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), [np.asarray(part).tolist() for part in numpy]


def test_episodes_leave_the_global_generators_alone() -> None:
    env = SlotsEnv(SLOTS, fewest_items=5)
    before = global_states()
    for seed in (None, 3, None):
        env.reset(seed=seed)
        env.step(np.zeros(4, dtype=np.int64))
    assert global_states() == before


@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_the_global_generators_are_left_alone(env_id: str, options: dict[str, Any], estimator_of_rows: Path) -> None:
    before = global_states()
    made(env_id, options, estimator_of_rows)
    assert global_states() == before


def test_a_given_request_is_opened_and_scored() -> None:
    env = SlotsEnv(PICK)
    values = np.linspace(0, 1, 8, dtype=np.float32).reshape(8, 1)
    observation, _ = env.reset(options={"observation": {"candidates": values}})
    assert np.array_equal(observation["candidates"], values)
    assert env.step(np.array([0, 7, 0, 7]))[1] == -1.0  # four times 0.5 squared
    env.reset(options={"observation": {"candidates": values.tolist()}})
    assert env.step(np.array([0, 7, 0, 7]))[1] == -1.0


def test_a_given_request_does_not_disturb_the_random_ones() -> None:
    plain, given = SlotsEnv(SLOTS), SlotsEnv(SLOTS)
    first, _ = plain.reset(seed=1)
    given.reset(seed=1, options={"observation": first})
    given.reset(options={"observation": first})
    assert np.array_equal(first["candidates"], given.reset()[0]["candidates"])


GOOD = np.zeros((8, 4), np.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"observations": {}}, "expected no reset option but 'observation', got observations", id="option"),
        pytest.param(
            {"observation": {}}, r"expected 'candidates' of shape \(1, 8, 4\) in the given .*, got None", id="missing"
        ),
        pytest.param(
            {"observation": {"candidates": GOOD[:7]}},
            r"expected 'candidates' of shape \(1, 8, 4\) in the given observation, got \(1, 7, 4\)",
            id="shape",
        ),
        pytest.param(
            {"observation": {"candidates": GOOD, "mask": np.ones((4, 8), np.int8)}}, "expected .*got .*mask", id="mask"
        ),
        pytest.param({"observation": {"candidates": GOOD, "contxt": 1}}, "expected .*got .*contxt", id="misspelt"),
        pytest.param({"observation": GOOD}, "expected .*got .*ndarray", id="no mapping"),
    ],
)
def test_a_given_request_that_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        SlotsEnv(SLOTS).reset(options=options)


def test_a_given_request_with_a_mask_needs_the_mask() -> None:
    env = SlotsEnv(SLOTS, fewest_items=5)
    with pytest.raises(ValueError, match=r"expected 'mask' of shape \(1, 4, 8\) in the given observation, got None"):
        env.reset(options={"observation": {"candidates": GOOD}})
    mask = np.ones((4, 8), np.int8)
    mask[1, 0] = 0
    env.reset(options={"observation": {"candidates": GOOD, "mask": mask}})
    with pytest.raises(ValueError, match="expected an allowed item in slot 1, got masked item 0"):
        env.step(np.zeros(4, dtype=np.int64))


@pytest.mark.parametrize("context", [[2, 0], [0, 3], [-1, 0], [0.7, 0]])
def test_a_given_context_that_is_no_category_is_refused(context: list[float], estimator_of_rows: Path) -> None:
    env = made(ROWS, {"estimator": "FOLDER"}, estimator_of_rows)
    with pytest.raises(ValueError, match="expected .*context.*got"):
        env.reset(options={"observation": {"context": np.array(context)}})
        env.step(np.zeros(3, dtype=np.int64))


def test_only_contexts_of_the_table_are_asked_about(estimator_of_rows: Path) -> None:
    env = made(ROWS, {"estimator": "FOLDER"}, estimator_of_rows)
    seen = {tuple(env.reset(seed=3 if i == 0 else None)[0]["context"].tolist()) for i in range(40)}
    assert seen == {(0, 0), (1, 2)}


@pytest.mark.parametrize(
    ("problem", "options", "error", "message"),
    [
        pytest.param(
            "SlotRL/Nope-v0", {}, ValueError, "expected one of SlotRL/Slots-v0, .*, got 'SlotRL/Nope-v0'", id="id"
        ),
        pytest.param(5, {}, TypeError, "expected a Problem or a problem's id, got int", id="no problem"),
        pytest.param(SLOTS, {"bogus": 1}, TypeError, "unexpected keyword argument 'bogus'", id="unknown option"),
        pytest.param(SLOTS, {"truth": "t.csv"}, ValueError, f"expected no truth for {SLOTS}, got 't.csv'", id="truth"),
        pytest.param(
            SLOTS, {"fewest_items": 9}, ValueError, "expected fewest_items from 1 to items = 8, got 9", id="9"
        ),
        pytest.param(
            SLOTS, {"fewest_items": 0}, ValueError, "expected fewest_items from 1 to items = 8, got 0", id="0"
        ),
        pytest.param(SLOTS, {"estimator": "/nope"}, BundleError, "expected a folder with estimator weights", id="none"),
        pytest.param(ROWS, {}, ValueError, "expected estimator=FOLDER for SlotRL/Rows-v0 .*, got none", id="rows"),
        pytest.param(PICK, {"estimator": "q"}, ValueError, f"expected no estimator for {PICK}, got 'q'", id="formula"),
    ],
)
def test_an_environment_that_cannot_be_built_is_refused(
    problem: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SlotsEnv(problem, **options)


def test_options_beside_a_built_problem_are_refused() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum((-2, -1)), 2, 3, 1)
    with pytest.raises(ValueError, match="expected no options with a problem that is built already, got fewest_items"):
        SlotsEnv(problem, fewest_items=2)


def test_an_estimator_of_another_kind_is_refused(estimator_of_rows: Path) -> None:
    with pytest.raises(ValueError, match="expected an estimator of 4 vectors of length 4 for .*, got EstimatorShape"):
        SlotsEnv(SLOTS, estimator=estimator_of_rows)


def test_a_problem_of_ones_own_is_used_as_it_is() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum((-2, -1)), 2, 3, 1)
    env = SlotsEnv(problem)
    observation, _ = env.reset(seed=0)
    reward = env.step(np.array([2, 1]))[1]
    assert env.problem is problem
    assert reward == pytest.approx(float(observation["candidates"][2, 0] + observation["candidates"][1, 0]), abs=1e-6)


def test_gymnasiums_own_wrappers_change_nothing() -> None:
    plain, wrapped = SlotsEnv(SLOTS), gym.make(SLOTS)
    assert wrapped is not wrapped.unwrapped
    one, two = plain.reset(seed=4)[0], wrapped.reset(seed=4)[0]
    assert np.array_equal(one["candidates"], two["candidates"])
    assert plain.step(np.arange(4))[1:] == wrapped.step(np.arange(4))[1:]
