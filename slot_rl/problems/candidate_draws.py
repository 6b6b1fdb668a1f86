"""How the candidates of requests are drawn: from a distribution, or different ones of a pool."""

from collections.abc import Callable

import torch
from torch import Tensor

CandidateSampler = Callable[[tuple[int, ...], torch.Generator], Tensor]


def standard_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws candidates i.i.d. N(0, 1)."""
    return torch.randn(shape, generator=generator)


def unit_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws candidates i.i.d. U[0, 1)."""
    return torch.rand(shape, generator=generator)


def different_rows(batch: int, count: int, of: int, generator: torch.Generator) -> Tensor:
    """Draws ``count`` different numbers below ``of`` for each row, ``(batch, count)``, in random order."""
    if 2 * count > of:
        return torch.rand(batch, of, generator=generator).topk(count, dim=1).indices
    found = torch.randint(of, (batch, count), generator=generator)
    while True:  # Only repeated numbers are drawn again, which is much cheaper than a permutation of all.
        ranked, order = found.sort(dim=1, stable=True)
        repeated = torch.zeros_like(found, dtype=torch.bool)
        repeated.scatter_(1, order[:, 1:], ranked[:, 1:] == ranked[:, :-1])
        again = int(repeated.sum())
        if not again:
            return found
        found[repeated] = torch.randint(of, (again,), generator=generator)
