"""Small constrained problems whose allowed configurations are known from a plain sentence about each of them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slot_rl.estimators import EstimatorShape
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem
from slot_rl.problems.constraints import AtLeast, AtMost, Distinct, Feasible
from slot_rl.seeding import generator_from
from tests.helpers.logged_table import row_problem as logged_problem
from tests.helpers.rugged import CheckedRows, CheckedSlots, arbitrary_mask, rugged_net, rugged_row_net

Row = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A problem that refuses to score what is not allowed.

    Attributes:
        problem: The problem.
        free: The same problem without constraints, which scores everything.
        observation: Some requests.
        good: Says of a request's number and a configuration whether it is allowed, masks not counted.
    """

    problem: Problem
    free: Problem
    observation: Observation
    good: Callable[[int, Row], bool]

    @property
    def plain(self) -> Problem:
        """The problem with its constraints, which scores everything."""
        assert self.problem.constraints is not None
        return self.free.with_constraints(self.problem.constraints.constraints)

    def allowed(self, request: int) -> list[Row]:
        """Returns every configuration that a request allows."""
        mask = self.observation.mask
        return [
            row
            for row in itertools.product(*map(range, self.problem.sizes))
            if self.good(request, row)
            and (mask is None or all(bool(mask[request, slot, item]) for slot, item in enumerate(row)))
        ]

    def scores(self, request: int) -> dict[Row, float]:
        """Returns the score of each configuration that a request allows."""
        rows = self.allowed(request)
        found = self.free.score(self.observation[request : request + 1], torch.tensor(rows).unsqueeze(1))
        return dict(zip(rows, found.squeeze(1).tolist(), strict=True))

    def best(self) -> Tensor:
        """Returns the best score of each request, ``(batch,)``."""
        return torch.tensor([max(self.scores(request).values()) for request in range(len(self.observation))])


def different(row: Row) -> bool:
    return len(set(row)) == len(row)


def slots(slots: int, items: int, seed: int, *constraints: Distinct) -> tuple[CheckedSlots, SlotProblem]:
    net = rugged_net(EstimatorShape(slots, 2, (16,)), seed)
    free = SlotProblem(net, slots, items, 2)
    return CheckedSlots(net, slots, items, 2).with_constraints(constraints), free


def distinct(seed: int, batch: int) -> Case:
    problem, free = slots(3, 4, seed, Distinct())
    return Case(problem, free, problem.sample(batch, generator_from(seed)), lambda _, row: different(row))


def permutation(seed: int, batch: int) -> Case:
    problem, free = slots(4, 4, seed, Distinct())
    return Case(problem, free, problem.sample(batch, generator_from(seed)), lambda _, row: different(row))


def some_distinct(seed: int, batch: int) -> Case:
    """Slot 2 may repeat an item, so that not every exchange is allowed."""
    problem, free = slots(3, 3, seed, Distinct([0, 1]))
    return Case(problem, free, problem.sample(batch, generator_from(seed)), lambda _, row: row[0] != row[1])


def masked(seed: int, batch: int) -> Case:
    """Distinct items, and what requests allow differs."""
    problem, free = slots(3, 4, seed, Distinct())
    candidates = problem.sample(batch, generator_from(seed)).candidates
    observation = Observation(candidates, arbitrary_mask(batch, 3, 4, seed))
    assert problem.constraints is not None and observation.mask is not None
    impossible = ~problem.constraints.possible(observation, observation.mask)
    mask = observation.mask | impossible.view(-1, 1, 1)
    return Case(problem, free, replace(observation, mask=mask), lambda _, row: different(row))


def quotas(seed: int, batch: int) -> Case:
    """Of each request's five items, at most one of a group and at least one of the first group."""
    net = rugged_net(EstimatorShape(3, 2, (16,)), seed)
    pool = torch.randn(9, 2, generator=generator_from(seed))
    labels = {"group": list("abcabcabc"), "new": list("yynnnnynn")}
    constraints = [AtMost(1, of="group"), AtLeast(1, of="new", value="y")]
    problem = CheckedSlots(net, 3, items=5, pool=pool, item_labels=labels, constraints=constraints)
    observation = problem.sample(batch, generator_from(seed))
    places = (problem.candidates(observation).unsqueeze(2) == pool).all(dim=3).int().argmax(dim=2).tolist()

    def good(request: int, row: Row) -> bool:
        held = [places[request][item] for item in row]
        return different(tuple(place % 3 for place in held)) and any(place in (0, 1, 6) for place in held)

    return Case(problem, SlotProblem(net, 3, items=5, pool=pool, item_labels=labels), observation, good)


def predicate(seed: int, batch: int, allows: Callable[[Tensor], Tensor], mask: bool = False) -> Case:
    net, contexts = rugged_row_net(seed), torch.arange(4).unsqueeze(-1)
    problem = CheckedRows(net, contexts).with_constraints([Feasible(allows)])
    observation = problem.sample(batch, generator_from(seed))
    if mask:
        # The row of zeros stays allowed.
        own = arbitrary_mask(batch, 3, 5, seed)
        own[:, :, 0] = True
        observation = replace(observation, mask=own)
    return Case(problem, RowProblem(net, contexts), observation, lambda _, row: bool(allows(torch.tensor([row]))))


def parity(seed: int, batch: int) -> Case:
    """Most rows can only be reached by two swaps at once."""
    return predicate(seed, batch, lambda rows: rows.sum(dim=1) % 2 == 0, mask=True)


def constant_sum(seed: int, batch: int) -> Case:
    """No single swap is ever allowed."""
    return predicate(seed, batch, lambda rows: rows.sum(dim=1) == 3)


def by_context(folder: Path, seed: int, batch: int) -> Case:
    """Each of three contexts has its own list of rows, about half of all."""
    free = logged_problem()
    names = [("where", "xyz"), ("a", "klmn"), ("b", "opqr"), ("c", "stu")]
    kept = torch.rand(3, 4, 4, 3, generator=generator_from(seed)) < 0.5
    kept[:, 1, 2, 0] = True
    lines = [
        ",".join(cells[place] for place, (_, cells) in zip(row, names, strict=True)) for row in kept.nonzero().tolist()
    ]
    path = folder / f"allowed_{seed}.csv"
    path.write_text("\n".join(["where,a,b,c", *lines]) + "\n")
    problem = CheckedRows(free._estimator, free.contexts, encoding=free.encoding)  # type: ignore[arg-type]
    problem = problem.with_constraints([Feasible.from_table(path)])
    observation = problem.sample(batch, generator_from(seed))
    assert observation.context is not None
    where = observation.context[:, 0].tolist()
    return Case(problem, free, observation, lambda request, row: bool(kept[(where[request], *row)]))


CASES: dict[str, Callable[[int, int], Case]] = {
    "distinct": distinct,
    "permutation": permutation,
    "some distinct": some_distinct,
    "masked": masked,
    "quotas": quotas,
    "parity": parity,
    "constant sum": constant_sum,
}
NAMES = (*CASES, "by context")
ALIKE = ("distinct", "some distinct", "constant sum")
"""Cases whose engine another case has too: long tests leave them to the slow ones."""
each_case = pytest.mark.parametrize("name", NAMES)
each_engine = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in NAMES]
)


def make_case(name: str, folder: Path, seed: int = 0, batch: int = 6) -> Case:
    return by_context(folder, seed, batch) if name == "by context" else CASES[name](seed, batch)
