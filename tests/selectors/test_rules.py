"""Tests of draws under rules: their support and law equal enumeration, and the mode is allowed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.problems.constraints.tables import PrefixIndex, TableRules
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot
from slot_rl.selectors.rules import OPEN, Rules, most_confident_first
from tests.helpers.equivalence import all_choices, frequency_z
from tests.selectors.rule_cases import CASES, DISTINCT, ROWS, RuleCase, rule_cases

every_case = pytest.mark.parametrize("case", CASES, ids=str)


class Greedy(Rules):
    """Looks at the filled slots only: an item is open if the choice of it does not break distinctness yet."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def open_items(self, choice: Tensor, slot: int | None = None) -> Tensor:
        assert slot is not None
        return self.mask[slot] & ~one_hot(choice + 1, self.mask.shape[1] + 1, torch.float32)[..., 1:].any(dim=-2)


def numbers(choices: Tensor, allowed: Tensor) -> Tensor:
    """The place of each choice ``(choices, slots)`` among the allowed ones; -1 where it is none of them."""
    same = (choices.unsqueeze(1) == allowed).all(dim=-1)
    return torch.where(same.any(dim=1), same.int().argmax(dim=1), -1)


def test_the_cases_allow_different_numbers_of_choices() -> None:
    # 4 * 3 * 2; one of three slots from {2, 3}, and the others from {0, 1}; listed.
    assert [len(case.allowed) for case in (CASES[0], CASES[1], CASES[3])] == [24, 3 * 2 * 4, len(ROWS)]
    assert 0 < len(CASES[2].allowed) < 24


@every_case
def test_a_choice_is_allowed_where_enumeration_has_it(case: RuleCase) -> None:
    choices = all_choices(*case.shape)
    allowed = case.build(len(choices)).allows(choices)
    assert choices[allowed].tolist() == case.allowed.tolist()


def test_the_most_confident_slot_is_filled_first() -> None:
    logits = torch.tensor([[[0.0, 1.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.5]]])
    asked: list[list[int]] = []

    def rethink(choice: Tensor) -> Tensor:
        asked.append(choice[0].tolist())
        # Once slot 1 holds item 0, slot 0 wants item 2.
        return logits + torch.tensor([[[0.0, 0.0, 9.0], [0.0] * 3, [0.0] * 3]])

    assert most_confident_first(logits, rethink=rethink).tolist() == [[2, 0, 2]]
    assert asked == [[OPEN, 0, OPEN], [2, 0, OPEN]]
    assert most_confident_first(logits).tolist() == [[1, 0, 2]]


@every_case
@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0])
def test_log_probabilities_are_those_of_enumeration(case: RuleCase, spread: float) -> None:
    choices, logits = case.allowed, case.logits(1, spread)
    rows = logits.expand(len(choices), *case.shape).contiguous()
    conditional = case.build(len(choices)).conditional(rows, choices)
    assert torch.equal(conditional > -torch.inf, case.open_by_enumeration(choices))
    log_p = torch.log_softmax(conditional, dim=-1).gather(-1, choices.unsqueeze(-1)).sum(dim=(-1, -2))
    expected = case.log_law(logits)
    assert float((log_p - expected).abs().max()) < 1e-9 * max(1.0, float(expected.abs().max()))
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-9)


@every_case
def test_draws_have_the_law_of_enumeration(case: RuleCase) -> None:
    logits, allowed = case.logits(2), case.allowed
    rules = case.build(1_000)
    choice, conditional = rules.draw(logits.expand(40, 1_000, *case.shape), generator_from(0))
    place = numbers(choice.flatten(0, 1), allowed)
    assert int(place.min()) >= 0
    p = case.log_law(logits).exp()
    assert frequency_z(place, p) < 5
    assert torch.equal(conditional, rules.conditional(logits.expand(40, 1_000, *case.shape), choice))
    # The law without rules, on the condition of an allowed choice, is another one.
    independent = torch.log_softmax(logits, dim=-1)[torch.arange(case.shape[0]), allowed].sum(dim=-1)
    assert frequency_z(place, torch.softmax(independent, dim=0)) > 5


def test_draws_without_looking_ahead_would_be_caught() -> None:
    # Item 0 in the first slot leaves nothing to the second.
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    logits = torch.zeros(1_000, 2, 3)
    choice, conditional = Greedy(mask).draw(logits, generator_from(0))
    stuck = choice[:, 0] == 0
    assert 400 < int(stuck.sum()) < 600
    assert bool((conditional[stuck, 1] == -torch.inf).all())


@every_case
def test_the_mode_is_allowed(case: RuleCase) -> None:
    for spread in (0.1, 1.0, 30.0):
        logits = spread * torch.randn(3, 500, *case.shape, generator=generator_from(0))
        assert int(numbers(case.build(500).mode(logits).flatten(0, 1), case.allowed).min()) >= 0


def test_the_mode_of_a_table_is_its_most_probable_row() -> None:
    logits = torch.randn(200, 3, 4, generator=generator_from(0))
    log_p = torch.log_softmax(logits, dim=-1)
    sums = torch.stack([log_p[:, torch.arange(3), row].sum(dim=-1) for row in ROWS], dim=1)
    best = ROWS[sums.argmax(dim=1)]
    assert torch.equal(CASES[3].build(200).mode(logits), best)
    # Filling the most confident slot first, as other rules do, misses some of them.
    greedy = Rules.mode(CASES[3].build(200), logits)
    assert 0.5 < float((greedy == best).all(dim=1).double().mean()) < 1


def test_the_mode_fills_the_most_confident_slot_first() -> None:
    # Both slots want item 0, the second more: the first one gets its second best.
    logits = torch.tensor([[[3.0, 1.0, 2.0], [9.0, 1.0, 2.0]]])
    rules = DISTINCT.build(1)
    wide = torch.nn.functional.pad(logits, (0, 1, 0, 1), value=-5.0)
    assert rules.mode(wide)[0, :2].tolist() == [2, 0]
    assert wide.argmax(dim=-1)[0, :2].tolist() == [0, 0]


@every_case
def test_what_is_allowed_is_repaired_to_itself(case: RuleCase) -> None:
    allowed, choices = case.allowed, all_choices(*case.shape)
    kept = case.build(len(allowed)).repaired(allowed, case.shape[1], generator_from(0))
    assert torch.equal(kept, allowed)
    repaired = case.build(len(choices)).repaired(choices, case.shape[1], generator_from(0))
    assert int(numbers(repaired, allowed).min()) >= 0
    # The items up to the first that is not open stay.
    firsts = torch.tensor([choice in allowed[:, 0].tolist() for choice in choices[:, 0].tolist()])
    assert torch.equal(repaired[firsts, 0], choices[firsts, 0])


def test_every_request_keeps_its_own_list() -> None:
    listed = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1]]).bool()
    rules = TableRules(PrefixIndex(ROWS, listed, 4), torch.tensor([0, 1]), None)
    choice, _ = rules.draw(torch.zeros(500, 2, 3, 4), generator_from(0))
    for request in range(2):
        assert set(numbers(choice[:, request], ROWS).tolist()) == set(listed[request].nonzero().flatten().tolist())


@given(case=rule_cases, seed=st.integers(0, 999), spread=st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=75, deadline=None)
def test_random_rules_have_the_law_of_enumeration(case: RuleCase, seed: int, spread: float) -> None:
    allowed, logits = case.allowed, case.logits(seed, spread)
    rules = case.build(len(allowed))
    rows = logits.expand(len(allowed), *case.shape).contiguous()
    conditional = rules.conditional(rows, allowed)
    log_p = torch.log_softmax(conditional, dim=-1).gather(-1, allowed.unsqueeze(-1)).sum(dim=(-1, -2))
    expected = case.log_law(logits)
    assert float((log_p - expected).abs().max()) < 1e-9 * max(1.0, float(expected.abs().max()))
    many = rows.expand(20, *rows.shape)
    for choice in (rules.draw(many, generator_from(seed))[0], rules.mode(many)):
        assert int(numbers(choice.flatten(0, 1), allowed).min()) >= 0
