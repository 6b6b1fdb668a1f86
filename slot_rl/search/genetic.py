"""A genetic algorithm: rows are bred from the better ones of a population, and no gradient is needed.

Each request has a population of its own, at first random. A generation breeds half as many children: two parents, each
the winner of a tournament; every slot from either of them; then mutation, of one slot at least, for a child that is its
parent again would waste its call. The best of old and new rows live on, so that the best row is never lost, and a child
that is in the population already takes no place. Under constraints a child keeps each slot's item where it is open,
given the slots before it, and gets another one where it is not.

The settings were chosen on 128 requests of ``Slots-v0`` and ``SlotsLarge-v0`` at 31, 200 and 800 calls. Small
populations won on the large problem and larger ones on the small problem, where few calls suffice and what remains is
to leave a local optimum; half the root of the calls lies between them. Replacing the whole population but for the best
row ended lower on the large problem.

Holland, "Adaptation in Natural and Artificial Systems" (1975). Uniform crossover is Syswerda's (1989), tournaments are
Goldberg and Deb's (1991), and the survival of the best of parents and children is Eshelman's (1991).
"""

from dataclasses import dataclass
from math import inf, isqrt

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.observation import Observation
from slot_rl.search.base import SearchResult, allowed_items, check_calls, random_choice

FEWEST_ROWS, MOST_ROWS = 4, 32


def population_for(calls: int) -> int:
    """Returns the size of the population that suits a number of calls."""
    return min(MOST_ROWS, max(FEWEST_ROWS, isqrt(calls) // 2))


def check_breeding(population: int | None, tournament: int, mutations: float) -> None:
    """Refuses settings that no population could live with.

    Raises:
        ValueError: If the population or the tournament is empty, or the mutations are negative or infinite.
    """
    if population is not None and population < 1:
        raise ValueError(f"expected population >= 1, got {population}")
    if tournament < 1 or not 0 <= mutations < inf:
        raise ValueError(f"expected tournament >= 1 and mutations >= 0, got {tournament} and {mutations}")


def genetic_search(
    problem: Problem,
    observation: Observation,
    calls: int,
    generator: torch.Generator,
    population: int | None = None,
    tournament: int = 3,
    mutations: float = 1.0,
) -> SearchResult:
    """Searches by breeding.

    Args:
        problem: The problem; its estimator needs no gradient.
        observation: The requests.
        calls: Forwards a row, exactly; the last generation is cut short.
        generator: Source of everything random.
        population: Rows that live at once; :func:`population_for` the calls if None.
        tournament: Rows that compete to be a parent.
        mutations: Slots of a child that mutate, on average; if none does, one is made to.

    Returns:
        The best configuration of each row.

    Raises:
        ValueError: If there is no call to spend, or the settings are of no use.
    """
    check_calls(calls)
    check_breeding(population, tournament, mutations)
    size = min(calls, population_for(calls) if population is None else population)
    rules, items = problem.rules(observation), _Items.of(allowed_items(problem, observation))
    rows = torch.stack([random_choice(problem, observation, generator) for _ in range(size)], dim=1)
    scores, left = _score(problem, observation, rows), calls - size
    while left > 0:
        children = _children(rows, scores, min(left, max(1, size // 2)), tournament, generator)
        children = _mutated(children, items, mutations, generator)
        if rules is not None:
            children = rules.repaired(children.transpose(0, 1), problem.items, generator).transpose(0, 1)
        left -= children.shape[1]
        scores = torch.cat([scores, _score(problem, observation, children)], dim=1)
        rows, scores = _survivors(torch.cat([rows, children], dim=1), scores, size)
    best = scores.argmax(dim=1)
    batch = torch.arange(len(best))
    return SearchResult(rows[batch, best], scores[batch, best])


@dataclass(frozen=True)
class _Items:
    """The items of each slot, numbered again so that the allowed ones come first; all ``(batch, slots, items)``.

    Attributes:
        order: The items in their new order.
        rank: Each allowed item's new number.
        others: How many other items an allowed item could mutate to, ``(batch, 1, slots)``.
    """

    order: Tensor
    rank: Tensor
    others: Tensor

    @classmethod
    def of(cls, allowed: Tensor) -> "_Items":
        """Numbers the items."""
        order = allowed.int().argsort(dim=-1, descending=True, stable=True)
        return cls(order, allowed.cumsum(dim=-1) - 1, allowed.sum(dim=-1).unsqueeze(1) - 1)

    def drawn_beside(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Draws another allowed item for each slot of rows ``(batch, rows, slots)``; the same one if it is alone."""
        uniform = torch.rand(rows.shape, generator=generator)
        number = (uniform * self.others).long()
        here = self.rank.gather(2, rows.transpose(1, 2)).transpose(1, 2)
        number = torch.where(self.others > 0, number + (number >= here), here)
        return self.order.gather(2, number.transpose(1, 2)).transpose(1, 2)


def _score(problem: Problem, observation: Observation, rows: Tensor) -> Tensor:
    """Scores rows ``(batch, rows, slots)``: ``(batch, rows)``."""
    return problem.score(observation, rows.transpose(0, 1)).T


def _children(rows: Tensor, scores: Tensor, brood: int, tournament: int, generator: torch.Generator) -> Tensor:
    """Crosses the winners of tournaments: ``(batch, brood, slots)``."""
    entrants = torch.randint(rows.shape[1], (2, len(rows), brood, tournament), generator=generator)
    entered = scores[:, None].expand(-1, brood, -1).expand(2, -1, -1, -1).gather(3, entrants)
    parents = entrants.gather(3, entered.argmax(dim=3, keepdim=True))
    first, second = (rows.gather(1, parent.expand(-1, -1, rows.shape[2])) for parent in parents)
    return torch.where(torch.rand(first.shape, generator=generator) < 0.5, first, second)


def _mutated(rows: Tensor, items: _Items, mutations: float, generator: torch.Generator) -> Tensor:
    """Puts other allowed items into some slots of each row, into one at least where there is another item."""
    variable = items.others > 0
    changed = (torch.rand(rows.shape, generator=generator) < mutations / rows.shape[2]) & variable
    one = torch.rand(rows.shape, generator=generator).masked_fill(~variable, -1).argmax(dim=2, keepdim=True)
    changed = torch.where(changed.any(dim=2, keepdim=True), changed, changed.scatter(2, one, True))
    return torch.where(changed, items.drawn_beside(rows, generator), rows)


def _survivors(rows: Tensor, scores: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns the best rows and their scores; a row that stands there twice counts once, unless there are too few."""
    same = torch.ones(*scores.shape, scores.shape[1], dtype=torch.bool)
    # Slot by slot, so that memory does not grow with the slots.
    for slot in rows.unbind(dim=2):
        same &= slot.unsqueeze(2) == slot.unsqueeze(1)
    repeated = same.tril(diagonal=-1).any(dim=2)
    alive = scores.masked_fill(repeated, -torch.inf).topk(size, dim=1).indices
    return rows.gather(1, alive.unsqueeze(2).expand(-1, -1, rows.shape[2])), scores.gather(1, alive)
