"""Slot problems: what is drawn, how lists of varying length are padded and masked, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slot_rl.envs import SlotVecEnv
from slot_rl.problems import Budget, Observation, SlotProblem
from slot_rl.problems.candidate_draws import standard_normal, unit_uniform
from slot_rl.problems.mixtures import mixture_error
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot


def total(vectors: Tensor) -> Tensor:
    return vectors.sum(dim=(-1, -2))


def test_candidates_have_the_law_that_was_asked_for() -> None:
    normal = SlotProblem(total, 2, 50, 4).sample(1000, generator_from(0)).candidates
    uniform = SlotProblem(total, 2, 50, 4, unit_uniform).sample(1000, generator_from(0)).candidates
    assert normal is not None and uniform is not None
    assert normal.shape == uniform.shape == (1000, 50, 4)
    # Standard errors over 200,000 numbers: .0022 of a normal's mean, .0032 of its variance; .0006 of a uniform's mean.
    assert abs(float(normal.mean())) < 0.011 and abs(float(normal.var()) - 1) < 0.016
    assert abs(float((normal < -1).float().mean()) - 0.15866) < 0.004
    assert 0 <= float(uniform.min()) and float(uniform.max()) < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.003 and abs(float(uniform.var()) - 1 / 12) < 0.001
    assert torch.equal(normal, standard_normal((1000, 50, 4), generator_from(0)))


def test_draws_repeat_under_a_generator() -> None:
    problem = SlotProblem(total, 2, 5, 3, fewest_items=1)
    before = torch.get_rng_state()
    first, second, other = (problem.sample(6, generator_from(seed)).tensors() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in ("candidates", "mask"))
    assert not torch.equal(first["candidates"], other["candidates"])


def test_lists_of_one_length_have_no_mask() -> None:
    for fewest in (None, 5):
        problem = SlotProblem(total, 2, 5, 3, fewest_items=fewest)
        observation = problem.sample(4, generator_from(0))
        assert list(observation.tensors()) == ["candidates"] and problem.mask(observation) is None
        assert (problem.slots, problem.items, problem.sizes, problem.dim) == (2, 5, (5, 5), 3)
        assert problem.fewest_items == 5


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(2, 9), st.data(), st.integers(1, 40), st.integers(0, 10_000))
def test_short_lists_are_padded_and_masked(slots: int, items: int, data: st.DataObject, batch: int, seed: int) -> None:
    fewest = data.draw(st.integers(1, items - 1))
    problem = SlotProblem(total, slots, items, 3, fewest_items=fewest)
    observation = problem.sample(batch, generator_from(seed))
    mask, candidates = problem.mask(observation), problem.candidates(observation)
    assert mask is not None and mask.dtype == torch.bool and mask.shape == (batch, slots, items)
    assert candidates.shape == (batch, items, 3)
    for row in range(batch):
        length = int(mask[row, 0].sum())
        assert fewest <= length <= items
        for slot in range(slots):
            assert mask[row, slot].tolist() == [n < length for n in range(items)]
        assert bool((candidates[row, length:] == 0).all())
        assert bool((candidates[row, :length] != 0).any(dim=-1).all())


@pytest.mark.parametrize(("fewest", "items"), [(1, 4), (3, 6), (7, 8)])
def test_every_length_is_drawn_equally_often_both_ends_included(fewest: int, items: int) -> None:
    problem = SlotProblem(total, 1, items, 1, fewest_items=fewest)
    draws, kinds = 40_000, items - fewest + 1
    mask = problem.mask(problem.sample(draws, generator_from(0)))
    assert mask is not None
    counts = torch.bincount(mask[:, 0].sum(dim=-1), minlength=items + 1)
    assert counts[:fewest].tolist() == [0] * fewest
    deviation = (draws / kinds * (1 - 1 / kinds)) ** 0.5
    assert float((counts[fewest:] - draws / kinds).abs().max()) < 5 * deviation


def test_chosen_and_mixed_vectors_are_the_ones_that_loops_find() -> None:
    problem = SlotProblem(total, 3, 4, 2)
    observation = problem.sample(5, generator_from(0))
    candidates = problem.candidates(observation)
    choice = torch.randint(4, (2, 5, 3), generator=generator_from(1))
    weights = torch.softmax(torch.randn(2, 5, 3, 4, generator=generator_from(2)), dim=-1)
    gathered, mixed = problem.gather(observation, choice), problem.mix(observation, weights)
    assert gathered.shape == mixed.shape == (2, 5, 3, 2)
    for lead in range(2):
        for row in range(5):
            for slot in range(3):
                assert torch.equal(gathered[lead, row, slot], candidates[row, choice[lead, row, slot]])
                expected = sum(weights[lead, row, slot, n] * candidates[row, n] for n in range(4))
                assert isinstance(expected, Tensor)
                torch.testing.assert_close(mixed[lead, row, slot], expected, atol=1e-6, rtol=0)


def test_the_same_item_may_serve_several_slots() -> None:
    problem = SlotProblem(total, 3, 2, 1)
    observation = Observation(torch.tensor([[[5.0], [7.0]]]))
    assert problem.score(observation, torch.tensor([[1, 1, 1]])).tolist() == [21.0]


def test_the_truth_can_take_the_estimators_place() -> None:
    problem = SlotProblem(total, 2, 3, 1, truth=lambda vectors: 10 * total(vectors))
    observation = problem.sample(4, generator_from(0))
    choice = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]])
    twin = problem.with_truth_as_estimator()
    assert torch.equal(twin.score(observation, choice), problem.true_score(observation, choice))
    assert not torch.equal(twin.score(observation, choice), problem.score(observation, choice))
    assert (twin.budget, problem.budget) == (Budget(8, 0), Budget(4, 0))
    rows = one_hot(choice, 3, torch.float32).requires_grad_()
    twin.score_selection(observation, rows).sum().backward()
    assert (twin.budget, problem.budget) == (Budget(12, 4), Budget(4, 0))


def test_without_a_truth_none_can_take_the_estimators_place() -> None:
    with pytest.raises(ValueError, match="expected a problem with a ground truth, got mine without one"):
        SlotProblem(total, 2, 3, 1, name="mine").with_truth_as_estimator()


@pytest.mark.parametrize("fewest", [0, -1, 6])
def test_a_shortest_list_outside_the_possible_is_refused(fewest: int) -> None:
    with pytest.raises(ValueError, match=f"expected fewest_items from 1 to items = 5, got {fewest}"):
        SlotProblem(total, 2, 5, 3, fewest_items=fewest)


def test_empty_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="expected dim >= 1, got 0"):
        SlotProblem(total, 2, 5, 0)


@pytest.mark.parametrize(("slots", "items"), [(0, 5), (2, 0)])
def test_problems_without_slots_or_items_are_refused(slots: int, items: int) -> None:
    with pytest.raises(ValueError, match="expected at least one slot with at least one item each, got sizes"):
        SlotProblem(total, slots, items, 3)


def test_an_observation_without_candidates_is_refused() -> None:
    problem = SlotProblem(total, 2, 5, 3, name="mine")
    observation = Observation(context=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="expected an observation with candidates for mine, got one without"):
        problem.score(observation, torch.zeros(2, 2, dtype=torch.long))


class Distances(nn.Module):
    """Somebody's module on vectors, with weights and a dropout that must be off."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.dropout = nn.Parameter(torch.tensor(2.0)), nn.Dropout(0.5)

    def forward(self, vectors: Tensor) -> Tensor:
        score: Tensor = -self.scale * self.dropout(vectors).square().sum(dim=(-1, -2))
        return score


def distances(vectors: Tensor) -> Tensor:
    return -2 * vectors.square().sum(dim=(-1, -2))


@pytest.mark.parametrize("estimator", [Distances(), distances], ids=["module", "function"])
def test_any_callable_on_vectors_is_an_estimator(estimator: Callable[[Tensor], Tensor]) -> None:
    problem = SlotProblem(estimator, 2, 3, 2, name="mine")
    env = SlotVecEnv(problem, 4, seed=0)
    candidates = env.reset()["candidates"]
    choice = np.array([[0, 1], [2, 2], [1, 0], [0, 0]])
    _, rewards, dones, _ = env.step(choice)
    expected = [-2 * float((candidates[row][choice[row]] ** 2).sum()) for row in range(4)]
    assert rewards.tolist() == pytest.approx(expected, rel=1e-5) and bool(dones.all())
    observation = problem.sample(4, generator_from(1))
    rows = one_hot(torch.from_numpy(choice), 3, torch.float32).requires_grad_()
    problem.score_selection(observation, rows).sum().backward()
    # The slope along a row: the derivative -4 v at the chosen vector, times each candidate.
    chosen = problem.gather(observation, torch.from_numpy(choice))
    slopes = torch.einsum("bsd,bnd->bsn", -4 * chosen, problem.candidates(observation))
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, slopes)
    assert problem.budget == Budget(8, 4)


class Multiplies(nn.Module):
    """Adds up the products of the items' numbers: linear in what it makes of each item alone."""

    def encode(self, vectors: Tensor) -> Tensor:
        return vectors.prod(dim=-1, keepdim=True)

    def after_encoding(self, encoded: Tensor) -> Tensor:
        return encoded.sum(dim=(-1, -2))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.after_encoding(self.encode(vectors))


def plain_products(vectors: Tensor) -> Tensor:
    return vectors.prod(dim=-1).sum(dim=-1)


def test_slopes_are_those_at_what_is_made_of_each_item() -> None:
    encodes, plain = (SlotProblem(score, 3, 5, 4) for score in (Multiplies(), plain_products))
    observation, rows = encodes.sample(6, generator_from(0)), torch.arange(6)
    choice = torch.randint(5, (6, 3), generator=generator_from(1))
    found, wrong = (problem.score_and_slope(observation, choice) for problem in (encodes, plain))
    torch.testing.assert_close(found[0], plain.score(observation, choice))
    for slot in range(3):
        for item in range(5):
            swapped = choice.clone()
            swapped[:, slot] = item
            effect = plain.score(observation, swapped) - found[0]
            slope = found[1][rows, slot, item] - found[1][rows, slot, choice[:, slot]]
            torch.testing.assert_close(slope, effect, atol=1e-5, rtol=0)
            told = wrong[1][rows, slot, item] - wrong[1][rows, slot, choice[:, slot]]
            assert item == 0 or float((told - effect).abs().max()) > 0.1


def test_a_mixture_is_one_of_what_is_made_of_each_item() -> None:
    encodes, plain = (SlotProblem(score, 3, 5, 4) for score in (Multiplies(), plain_products))
    observation = encodes.sample(16, generator_from(0))
    errors = [mixture_error(problem, observation, 2_000, generator_from(1)) for problem in (encodes, plain)]
    assert errors[0] < 0.05 and errors[1] > 0.5


def test_requests_of_several_kinds_are_encoded_each_for_itself() -> None:
    problem = SlotProblem(Multiplies(), 3, 5, 4)
    first, second = (problem.sample(6, generator_from(seed)) for seed in (0, 1))
    choice = torch.zeros(6, 3, dtype=torch.long)
    for observation in (first, second, first):
        rows = one_hot(choice, 5, torch.float32)
        torch.testing.assert_close(problem.score_selection(observation, rows), problem.score(observation, choice))
    judged = SlotProblem(Multiplies(), 3, 5, 4, truth=far_sum)
    judged.score_and_slope(first, choice)
    by_truth = judged.with_truth_as_estimator()
    assert torch.equal(by_truth.score_and_slope(first, choice)[0], judged.true_score(first, choice))


def test_an_encoding_of_one_number_in_one_slot_serves() -> None:
    problem = SlotProblem(Multiplies(), 1, 5, 4)
    observation, choice = problem.sample(6, generator_from(0)), torch.ones(6, 1, dtype=torch.long)
    torch.testing.assert_close(problem.score_and_slope(observation, choice)[0], problem.score(observation, choice))


class OtherRest(Multiplies):
    def forward(self, vectors: Tensor) -> Tensor:
        return 1 + super().forward(vectors)


class NoEncoder(nn.Module):
    after_encoding = staticmethod(total)

    def forward(self, vectors: Tensor) -> Tensor:
        return total(vectors)


def test_an_encoding_that_does_not_lead_to_the_score_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected after_encoding\(encode\(items\)\) to be the estimator's score, got"
    ):
        SlotProblem(OtherRest(), 3, 5, 4)
    with pytest.raises(ValueError, match="expected an estimator with encode beside after_encoding for slots, got none"):
        SlotProblem(NoEncoder(), 3, 5, 4)


def far_sum(vectors: Tensor) -> Tensor:
    return -vectors.sum(dim=(-1, -2)).square()
