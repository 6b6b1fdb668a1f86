"""The moves of a search guided by a slope: single swaps, and pairs of swaps where rules stop the single ones.

A move is a column of a matrix ``(batch, moves)``. Number ``slot * items + item`` is the swap of a slot to an item. The
pairs come after the swaps. Where rules count, they are the exchanges of two slots' items, without which a permutation
could never change. Where rules list rows, they are the rows that differ from the configuration in two slots, unless
both could be swapped alone. That gives the search a way over gaps in the list. On gpu_dedispersion.csv, with an
estimator that was fitted to a fifth of its 66,780 rows and with 512 random starts, guided search reaches, between a
random row (0) and the best one (1):

    rounds                                      7     15     31
    single swaps alone                       .822   .829   .829
    and all rows that differ in two slots    .976   .986   .989
    unless both could be swapped alone       .982   .989   .993
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from slot_rl.problems.base import Problem
from slot_rl.problems.constraints.tables import TableRules
from slot_rl.problems.observation import Observation
from slot_rl.search.base import allowed_items, is_allowed
from slot_rl.selectors.categorical import one_hot, swap_effects
from slot_rl.selectors.rules import Rules

MOST_PAIRS = 64
"""Listed rows that differ in two slots: the most promising ones are moves of a configuration."""
_CELLS = 20_000_000


@dataclass(frozen=True)
class Together:
    """Several moves at once.

    Attributes:
        rows: The configurations that they lead to, ``(batch, slots)``.
        count: How many moves that took, ``(batch,)``; 0 where none is open, and the configuration stays.
        first: The number of the most promising move, ``(batch,)``.
        gain: Its first-order effect, ``(batch,)``; minus infinity where none is open.
    """

    rows: Tensor
    count: Tensor
    first: Tensor
    gain: Tensor


class Moves:
    """The single swaps from configurations, where every item that is not masked is allowed.

    Attributes:
        effect: First-order effect of each move, ``(batch, moves)``.
        is_open: Which moves are allowed and have not failed, ``(batch, moves)``.
    """

    effect: Tensor
    is_open: Tensor

    def __init__(self, problem: Problem, observation: Observation) -> None:
        """Looks up what the requests allow."""
        self._problem, self._observation = problem, observation
        self._shape, self._swaps = (problem.slots, problem.items), problem.slots * problem.items
        mask = problem.mask(observation)
        self._allowed = torch.ones(1, dtype=torch.bool) if mask is None else mask

    def look(self, choice: Tensor, slope: Tensor, changed: Tensor | None = None) -> None:
        """Looks around configurations.

        Args:
            choice: The configurations, ``(batch, slots)``.
            slope: The score's slope there, ``(batch, slots, items)``.
            changed: Which of them are others than before, ``(batch,)``, so that all their moves are open again; all of
                them if None.
        """
        self._choice = choice
        effect, is_open = self._around(choice, slope, changed)
        self.effect = effect
        self.is_open = is_open if changed is None else torch.where(changed.unsqueeze(1), is_open, self.is_open)

    def best(self, count: int) -> Tensor:
        """Returns the numbers of the most promising open moves, ``(batch, count)``, closed ones where too few are."""
        effect = self.effect.masked_fill(~self.is_open, -torch.inf)
        return effect.topk(min(count, effect.shape[1]), dim=1).indices

    def open_among(self, moves: Tensor) -> Tensor:
        """Returns which of the moves ``(batch, count)`` are open."""
        return self.is_open.gather(1, moves)

    def close(self, moves: Tensor, failed: Tensor) -> None:
        """Closes moves ``(batch, count)`` of the rows ``(batch,)`` that failed, until their configuration changes."""
        self.is_open = self.is_open.scatter(1, moves, self.open_among(moves) & ~failed.unsqueeze(1))

    def together(self, most: Tensor) -> Together:
        """Makes the most promising open moves at once, each in slots of its own.

        All but the first must have a positive effect, and under rules whatever they lead to must be allowed.

        Args:
            most: How many moves each row may make, ``(batch,)``.
        """
        effect = self.effect.masked_fill(~self.is_open, -torch.inf)
        gain, item = effect.unflatten(1, self._shape).max(dim=2)
        order = gain.argsort(dim=1, descending=True)
        rank = order.argsort(dim=1)
        made = (rank < most.unsqueeze(1)) & ((gain > 0) | ((rank == 0) & (gain > -torch.inf)))
        first = order[:, :1]
        number = first * self._problem.items + item.gather(1, first)
        rows = torch.where(made, item, self._choice)
        return Together(rows, made.sum(dim=1), number.squeeze(1), gain.gather(1, first).squeeze(1))

    def rows(self, moves: Tensor) -> Tensor:
        """Returns the configurations that moves ``(batch, count)`` lead to, ``(batch, count, slots)``."""
        return self._swapped(moves.unsqueeze(2))

    def _around(self, choice: Tensor, slope: Tensor, changed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the moves' effects, and which are allowed, at least where configurations have changed."""
        other = one_hot(choice, self._problem.items, slope.dtype) == 0
        return swap_effects(slope, choice).flatten(1), (self._allowed.expand_as(slope) & other).flatten(1)

    def _swapped(self, swaps: Tensor) -> Tensor:
        """Returns the configurations with all of some swaps ``(batch, count, swaps)``."""
        items, rows = self._problem.items, self._choice.unsqueeze(1).expand(-1, swaps.shape[1], -1)
        return rows.scatter(2, swaps // items, swaps % items)


class _RuledMoves(Moves):
    """The allowed single swaps and pairs of swaps; a closed move leads nowhere, so that nothing else is ever scored."""

    def __init__(self, problem: Problem, observation: Observation, rules: Rules) -> None:
        super().__init__(problem, observation)
        self._rules = rules

    def rows(self, moves: Tensor) -> Tensor:
        swapped = self._swapped(self._as_swaps(moves))
        return torch.where(self.open_among(moves).unsqueeze(2), swapped, self._choice.unsqueeze(1))

    def together(self, most: Tensor) -> Together:
        number = self.best(1)
        effect = self.effect.masked_fill(~self.is_open, -torch.inf)
        gain, rows = effect.gather(1, number).squeeze(1), self.rows(number)[:, 0]
        count = (gain > -torch.inf).long()
        for move in self._candidates(effect).unbind(dim=1) if bool((most > 1).any()) else ():
            wanted = (count < most) & (effect.gather(1, move.unsqueeze(1)).squeeze(1) > 0)
            if not bool(wanted.any()):
                break
            swaps = self._as_swaps(move.unsqueeze(1)).squeeze(1)
            slot, item = swaps // self._problem.items, swaps % self._problem.items
            untouched = (rows.gather(1, slot) == self._choice.gather(1, slot)).all(dim=1)
            further = rows.scatter(1, slot, item)
            made = wanted & untouched & is_allowed(self._problem, self._observation, further)
            rows, count = torch.where(made.unsqueeze(1), further, rows), count + made
        return Together(rows, count, number.squeeze(1), gain)

    def _candidates(self, effect: Tensor) -> Tensor:
        """Returns each slot's most promising swap and as many pairs, the best first, ``(batch, moves)``."""
        gain, item = effect[:, : self._swaps].unflatten(1, self._shape).max(dim=2)
        pairs = effect[:, self._swaps :]
        pair_gain, pair = pairs.topk(min(self._problem.slots, pairs.shape[1]), dim=1)
        number = torch.cat([torch.arange(0, self._swaps, self._problem.items) + item, self._swaps + pair], dim=1)
        return number.gather(1, torch.cat([gain, pair_gain], dim=1).argsort(dim=1, descending=True))

    def _as_swaps(self, moves: Tensor) -> Tensor:
        """Returns moves ``(batch, count)`` as two swaps each, a single one twice: ``(batch, count, 2)``."""
        swaps = moves.clamp_max(self._swaps - 1).unsqueeze(2).expand(-1, -1, 2)
        if not self._pairs.shape[1]:
            return swaps
        pairs = self._pairs.gather(1, (moves - self._swaps).clamp_min(0).unsqueeze(2).expand(-1, -1, 2))
        return torch.where((moves < self._swaps).unsqueeze(2), swaps, pairs)

    def _around(self, choice: Tensor, slope: Tensor, changed: Tensor | None) -> tuple[Tensor, Tensor]:
        which = torch.arange(len(choice)) if changed is None else changed.nonzero().squeeze(1)
        effect = swap_effects(slope, choice)
        if changed is None:
            self._start(len(choice))
        if len(which):
            other = one_hot(choice, self._problem.items, torch.bool) == 0
            self._may_swap = (self._rules.open_items(choice) & other).flatten(1)
            self._pairs[which], self._may_pair[which] = self._found(which, choice[which], effect[which].flatten(1))
        effect = effect.flatten(1)
        first, second = (effect.gather(1, swaps) for swaps in self._pairs.unbind(dim=2))
        return torch.cat([effect, first + second], dim=1), torch.cat([self._may_swap, self._may_pair], dim=1)

    def _start(self, batch: int) -> None:
        """Prepares for each request's pairs, as two swaps each, and for which of them are allowed."""
        self._pairs = torch.zeros(batch, self._most_pairs(), 2, dtype=torch.long)
        self._may_pair = torch.zeros(self._pairs.shape[:2], dtype=torch.bool)

    def _most_pairs(self) -> int:
        raise NotImplementedError

    def _found(self, which: Tensor, choice: Tensor, effect: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the pairs of some requests, as two swaps each, ``(some, pairs, 2)``, and which of them are allowed.

        Args:
            which: The numbers of the requests, ``(some,)``.
            choice: Their configurations, ``(some, slots)``.
            effect: The effects of their swaps, ``(some, swaps)``.
        """
        raise NotImplementedError


class _Exchanges(_RuledMoves):
    """The pairs are the exchanges of two slots' items.

    Nearly all are allowed, and few are ever tried. So whether the constraints allow one is asked when it is among the
    best, which takes a fraction of the time that it takes to ask for all.
    """

    def __init__(self, problem: Problem, observation: Observation, rules: Rules) -> None:
        super().__init__(problem, observation, rules)
        self._slots = torch.triu_indices(problem.slots, problem.slots, 1)
        self._allowed = allowed_items(problem, observation).flatten(1)

    def look(self, choice: Tensor, slope: Tensor, changed: Tensor | None = None) -> None:
        super().look(choice, slope, changed)
        if changed is None:
            self._sure = (torch.arange(self.effect.shape[1]) < self._swaps).repeat(len(choice), 1)
        else:
            self._sure[changed, self._swaps :] = False

    def best(self, count: int) -> Tensor:
        while True:
            moves = super().best(count)
            request, place = (self.open_among(moves) & ~self._sure.gather(1, moves)).nonzero(as_tuple=True)
            if not len(request):
                return moves
            asked = moves[request, place]
            self._sure[request, asked] = True
            rows = self.rows(moves)[request, place]
            allowed = is_allowed(self._problem, self._observation[request], rows)
            if bool(allowed.all()):
                return moves
            self.is_open[request, asked] = allowed

    def _most_pairs(self) -> int:
        return self._slots.shape[1]

    def _found(self, which: Tensor, choice: Tensor, effect: Tensor) -> tuple[Tensor, Tensor]:
        swaps = self._slots.T * self._problem.items + choice[:, self._slots.flip(0).T]
        first, second = swaps.unbind(dim=2)
        allowed = self._allowed[which]
        held, other = choice[:, self._slots].unbind(dim=1)
        return swaps, allowed.gather(1, first) & allowed.gather(1, second) & (held != other)


class _ListedRows(_RuledMoves):
    """The pairs are listed rows that differ in two slots, not both of which could be swapped alone."""

    def __init__(self, problem: Problem, observation: Observation, rules: TableRules) -> None:
        super().__init__(problem, observation, rules)
        self._listed, self._listed_for = rules.rows, rules.allowed_rows()
        self._row_items = one_hot(rules.rows, problem.items, torch.float32).flatten(1).T

    def _most_pairs(self) -> int:
        return min(MOST_PAIRS, len(self._listed)) if self._problem.slots > 1 else 0

    def _found(self, which: Tensor, choice: Tensor, effect: Tensor) -> tuple[Tensor, Tensor]:
        items, slots = self._problem.items, self._problem.slots
        held = one_hot(choice, items, torch.float32).flatten(1)
        # One number a row says how many of its items are held, and how many others could be swapped in alone.
        code = held + (slots + 1) * self._may_swap[which]
        value, best = [], []
        for part in torch.arange(len(which)).split(max(1, _CELLS // len(self._listed))):
            count = code[part] @ self._row_items
            good = ((count == slots - 2) | (count == 2 * slots - 1)) & self._listed_for[which[part]]
            found = (effect[part] @ self._row_items).masked_fill(~good, -torch.inf).topk(self._most_pairs(), dim=1)
            value.append(found.values)
            best.append(found.indices)
        rows = self._listed[torch.cat(best)]
        slot = (rows != choice.unsqueeze(1)).int().topk(min(2, slots), dim=2).indices.expand(-1, -1, 2)
        return slot * items + rows.gather(2, slot), torch.cat(value) > -torch.inf


def moves_of(problem: Problem, observation: Observation) -> Moves:
    """Returns the moves that requests allow; :meth:`Moves.look` at configurations comes first.

    Raises:
        Infeasible: If a request allows no configuration.
    """
    rules = problem.rules(observation)
    if rules is None:
        return Moves(problem, observation)
    if isinstance(rules, TableRules):
        return _ListedRows(problem, observation, rules)
    return _Exchanges(problem, observation, rules)


def exchanged(choice: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Returns choices ``(..., slots)`` with the items of two slots exchanged, ``(exchanges, ..., slots)``.

    Args:
        choice: The choices.
        first: One slot of each exchange, ``(exchanges,)``.
        second: The other slot of each, likewise.
    """
    order = torch.arange(choice.shape[-1]).repeat(len(first), 1)
    each = torch.arange(len(first))
    order[each, first], order[each, second] = second, first
    return choice[..., order].movedim(-2, 0)
