"""Several small networks over rows of categories, fitted and asked at once: their mean is an estimator.

They differ in their first weights alone. They are fitted to all rows, with a step size that falls as a cosine, without
early stopping: on small tables a part of the rows tells little of when to stop, and all rows tell more of scores.

Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles"
(2017).
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise, repeat
from math import ceil, cos, pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from slot_rl.documents import as_declared
from slot_rl.estimators.fitting import swapped_rows
from slot_rl.estimators.kept_fit import KeptFit, KeptLoop
from slot_rl.estimators.net import EMBEDDING_SCALE
from slot_rl.estimators.row_scorer import MemberScorer, flat_rows

CACHED_NUMBERS = 2**18
"""Numbers that a hidden layer of all members may hold: a megabyte, so that it stays in a processor's cache."""


@dataclass(frozen=True)
class NetEnsembleShape:
    """The sizes of a :class:`NetEnsemble`.

    Attributes:
        sizes: Categories of each feature.
        context_sizes: Categories of each context column; empty without contexts.
        members: Networks.
        dim: Length of a category's embedding.
        hidden: Widths of the hidden layers.
    """

    sizes: tuple[int, ...]
    context_sizes: tuple[int, ...] = ()
    members: int = 5
    dim: int = 16
    hidden: tuple[int, ...] = (128, 128)

    def to_json(self) -> dict[str, Any]:
        """Returns the shape as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NetEnsembleShape":
        """Rebuilds a shape written by :meth:`to_json`."""
        return as_declared(cls, values, "shape")


@dataclass(frozen=True)
class EnsembleFit:
    """Settings for fitting a :class:`NetEnsemble`.

    Attributes:
        steps: Gradient steps for small tables.
        most_steps: Gradient steps for large tables; between the two, a step for each :attr:`rows_a_step` rows.
        rows_a_step: Rows of the table for each step.
        batch_size: Rows of a step.
        learning_rate: Adam's step size at the start.
        weight_decay: Decoupled weight decay.
        swap_linearity: Weight of a penalty on scores that are not linear between a row and a row one swap away.
    """

    steps: int = 1_500
    most_steps: int = 4_000
    rows_a_step: int = 2
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.2
    swap_linearity: float = 10.0

    def steps_for(self, rows: int) -> int:
        """Returns the gradient steps for a table of so many rows."""
        return min(self.most_steps, max(self.steps, rows // self.rows_a_step))


@dataclass(frozen=True)
class StepRows:
    """What the members say of a step's rows.

    Attributes:
        features: Their categories, ``(rows, features)``.
        context: Their contexts ``(rows, columns)``; None without contexts.
        scores: The standardised scores, ``(members, rows)``.
        hidden: The last hidden layers, ``(members, rows, width)``.
    """

    features: Tensor
    context: Tensor | None
    scores: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Variation:
    """What makes members differ by more than their first weights; see ``ensemble_kinds``.

    Attributes:
        row_weights: How much each row counts for each member, ``(members, rows)``, 1 on average; None for 1.
        penalty: What is added to the loss of a step; None for nothing.
        cycles: How often the step size falls to zero; it starts anew after each time.
        taken: Tensors, by name, to which the caller's report takes states of the fit; a kept fit keeps them.
    """

    row_weights: Tensor | None = None
    penalty: Callable[[StepRows], Tensor] | None = None
    cycles: int = 1
    taken: Mapping[str, Tensor] = field(default_factory=dict)


NO_VARIATION = Variation()


class MemberNets(MemberScorer):
    """Networks of one shape, in the units of the score; a call asks all of them in one batch.

    Attributes:
        sizes: Categories of each feature.
        members: Networks.
        widest: Numbers that a network holds at most for a row at a time; large batches are split by it.
    """

    sizes: tuple[int, ...]
    offset: Tensor
    spread: Tensor

    def __init__(self, members: int, widths: Sequence[int], generator: torch.Generator | None = None) -> None:
        """Builds the layers with weights from a generator, the global one if None.

        Args:
            members: Networks.
            widths: How many numbers each network reads, and the widths of its hidden layers.
            generator: Source of the weights.
        """
        super().__init__()
        self.members, self.widest = members, max(widths[1:])
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for width, following in pairwise((*widths, 1)):
            for shapes, parts in (((members, width, following), self.weights), ((members, 1, following), self.biases)):
                parts.append((2 * torch.rand(shapes, generator=generator) - 1) / sqrt(width))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    @abstractmethod
    def vectors(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Returns what the networks read, ``(members, batch, width)``, of indices or rows and contexts of a batch.

        Raises:
            ValueError: If a context is missing.
        """

    def member_scores(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns each member's scores; see :meth:`MemberScorer.member_scores`."""
        flat, given, leading = flat_rows(features, context)
        rows = max(1, CACHED_NUMBERS // (self.members * self.widest))
        contexts = repeat(None) if given is None else given.split(rows)
        parts = [self.of_vectors(self.vectors(*part)) for part in zip(flat.split(rows), contexts, strict=False)]
        scores = torch.cat(parts, dim=1)
        return (scores * self.spread + self.offset).view(self.members, *leading)

    def of_vectors(self, vectors: Tensor) -> Tensor:
        """Returns standardised scores ``(members, batch)`` of what :meth:`vectors` gave."""
        return self.read_out(self.hidden(vectors))

    def hidden(self, vectors: Tensor) -> Tensor:
        """Returns the last hidden layers, ``(members, batch, width)``, of what :meth:`vectors` gave."""
        for matrix, shift in zip(self.weights[:-1], self.biases[:-1], strict=True):
            vectors = nn.functional.silu(torch.baddbmm(shift, vectors, matrix))
        return vectors

    def read_out(self, hidden: Tensor) -> Tensor:
        """Returns standardised scores ``(members, batch)`` of what :meth:`hidden` gave."""
        return torch.baddbmm(self.biases[-1], hidden, self.weights[-1]).squeeze(-1)

    def flat_parameters(self) -> Tensor:
        """Returns all parameters of each member in a row, ``(members, parameters)``."""
        return torch.cat([part.flatten(1) for part in self.parameters()], dim=1)


class NetEnsemble(MemberNets):
    """Networks that read an embedding of each column's category."""

    def __init__(self, shape: NetEnsembleShape, generator: torch.Generator | None = None) -> None:
        """Builds the networks with weights from a generator, the global one if None."""
        columns = (*shape.context_sizes, *shape.sizes)
        embeddings = embedding_tables(shape.members, columns, shape.dim, generator)
        super().__init__(shape.members, (len(columns) * shape.dim, *shape.hidden), generator)
        self.shape, self.sizes, self.embeddings = shape, shape.sizes, embeddings

    def vectors(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Returns the embeddings; see :meth:`MemberNets.vectors`."""
        contexts = len(self.shape.context_sizes)
        tables = list(self.embeddings)
        parts = embedded_contexts(tables[:contexts], context)
        for column, table in enumerate(tables[contexts:]):
            if features.is_floating_point():
                parts.append(features[:, column, : table.shape[1]] @ table)
            else:
                parts.append(table[:, features[:, column]])
        return torch.cat(parts, dim=-1)


def embedding_tables(
    members: int, sizes: Sequence[int], dim: int, generator: torch.Generator | None
) -> nn.ParameterList:
    """Returns a table of embeddings for each column, ``(members, categories, dim)``."""
    return nn.ParameterList(torch.randn(members, size, dim, generator=generator) * EMBEDDING_SCALE for size in sizes)


def embedded_contexts(tables: Sequence[Tensor], context: Tensor | None) -> list[Tensor]:
    """Returns the embedding of each context column, ``(members, batch, dim)``.

    Raises:
        ValueError: If there are tables and no context.
    """
    if tables and context is None:
        raise ValueError(f"expected a context of {len(tables)} columns, got None")
    return [table[:, context[:, column]] for column, table in enumerate(tables) if context is not None]


def fit_ensemble(
    ensemble: MemberNets,
    features: Tensor,
    context: Tensor | None,
    score: Tensor,
    fit: EnsembleFit,
    generator: torch.Generator,
    report: Callable[[int], None] = lambda step: None,
    variation: Variation = NO_VARIATION,
    kept: KeptFit | None = None,
) -> None:
    """Fits all members to all rows at once, with AdamW.

    Args:
        ensemble: The networks, changed in place.
        features: The rows' categories, ``(rows, features)``.
        context: Their contexts ``(rows, columns)``; None without contexts.
        score: Their scores, ``(rows,)``.
        fit: Steps and step size.
        generator: Random generator of the order of the rows.
        report: Called with the number of each step.
        variation: What makes the members differ by more than their first weights.
        kept: Where the state of the fit is kept; one that is there is gone on with.
    """
    ensemble.offset.fill_(score.mean())
    ensemble.spread.fill_(score.std().clamp_min(1e-12))
    target, steps = (score - ensemble.offset) / ensemble.spread, fit.steps_for(len(score))
    optimizer = torch.optim.AdamW(
        ensemble.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay, fused=True
    )
    order, parts = torch.arange(len(score)), ceil(len(score) / fit.batch_size)
    loop = KeptLoop(kept, {**ensemble.state_dict(), "order": order, **variation.taken}, generator, optimizer)
    for step in loop.steps(steps):
        if step % parts == 0:
            order.copy_(torch.randperm(len(score), generator=generator))
        part = order[step % parts * fit.batch_size :][: fit.batch_size]
        for group in optimizer.param_groups:
            group["lr"] = fit.learning_rate * (1 + cos(pi * (step * variation.cycles % steps) / steps)) / 2
        given = None if context is None else context[part]
        loss = _loss(ensemble, features[part], given, target[part], fit.swap_linearity, generator, part, variation)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(step + 1)


def _loss(
    ensemble: MemberNets,
    features: Tensor,
    context: Tensor | None,
    target: Tensor,
    swap_linearity: float,
    generator: torch.Generator,
    part: Tensor,
    variation: Variation,
) -> Tensor:
    """Returns the members' squared errors and penalties on scores that are not linear along swaps, added up."""
    vectors = read = ensemble.vectors(features, context)
    share = None
    if swap_linearity:
        swapped = swapped_rows(features, ensemble.sizes, generator)
        share = torch.rand(len(features), generator=generator)
        others = ensemble.vectors(swapped, context)
        read = torch.cat([vectors, others, torch.lerp(vectors, others, share.unsqueeze(-1))], dim=1)
    hidden = ensemble.hidden(read)
    found = ensemble.read_out(hidden)
    scores, *swaps = found.tensor_split(found.shape[1] // len(features), dim=1)
    errors = (scores - target).square()
    if variation.row_weights is not None:
        errors = errors * variation.row_weights[:, part]
    loss = errors.mean(dim=1).sum()
    if share is not None:
        straight = torch.lerp(scores, swaps[0], share).detach()
        loss = loss + swap_linearity * (swaps[1] - straight).square().mean(dim=1).sum()
    if variation.penalty is None:
        return loss
    return loss + variation.penalty(StepRows(features, context, scores, hidden[:, : len(features)]))
