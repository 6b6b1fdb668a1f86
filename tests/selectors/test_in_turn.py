"""Draws in turn: their law is that of enumeration, with rules and without, and what is kept is what was drawn."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from slot_rl.seeding import generator_from
from slot_rl.selectors import Gumbel
from slot_rl.selectors.categorical import log_prob_of
from slot_rl.selectors.in_turn import InTurn
from slot_rl.selectors.rules import OPEN, Rules
from tests.helpers.equivalence import all_choices, frequency_z
from tests.selectors.rule_cases import CASES, DISTINCT, RuleCase

SLOTS, ITEMS = 3, 4


def in_turn(batch: int, rules: Rules | None = None, shape: tuple[int, int] = (SLOTS, ITEMS)) -> InTurn:
    """Logits that depend on all that the other slots hold; every request has the same."""
    first = torch.randn(shape, generator=generator_from(0), dtype=torch.float64)
    effect = torch.randn(shape[0], shape[1] + 1, *shape, generator=generator_from(1), dtype=torch.float64)

    def begin(draws: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def rethink(choice: Tensor) -> Tensor:
            return first + sum((effect[slot, choice[:, slot] - OPEN] for slot in range(shape[0])), torch.zeros(()))

        return first.expand(draws * batch, -1, -1), rethink

    return InTurn(begin, rules)


def law(turns: InTurn, choices: Tensor) -> Tensor:
    logits = torch.zeros(len(choices), SLOTS, ITEMS, dtype=torch.float64)
    return log_prob_of(turns.conditional(logits, choices), choices)


def test_the_probabilities_of_all_choices_sum_to_one() -> None:
    choices = all_choices(SLOTS, ITEMS)
    assert float(law(in_turn(len(choices)), choices).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_a_probability_is_the_product_of_its_turns() -> None:
    turns, choice = in_turn(1), torch.tensor([[1, 2, 0]])
    logits, rethink = turns._begin(1)
    held, total = torch.full((1, SLOTS), OPEN), 0.0
    for turn in range(SLOTS):
        log_p = torch.log_softmax(rethink(held) if turn else logits, dim=-1)[0]
        unfilled = [slot for slot in range(SLOTS) if held[0, slot] == OPEN]
        clearest = unfilled[int(log_p[unfilled].amax(dim=1).argmax())]
        total += float(log_p[clearest, choice[0, clearest]])
        held[0, clearest] = choice[0, clearest]
    assert float(law(turns, choice)) == pytest.approx(total, rel=1e-12)


def test_draws_have_the_law_of_enumeration() -> None:
    choices = all_choices(SLOTS, ITEMS)
    shape = 40, 1_000, SLOTS, ITEMS
    drawn, conditional = in_turn(1_000).draw(torch.zeros(shape, dtype=torch.float64), generator_from(2))
    assert drawn.shape == shape[:-1] and conditional.shape == shape
    place = (drawn.unsqueeze(-2) == choices).all(dim=-1).int().argmax(dim=-1)
    assert frequency_z(place, law(in_turn(len(choices)), choices).exp()) < 5
    again = in_turn(1_000).conditional(torch.zeros(shape, dtype=torch.float64), drawn.clone())
    assert torch.equal(again, conditional)


def test_what_was_drawn_is_not_worked_out_twice() -> None:
    turns, logits = in_turn(5), torch.zeros(5, SLOTS, ITEMS, dtype=torch.float64)
    drawn, conditional = turns.draw(logits, generator_from(0))
    kept = turns.conditional(logits, drawn)
    assert torch.equal(kept, conditional) and kept is turns.conditional(logits, drawn)
    assert turns.conditional(logits, drawn.clone()) is not kept


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_rules_of_requests_are_kept(case: RuleCase) -> None:
    turns = in_turn(500, case.build(500), case.shape)
    logits = torch.zeros(500, *case.shape, dtype=torch.float64)
    allowed = {tuple(row) for row in case.allowed.tolist()}
    for found in (turns.draw(logits, generator_from(3))[0], turns.mode(logits)):
        assert {tuple(row) for row in found.tolist()} <= allowed
    assert bool(turns.allows(case.allowed[:1].expand(500, -1)).all())


def test_repairs_are_those_of_the_rules() -> None:
    twice, shape = torch.zeros(4, DISTINCT.shape[0], dtype=torch.long), DISTINCT.shape
    repaired = in_turn(4, DISTINCT.build(4), shape).repaired(twice, shape[1], generator_from(0))
    assert bool(DISTINCT.build(4).allows(repaired).all())
    assert in_turn(4).repaired(twice, ITEMS, None) is twice


def test_the_answer_is_the_most_probable_item_of_each_turn() -> None:
    turns, logits = in_turn(1), torch.zeros(1, SLOTS, ITEMS, dtype=torch.float64)
    answer, conditional = turns.in_order(logits)
    assert torch.equal(conditional.argmax(dim=-1), answer)
    assert torch.equal(turns.mode(logits), answer) and torch.equal(turns.answer(logits), answer)


def test_a_selectors_gradient_is_that_of_the_turns_logits() -> None:
    turns, logits = in_turn(1), torch.zeros(1, SLOTS, ITEMS, dtype=torch.float64)
    weight = torch.randn(SLOTS, ITEMS, generator=generator_from(5), dtype=torch.float64)
    estimate = Gumbel(tau=1.0)(logits, lambda rows: (rows * weight).sum(dim=(-1, -2)), None, generator_from(6), turns)
    conditional = turns.conditional(logits, estimate.choice)
    assert float(estimate.score) == pytest.approx(float(weight[torch.arange(SLOTS), estimate.choice[0]].sum()))
    assert turns._kept is not None and conditional is turns._kept[1]
    # J(y) g is a covariance: it sums to zero over each slot's items.
    torch.testing.assert_close(estimate.gradient.sum(dim=-1), torch.zeros(1, SLOTS, dtype=torch.float64))
