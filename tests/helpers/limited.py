"""Problems with constraints that are small enough to enumerate, and what they allow by its definition."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from slot_rl.estimators import EstimatorShape
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem, check_choice, make_problem
from slot_rl.problems.constraints import AtMost, Constraint, Distinct, Feasible, Fixed, NotTogether
from slot_rl.seeding import generator_from
from tests.helpers import logged_table
from tests.helpers.rugged import Watched, row_problem, rugged_net

GROUPS = [number % 5 for number in range(12)]


def pages(constraints: tuple[Constraint, ...] = (Distinct(), AtMost(1, "group"))) -> SlotProblem:
    """Four to six of twelve items for three slots, no item twice and no two of a group."""
    pool, weights = torch.randn(12, 3, generator=generator_from(0)), torch.randn(3, generator=generator_from(1))

    def score(items: Tensor) -> Tensor:
        return (items @ weights).sum(dim=-1) + 0.3 * items.sum(dim=(-1, -2)).sin()

    return SlotProblem(
        score, 3, 6, fewest_items=4, pool=pool, item_labels={"group": GROUPS}, constraints=constraints, name="pages"
    )


def sums_to_four(rows: Tensor) -> Tensor:
    return rows.sum(dim=1) == 4


def limited_rows() -> Problem:
    """Rows of a table whose item numbers have the sum 4: a slot's item follows from the others."""
    return logged_table.row_problem().with_constraints([Feasible(sums_to_four)])


SLOTS = "SlotRL/Slots-v0"


def distinct_slots() -> Problem:
    """Slots-v0, no item twice."""
    return make_problem(SLOTS).with_constraints([Distinct()])


def one_request(*constraints: Constraint, slots: int = 3, items: int = 4, seed: int = 0) -> SlotProblem:
    """A problem whose requests are all the same, so that several faces of it can be compared step by step."""
    pool = torch.randn(items, 2, generator=generator_from(seed))
    net = rugged_net(EstimatorShape(slots, 2, (16,)), seed)
    return SlotProblem(net, slots, pool=pool, constraints=constraints)


def constrained_rows() -> RowProblem:
    """Slots of 2, 5 and 3 items, with a fixed item and a pair that excludes itself."""
    return row_problem().with_constraints([Fixed({0: 1}), NotTogether([((1, 4), (2, 0)), ((1, 0), (2, 1))])])


def only_even(choice: Tensor) -> Tensor:
    """Allows answers whose items' numbers sum to an even number."""
    return choice.sum(dim=-1) % 2 == 0


def masked() -> Problem:
    """Lists of 3 to 5 items for 3 slots, no item twice; it raises where it is asked about what is not allowed."""
    return Watched(rugged_net(EstimatorShape(3, 2, (16,)), 0), 3, 5, 2, fewest_items=3, constraints=[Distinct()])


KINDS: dict[str, Callable[[], Problem]] = {
    "free": one_request,
    "distinct": lambda: one_request(Distinct()),
    "fixed": lambda: one_request(Distinct(), Fixed({2: 1})),
    "quota": lambda: one_request(AtMost(1, of=torch.tensor([0, 0, 1, 2]))),
    "predicate": lambda: one_request(Feasible(only_even)),
    "rows": row_problem,  # the padding is all that is closed
    "constrained rows": constrained_rows,
    "masked": masked,
}


def allowed_answers(problem: Problem, observation: Observation) -> list[tuple[int, ...]]:
    """Returns the answers to a single request that :func:`check_choice` lets pass, by trying all."""
    found = []
    for row in product(*map(range, problem.sizes)):
        try:
            check_choice(problem, observation, torch.tensor([row]))
        except ValueError:
            continue
        found.append(row)
    return found


def forbidden(problem: Problem, observation: Observation, choice: Tensor) -> int:
    """How many choices are masked or break a constraint, by their definition and not by any rules."""
    mask = problem.mask(observation)
    masked = torch.zeros(choice.shape[:-1], dtype=torch.bool)
    if mask is not None:
        wide = mask.expand(len(observation), problem.slots, problem.items).expand(*choice.shape, -1)
        masked = ~wide.gather(-1, choice.unsqueeze(-1)).squeeze(-1).all(dim=-1)
    assert problem.constraints is not None
    return int((masked | (problem.constraints.first_broken(observation, choice) >= 0)).sum())
