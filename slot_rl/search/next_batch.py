"""The next batch of rows to measure: those whose upper confidence bound over an ensemble of several kinds is highest.

The bound of a row is the members' mean plus ``beta`` times their spread, so that a batch holds rows that are good for
sure beside rows that may be. All combinations of categories are scored where they are not too many. Otherwise a local
search keeps the rows with the highest bounds, changes one category of each at random, and scores again.

Upper confidence bounds: Srinivas, Krause, Kakade, Seeger, "Gaussian Process Optimization in the Bandit Setting: No
Regret and Experimental Design" (2010).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from slot_rl.estimators.fitting import swapped_rows
from slot_rl.estimators.mixed_members import MemberFit, MixedMembers, fit_members, rows_of_cells
from slot_rl.estimators.product_gp import MOST_GRID_CELLS, grid_cells

KEPT, SWEEPS = 250, 8
"""Rows that a local search keeps at least, and how often it changes them."""


@dataclass(frozen=True)
class MeasuredRows:
    """What is known.

    Attributes:
        rows: Categories of different rows, ``(rows, columns)``, contexts first.
        score: Their scores, ``(rows,)``; NaN where the measurement failed.
    """

    rows: Tensor
    score: Tensor


@dataclass(frozen=True)
class Candidates:
    """The rows that may be measured.

    Attributes:
        sizes: Categories of each column, contexts first.
        contexts: Long tensor of the contexts that are asked about, ``(contexts, context columns)``; of one row without
            columns where there are none.
        rows: The candidates ``(candidates, columns)``; None for all combinations of features in each context.
    """

    sizes: tuple[int, ...]
    contexts: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class RowBatch:
    """Rows to measure, and what the members say of them.

    Attributes:
        rows: ``(rows, columns)``, all different, none measured before; contexts take turns.
        mean: The members' mean, ``(rows,)``; NaN where nothing can be said yet.
        spread: Their standard deviation, ``(rows,)``.
    """

    rows: Tensor
    mean: Tensor
    spread: Tensor


def next_batch(
    measured: MeasuredRows,
    candidates: Candidates,
    count: int,
    generator: torch.Generator,
    beta: float = 2.0,
    fit: MemberFit | None = None,
    report: Callable[[int], None] = lambda step: None,
) -> RowBatch:
    """Proposes rows to measure; random ones as long as there are no two different scores to learn from.

    Args:
        measured: What is known.
        candidates: What may be measured.
        count: How many rows; fewer come back if there are no more.
        generator: Source of all randomness.
        beta: Weight of the spread.
        fit: How many members, and how they are fitted.
        report: Called with the number of each step of the fit.

    Raises:
        ValueError: If no row is asked for, or beta is negative or not finite.
    """
    if count < 1:
        raise ValueError(f"expected a batch of at least 1 row, got {count}")
    if not 0 <= beta < torch.inf:
        raise ValueError(f"expected a finite beta >= 0, got {beta}")
    known = ~measured.score.isnan()
    rows, score = measured.rows[known], measured.score[known]
    members = None
    if len(score.unique()) > 1:
        members = fit_members(rows, score, candidates.sizes, fit or MemberFit(), generator, report)
    if prod(candidates.sizes) <= MOST_GRID_CELLS:
        return _of_all(members, measured, candidates, count, generator, beta)
    if candidates.rows is None:
        pool = _searched(members, measured, candidates, count, generator, beta)
    else:
        pool = _unmeasured(candidates.rows, measured)
    return _best_of(pool, _said(members, pool, generator), candidates, count, beta)


def _of_all(
    members: MixedMembers | None,
    measured: MeasuredRows,
    candidates: Candidates,
    count: int,
    generator: torch.Generator,
    beta: float,
) -> RowBatch:
    """Proposes by the scores of all combinations."""
    places = _free_cells(measured, candidates)
    cells = prod(candidates.sizes)
    said = _random(cells, generator) if members is None else _mean_and_spread(members.everywhere(generator))
    features = prod(candidates.sizes[candidates.contexts.shape[1] :])
    chosen = places[in_turns(_bound(said, beta)[places], places // features, count)]
    # Only now are rows made of places: there may be millions.
    return _batch(rows_of_cells(chosen, candidates.sizes), tuple(part[chosen] for part in said))


def _free_cells(measured: MeasuredRows, candidates: Candidates) -> Tensor:
    """Returns the places of the rows that may be measured, and were not, among all combinations."""
    sizes, contexts = candidates.sizes, candidates.contexts.shape[1]
    free = torch.zeros(prod(sizes), dtype=torch.bool)
    if candidates.rows is None:
        free.view(-1, prod(sizes[contexts:]))[grid_cells(candidates.contexts, sizes[:contexts])] = True
    else:
        free[grid_cells(candidates.rows, sizes)] = True
    free[grid_cells(measured.rows, sizes)] = False
    return free.nonzero().squeeze(1)


def _best_of(pool: Tensor, said: tuple[Tensor, ...], candidates: Candidates, count: int, beta: float) -> RowBatch:
    contexts = candidates.contexts.shape[1]
    group = grid_cells(pool[:, :contexts], candidates.sizes[:contexts])
    chosen = in_turns(_bound(said, beta), group, count)
    return _batch(pool[chosen], tuple(part[chosen] for part in said))


def _searched(
    members: MixedMembers | None,
    measured: MeasuredRows,
    candidates: Candidates,
    count: int,
    generator: torch.Generator,
    beta: float,
) -> Tensor:
    """Returns rows with high bounds, none measured before, found by local search from random and from good rows."""
    contexts, sizes = candidates.contexts.shape[1], candidates.sizes
    kept = max(KEPT, count)
    good = measured.score.nan_to_num(-torch.inf).argsort(descending=True, stable=True)[:kept]
    # Good rows of any context, in the contexts that are asked about.
    contexts_asked = _random_rows(candidates, len(good), generator)[:, :contexts]
    good_rows = torch.cat([contexts_asked, measured.rows[good, contexts:]], dim=1)
    parents = torch.cat([good_rows, _random_rows(candidates, 2 * kept, generator)])
    if members is None:
        return _unmeasured(parents, measured)
    for _ in range(SWEEPS):
        children = parents.repeat(2, 1)
        children[:, contexts:] = swapped_rows(children[:, contexts:], sizes[contexts:], generator)
        pool = _unmeasured(torch.cat([parents, children, _random_rows(candidates, kept, generator)]), measured)
        bound = _bound(_said(members, pool, generator), beta)
        parents = pool[in_turns(bound, grid_cells(pool[:, :contexts], sizes[:contexts]), kept)]
    return parents


def in_turns(value: Tensor, group: Tensor, count: int) -> Tensor:
    """Returns the places of the highest values; groups take turns, so that each has its share.

    Args:
        value: ``(rows,)``.
        group: Each row's group, ``(rows,)``.
        count: How many places; fewer come back if there are no more.
    """
    order = value.argsort(descending=True, stable=True)
    if len(group) == 0 or bool((group == group[0]).all()):
        return order[:count]
    by_group = order[group[order].argsort(stable=True)]
    counts = torch.unique_consecutive(group[by_group], return_counts=True)[1]
    turn = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return by_group[turn.argsort(stable=True)][:count]


def _unmeasured(rows: Tensor, measured: MeasuredRows) -> Tensor:
    """Returns the different rows of which none was measured, in their order."""
    seen = set(map(tuple, measured.rows.tolist()))
    # The keys of a dictionary are a set that keeps its order.
    fresh = [row for row in dict.fromkeys(map(tuple, rows.tolist())) if row not in seen]
    return torch.tensor(fresh, dtype=torch.long).view(-1, rows.shape[1])


def _random_rows(candidates: Candidates, count: int, generator: torch.Generator) -> Tensor:
    contexts = candidates.contexts[torch.randint(len(candidates.contexts), (count,), generator=generator)]
    features = [torch.randint(size, (count, 1), generator=generator) for size in candidates.sizes[contexts.shape[1] :]]
    return torch.cat([contexts, *features], dim=1)


def _said(members: MixedMembers | None, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Returns the members' mean and spread of each row; without members, what makes a random row the best one."""
    if members is None or len(rows) == 0:
        return _random(len(rows), generator)
    return _mean_and_spread(members.at(rows, generator))


def _mean_and_spread(scores: Tensor) -> tuple[Tensor, ...]:
    return scores.mean(dim=0), scores.std(dim=0)


def _random(rows: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return torch.full((rows,), torch.nan), torch.rand(rows, generator=generator)


def _bound(said: Sequence[Tensor], beta: float) -> Tensor:
    mean, spread = said
    return spread if bool(mean.isnan().all()) else mean + beta * spread


def _batch(rows: Tensor, said: Sequence[Tensor]) -> RowBatch:
    mean, spread = said
    return RowBatch(rows, mean, spread.masked_fill(mean.isnan(), torch.nan))
