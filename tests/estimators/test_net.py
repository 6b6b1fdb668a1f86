"""The estimator network: results by hand for tiny weights, equal for indices, one-hot rows and relaxed rows."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.estimators.net import EMBEDDING_SCALE
from slot_rl.io import BundleError
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors.categorical import one_hot


def build(shape: EstimatorShape, seed: int = 0) -> EstimatorNet:
    with seeded_initialisation(seed):
        return EstimatorNet(shape).requires_grad_(False)


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def test_the_score_by_hand() -> None:
    net = build(EstimatorShape(2, 1, (2,), contexts=(3,), context_dim=1))
    net.load_state_dict(
        {
            "context_tables.0.weight": torch.tensor([[10.0], [20.0], [30.0]]),
            "body.0.weight": torch.tensor([[1.0, 2.0, 0.1], [-1.0, 0.5, 0.0]]),
            "body.0.bias": torch.tensor([0.5, 0.25]),
            "head.weight": torch.tensor([[2.0, -3.0]]),
            "head.bias": torch.tensor([0.125]),
            "offset": torch.tensor(7.0),
            "scale": torch.tensor(4.0),
        }
    )
    vectors, context = torch.tensor([[[0.3], [-0.2]]]), torch.tensor([[2]])
    # Inputs .3, -.2 and the context's 30: hidden .3 - .4 + 3 + .5 = 3.4 and -.3 - .1 + .25 = -.15.
    hidden = [silu(3.4), silu(-0.15)]
    expected = (2 * hidden[0] - 3 * hidden[1] + 0.125) * 4 + 7
    assert float(net(vectors, context)) == pytest.approx(expected, rel=1e-6)
    assert net.to_latent(vectors, context).tolist() == [pytest.approx(hidden, rel=1e-6)]


def test_a_new_network_has_the_units_of_the_score() -> None:
    net = build(EstimatorShape(2, 3, (8, 4)))
    assert (float(net.offset), float(net.scale)) == (0.0, 1.0)
    vectors = torch.randn(5, 2, 3, generator=generator_from(0))
    raw = net(vectors)
    net.offset.fill_(-2.0)
    net.scale.fill_(3.0)
    torch.testing.assert_close(net(vectors), 3 * raw - 2)
    assert net.to_latent(vectors).shape == (5, 4)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4), st.lists(st.integers(1, 3), max_size=2), st.integers(0, 999)
)
def test_one_hot_rows_times_the_catalogue_are_a_look_up(vocabulary: list[int], contexts: list[int], seed: int) -> None:
    net = build(EstimatorShape(len(vocabulary), 3, (6,), tuple(vocabulary), tuple(contexts), 2), seed)
    assert net.catalogue is not None and net.catalogue.shape == (len(vocabulary), max(vocabulary), 3)
    generator = generator_from(seed)
    choice = torch.stack([torch.randint(size, (7,), generator=generator) for size in vocabulary], dim=-1)
    context = None
    if contexts:
        context = torch.stack([torch.randint(size, (7,), generator=generator) for size in contexts], dim=-1)
    looked_up = net.catalogue[torch.arange(len(vocabulary)), choice]
    rows = one_hot(choice, max(vocabulary), torch.float32)
    mixed = torch.einsum("bsn,snd->bsd", rows, net.catalogue)
    assert torch.equal(mixed, looked_up)
    assert torch.equal(net(mixed, context), net(looked_up, context))


def test_the_catalogue_is_padded_with_zeros_and_scaled() -> None:
    net = build(EstimatorShape(3, 40, (4,), (2, 50, 30)))
    assert net.catalogue is not None
    assert float(net.catalogue[0, 2:].abs().max()) == float(net.catalogue[2, 30:].abs().max()) == 0.0
    assert float(net.catalogue[1].std()) == pytest.approx(EMBEDDING_SCALE, rel=0.1)
    assert build(EstimatorShape(3, 4, (4,))).catalogue is None


def test_each_context_belongs_to_its_own_request() -> None:
    net = build(EstimatorShape(2, 3, (8,), contexts=(2, 3), context_dim=4))
    vectors = torch.randn(5, 6, 2, 3, generator=generator_from(0))
    context = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    scores = net(vectors, context)
    assert scores.shape == (5, 6)
    for lead in range(5):
        for row in range(6):
            alone = net(vectors[lead, row], context[row])
            torch.testing.assert_close(scores[lead, row], alone, atol=1e-6, rtol=1e-6)
    same = net(vectors[:1, :1].expand(1, 6, 2, 3), context)
    assert len(set(same.flatten().tolist())) == 6


def test_gradients_reach_the_vectors_and_are_right() -> None:
    net = build(EstimatorShape(2, 2, (5, 4), contexts=(2,), context_dim=2)).double()
    vectors = torch.randn(3, 2, 2, dtype=torch.float64, generator=generator_from(0)).requires_grad_()
    context = torch.tensor([[0], [1], [0]])
    assert torch.autograd.gradcheck(lambda vectors: net(vectors, context), (vectors,))


def test_a_missing_context_is_refused() -> None:
    net = build(EstimatorShape(2, 3, (8,), contexts=(2, 3)))
    with pytest.raises(ValueError, match="expected a context of 2 columns, got None"):
        net(torch.zeros(1, 2, 3))


@pytest.mark.parametrize(
    "shape",
    [
        EstimatorShape(4, 8),
        EstimatorShape(2, 3, (5,), (2, 7), (4,), 6),
        EstimatorShape(1, 1, (1, 2, 3), (), (2, 2)),
    ],
)
def test_a_shape_comes_back_from_json_as_it_was(shape: EstimatorShape) -> None:
    again = EstimatorShape.from_json(json.loads(json.dumps(shape.to_json())))
    assert again == shape and hash(again) == hash(shape)
    weights, others = build(shape).state_dict(), build(again).state_dict()
    assert {name: value.shape for name, value in weights.items()} == {n: value.shape for n, value in others.items()}


def test_a_shape_with_an_unknown_size_is_refused() -> None:
    with pytest.raises(BundleError, match="expected shape as it was written, got one with 'depth'"):
        EstimatorShape.from_json({**EstimatorShape(1, 1).to_json(), "depth": 3})


def test_weights_come_from_the_seed_alone() -> None:
    shape = EstimatorShape(2, 3, (4,), (2, 3), (2,))
    before = torch.get_rng_state()
    first, second, other = (build(shape, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["catalogue"], other["catalogue"])


DESCRIBED = EstimatorShape(2, 3, (4,), (2, 3), (2,), described=(0, 2), context_numbers=(2,), encoder=5)


def test_a_described_slot_has_no_embeddings_but_encoded_numbers() -> None:
    net = build(DESCRIBED)
    numbers = torch.tensor([[1.0, 2.0], [0.0, -1.0], [0.5, 0.0]])
    net.describe(1, numbers)
    rows = net.candidates()
    assert rows is not None and net.catalogue is not None
    assert torch.equal(rows[0], net.catalogue[0]) and bool((net.catalogue[1] == 0).all())
    weights = {name.removeprefix("encoders.1."): value.tolist() for name, value in net.state_dict().items()}

    def linear(layer: int, inputs: list[float]) -> list[float]:
        rows = zip(weights[f"{layer}.weight"], weights[f"{layer}.bias"], strict=True)
        return [bias + sum(w * x for w, x in zip(row, inputs, strict=True)) for row, bias in rows]

    for item, row in enumerate(numbers.tolist()):
        expected = linear(2, [silu(x) for x in linear(0, row)])
        assert rows[1, item].tolist() == pytest.approx(expected, abs=1e-5)


def test_short_described_slots_are_padded_with_zeros() -> None:
    net = build(EstimatorShape(2, 3, (4,), (2, 3), described=(1, 0)))
    net.describe(0, torch.tensor([[1.0], [2.0]]))
    rows = net.candidates()
    assert rows is not None and rows.shape == (2, 3, 3)
    assert bool((rows[0, 2] == 0).all()) and bool((rows[0, :2] != 0).all())


def test_candidates_are_differentiable_in_the_encoder() -> None:
    net = build(DESCRIBED).requires_grad_(True)
    net.describe(1, torch.randn(3, 2, generator=generator_from(0)))
    rows = net.candidates()
    assert rows is not None
    rows[1].sum().backward()
    assert all(bool((p.grad != 0).any()) for p in net.encoders.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in net.encoders.parameters()) == 4


def test_a_vector_of_numbers_changes_the_score() -> None:
    net = build(DESCRIBED)
    vectors, context = torch.randn(3, 2, 3, generator=generator_from(0)), torch.tensor([[0], [0], [1]])
    numbers = torch.tensor([[0.0, 1.0], [5.0, 1.0], [0.0, 1.0]])
    scores = net(vectors[:1].expand(3, -1, -1), context, numbers)
    assert len(set(scores.tolist())) == 3
    both = net(torch.stack([vectors, vectors]), context, numbers)
    assert both.shape == (2, 3) and torch.equal(both[0], net(vectors, context, numbers))
    with pytest.raises(ValueError, match="expected a context of 2 numbers, got None"):
        net(vectors, context)


def test_a_shape_without_numbers_is_stored_as_before() -> None:
    names = ["slots", "dim", "hidden", "vocabulary", "contexts", "context_dim"]
    assert list(EstimatorShape(2, 3).to_json()) == names
    assert EstimatorShape.from_json(json.loads(json.dumps(DESCRIBED.to_json()))) == DESCRIBED
