"""The models that can be fitted to a table of categories, by name."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from slot_rl.estimators.blend import Blend
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.ensemble_kinds import INDEPENDENT, EnsembleMaking, make_members
from slot_rl.estimators.fitting import TableRows
from slot_rl.estimators.grid_kernel import too_many
from slot_rl.estimators.kept_fit import KeptFit
from slot_rl.estimators.motif_nets import fit_motifs, letters_of
from slot_rl.estimators.net_ensemble import EnsembleFit, NetEnsembleShape
from slot_rl.estimators.product_gp import fit_gp
from slot_rl.estimators.row_scorer import MemberScorer, RowScorer
from slot_rl.estimators.score_units import InScoreUnits, ScoreUnits

RowModel = Literal["gp", "nets", "blend", "motifs"]
"""A Gaussian process, the mean of five networks, the mean of both, and five networks that look for motifs."""
StepReport = Callable[[int], None]


def check_row_model(model: RowModel, encoding: TableEncoding, rows: int, making: EnsembleMaking = INDEPENDENT) -> None:
    """Refuses a table that a model cannot be fitted to.

    Raises:
        ValueError: If columns are numbers or are described by numbers, a Gaussian process would have too many rows, or
            the features are no sequence to look for motifs in.
    """
    described = [*encoding.numbers, *encoding.descriptors]
    if described:
        raise ValueError(
            f"expected columns of categories alone for --model {model}, got numbers for {', '.join(described)}: "
            "--model net takes them"
        )
    if model == "motifs":
        letters_of(encoding)
    process = model in ("gp", "blend") or making.ensemble == "mixed"
    if process and (reason := too_many(rows, [*_context_sizes(encoding), *_sizes(encoding)])):
        raise ValueError(f"{reason}: --model net or nets takes them")


def fit_row_model(
    model: RowModel,
    rows: TableRows,
    encoding: TableEncoding,
    fit: EnsembleFit,
    generator: torch.Generator,
    report: StepReport = lambda step: None,
    making: EnsembleMaking = INDEPENDENT,
    kept: KeptFit | None = None,
) -> RowScorer:
    """Fits a model to all rows.

    Args:
        model: Which one.
        rows: The rows.
        encoding: Their categories.
        fit: How networks are fitted.
        generator: Source of first weights, of the order of the rows and of the rows that decide the kernel's numbers.
        report: Called with the number of each step of the networks.
        making: How the networks come about.
        kept: Where the states of the fit are kept; it goes on from those that are there.
    """
    sizes, context_sizes = _sizes(encoding), _context_sizes(encoding)
    if model == "motifs":
        return fit_motifs(letters_of(encoding), context_sizes, rows, fit, generator, report, kept)
    parts: list[RowScorer] = []
    if model in ("gp", "blend"):
        columns = rows.features if rows.contexts is None else torch.cat([rows.contexts, rows.features], dim=1)
        units = ScoreUnits.of(rows, context_sizes)
        gp = fit_gp(columns, units.numbers_of(rows), sizes, context_sizes, generator, kept)
        parts.append(InScoreUnits(gp, units))
    if model in ("nets", "blend"):
        shape = NetEnsembleShape(sizes, context_sizes)
        parts.append(make_members(making, shape, rows, fit, generator, report, kept))
    return parts[0] if len(parts) == 1 else Blend(parts)


def score_rows(model: RowScorer, rows: TableRows) -> Tensor:
    """Scores encoded rows, ``(rows,)``, without gradient."""
    with torch.no_grad():
        return torch.cat([model(part.features, part.contexts) for part in _parts(rows)])


def score_members(model: RowScorer, rows: TableRows) -> Tensor:
    """Scores encoded rows by each member, ``(members, rows)``, without gradient.

    Raises:
        TypeError: If the model has no members.
    """
    if not isinstance(model, MemberScorer):
        raise TypeError(f"expected a model with members, got {type(model).__name__}")
    with torch.no_grad():
        return torch.cat([model.member_scores(part.features, part.contexts) for part in _parts(rows)], dim=1)


def _parts(rows: TableRows) -> Iterator[TableRows]:
    return (rows[part] for part in torch.arange(len(rows)).split(8_192))


def _sizes(encoding: TableEncoding) -> tuple[int, ...]:
    return tuple(map(len, encoding.features.values()))


def _context_sizes(encoding: TableEncoding) -> tuple[int, ...]:
    return tuple(map(len, encoding.plain_contexts.values()))
