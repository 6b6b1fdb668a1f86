"""Diversity terms: numbers by hand, gradients by finite differences, what fools each, and constants that stay so."""

from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor, nn

from slot_rl.estimators.diversity import (
    DIVERSITY,
    SOFTENING,
    among,
    inverse_cross_entropy,
    inverse_difference,
    linear_cka,
    minus_cross_entropy,
    negative_correlation,
    to_frozen,
    weight_correlation,
    weight_distance,
)
from slot_rl.seeding import generator_from

Term = Callable[[Tensor, Tensor], Tensor]
SHAPES: dict[Term, tuple[int, ...]] = {
    weight_distance: (2, 7),
    weight_correlation: (2, 7),
    negative_correlation: (2, 6),
    inverse_difference: (2, 6),
    linear_cka: (2, 6, 3),
    minus_cross_entropy: (2, 6, 4),
    inverse_cross_entropy: (2, 6, 4),
}
each_term = pytest.mark.parametrize("term", SHAPES, ids=lambda term: term.__name__)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator_from(seed), dtype=torch.float64)


def test_the_registry_is_of_tested_terms() -> None:
    assert all(term.compare is not None and term.compare.__name__ == name for name, term in DIVERSITY.items())
    assert {term.compare for term in DIVERSITY.values()} <= set(SHAPES)


@each_term
def test_gradients_are_those_of_finite_differences(term: Term) -> None:
    new, old = drawn(*SHAPES[term], seed=1).requires_grad_(), drawn(*SHAPES[term], seed=2)
    assert term(new, old).shape == (2,)
    assert torch.autograd.gradcheck(lambda values: term(values, old), (new,))


@each_term
def test_a_pair_among_others_counts_as_it_does_alone(term: Term) -> None:
    new, old = drawn(*SHAPES[term], seed=1), drawn(*SHAPES[term], seed=2)
    assert torch.allclose(term(new, old)[1], term(new[1], old[1]))


@each_term
def test_the_old_model_gets_no_gradient(term: Term) -> None:
    new, old = drawn(1, *SHAPES[term][1:], seed=1).requires_grad_(), drawn(*SHAPES[term], seed=2).requires_grad_()
    to_frozen(term, new, old).backward()
    assert old.grad is None and new.grad is not None and bool((new.grad != 0).any())
    # Without the barrier it would get one.
    term(new.expand_as(old), old).sum().backward()
    assert old.grad is not None


@each_term
def test_members_are_moved_as_if_the_others_were_frozen(term: Term) -> None:
    members = drawn(3, *SHAPES[term][1:], seed=3).requires_grad_()
    (together,) = torch.autograd.grad(among(term, members), members)
    for member in range(3):
        alone = members[member : member + 1].detach().requires_grad_()
        others = members.detach()[[other for other in range(3) if other != member]]
        (expected,) = torch.autograd.grad(to_frozen(term, alone, others), alone)
        assert torch.allclose(together[member], expected[0])


@each_term
def test_a_step_down_moves_away_from_the_old_model(term: Term) -> None:
    old = drawn(*SHAPES[term][1:], seed=4)
    new = (old + 0.3 * drawn(*SHAPES[term][1:], seed=5)).requires_grad_()
    (slope,) = torch.autograd.grad(term(new, old), new)
    with torch.no_grad():
        assert float(term(new - 1e-3 * slope / slope.norm(), old)) < float(term(new, old))


def test_numbers_by_hand() -> None:
    new, old = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.0, 4.0])
    assert float(weight_distance(new, old)) == pytest.approx(1 / 4)
    # Centred: (-1, 0, 1) and (0, -2, 2); 2 / (sqrt 2 sqrt 8).
    assert float(weight_correlation(new, old)) == pytest.approx(0.5)
    assert float(negative_correlation(new, old)) == pytest.approx(-(1 + 4 + 1) / 4 / 3)
    assert float(inverse_difference(new, old)) == pytest.approx(1 / (2 + SOFTENING))
    # One unit each: the squared correlation.
    assert float(linear_cka(new.unsqueeze(1), old.unsqueeze(1))) == pytest.approx(0.25)
    half, sure = torch.tensor([[0.0, 0.0]]), torch.tensor([[50.0, -50.0]])
    assert float(minus_cross_entropy(half, sure)) == pytest.approx(-log(2))
    assert float(inverse_cross_entropy(sure, sure)) == pytest.approx(1 / SOFTENING)


HIDDEN = 16


def layers(activation: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, HIDDEN), activation, nn.Linear(HIDDEN, 1)).double()


def copied(net: nn.Sequential, change: Callable[[dict[str, Tensor]], None], activation: nn.Module) -> nn.Sequential:
    other, state = layers(activation), {k: v.clone() for k, v in net.state_dict().items()}
    change(state)
    other.load_state_dict(state)
    return other


def flat(net: nn.Sequential) -> Tensor:
    return torch.cat([part.detach().flatten() for part in net.parameters()])


def rescaled(state: dict[str, Tensor]) -> None:
    state["0.weight"], state["0.bias"] = 4 * state["0.weight"], 4 * state["0.bias"]
    state["2.weight"] = state["2.weight"] / 4


def shifted(state: dict[str, Tensor]) -> None:
    state["2.bias"] = state["2.bias"] + 0.1


def permuted(state: dict[str, Tensor]) -> None:
    order = torch.arange(len(state["0.bias"])).roll(1)
    state["0.weight"], state["0.bias"] = state["0.weight"][order], state["0.bias"][order]
    state["2.weight"] = state["2.weight"][:, order]


@pytest.mark.parametrize(
    ("activation", "change"),
    [(nn.ReLU(), rescaled), (nn.Identity(), rescaled), (nn.ReLU(), permuted), (nn.SiLU(), permuted)],
)
def test_the_same_function_fools_the_distance(
    activation: nn.Module, change: Callable[[dict[str, Tensor]], None]
) -> None:
    """The question's own penalty, 1 / sum |old - new|, calls a network different that is the same function."""
    old, rows = layers(activation), drawn(50, 3, seed=6)
    fooled = copied(old, change, activation)
    near = copied(old, shifted, activation)
    with torch.no_grad():
        assert torch.allclose(old(rows), fooled(rows))
        assert not torch.allclose(old(rows), near(rows))
        assert float(weight_distance(flat(fooled), flat(old))) < float(weight_distance(flat(near), flat(old))) / 10
        # Terms of outputs are not fooled by it.
        outputs = [net(rows).squeeze(1) for net in (old, fooled, near)]
        assert float(inverse_difference(outputs[1], outputs[0])) == pytest.approx(1 / SOFTENING)
        assert float(inverse_difference(outputs[2], outputs[0])) == pytest.approx(1 / (0.01 + SOFTENING))


def test_a_rescaling_of_silu_units_is_another_function() -> None:
    old, rows = layers(nn.SiLU()), drawn(50, 3, seed=6)
    with torch.no_grad():
        assert not torch.allclose(old(rows), copied(old, rescaled, nn.SiLU())(rows), atol=1e-3)


def test_permuted_units_fool_the_correlation() -> None:
    old = layers(nn.SiLU())
    assert float(weight_correlation(flat(old), flat(old))) == pytest.approx(1)
    assert abs(float(weight_correlation(flat(copied(old, permuted, nn.SiLU())), flat(old)))) < 0.5


def test_a_unit_that_nobody_reads_fools_the_alignment() -> None:
    hidden = drawn(200, 5, seed=7)
    turn, _ = torch.linalg.qr(drawn(5, 5, seed=8))
    assert float(linear_cka(3 * hidden @ turn, hidden)) == pytest.approx(1)
    unread = torch.cat([hidden, 100 * drawn(200, 1, seed=9)], dim=1)
    read_out = torch.cat([drawn(5, seed=10), torch.zeros(1, dtype=torch.float64)])
    assert torch.allclose(unread @ read_out, hidden @ read_out[:5])
    assert float(linear_cka(unread, torch.cat([hidden, torch.zeros(200, 1, dtype=torch.float64)], dim=1))) < 0.1


def classified(seed: int, rows: Tensor, classes: Tensor, apart: tuple[Term, nn.Module, Tensor] | None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters(), 3e-2)
    for _ in range(100):
        loss = nn.functional.cross_entropy(net(rows), classes)
        if apart is not None:
            term, old, others = apart
            loss = loss + 0.1 * to_frozen(term, net(others).unsqueeze(0), old(others).unsqueeze(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("term", [minus_cross_entropy, inverse_cross_entropy])
def test_of_two_equally_good_classifiers_the_one_that_differs(term: Term) -> None:
    """Either feature tells the class of the known rows; where the features disagree, the second network differs."""
    classes = torch.tensor([0, 1] * 20)
    rows = (2.0 * classes - 1).unsqueeze(1).expand(-1, 2)
    others = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    with torch.no_grad():
        first = nn.Linear(2, 2)
        first.weight.copy_(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]))
        first.bias.zero_()
    second, control = (classified(0, rows, classes, each) for each in ((term, first, others), None))
    with torch.no_grad():
        for net in (second, control):
            assert torch.equal(net(rows).argmax(1), classes)
        known, logits, plain = (net(others) for net in (first, second, control))
        assert bool((logits.argmax(1) != known.argmax(1)).all())
        assert float(minus_cross_entropy(logits, known)) < float(minus_cross_entropy(plain, known)) - 0.5


def test_subtraction_changes_nothing_beside_a_calibrated_model() -> None:
    chances = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    new = chances.log().requires_grad_()
    expected_loss = -(chances * torch.log_softmax(new, dim=-1)).sum(dim=-1).mean()
    (slope,) = torch.autograd.grad(expected_loss + 0.5 * minus_cross_entropy(new, chances.log()), new)
    assert torch.allclose(slope, torch.zeros_like(slope), atol=1e-12)
