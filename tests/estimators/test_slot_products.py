"""Layers that multiply: by hand, for each slot alone, stored with their estimators, and what they learn."""

from math import asinh
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slot_rl.estimators import EstimatorNet, EstimatorShape, load_estimator, save_estimator
from slot_rl.estimators.fitting import TruthFit, fit_on_truth, r_squared
from slot_rl.estimators.slate import SlateNet, SlateShape
from slot_rl.estimators.slot_products import SlotProducts, products_of_numbers
from slot_rl.seeding import generator_from, seeded_initialisation


def test_two_layers_by_hand() -> None:
    layers = SlotProducts(1, 2, (1, 1)).requires_grad_(False)
    layers.load_state_dict(
        {
            "weights.0": torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
            "biases.0": torch.tensor([[[0.5, -1.0]]]),
            "weights.1": torch.tensor([[[2.0, 1.0]]]),
            "biases.1": torch.tensor([[[0.0, 3.0]]]),
        }
    )
    # (2 + .5) (3 - 1) = 5, then (2 * 5) (5 + 3) = 80.
    found = layers(torch.tensor([[[2.0, 3.0]]]))
    assert found.shape == (1, 1, 1)
    assert float(found) == pytest.approx(2 * asinh(80), rel=1e-6)


def test_products_of_numbers_by_hand() -> None:
    found = products_of_numbers(torch.tensor([[2.0, -0.5, 1.5]]))
    # 2 (-.5), 2 * 1.5, (-.5) 1.5, and all three.
    assert found.tolist() == [[-1.0, 3.0, -0.75, -1.5]]


@pytest.mark.parametrize(("dim", "products"), [(1, 0), (6, 57), (7, 56), (8, 28), (16, 0)])
def test_there_are_all_products_of_a_degree_or_none(dim: int, products: int) -> None:
    # Seven numbers have 21 pairs and 35 triples, 63 in all; eight have 28 pairs, and with 56 triples more than 64.
    assert products_of_numbers(torch.ones(2, 3, dim)).shape == (2, 3, products)


def test_a_network_is_its_encoding_and_the_rest() -> None:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 4, (8,), contexts=(2,), product_widths=(5, 2))).requires_grad_(False)
    vectors, context = torch.randn(6, 3, 4, generator=generator_from(0)), torch.tensor([[0], [1]] * 3)
    rest, encoded = net.after_encoding, net.encode(vectors, context)
    assert rest is not None and encoded.shape == (6, 3, 6)
    assert torch.equal(rest(encoded, context), net(vectors, context))
    assert torch.equal(rest.to_latent(encoded, context), net.to_latent(vectors, context))
    assert EstimatorNet(EstimatorShape(3, 4, (8,))).after_encoding is None


def build(slots: int) -> SlotProducts:
    with seeded_initialisation(0):
        return SlotProducts(slots, 4, (6, 3)).requires_grad_(False)


def test_a_slot_sees_its_own_vector_alone() -> None:
    vectors = torch.randn(2, 5, 3, 4, generator=generator_from(1))
    before, changed = build(3)(vectors), vectors.clone()
    changed[..., 1, :] += 1
    after = build(3)(changed)
    assert before.shape == (2, 5, 3, 3)
    assert torch.equal(before[..., ::2, :], after[..., ::2, :])
    assert not torch.equal(before[..., 1, :], after[..., 1, :])
    # The same vector has other features in another slot.
    assert not torch.allclose(build(3)(vectors[..., :1, :].expand(-1, -1, 3, -1)).diff(dim=-2), torch.zeros(()))


def test_with_shared_weights_every_slot_has_the_same_features() -> None:
    vectors = torch.randn(5, 1, 4, generator=generator_from(1)).expand(-1, 3, -1)
    torch.testing.assert_close(build(1)(vectors).diff(dim=-2), torch.zeros(5, 2, 3))


@pytest.mark.parametrize("widths", [(), (4, 0)])
def test_widths_below_one_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected at least one width, each >= 1, got"):
        SlotProducts(2, 3, widths)


def test_estimators_come_back_with_their_products(tmp_path: Path) -> None:
    shape = EstimatorShape(2, 3, (8,), product_widths=(5, 2))
    with seeded_initialisation(0):
        net = EstimatorNet(shape).requires_grad_(False)
    save_estimator(tmp_path, net, {})
    stored = load_estimator(tmp_path).net
    vectors = torch.randn(4, 2, 3, generator=generator_from(0))
    assert isinstance(stored, EstimatorNet) and stored.shape == shape
    assert torch.equal(stored(vectors), net(vectors))


def test_slates_come_back_with_their_products() -> None:
    shape = SlateShape(3, 2, (), 0, 2, (), id_dim=0, product_widths=(4, 2))
    assert SlateShape.from_json(shape.to_json()) == shape
    assert "product_widths" not in SlateShape(3, 2, (), 0, 2, ()).to_json()
    with seeded_initialisation(0):
        net = SlateNet(shape).requires_grad_(False)
    items, context = torch.randn(4, 3, 2, generator=generator_from(0)), torch.zeros(4, 2)
    assert net(items, context).shape == (4,)
    before = net(items, context)
    assert net.products is not None
    for weight in net.products.parameters():
        weight.zero_()
    assert not torch.allclose(before, net(items, context))


def test_a_product_is_learned_that_a_plain_network_misses() -> None:
    def fitted(widths: tuple[int, ...]) -> float:
        generator = generator_from(0)

        def draw(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            vectors = torch.randn(batch, 2, 4, generator=generator)
            return vectors, torch.sin(2 * vectors.prod(dim=-1).sum(dim=-1))

        with seeded_initialisation(0):
            net = EstimatorNet(EstimatorShape(2, 4, (32, 32), product_widths=widths))
        fit_on_truth(net, draw, TruthFit(400, 256, 1e-2), generator, lambda step, loss: None)
        vectors, true = draw(5_000, generator)
        with torch.no_grad():
            return r_squared(net(vectors), true)

    assert fitted((24, 12)) > 0.5
    assert fitted(()) < 0.2
