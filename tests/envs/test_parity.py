"""One problem, one reward: the three faces and the problem itself agree on every score.

At equal batch size the numbers are the same bits. One at a time they differ in the last ones, since a matrix product
sums in another order then: by up to 3.3e-6 among 4,096 requests, each of the two as far from the score in float64.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from slot_rl.envs import SlotsEnv, SlotsVectorEnv, SlotVecEnv
from slot_rl.envs.episodes import to_arrays
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.problems import Observation, Problem, RowProblem, make_problem
from slot_rl.seeding import generator_from, seeded_initialisation

COUNT = 33
ROUNDING = 1e-5


def rows() -> Problem:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 4, (32,), vocabulary=(2, 3, 4), contexts=(2, 3)))
    return RowProblem(net, torch.tensor([[0, 0], [1, 2], [0, 1]]))


def rows_without_context() -> Problem:
    with seeded_initialisation(0):
        return RowProblem(EstimatorNet(EstimatorShape(3, 4, (32,), vocabulary=(2, 3, 4))))


PROBLEMS = [
    pytest.param(lambda: make_problem("SlotRL/Slots-v0"), id="Slots"),
    pytest.param(lambda: make_problem("SlotRL/Slots-v0", fewest_items=3), id="Slots with mask"),
    pytest.param(lambda: make_problem("SlotRL/SlotsLarge-v0"), id="SlotsLarge"),
    pytest.param(lambda: make_problem("SlotRL/PickValue-v0"), id="PickValue"),
    pytest.param(rows, id="Rows"),
    pytest.param(rows_without_context, id="Rows without context"),
]


def requests(problem: Problem, seed: int) -> tuple[Observation, torch.Tensor]:
    """Draws requests and an allowed choice for each."""
    generator = generator_from(seed)
    observation = problem.sample(COUNT, generator)
    draws = torch.rand(COUNT, problem.slots, problem.items, generator=generator)
    mask = problem.mask(observation)
    if mask is not None:
        draws = draws.masked_fill(~mask, -1)
    return observation, draws.argmax(dim=-1)


def bits(rewards: npt.NDArray[np.floating]) -> bytes:
    return rewards.astype(np.float32).tobytes()


@pytest.mark.parametrize("build", PROBLEMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_all_faces_give_the_problems_own_score(build: Callable[[], Problem], seed: int) -> None:
    problem = build()
    observation, choice = requests(problem, seed)
    scores = problem.score(observation, choice).numpy()
    # No two neighbours could be taken for each other within the rounding that is granted below.
    assert np.abs(scores - np.roll(scores, 1)).max() > 1000 * ROUNDING
    arrays, actions = to_arrays(observation), choice.numpy()

    vector = SlotsVectorEnv(problem, COUNT)
    opened, _ = vector.reset(options={"observation": arrays})
    assert all(np.array_equal(opened[name], arrays[name]) for name in arrays)
    vector_rewards = vector.step(actions)[1]

    vec = SlotVecEnv(problem, COUNT)
    vec.set_options({"observation": arrays})
    vec.reset()
    vec_rewards = vec.step(actions)[1]

    assert bits(vector_rewards) == bits(vec_rewards) == bits(scores)
    assert np.array_equal(vector_rewards, scores.astype(np.float64))

    single = SlotsEnv(problem)
    for i in range(COUNT):
        single.reset(options={"observation": {name: part[i] for name, part in arrays.items()}})
        assert single.step(actions[i])[1] == pytest.approx(float(scores[i]), rel=1e-6, abs=ROUNDING)
    assert problem.budget.forwards == 4 * COUNT


@pytest.mark.parametrize("build", PROBLEMS)
def test_the_faces_agree_on_their_spaces(build: Callable[[], Problem]) -> None:
    problem = build()
    single, vector, vec = SlotsEnv(problem), SlotsVectorEnv(problem, 2), SlotVecEnv(problem, 2)
    assert single.observation_space == vector.single_observation_space == vec.observation_space
    assert single.action_space == vector.single_action_space == vec.action_space


@pytest.mark.parametrize("build", PROBLEMS)
def test_observations_survive_the_trip_through_arrays(build: Callable[[], Problem]) -> None:
    observation, _ = requests(build(), 0)
    back = Observation.of(to_arrays(observation)).tensors()
    assert back.keys() == observation.tensors().keys()
    assert all(torch.equal(part, back[name]) for name, part in observation.tensors().items())
    assert all(part.dtype == back[name].dtype for name, part in observation.tensors().items())


@pytest.mark.parametrize("build", PROBLEMS)
def test_random_requests_are_those_of_the_problem(build: Callable[[], Problem]) -> None:
    # Under one seed each face draws the same batch, since all draw through problem.sample.
    seen = [SlotsVectorEnv(build(), 5).reset(seed=3)[0], SlotsVectorEnv(build(), 5).reset(seed=3)[0]]
    assert all(np.array_equal(seen[0][name], seen[1][name]) for name in seen[0])
    seed = int(np.random.Generator(np.random.PCG64(np.random.SeedSequence(3))).integers(2**63))
    expected = to_arrays(build().sample(5, generator_from(seed)))
    assert seen[0].keys() == expected.keys()
    assert all(np.array_equal(seen[0][name], expected[name]) for name in expected)
