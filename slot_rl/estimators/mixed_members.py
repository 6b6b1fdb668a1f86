"""An ensemble of members of different kinds: small networks, and functions drawn from two Gaussian processes.

Networks that differ in their first weights agree too much where nothing was measured, and so do draws of one process.
Members of different kinds err in different places, so what each of them takes for the best rows is worth a
measurement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from slot_rl.estimators.category_gp import CategoryGP, fit_category_gp
from slot_rl.estimators.gp_draws import draw_functions, draw_scores
from slot_rl.estimators.grid_kernel import rows_of_cells, too_many
from slot_rl.estimators.net_ensemble import EnsembleFit, NetEnsemble, NetEnsembleShape, fit_ensemble
from slot_rl.estimators.product_gp import ProductGP, fit_gp

ROWS_AT_ONCE = 2_000
"""Rows that are scored, or drawn, together: more do not fit into the processor's cache."""


@dataclass(frozen=True)
class MemberFit:
    """How many members of each kind there are, and how the networks are fitted.

    Attributes:
        nets: Networks.
        draws: Functions of each of the two processes; 0 for networks alone.
        hidden: Widths of the networks' hidden layers.
        fit: How networks are fitted.
    """

    nets: int = 5
    draws: int = 5
    hidden: tuple[int, ...] = (64, 64)
    fit: EnsembleFit = EnsembleFit(steps=300, most_steps=300, batch_size=64, swap_linearity=0.0)


class MixedMembers:
    """Members fitted to the same rows, in the units of the score.

    Attributes:
        sizes: Categories of each column, contexts first.
        nets: The networks.
        processes: The two processes; none where rows and combinations are too many for them.
        draws: Functions of each process.
    """

    def __init__(
        self, sizes: Sequence[int], nets: NetEnsemble, processes: Sequence[ProductGP | CategoryGP], draws: int
    ) -> None:
        """Takes fitted models."""
        self.sizes, self.nets, self.processes, self.draws = tuple(sizes), nets, tuple(processes), draws

    @property
    def cells(self) -> int:
        """How many combinations of categories there are."""
        return prod(self.sizes)

    @property
    def kinds(self) -> tuple[int, ...]:
        """How many members of each kind there are, in the order of their scores."""
        return (self.nets.shape.members, *(self.draws for _ in self.processes))

    def everywhere(self, generator: torch.Generator) -> Tensor:
        """Returns the members' scores of all combinations, ``(members, combinations)``, the last column fastest."""
        cells = torch.arange(self.cells).split(ROWS_AT_ONCE)
        nets = torch.cat([self._of_nets(rows_of_cells(part, self.sizes)) for part in cells], dim=1)
        drawn = [draw_functions(process, self.draws, generator).flatten(1) for process in self.processes]
        return torch.cat([nets, *drawn])

    def at(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the members' scores of rows ``(rows, columns)``, ``(members, rows)``.

        A process's draws are functions of 2,000 rows each; from one such part to the next they are drawn anew.
        """
        return torch.cat([self._at(part, generator) for part in rows.split(ROWS_AT_ONCE)], dim=1)

    def _at(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        drawn = [draw_scores(process, rows, self.draws, generator) for process in self.processes]
        return torch.cat([self._of_nets(rows), *drawn])

    def _of_nets(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return self.nets.member_scores(rows)


def fit_members(
    rows: Tensor,
    score: Tensor,
    sizes: Sequence[int],
    fit: MemberFit,
    generator: torch.Generator,
    report: Callable[[int], None] = lambda step: None,
) -> MixedMembers:
    """Fits all members to all rows.

    Args:
        rows: The rows' categories, ``(rows, columns)``, contexts first: to the members they are columns like any other.
        score: Their scores, ``(rows,)``.
        sizes: Categories of each column.
        fit: How many members, and how they are fitted.
        generator: Source of all randomness.
        report: Called with the number of each step of the networks.
    """
    nets = NetEnsemble(NetEnsembleShape(tuple(sizes), members=fit.nets, hidden=fit.hidden), generator)
    fit_ensemble(nets, rows, None, score, fit.fit, generator, report)
    processes: list[ProductGP | CategoryGP] = []
    if fit.draws and not too_many(len(rows), sizes):
        processes = [found(rows, score, sizes, (), generator) for found in (fit_gp, fit_category_gp)]
    return MixedMembers(sizes, nets, processes, fit.draws)
