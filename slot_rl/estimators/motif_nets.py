"""Networks that look for motifs in a sequence, wherever they stand: for tables whose features are its positions.

A motif is a short pattern of letters. It is compared with every window of the sequence, and the windows that match best
count most; so what is learned at one position holds at all. A network reads how well each motif matches and the
context. Windows may stick out at both ends, where there is no letter.

Where the table proves that a sequence has the score of its reverse complement, as the two strands of DNA have, motifs
are looked for in both readings.

Alipanahi, Delong, Weirauch, Frey, "Predicting the sequence specificities of DNA- and RNA-binding proteins by deep
learning" (2015).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from slot_rl.documents import as_declared
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableRows
from slot_rl.estimators.kept_fit import KeptFit
from slot_rl.estimators.net_ensemble import (
    EnsembleFit,
    MemberNets,
    Variation,
    embedded_contexts,
    embedding_tables,
    fit_ensemble,
)
from slot_rl.estimators.reverse_complement import complement_of
from slot_rl.selectors.categorical import one_hot

WIDTH, OVERHANG = 6, 2
"""Letters of a motif, and how many of them may stick out at an end."""
FIRST_WEIGHT = 0.5
"""Deviation of a motif's first weights."""
BATCH_SIZE, LEARNING_RATE = 256, 2e-2
ROWS_OF_DECAY = 800.0
"""Weight decay times rows: the more rows, the less the weights are held back."""
HEIGHT_WEIGHT, MOST_HEIGHT = 0.5, 3.0
"""A row counts e to the power of the first times its standardised score, up to the second: high scores are what
a policy looks for."""


@dataclass(frozen=True)
class MotifShape:
    """The sizes of :class:`MotifNets`.

    Attributes:
        letters: For each feature, the number of each category's letter in the alphabet.
        context_sizes: Categories of each context column; empty without contexts.
        complement: The letter that stands for each letter when a sequence is read backwards; None where it
            is read forwards alone.
        members: Networks.
        motifs: Motifs of each network.
        dim: Length of a context category's embedding.
        hidden: Widths of the hidden layers.
    """

    letters: tuple[tuple[int, ...], ...]
    context_sizes: tuple[int, ...] = ()
    complement: tuple[int, ...] | None = None
    members: int = 5
    motifs: int = 64
    dim: int = 16
    hidden: tuple[int, ...] = (128,)

    @property
    def alphabet(self) -> int:
        """How many letters there are."""
        return 1 + max(map(max, self.letters))

    @property
    def windows(self) -> int:
        """How many windows a motif is compared with."""
        return (len(self.letters) + 2 * OVERHANG - WIDTH + 1) * (1 if self.complement is None else 2)

    def to_json(self) -> dict[str, Any]:
        """Returns the shape as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "MotifShape":
        """Rebuilds a shape written by :meth:`to_json`."""
        return as_declared(cls, values, "shape")


class MotifNets(MemberNets):
    """Networks that read how well motifs match a sequence."""

    spelled: Tensor

    def __init__(self, shape: MotifShape, generator: torch.Generator | None = None) -> None:
        """Builds the networks with weights from a generator, the global one if None."""
        members, motifs = shape.members, shape.motifs
        contexts = embedding_tables(members, shape.context_sizes, shape.dim, generator)
        super().__init__(members, (motifs + shape.dim * len(contexts), *shape.hidden), generator)
        self.shape, self.sizes, self.contexts = shape, tuple(map(len, shape.letters)), contexts
        self.widest = max(self.widest, shape.windows * motifs)
        weights = torch.randn(members, shape.alphabet * WIDTH, motifs, generator=generator)
        self.motifs = nn.Parameter(FIRST_WEIGHT * weights)
        self.levels = nn.Parameter(torch.zeros(members, 1, motifs))
        spelled = torch.zeros(len(shape.letters), max(self.sizes), shape.alphabet)
        for feature, letters in enumerate(shape.letters):
            spelled[feature, range(len(letters)), letters] = 1
        self.register_buffer("spelled", spelled, persistent=False)

    def vectors(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Returns matches ``(members, batch, motifs)`` and embeddings; see :meth:`MemberNets.vectors`."""
        return torch.cat([self._matches(features), *embedded_contexts(list(self.contexts), context)], dim=-1)

    def _matches(self, features: Tensor) -> Tensor:
        rows = features if features.is_floating_point() else one_hot(features, max(self.sizes), torch.float32)
        # A row may be padded to the categories of a larger problem.
        letters = torch.einsum("bfc,fcl->bfl", rows[..., : max(self.sizes)], self.spelled)
        read = [letters]
        if self.shape.complement is not None:
            read.append(letters.flip(1)[..., list(self.shape.complement)])
        windows = torch.cat([_windows(each) for each in read], dim=1)
        flat = windows.flatten(0, 1).expand(self.members, -1, -1)
        found = torch.baddbmm(self.levels, flat, self.motifs).view(self.members, *windows.shape[:2], -1)
        return found.logsumexp(dim=2) - log(self.shape.windows)


def _windows(letters: Tensor) -> Tensor:
    """Returns the windows of sequences ``(batch, positions, letters)``, ``(batch, windows, letters * width)``."""
    return nn.functional.pad(letters, (0, 0, OVERHANG, OVERHANG)).unfold(1, WIDTH, 1).flatten(2)


def letters_of(encoding: TableEncoding) -> tuple[tuple[int, ...], ...]:
    """Returns the number of each category's letter, for each feature.

    Raises:
        ValueError: If the features are no positions of a sequence: there are fewer than a motif has letters, or none
            of them has all the categories of the others.
    """
    categories = list(encoding.features.values())
    if len(categories) < WIDTH:
        raise ValueError(f"expected a sequence of {WIDTH} features or more for --model motifs, got {len(categories)}")
    longest = max(encoding.features, key=lambda name: len(encoding.features[name]))
    alphabet = encoding.features[longest]
    for name, found in encoding.features.items():
        if strange := sorted(set(found) - set(alphabet)):
            raise ValueError(
                f"expected features of one alphabet for --model motifs, got {strange[0]!r} in {name}, which {longest} "
                "has not"
            )
    return tuple(tuple(map(alphabet.index, found)) for found in categories)


def fit_motifs(
    letters: Sequence[Sequence[int]],
    context_sizes: Sequence[int],
    rows: TableRows,
    fit: EnsembleFit,
    generator: torch.Generator,
    report: Callable[[int], None] = lambda step: None,
    kept: KeptFit | None = None,
) -> MotifNets:
    """Fits motifs to all rows; high scores count more.

    Args:
        letters: What :func:`letters_of` gives.
        context_sizes: Categories of each context column; empty without contexts.
        rows: The rows.
        fit: How many steps; the rest is set here.
        generator: Source of first weights and of the order of the rows.
        report: Called with the number of each step.
        kept: Where the state of the fit is kept; one that is there is gone on with.
    """
    shape = MotifShape(tuple(map(tuple, letters)), tuple(context_sizes))
    spelled = torch.stack([torch.tensor(each)[rows.features[:, at]] for at, each in enumerate(letters)], dim=1)
    shape = replace(shape, complement=complement_of(spelled, rows.contexts, rows.score, shape.alphabet))
    nets = MotifNets(shape, generator)
    height = (rows.score - rows.score.mean()) / rows.score.std().clamp_min(1e-12)
    counted = (HEIGHT_WEIGHT * height.clamp_max(MOST_HEIGHT)).exp()
    variation = Variation(row_weights=(counted / counted.mean()).expand(shape.members, -1))
    own = replace(
        fit,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        weight_decay=ROWS_OF_DECAY / len(rows),
        swap_linearity=0.0,
    )
    fit_ensemble(nets, rows.features, rows.contexts, rows.score, own, generator, report, variation, kept)
    return nets
