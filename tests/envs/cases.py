"""Problems with constraints, and their allowed answers by trying each one, for the tests of environments."""

from collections.abc import Callable
from itertools import product

import torch

from slot_rl.estimators import EstimatorShape
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem, check_choice, make_problem
from slot_rl.problems.constraints import AtMost, Constraint, Distinct, Feasible, Fixed, NotTogether
from tests.helpers.rugged import Watched, row_problem, rugged_net

SLOTS = "SlotRL/Slots-v0"


def distinct_slots() -> Problem:
    """Slots-v0, no item twice."""
    return make_problem(SLOTS).with_constraints([Distinct()])


def one_request(*constraints: Constraint, slots: int = 3, items: int = 4, seed: int = 0) -> SlotProblem:
    """A problem whose requests are all the same, so that several faces of it can be compared step by step."""
    pool = torch.randn(items, 2, generator=torch.Generator().manual_seed(seed))
    net = rugged_net(EstimatorShape(slots, 2, (16,)), seed)
    return SlotProblem(net, slots, pool=pool, constraints=constraints)


def rows() -> RowProblem:
    """Slots of 2, 5 and 3 items, without constraints: the padding is all that is closed."""
    return row_problem()


def constrained_rows() -> RowProblem:
    """The same with a fixed item and a pair that excludes itself."""
    return row_problem().with_constraints([Fixed({0: 1}), NotTogether([((1, 4), (2, 0)), ((1, 0), (2, 1))])])


def only_even(choice: torch.Tensor) -> torch.Tensor:
    """Allows answers whose items' numbers sum to an even number."""
    return choice.sum(dim=-1) % 2 == 0


def masked() -> Problem:
    """Lists of 3 to 5 items for 3 slots, no item twice; it raises where it is asked about what is not allowed."""
    return Watched(rugged_net(EstimatorShape(3, 2, (16,)), 0), 3, 5, 2, fewest_items=3, constraints=[Distinct()])


KINDS: dict[str, Callable[[], Problem]] = {
    "free": lambda: one_request(),
    "distinct": lambda: one_request(Distinct()),
    "fixed": lambda: one_request(Distinct(), Fixed({2: 1})),
    "quota": lambda: one_request(AtMost(1, of=torch.tensor([0, 0, 1, 2]))),
    "predicate": lambda: one_request(Feasible(only_even)),
    "rows": rows,
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
