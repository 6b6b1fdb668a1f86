"""The synthetic ground truths, written a second time with loops over slots and pairs, and by hand on tiny cases."""

import math

import pytest
import torch

from slot_rl.problems.truths import PairwiseTruth, SaturatingTruth, pick_value
from slot_rl.seeding import generator_from


def looped_pairwise(rows: list[list[float]], u: list[list[float]], w: list[list[list[list[float]]]]) -> float:
    """``0.3 * (sum_s u_s . x_s + sum_{s<t} x_s^T W_st x_t)``, term by term."""
    slots, dim = len(rows), len(rows[0])
    value = 0.0
    for s in range(slots):
        value += sum(u[s][d] * rows[s][d] for d in range(dim))
        for t in range(s + 1, slots):
            value += sum(rows[s][d] * w[s][t][d][e] * rows[t][e] for d in range(dim) for e in range(dim))
    return 0.3 * value


@pytest.mark.parametrize(
    ("slots", "dim", "linear_scale", "pair_scale", "seed"),
    [(4, 4, 1.0, 0.5, 0), (12, 8, 0.5, 0.12, 0), (2, 3, 2.0, 1.0, 7), (1, 2, 1.0, 1.0, 0)],
)
def test_the_pairwise_truth_sums_slots_and_ordered_pairs(
    slots: int, dim: int, linear_scale: float, pair_scale: float, seed: int
) -> None:
    truth = PairwiseTruth(slots, dim, linear_scale, pair_scale, seed)
    generator = generator_from(seed)
    u = (torch.randn(slots, dim, generator=generator) * linear_scale).tolist()
    w = (torch.randn(slots, slots, dim, dim, generator=generator) * pair_scale).tolist()
    vectors = torch.randn(2, 3, slots, dim, generator=generator_from(1))
    scores = truth(vectors)
    assert scores.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            expected = looped_pairwise(vectors[i, j].tolist(), u, w)
            assert float(scores[i, j]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_pairwise_truth_by_hand() -> None:
    truth = PairwiseTruth(2, 1, 1.0, 1.0)
    # Slots (x, y): 0.3 * (2 x + 5 y + 7 x y); what stands below the diagonal must have been dropped.
    truth.linear.copy_(torch.tensor([2.0, 5.0]))
    assert truth.pairs.count_nonzero() == 1 and float(truth.pairs[0, 1]) != 0
    truth.pairs[0, 1] = 7.0
    assert float(truth(torch.tensor([[1.0], [0.0]]))) == pytest.approx(0.6)
    assert float(truth(torch.tensor([[0.0], [1.0]]))) == pytest.approx(1.5)
    assert float(truth(torch.tensor([[2.0], [-3.0]]))) == pytest.approx(0.3 * (4 - 15 - 42))


def test_a_slot_does_not_interact_with_itself() -> None:
    truth = PairwiseTruth(3, 2, 0.0, 1.0)
    alone = torch.zeros(3, 2)
    alone[1] = torch.tensor([2.0, -1.0])
    assert float(truth(alone)) == 0.0
    alone[2] = torch.tensor([1.0, 1.0])
    assert float(truth(alone)) != 0.0


def test_the_parameters_have_their_scales_and_seed() -> None:
    before = torch.get_rng_state()
    truth, again, other = (PairwiseTruth(20, 20, 2.0, 0.25, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(truth.linear, again.linear) and torch.equal(truth.pairs, again.pairs)
    assert not torch.equal(truth.linear, other.linear)
    # 400 and 76,000 numbers: relative standard errors .035 and .0026 of a standard deviation.
    assert float(truth.linear.std()) == pytest.approx(2.0, rel=0.17)
    assert float(truth.pairs[truth.pairs != 0].std()) == pytest.approx(0.25, rel=0.013)
    assert truth.pairs.count_nonzero() == 20 * 19 / 2 * 400
    assert list(truth.parameters()) == []


def test_the_saturating_truth_is_squashed_and_rippled() -> None:
    pairwise = PairwiseTruth(3, 2, 1.0, 0.5)
    truth = SaturatingTruth(pairwise)
    vectors = torch.randn(50, 3, 2, generator=generator_from(0))
    scores, inner = truth(vectors), pairwise(vectors)
    assert scores.shape == (50,)
    for row in range(50):
        products = sum(float(vectors[row, s, 0]) * float(vectors[row, s, 1]) for s in range(3))
        expected = math.tanh(float(inner[row])) + 0.3 * math.sin(2 * products)
        assert float(scores[row]) == pytest.approx(expected, abs=1e-5)


def test_the_saturating_truth_by_hand() -> None:
    pairwise = PairwiseTruth(2, 2, 1.0, 1.0)
    pairwise.linear.copy_(torch.tensor([1.0, 0.0, 0.0, 2.0]))
    pairwise.pairs.zero_()
    # x = (1, 2), (3, -0.5): pairwise .3 * (1 - 1) = 0; products 2 and -1.5, so 0.3 sin(1).
    score = SaturatingTruth(pairwise)(torch.tensor([[1.0, 2.0], [3.0, -0.5]]))
    assert float(score) == pytest.approx(0.3 * math.sin(1.0), abs=1e-6)
    # Far out the pairwise part saturates: the score stays within 1.3.
    assert abs(float(SaturatingTruth(pairwise)(torch.tensor([[1e3, 0.0], [0.0, 1e3]])))) == pytest.approx(1.0)


def test_the_saturating_truth_is_differentiable() -> None:
    truth = SaturatingTruth(PairwiseTruth(2, 2, 1.0, 0.5)).double()
    vectors = torch.randn(3, 2, 2, dtype=torch.float64, generator=generator_from(0)).requires_grad_()
    assert torch.autograd.gradcheck(truth, (vectors,))


def test_pick_value_by_hand() -> None:
    vectors = torch.tensor([[[0.5], [0.5]], [[0.0], [1.0]], [[0.25], [0.5]]])
    assert pick_value(vectors).tolist() == [0.0, -0.5, -0.0625]
    assert pick_value(vectors.expand(4, 3, 2, 1)).shape == (4, 3)
