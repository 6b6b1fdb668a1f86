"""Both engines name exactly what enumeration allows: never a dead end, every answer reachable, laws that sum to 1."""

from collections import Counter
from collections.abc import Callable
from itertools import product
from unittest import mock

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.problems import Observation
from slot_rl.problems.constraints import (
    AtLeast,
    AtMost,
    Constraint,
    ConstraintSet,
    Distinct,
    Fixed,
    Infeasible,
    ItemSpace,
    NotTogether,
    conjunction,
)
from slot_rl.problems.constraints.counting import CountingRules
from slot_rl.problems.constraints.given import GivenRules
from slot_rl.problems.constraints.tables import TableRules
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import log_prob_of
from slot_rl.selectors.rules import OPEN, Rules
from tests.helpers.equivalence import all_choices
from tests.problems.constraints.random_cases import ConstrainedCase, constrained_cases

LEADING = ((), (2,), (2, 3))
Check = Callable[[ConstrainedCase, Rules, list[Tensor]], None]


def decided(case: ConstrainedCase) -> tuple[ConstraintSet, Rules, list[Tensor]] | None:
    """Returns the rules and what is allowed; None where no engine decides, or nothing is allowed, which is checked."""
    asked, batch = case.requests, len(case.requests)
    try:
        together = ConstraintSet(case.constraints, case.space)
    except Infeasible:
        assert not any(len(case.allowed(request, with_mask=False)) for request in range(batch))
        return None
    allowed = [case.allowed(request) for request in range(batch)]
    possible = together.possible(asked, asked.mask)
    refused = together.impossible(asked, asked.mask)
    undecided = {number for number, expected in refused.items() if expected.startswith("enough items to say")}
    assert {number for number, rows in enumerate(allowed) if not len(rows)} - undecided == set(refused) - undecided
    assert sorted(refused) == (~possible).nonzero().flatten().tolist()
    if refused:
        number = next(iter(refused))
        where = f"request {number} of p" if batch > 1 else "p"
        with pytest.raises(Infeasible) as error:
            together.rules(asked, asked.mask)
        assert str(error.value) == f"expected {refused[number]} in {where}, got none"
        return None
    return together, together.rules(asked, asked.mask), allowed


def check(case: ConstrainedCase, *checks: Check) -> str:
    """Makes the checks, and says how the case ended."""
    with mock.patch.object(conjunction, "MOST_LISTED", case.most_listed):
        try:
            found = decided(case)
        except ValueError:
            return "refused"
    if found is None:
        return "impossible"
    for each in checks:
        each(case, *found[1:])
    return "listed" if isinstance(found[1], TableRules) else "counted"


def check_open_items(case: ConstrainedCase, rules: Rules, allowed: list[Tensor]) -> None:
    """Compares what is open given any slots of an allowed answer, for all slots at once and for each."""
    generator, (slots, items) = generator_from(case.seed), case.size
    for leading in LEADING:
        shape = (*leading, len(allowed))
        some = [rows[torch.randint(len(rows), leading, generator=generator)] for rows in allowed]
        kept = torch.rand(*shape, slots, generator=generator) < torch.rand(*shape, 1, generator=generator) * 1.5
        choice = torch.stack(some, dim=-2).masked_fill(~kept, OPEN)
        is_open = rules.open_items(choice)
        assert is_open.shape == (*shape, slots, items)
        for slot in range(slots):
            assert torch.equal(rules.open_items(choice, slot), is_open[..., slot, :])
        unfilled = rules.open_to_unfilled(choice).expand(is_open.shape)
        rows, found, free = choice.view(-1, len(allowed), slots), is_open.view(-1, len(allowed), slots, items), ~kept
        for sample, request in torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(allowed))).tolist():
            assert torch.equal(found[sample, request], continuations(rows[sample, request], allowed[request], items))
        if bool((choice == OPEN).any(dim=-1).all()):
            assert torch.equal(unfilled[free], is_open[free])


def continuations(choice: Tensor, allowed: Tensor, items: int) -> Tensor:
    """Returns which items of each slot some allowed answer has that agrees with the choice's other slots."""
    found = torch.zeros(len(choice), items, dtype=torch.bool)
    for slot in range(len(choice)):
        others = (choice != OPEN) & (torch.arange(len(choice)) != slot)
        found[slot, allowed[(allowed[:, others] == choice[others]).all(dim=1), slot]] = True
    return found


def check_answers(case: ConstrainedCase, rules: Rules, allowed: list[Tensor]) -> None:
    """Draws, conditions, modes and repairs are allowed answers, and ``allows`` knows them all."""
    generator, (slots, items) = generator_from(case.seed), case.size
    logits = torch.randn(2, len(allowed), slots, items, generator=generator)
    drawn, conditional = rules.draw(logits, generator)
    assert torch.equal(rules.conditional(logits, drawn), conditional)
    assert torch.equal(conditional.isfinite().any(dim=-1), torch.ones(drawn.shape, dtype=torch.bool))
    wanted = torch.randint(items, drawn.shape, generator=generator)
    repaired = rules.repaired(wanted, items, generator)
    mode, every = rules.mode(logits), all_choices(slots, items)
    known = rules.allows(every.unsqueeze(1).expand(-1, len(allowed), -1))
    for request, rows in enumerate(allowed):
        answers = torch.cat([each[:, request] for each in (drawn, mode, repaired)])
        assert {tuple(row) for row in answers.tolist()} <= {tuple(row) for row in rows.tolist()}
        assert torch.equal(every[known[:, request]], rows)
        kept = (rows.unsqueeze(0) == wanted[:, request].unsqueeze(1)).all(dim=-1).any(dim=-1)
        assert torch.equal(repaired[kept, request], wanted[kept, request])
        if isinstance(rules, TableRules):
            best = torch.log_softmax(logits[:, request], dim=-1)[:, torch.arange(slots), rows].sum(dim=-1).amax(dim=1)
            assert torch.allclose(log_prob_of(logits[:, request], mode[:, request]), best)


def check_laws(case: ConstrainedCase, rules: Rules, allowed: list[Tensor]) -> None:
    """Every allowed answer has a positive probability, and all together have 1."""
    slots, items = case.size
    logits = torch.randn(len(allowed), slots, items, dtype=torch.float64, generator=generator_from(case.seed))
    most = max(map(len, allowed))
    # Shorter lists are filled up with their first answer, which is not counted again.
    padded = torch.stack([torch.cat([rows, rows[:1].expand(most - len(rows), -1)]) for rows in allowed], dim=1)
    probability = log_prob_of(rules.conditional(logits.expand(most, -1, -1, -1), padded), padded).exp()
    for request, rows in enumerate(allowed):
        assert bool((probability[: len(rows), request] > 0).all())
        assert float(probability[: len(rows), request].sum()) == pytest.approx(1, abs=1e-9)


ALL: tuple[Check, ...] = (check_open_items, check_answers, check_laws)
FAST = settings(max_examples=120, deadline=None, derandomize=True)
SLOW = settings(max_examples=15_000, deadline=None, derandomize=True)


def test_engines_agree_with_enumeration() -> None:
    ended: Counter[str] = Counter()
    FAST(given(constrained_cases())(lambda case: ended.update([check(case, *ALL)])))()
    # The strategy reaches every ending, and refuses seldom.
    assert min(ended[name] for name in ("listed", "counted", "impossible")) > 10
    assert ended["refused"] < ended.total() / 6


@pytest.mark.slow
@SLOW
@given(constrained_cases())
def test_engines_agree_with_enumeration_at_length(case: ConstrainedCase) -> None:
    check(case, *ALL)


def hand_made() -> list[ConstrainedCase]:
    """Cases where filling slots one by one without looking ahead leads nowhere, or to a forbidden answer."""
    mask = torch.ones(3, 4, dtype=torch.bool)
    short = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]]).bool()
    labels = torch.tensor([[[0, 0], [0, 0], [0, 0], [1, 1]]])
    space = ItemSpace("p", mask, fixed=False, labels={"advertiser": ("a", "b", "c"), "new": ("no", "yes")})
    different = (Distinct(),), (lambda row, labels, context: len(set(row)) == 3,)
    new = (AtLeast(1, "new", "yes"),), (lambda row, labels, context: 3 in row,)
    return [
        ConstrainedCase(space, *different, Observation(mask=short), 0, 0),
        ConstrainedCase(space, *new, Observation(labels=labels), 0, 1),
    ]


@pytest.mark.parametrize("case", hand_made(), ids=["distinct", "quota"])
def test_an_engine_that_does_not_look_ahead_is_found_out(
    case: ConstrainedCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(case, *ALL) == "counted"
    everything = lambda self, rows, places: torch.ones(1, dtype=torch.bool)  # noqa: E731
    monkeypatch.setattr(CountingRules, "_completable", everything)
    for each in ALL:
        with pytest.raises((AssertionError, RuntimeError)):
            for seed in range(20):
                check(ConstrainedCase(**{**vars(case), "seed": seed}), each)


def test_random_cases_find_an_engine_that_does_not_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = lambda self, rows, places: torch.ones(1, dtype=torch.bool)  # noqa: E731
    monkeypatch.setattr(CountingRules, "_completable", everything)
    ended: Counter[str] = Counter()
    quick = settings(FAST, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        quick(given(constrained_cases())(lambda case: ended.update([check(case, check_open_items)])))()


SLOTS, ITEMS = 5, 60
"""60^5 configurations are too many to list."""


def large(*constraints: Constraint) -> ConstraintSet:
    return ConstraintSet(constraints, ItemSpace("p", torch.ones(SLOTS, ITEMS, dtype=torch.bool)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 999), st.booleans(), st.booleans())
def test_pairs_apart_in_long_lists_never_lead_nowhere(seed: int, distinct: bool, masked: bool) -> None:
    generator = generator_from(seed)
    pairs = torch.randint(ITEMS, (12, 2), generator=generator).tolist()
    excluded = [{b for a, b in pairs + [pair[::-1] for pair in pairs] if a == item} for item in range(ITEMS)]
    together = large(NotTogether(pairs), *[Distinct()] * distinct)
    mask = torch.rand(3, 1, ITEMS, generator=generator).expand(-1, SLOTS, -1) < 0.9 if masked else None
    rules = together.rules(Observation(context=torch.zeros(3, 1)), mask)
    assert isinstance(rules, CountingRules)
    order = torch.randperm(SLOTS, generator=generator).tolist()
    choice = torch.full((40, 3, SLOTS), OPEN)
    for slot in order:
        is_open = rules.open_items(choice)
        assert bool(is_open.any(dim=-1).all())
        for sample, request in product(range(40), range(3)):
            held = {item for item in choice[sample, request].tolist() if item != OPEN}
            taken = set().union(*(excluded[item] for item in held)) | (held if distinct else set())
            given = torch.arange(ITEMS) if mask is None else mask[request, 0].nonzero().flatten()
            expected = [item for item in given.tolist() if item not in taken]
            assert is_open[sample, request, slot].nonzero().flatten().tolist() == expected
        choice[..., slot] = torch.multinomial(is_open[..., slot, :].float().flatten(0, 1), 1, generator=generator).view(
            40, 3
        )
    assert bool(rules.allows(choice).all())
    mode, logits = rules.mode, torch.randn(40, 3, SLOTS, ITEMS, generator=generator)
    for answers in (choice, mode(logits), rules.draw(logits, generator)[0]):
        for held in map(set, answers.flatten(0, 1).tolist()):
            assert not any(excluded[item] & held - {item} for item in held)
            assert len(held) == SLOTS or not distinct


def test_an_item_alone_in_its_slot_keeps_its_partners_out() -> None:
    together = large(Fixed({0: 7}), NotTogether([(7, item) for item in range(20, 40)]))
    rules = together.rules(Observation(context=torch.zeros(1, 1)), None)
    assert isinstance(rules, GivenRules)
    is_open = rules.open_items(torch.full((1, SLOTS), OPEN))[0]
    assert is_open[0].nonzero().flatten().tolist() == [7]
    assert all(row.nonzero().flatten().tolist() == [*range(20), *range(40, 60)] for row in is_open[1:])


def test_a_given_item_takes_its_share_of_two_quotas() -> None:
    names = {"of": ("a", "b"), "new": ("0", "1")}
    space = ItemSpace("p", torch.ones(3, 5, dtype=torch.bool), fixed=False, labels=names)
    together = ConstraintSet([Distinct(), Fixed({1: 0}), AtMost(2, "of"), AtLeast(2, "new", "1")], space)
    # Item 0 is old and of a; so the others are new, and one of them at most is of a.
    labels = torch.tensor([[[0, 0], [0, 1], [0, 1], [1, 1], [1, 0]]])
    rules = together.rules(Observation(labels=labels), None)
    assert isinstance(rules, GivenRules)
    allowed = [row for row in product(range(5), repeat=3) if bool(rules.allows(torch.tensor([row])))]
    assert allowed == [(1, 0, 3), (2, 0, 3), (3, 0, 1), (3, 0, 2)]
    # Here item 0 is the only old one of a full group.
    full = torch.tensor([[[0, 0], [0, 1], [0, 1], [0, 1], [0, 0]]])
    with pytest.raises(Infeasible, match="expected a configuration that satisfies"):
        together.rules(Observation(labels=full), None)


def test_too_few_items_for_pairs_apart_are_refused() -> None:
    crowded = NotTogether([(0, item) for item in range(1, 14)])
    with pytest.raises(ValueError, match=r"777,600,000: NotTogether leaves too few items to say without a search"):
        large(crowded, NotTogether([(1, item) for item in range(16, 60)]))
    together = large(crowded)
    mask = torch.ones(2, SLOTS, ITEMS, dtype=torch.bool)
    mask[1, :, 30:] = False
    asked = Observation(context=torch.zeros(2, 1))
    assert bool(together.rules(asked[:1], mask[:1]).open_items(torch.full((1, SLOTS), OPEN)).any())
    refused = f"enough items to say what can be completed under {crowded}"
    assert together.impossible(asked, mask) == {1: refused}
    with pytest.raises(Infeasible) as error:
        together.rules(asked, mask)
    assert str(error.value) == f"expected {refused} in request 1 of p, got none"
