"""Problems with constraints that are small enough to enumerate, and what they allow."""

import torch
from torch import Tensor

from slot_rl.problems import Observation, Problem, SlotProblem
from slot_rl.problems.constraints import AtMost, Constraint, Distinct, Feasible
from slot_rl.seeding import generator_from
from tests.helpers.logged_table import row_problem

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
    return row_problem().with_constraints([Feasible(sums_to_four)])


def forbidden(problem: Problem, observation: Observation, choice: Tensor) -> int:
    """How many choices are masked or break a constraint, by their definition and not by any rules."""
    mask = problem.mask(observation)
    masked = torch.zeros(choice.shape[:-1], dtype=torch.bool)
    if mask is not None:
        wide = mask.expand(len(observation), problem.slots, problem.items).expand(*choice.shape, -1)
        masked = ~wide.gather(-1, choice.unsqueeze(-1)).squeeze(-1).all(dim=-1)
    assert problem.constraints is not None
    return int((masked | (problem.constraints.first_broken(observation, choice)[0] >= 0)).sum())
