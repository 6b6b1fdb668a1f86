"""The pointer network: its symmetries, its indifference to what is masked, its size, and its cost in operations.

Networks are compared in float64, so that a claimed equality is tested to rounding and not to training noise. The cost
is counted by PyTorch's own counter of floating-point operations, which must be affine in the number of items.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from slot_rl.networks import ITEM_HIDDEN, MOST_MULTIPLIED, PointerNetwork, PointerSize
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors.rules import OPEN

SMALL = PointerSize(width=8, hidden=12, rounds=2)


def pointer(
    slots: int = 3,
    dim: int = 4,
    contexts: tuple[int, ...] = (),
    size: PointerSize = SMALL,
    catalogue: Tensor | None = None,
    seed: int = 0,
) -> PointerNetwork:
    with seeded_initialisation(seed):
        return PointerNetwork(slots, dim, contexts, size, catalogue).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator_from(seed))


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def catalogue_pointer(rounds: int = 2) -> PointerNetwork:
    size = PointerSize(8, 12, rounds)
    return pointer(3, 4, contexts=(2, 3), size=size, catalogue=normal(3, 6, 4, seed=9))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 999))
def test_permuting_the_candidates_permutes_the_logits(
    batch: int, items: int, slots: int, rounds: int, masked: bool, seed: int
) -> None:
    network = pointer(slots, 4, size=PointerSize(8, 12, rounds))
    candidates = normal(batch, items, 4, seed=seed)
    mask = None
    if masked:
        mask = torch.rand(batch, slots, items, generator=generator_from(seed)) < 0.6
        mask[..., 0] = True
    order = torch.randperm(items, generator=generator_from(seed + 1))
    logits, latent = network(candidates, mask, None)
    permuted, permuted_latent = network(candidates[:, order], None if mask is None else mask[..., order], None)
    assert logits.shape == (batch, slots, items) and latent.shape == (batch, slots * 8)
    assert_close(permuted, logits[..., order])
    assert_close(permuted_latent, latent)


def test_logits_depend_on_candidates_slot_and_company() -> None:
    network = pointer().requires_grad_(False)
    candidates = normal(1, 5, 4)
    logits, latent = network(candidates, None, None)
    assert float((logits[:, 0] - logits[:, 1]).abs().max()) > 1e-3
    assert float(logits.std(dim=-1).min()) > 1e-3
    changed = candidates.clone()
    changed[0, 4] += 1
    other, other_latent = network(changed, None, None)
    # Through the tentative picks, an item's logits also answer to what else is on offer.
    assert float((other - logits)[..., :4].abs().max()) > 1e-4
    assert float((other_latent - latent).abs().max()) > 1e-4


def test_requests_of_a_batch_do_not_see_one_another() -> None:
    for network, arguments in (
        (pointer(), (normal(6, 5, 4), None, None)),
        (catalogue_pointer(), (None, None, torch.tensor([[0, 0], [1, 2], [0, 1], [1, 1], [0, 2], [1, 0]]))),
    ):
        logits, latent = network(*arguments)
        for row in range(6):
            one = [None if part is None else part[row : row + 1] for part in arguments]
            alone, alone_latent = network(*one)
            assert_close(alone, logits[row : row + 1])
            assert_close(alone_latent, latent[row : row + 1])


@pytest.mark.parametrize("items", [1, 8, 1000])
def test_one_set_of_weights_serves_lists_of_any_length(items: int) -> None:
    network = pointer()
    weights = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    logits, latent = network(normal(2, items, 4), None, None)
    assert logits.shape == (2, 3, items) and latent.shape == (2, network.latent_dim)
    assert bool(logits.isfinite().all()) and bool(latent.isfinite().all())
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == weights


def test_a_short_list_scores_as_part_of_a_long_one() -> None:
    network = pointer()
    candidates = normal(2, 1000, 4)
    mask = (torch.arange(1000) < 8).expand(2, 3, 1000)
    alone, alone_latent = network(candidates[:, :8], None, None)
    padded, padded_latent = network(candidates, mask, None)
    assert_close(padded[..., :8], alone)
    assert_close(padded_latent, alone_latent)


def test_the_parameters_are_those_of_the_layers() -> None:
    slots, dim, width, hidden, rounds = 3, 4, 8, 12, 2
    inner, whole = ITEM_HIDDEN + 2 * width, slots * width
    # Four numbers have 11 products; those of a catalogue's rows are left out.
    embed, products = dim * inner + inner, 11 * inner
    body = ITEM_HIDDEN * ITEM_HIDDEN + ITEM_HIDDEN + ITEM_HIDDEN * 2 * width + 2 * width
    joint = whole * whole + 2 * 2 * whole + (2 * whole * hidden + hidden) + (hidden * whole + whole)
    # All rounds share their weights, but for a temperature each and one for the logits.
    expected = embed + body + whole + joint + 1 + rounds + 1
    assert sum(part.numel() for part in pointer().parameters()) == expected + products
    few, many = (pointer(slots, dim, catalogue=normal(slots, items, dim)) for items in (5, 50))
    counts = {sum(part.numel() for part in network.parameters()) for network in (few, many)}
    assert counts == {expected + (slots - 1) * embed}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.0, 1.0, 1e3]), st.integers(0, 999))
def test_masked_items_do_not_change_the_logits_of_others(real: int, junk: int, scale: float, seed: int) -> None:
    network = pointer()
    candidates = normal(3, real, 4, seed=seed)
    logits, latent = network(candidates, None, None)
    longer = torch.cat([candidates, scale * normal(3, junk, 4, seed=seed + 1)], dim=1)
    mask = (torch.arange(real + junk) < real).expand(3, 3, real + junk)
    padded, padded_latent = network(longer, mask, None)
    assert_close(padded[..., :real], logits)
    assert_close(padded_latent, latent)


def test_an_item_masked_for_one_slot_reaches_the_others() -> None:
    network = pointer(size=PointerSize(8, 12, 1)).requires_grad_(False)
    candidates = normal(1, 4, 4)
    mask = torch.ones(1, 3, 4, dtype=torch.bool)
    mask[0, 1, 2] = False
    changed = candidates.clone()
    changed[0, 2] += 1
    (first, _), (second, _) = network(candidates, mask, None), network(changed, mask, None)
    assert float((first - second).abs().max()) > 1e-4


def test_a_fixed_catalogue_answers_each_context() -> None:
    network = catalogue_pointer().requires_grad_(False)
    contexts = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    logits, latent = network(None, None, contexts)
    assert logits.shape == (6, 3, 6) and latent.shape == (6, 24)
    for one in range(6):
        for other in range(one):
            assert float((logits[one] - logits[other]).abs().max()) > 1e-3
    again, _ = network(None, None, contexts[[3, 3]])
    # Equal rows of a batch round differently on some processors; the numbers are float64.
    assert float((again[0] - again[1]).abs().max()) < 1e-12


def test_permuting_one_slots_catalogue_permutes_its_logits_alone() -> None:
    network = catalogue_pointer()
    contexts = torch.tensor([[0, 1], [1, 2]])
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    logits, latent = network(None, mask, contexts)
    order = torch.tensor([3, 1, 0, 2, 5, 4])
    assert network.catalogue is not None
    network.catalogue[1] = network.catalogue[1, order]
    permuted, permuted_latent = network(None, mask, contexts)
    assert_close(permuted[:, 1], logits[:, 1][:, order])
    assert_close(permuted[:, [0, 2]], logits[:, [0, 2]])
    assert_close(permuted_latent, latent)


def test_padding_does_not_change_other_logits() -> None:
    network = catalogue_pointer()
    contexts = torch.tensor([[0, 1], [1, 2]])
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    logits, latent = network(None, mask, contexts)
    assert network.catalogue is not None
    network.catalogue[1, 4:] = 100.0
    other, other_latent = network(None, mask, contexts)
    assert_close(other[mask.expand(2, 3, 6)], logits[mask.expand(2, 3, 6)])
    assert_close(other_latent, latent)


def test_a_fixed_catalogue_scores_as_candidates_do() -> None:
    # Of more numbers than these, an observation's candidates have no products either.
    dim = MOST_MULTIPLIED + 1
    shared = normal(5, dim, seed=3)
    given_net = pointer(dim=dim)
    fixed = pointer(dim=dim, contexts=(2,), catalogue=shared.expand(3, 5, dim).clone())
    state = given_net.state_dict()
    embed = {
        "items.embed.weight": state.pop("items.embed.weight").T.expand(3, dim, ITEM_HIDDEN + 16),
        "items.embed.bias": state.pop("items.embed.bias").expand(3, 1, ITEM_HIDDEN + 16),
        # A catalogue has units of its own; here it shall have none.
        "item_units.mean": torch.zeros(3, 1, dim),
        "item_units.spread": torch.ones(3, 1, 1),
        "context_tables.0.weight": torch.zeros(2, 24, dtype=torch.float64),
    }
    fixed.load_state_dict({**state, **embed})
    logits, latent = fixed(None, None, torch.zeros(2, 1, dtype=torch.long))
    expected, expected_latent = given_net(shared.expand(2, 5, dim), None, None)
    assert_close(logits, expected)
    assert_close(latent, expected_latent)


@pytest.mark.parametrize("items", [1, 2, 7])
def test_one_hot_rows_are_read_without_a_catalogue(items: int) -> None:
    eye, context = torch.eye(items, dtype=torch.float64).expand(3, -1, -1), torch.tensor([[0], [1]])
    with_rows = pointer(dim=items, contexts=(2,), catalogue=eye)
    with seeded_initialisation(0):
        without = PointerNetwork(3, items, (2,), SMALL, one_hot=True).double()
    assert without.catalogue is None
    without.load_state_dict(with_rows.state_dict())
    for found, expected in zip(without(None, None, context), with_rows(None, None, context), strict=True):
        torch.testing.assert_close(found, expected)


def test_units_of_one_hot_rows_are_those_of_the_matrix() -> None:
    for items in (1, 2, 9):
        with seeded_initialisation(0):
            made = PointerNetwork(2, items, (), SMALL, catalogue=torch.eye(items).expand(2, -1, -1)).item_units
            found = PointerNetwork(2, items, (), SMALL, one_hot=True).item_units
        assert made is not None and found is not None
        torch.testing.assert_close(found.state_dict(), made.state_dict())


def test_the_catalogue_is_no_part_of_the_weights() -> None:
    network = catalogue_pointer()
    assert "catalogue" not in network.state_dict()
    assert "catalogue" not in dict(network.named_parameters())


def operations(network: PointerNetwork, arguments: tuple[Tensor | None, Tensor | None, Tensor | None]) -> int:
    with FlopCounterMode(display=False) as counter:
        network(*arguments)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("fixed", [False, True])
def test_the_cost_is_exactly_linear_in_the_number_of_items(fixed: bool) -> None:
    costs = []
    for items in (40, 80, 120):
        if fixed:
            network = pointer(contexts=(2,), catalogue=normal(3, items, 4))
            costs.append(operations(network, (None, None, torch.zeros(2, 1, dtype=torch.long))))
        else:
            costs.append(operations(pointer(), (normal(2, items, 4), None, None)))
    per_forty = costs[1] - costs[0]
    assert costs[2] - costs[1] == per_forty > 0
    # What does not depend on the items is left over, and is the joint layers and queries alone.
    batch, slots, width, hidden, rounds = 2, 3, 8, 12, 2
    whole = slots * width
    joint = 2 * batch * (whole * whole + 2 * whole * hidden + hidden * whole)
    assert costs[0] - per_forty == rounds * joint


def test_the_count_of_operations_sees_item_pairs() -> None:
    costs = []
    for items in (40, 80, 120):
        with FlopCounterMode(display=False) as counter:
            normal(items, 4) @ normal(items, 4).T
        costs.append(counter.get_total_flops())
    assert costs[2] - costs[1] != costs[1] - costs[0]


def test_the_slots_coordinate_through_the_joint_layer() -> None:
    network = pointer(size=PointerSize(8, 12, 1))
    candidates = normal(1, 5, 4).requires_grad_()
    only_first = torch.ones(1, 3, 5, dtype=torch.bool)
    only_first[0, 1:, 4] = False
    _, latent = network(candidates, only_first, None)
    # Item 4 may be picked by slot 0 alone, yet the other slots' latents know about it.
    (gradient,) = torch.autograd.grad(latent[0, 8:].sum(), candidates)
    assert float(gradient[0, 4].abs().max()) > 1e-6


def test_every_parameter_gets_a_gradient_from_logits_and_latent() -> None:
    for network, arguments in (
        (pointer(), (normal(4, 5, 4), None, None)),
        (catalogue_pointer(), (None, None, torch.cartesian_prod(torch.arange(2), torch.arange(3)))),
    ):
        logits, latent = network(*arguments)
        (logits.square().sum() + latent.square().sum()).backward()
        for name, part in network.named_parameters():
            assert part.grad is not None and float(part.grad.abs().max()) > 0, name


def test_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (pointer(seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["start"], other["start"])


def test_noise_gives_other_starts_and_none_gives_one_pass() -> None:
    for network, arguments in (
        (pointer(size=PointerSize(8, 12, 2, 3)), (normal(4, 5, 4), None, None)),
        (pointer(3, 4, (2,), PointerSize(8, 12, 2, 3), normal(3, 6, 4)), (None, None, torch.tensor([[0], [1]] * 2))),
    ):
        request = network.read(*arguments)
        noise = normal(4, 3, seed=5)
        still, started = network.think(request, torch.zeros_like(noise)), network.think(request, noise)
        assert_close(still.logits, network(*arguments)[0])
        assert float((started.logits - still.logits).detach().abs().max()) > 1e-3
        both = network.think(request.repeated(2), torch.cat([noise, torch.zeros_like(noise)]))
        assert_close(both.logits, torch.cat([started.logits, still.logits]))


def test_a_network_without_starts_refuses_noise() -> None:
    with pytest.raises(ValueError, match="expected no noise for a network without starts"):
        pointer().think(pointer().read(normal(2, 5, 4), None, None), normal(2, 8))


@pytest.mark.parametrize("fixed", [False, True])
def test_a_held_item_changes_the_other_slots(fixed: bool) -> None:
    network = (catalogue_pointer() if fixed else pointer()).requires_grad_(False)
    context = torch.tensor([[0, 1], [1, 2]])
    request = network.read(None, None, context) if fixed else network.read(normal(2, 6, 4), None, None)
    thought = network.think(request)
    held = [network.think_on(thought, torch.tensor([[item, OPEN, OPEN]] * 2)).logits for item in (1, 2)]
    assert float((held[0] - held[1])[:, 1:].abs().max()) > 1e-4
    # Where every slot would pick its item anyway, to hold it changes nothing.
    sure = replace(request, mask=torch.zeros(2, 3, 6, dtype=torch.bool))
    assert sure.mask is not None
    sure.mask[:, :, 4] = True
    thought = network.think(sure)
    nothing, everything = (network.think_on(thought, torch.full((2, 3), item)) for item in (OPEN, 4))
    assert_close(nothing.logits, everything.logits)


def test_candidates_or_a_catalogue_are_needed() -> None:
    with pytest.raises(ValueError, match="expected candidates in the observation, got none and no fixed catalogue"):
        pointer()(None, None, None)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-4, 1, 1), (1, 4_097, 1)])
def test_sizes_that_no_network_has_are_refused(sizes: tuple[int, int, int]) -> None:
    width, hidden, rounds = sizes
    message = rf"expected width, hidden and rounds >= 1 and .*width={width}, hidden={hidden}, rounds={rounds}"
    with pytest.raises(ValueError, match=message):
        PointerSize(width, hidden, rounds)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_the_users_units_do_not_matter(unit: float) -> None:
    pool, contexts = torch.randn(50, 3, generator=generator_from(0)), torch.randn(40, 2, generator=generator_from(1))
    logits = []
    for scale in (1.0, unit):
        with seeded_initialisation(0):
            numbers = {"context_dim": 2, "pool": pool * scale + 3 * scale, "context_vectors": contexts * scale}
            network = PointerNetwork(2, 3, (), PointerSize(8, 16), None, **numbers)  # type: ignore[arg-type]
        items = (pool[:5] * scale + 3 * scale).expand(4, -1, -1)
        logits.append(network(items, None, None, contexts[:4] * scale)[0])
    assert torch.allclose(logits[0], logits[1], atol=1e-4)


def test_a_number_that_never_varied_may_vary_at_serving() -> None:
    pool = torch.full((1_000, 1), 0.1)
    network = PointerNetwork(1, 1, (), PointerSize(8, 16), None, pool=pool)
    logits = network(torch.tensor([[[0.1], [0.3]]]), None, None)[0]
    assert float(logits.detach().abs().max()) < 1e3
