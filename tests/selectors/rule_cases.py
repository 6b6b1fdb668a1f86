"""Shared by the tests of rules: small rules of every engine, and the law of draws under them by enumeration.

What is allowed is decided here choice by choice, in Python, and the law is computed from the list of allowed choices.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.problems.constraints.counting import CountingRules, Quota
from slot_rl.problems.constraints.tables import PrefixIndex, TableRules
from slot_rl.seeding import generator_from
from slot_rl.selectors import Objective
from slot_rl.selectors.rules import Rules
from tests.helpers.equivalence import all_choices, vertices

Allows = Callable[[list[int]], bool]


@dataclass(frozen=True)
class RuleCase:
    """Rules of three slots of four items unless said otherwise, the same for every request.

    Attributes:
        name: The test's id.
        build: Makes the rules of a batch of requests.
        allows: Whether a choice is allowed.
        shape: Slots and items.
    """

    name: str
    build: Callable[[int], Rules]
    allows: Allows
    shape: tuple[int, int] = field(default=(3, 4))

    def __str__(self) -> str:
        return self.name

    @property
    def allowed(self) -> Tensor:
        """Every allowed choice, ``(choices, slots)``."""
        choices = all_choices(*self.shape)
        return choices[[self.allows(choice) for choice in choices.tolist()]]

    def logits(self, seed: int, spread: float = 1.0) -> Tensor:
        return spread * torch.randn(self.shape, dtype=torch.float64, generator=generator_from(seed))

    def objective(self, seed: int) -> Objective:
        """A network that is no polynomial and whose slots interact; its mean is far from 0."""
        generator, size = generator_from(100 + seed), self.shape[0] * self.shape[1]
        inward = torch.randn(size, 6, dtype=torch.float64, generator=generator)
        outward = 2 * torch.randn(6, dtype=torch.float64, generator=generator)
        return lambda selection: 3 + torch.tanh(selection.flatten(-2) @ inward) @ outward

    def open_by_enumeration(self, choices: Tensor) -> Tensor:
        """What continues the beginning of each choice ``(choices, slots)`` to an allowed one, for every slot."""
        slots, items = self.shape
        known = self.allowed.tolist()
        is_open = torch.zeros(len(choices), slots, items, dtype=torch.bool)
        for row, choice in enumerate(choices.tolist()):
            for slot in range(slots):
                for other in known:
                    if other[:slot] == choice[:slot]:
                        is_open[row, slot, other[slot]] = True
        return is_open

    def log_law(self, logits: Tensor) -> Tensor:
        """Log-probabilities of :attr:`allowed` under logits ``(slots, items)``, differentiable in them."""
        choices = self.allowed
        raised = logits.exp() * self.open_by_enumeration(choices)
        p = raised / raised.sum(dim=-1, keepdim=True)
        return p.gather(-1, choices.unsqueeze(-1)).squeeze(-1).log().sum(dim=-1)

    def true_gradient(self, logits: Tensor, objective: Objective) -> Tensor:
        """The gradient of the expected score, by automatic differentiation of the sum over allowed choices."""
        leaf = logits.clone().requires_grad_()
        expected = (self.log_law(leaf).exp() * objective(vertices(self.allowed, self.shape[1]))).sum()
        (gradient,) = torch.autograd.grad(expected, leaf)
        return gradient


def counting_case(
    name: str, mask: Tensor, distinct: list[int], group: list[int], bounds: list[tuple[int, int]]
) -> RuleCase:
    """Rules by counting: a mask, sets of distinct slots, and a quota of each group of items."""
    least, most = torch.tensor(bounds).T
    quota = Quota(torch.tensor(group).view(1, 1, -1), least, most)

    def build(batch: int) -> Rules:
        return CountingRules(mask.expand(batch, *mask.shape), torch.tensor(distinct), (quota,))

    def allows(choice: list[int]) -> bool:
        held = [(number, item) for number, item in zip(distinct, choice, strict=True) if number >= 0]
        counts = [sum(group[item] == g for item in choice) for g in range(len(bounds))]
        return (
            all(bool(mask[slot, item]) for slot, item in enumerate(choice))
            and len(set(held)) == len(held)
            and all(low <= count <= high for count, (low, high) in zip(counts, bounds, strict=True))
        )

    return RuleCase(name, build, allows, (mask.shape[0], mask.shape[1]))


def table_case(name: str, rows: Tensor, items: int) -> RuleCase:
    """Rules that list different rows ``(rows, slots)``."""
    index = PrefixIndex(rows, torch.ones(1, len(rows), dtype=torch.bool), items)
    known = rows.tolist()
    return RuleCase(
        name,
        lambda batch: TableRules(index, torch.zeros(batch, dtype=torch.long), None),
        lambda choice: choice in known,
        (rows.shape[1], items),
    )


EVERYTHING = torch.ones(3, 4, dtype=torch.bool)
PARTLY = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1]]).bool()
# From [0] three items can follow, from [3, 0] only one, and some swaps of single slots lead nowhere.
ROWS = torch.tensor([[0, 0, 0], [0, 0, 3], [0, 1, 2], [0, 3, 0], [1, 0, 0], [3, 0, 1], [3, 2, 1]])
DISTINCT = counting_case("distinct", EVERYTHING, [0, 0, 0], [0] * 4, [(0, 3)])
CASES = (
    DISTINCT,
    counting_case("quota", EVERYTHING, [-1] * 3, [0, 0, 1, 1], [(0, 3), (1, 1)]),
    counting_case("distinct-quota-masked", PARTLY, [0, 0, 0], [0, 1, 1, 0], [(1, 3), (0, 1)]),
    table_case("table", ROWS, 4),
)
FREE = counting_case("free", EVERYTHING, [-1] * 3, [0] * 4, [(0, 3)])


@st.composite
def counting_cases(draw: st.DrawFn) -> RuleCase:
    """Random rules by counting that allow something."""
    slots, items = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    cells = draw(st.lists(st.booleans(), min_size=slots * items, max_size=slots * items))
    mask = torch.tensor(cells).view(slots, items)
    distinct = draw(st.lists(st.sampled_from([-1, 0, 0, 1]), min_size=slots, max_size=slots))
    group = draw(st.lists(st.integers(0, 1), min_size=items, max_size=items))
    low = [draw(st.integers(0, 1)) for _ in range(2)]
    case = counting_case("random", mask, distinct, group, [(each, draw(st.integers(each, 3))) for each in low])
    assume(len(case.allowed) > 0)
    return case


@st.composite
def table_cases(draw: st.DrawFn) -> RuleCase:
    """Random lists of rows."""
    slots, items = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    choices = all_choices(slots, items)
    listed = draw(st.sets(st.integers(0, len(choices) - 1), min_size=1))
    return table_case("random", choices[sorted(listed)], items)


rule_cases = st.one_of(counting_cases(), table_cases())
