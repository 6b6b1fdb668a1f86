"""The next batch of rows to measure: the members of an ensemble of several kinds take turns to name their best row.

A draw of a Gaussian process is a guess of the truth that agrees with what was measured, and so is a fitted network. A
batch holds rows that are the best under different guesses: good ones for sure, beside ones that may be. Kinds of
members have equal shares of a batch, and so have contexts.

All combinations of categories are scored where they are not too many. Otherwise a local search keeps the rows that
members name, changes one category of each at random, and asks again.

Thompson, "On the Likelihood that One Unknown Probability Exceeds Another in View of the Evidence of Two Samples"
(1933); in batches, Hernandez-Lobato, Requeima, Pyzer-Knapp, Aspuru-Guzik, "Parallel and Distributed Thompson Sampling
for Large-scale Accelerated Exploration of Chemical Space" (2017).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from slot_rl.estimators.fitting import swapped_rows
from slot_rl.estimators.grid_kernel import grid_cells, rows_of_cells
from slot_rl.estimators.mixed_members import MemberFit, MixedMembers, fit_members

MOST_ENUMERATED = 1_000_000
"""Combinations of categories up to which all of them are scored."""
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
        rows: ``(rows, columns)``, all different, none measured before, in the order in which they were named.
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
    fit: MemberFit | None = None,
    report: Callable[[int], None] = lambda step: None,
) -> RowBatch:
    """Proposes rows to measure; random ones as long as there are no two different scores to learn from.

    Args:
        measured: What is known.
        candidates: What may be measured.
        count: How many rows; fewer come back if there are no more.
        generator: Source of all randomness.
        fit: How many members, and how they are fitted.
        report: Called with the number of each step of the fit.

    Raises:
        ValueError: If no row is asked for.
    """
    if count < 1:
        raise ValueError(f"expected a batch of at least 1 row, got {count}")
    known = ~measured.score.isnan()
    rows, score = measured.rows[known], measured.score[known]
    members: MixedMembers | None = None
    if len(score.unique()) > 1:
        members = fit_members(rows, score, candidates.sizes, fit or MemberFit(), generator, report)
    if prod(candidates.sizes) <= MOST_ENUMERATED:
        places = _free_cells(measured, candidates)
        scores = members.everywhere(generator)[:, places] if members else _random(len(places), generator)
        context = places // prod(candidates.sizes[candidates.contexts.shape[1] :])
        chosen = named_in_turns(scores, members.kinds if members else (1,), context, count, len(measured.rows))
        # Only these become rows: there may be a million places.
        return _batch(rows_of_cells(places[chosen], candidates.sizes), scores[:, chosen], members)
    if candidates.rows is None:
        pool = _searched(members, measured, candidates, count, generator)
    else:
        pool = _unmeasured(candidates.rows, measured)
    return _named(pool, members, candidates, count, generator, len(measured.rows))


def named_in_turns(scores: Tensor, kinds: Sequence[int], group: Tensor, count: int, first: int = 0) -> Tensor:
    """Returns the places that members name: each in its turn its best row that was not named before.

    Groups of rows take turns; within each, kinds of members do, and within each kind its members. Each group begins
    with another kind, so that all kinds are asked where a group's share is a single row.

    Args:
        scores: ``(members, rows)``.
        kinds: How many members of each kind there are, in the order of the scores.
        group: Each row's group, ``(rows,)``.
        count: How many places; fewer come back if there are no more.
        first: Number of the kind that begins, modulo the number of kinds.
    """
    parts = [(group == each).nonzero().squeeze(1) for each in group.unique()]
    queues = [(part, _best_in_turns(scores[:, part], kinds, first + at)) for at, part in enumerate(parts)]
    named: list[Tensor] = []
    while queues and len(named) < count:
        part, queue = queues.pop(0)
        place = next(queue, None)
        if place is not None:
            named.append(part[place])
            queues.append((part, queue))
    return torch.stack(named) if named else torch.zeros(0, dtype=torch.long)


def _best_in_turns(scores: Tensor, kinds: Sequence[int], beginning: int) -> Iterator[int]:
    """Yields all places, the next one by the next kind's next member."""
    free = torch.ones(scores.shape[1], dtype=torch.bool)
    first = [sum(kinds[:kind]) for kind in range(len(kinds))]
    for turn in range(scores.shape[1]):
        kind = (beginning + turn) % len(kinds)
        member = first[kind] + turn // len(kinds) % kinds[kind]
        place = int(scores[member].masked_fill(~free, -torch.inf).argmax())
        free[place] = False
        yield place


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


def _searched(
    members: MixedMembers | None,
    measured: MeasuredRows,
    candidates: Candidates,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Returns rows that members name, none measured before, found by local search from random and from good rows."""
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
        parents = _named(pool, members, candidates, kept, generator).rows
    return parents


def _named(
    pool: Tensor,
    members: MixedMembers | None,
    candidates: Candidates,
    count: int,
    generator: torch.Generator,
    first: int = 0,
) -> RowBatch:
    """Proposes from a pool of rows."""
    contexts = candidates.contexts.shape[1]
    group = grid_cells(pool[:, :contexts], candidates.sizes[:contexts])
    scores = members.at(pool, generator) if members and len(pool) else _random(len(pool), generator)
    chosen = named_in_turns(scores, members.kinds if members else (1,), group, count, first)
    return _batch(pool[chosen], scores[:, chosen], members)


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


def _random(rows: int, generator: torch.Generator) -> Tensor:
    """Returns what a member says that knows nothing, ``(1, rows)``: its best row is a random one."""
    return torch.rand(1, rows, generator=generator)


def _batch(rows: Tensor, scores: Tensor, members: MixedMembers | None) -> RowBatch:
    if members is None or len(rows) == 0:
        return RowBatch(rows, torch.full((len(rows),), torch.nan), torch.full((len(rows),), torch.nan))
    return RowBatch(rows, scores.mean(dim=0), scores.std(dim=0))
