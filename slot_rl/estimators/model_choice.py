"""Chooses a model of a table by what it would choose: by the true scores of rows that it has not seen.

R2 on held-out rows does not tell which model's best row is good. So each model names rows among held-out ones, and
their measured scores count: the expected score of its choice among a random fifth of a context's held-out rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from statistics import fmean, stdev

import torch
from scipy import stats
from torch import Tensor

from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableRows, counted_from
from slot_rl.estimators.kept_fit import KeptFit
from slot_rl.estimators.net_ensemble import EnsembleFit
from slot_rl.estimators.seen_rows import error_at_top
from slot_rl.estimators.table_models import RowModel, check_row_model, fit_row_model, score_rows

FOLDS = 5
NETWORKS: tuple[RowModel, ...] = ("nets", "motifs")
"""The models that are fitted by gradient steps."""
OFFERED_SHARE = 0.2
FEWEST_CHOICE_ROWS, MOST_CHOICE_ROWS = 2 * FOLDS, 30_000
"""Rows that models are compared on: two a fold at least, and no more than take a few minutes."""


@dataclass(frozen=True)
class ModelChoice:
    """A model and why it was chosen.

    Attributes:
        model: The model.
        reason: Says why, in a sentence.
        scores: What each candidate's choices scored in each fold, in standard deviations; of a table of low scores
            their rank correlations. Empty without a comparison.
        errors: How wrong each candidate was about promising held-out rows; see ``seen_rows.error_at_top``.
    """

    model: RowModel | None
    reason: str
    scores: Mapping[str, list[float]]
    errors: Mapping[str, float]


def choose_model(
    rows: TableRows,
    encoding: TableEncoding,
    fit: EnsembleFit,
    generator: torch.Generator,
    report: Callable[[int], None] = lambda step: None,
    censored: bool = False,
    kept: KeptFit | None = None,
) -> ModelChoice:
    """Compares the models of a table in five folds; None stands for one network.

    A Gaussian process is taken, unless another model is better by more than twice the standard error of the difference.
    Motifs are looked for where the features are a sequence; one that is too long for a process is left to networks.

    Of a table that holds low scores only, held-out rows cannot tell which model finds high ones. There, networks are
    taken, because they go on rising beyond what was measured, and are compared by the order that they give to
    held-out rows.

    Args:
        rows: The rows to fit on.
        encoding: Their categories.
        fit: How networks are fitted.
        generator: Source of folds and first weights.
        report: Called with the number of each step of the networks.
        censored: Whether the table holds low scores only.
        kept: Where the states of the fits are kept; they go on from those that are there.
    """
    candidates = models_to_compare(encoding, len(rows), censored)
    refusal = _refusal(candidates, rows, encoding, censored)
    if refusal:
        return ModelChoice(None, refusal, {}, {})
    if candidates == ("nets",):
        return ModelChoice("nets", "nets, because the table holds low scores only", {}, {})
    order = torch.randperm(len(rows), generator=generator)
    scores: dict[RowModel, list[float]] = {name: [] for name in candidates}
    unseen = {name: torch.zeros(len(rows)) for name in candidates}
    judged, done = rank_correlation if censored else partial(score_of_choice, unit=float(rows.score.std())), 0
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        seen = torch.ones(len(rows), dtype=torch.bool).index_fill_(0, held, False)
        part, predicted = rows[seen.nonzero().squeeze(1)], dict[RowModel, Tensor]()
        for name in candidates:
            if name == "blend":
                predicted[name] = (predicted["gp"] + predicted["nets"]) / 2
            else:
                model = fit_row_model(name, part, encoding, fit, generator, counted_from(done, report), kept=kept)
                predicted[name] = score_rows(model, rows[held])
                done += fit.steps_for(len(part)) if name in NETWORKS else 0
            scores[name].append(judged(predicted[name], rows[held]))
            unseen[name][held] = predicted[name]
    told = "rank correlations with" if censored else "in standard deviations, what their choices score among"
    return _decided(scores, told, {name: error_at_top(estimates, rows) for name, estimates in unseen.items()})


def steps_to_choose(encoding: TableEncoding, rows: int, fit: EnsembleFit, censored: bool) -> int:
    """Returns how many gradient steps :func:`choose_model` reports, or a few less."""
    networks = sum(name in NETWORKS for name in models_to_compare(encoding, rows, censored))
    return FOLDS * fit.steps_for(rows - rows // FOLDS) * networks


def models_to_compare(encoding: TableEncoding, rows: int, censored: bool) -> tuple[RowModel, ...]:
    """Returns the models that can be fitted to such a table and serve it; the first one is the one to beat."""
    offered: tuple[RowModel, ...] = ("nets", "motifs") if censored else ("gp", "nets", "blend", "motifs")
    return tuple(model for model in offered if not _misfit(model, encoding, rows))


def _misfit(model: RowModel, encoding: TableEncoding, rows: int) -> str:
    try:
        check_row_model(model, encoding, rows)
    except ValueError as error:
        return str(error)
    return ""


def score_of_choice(predicted: Tensor, rows: TableRows, unit: float) -> float:
    """Returns the expected score of a model's choice among a random fifth of a context's rows, less the mean row's.

    Args:
        predicted: What the model says of the rows, ``(rows,)``.
        rows: Measured rows that it has not seen.
        unit: What the difference is divided by.

    Returns:
        The mean over contexts. Draws are with replacement.
    """
    gains = []
    for part in rows.by_context():
        ranked = rows.score[part][predicted[part].argsort(descending=True, stable=True)].double()
        offered = max(1, round(OFFERED_SHARE * len(part)))
        gains.append(float((chances_of_ranks(len(part), offered) * ranked).sum() - ranked.mean()) / unit)
    return fmean(gains)


def rank_correlation(predicted: Tensor, rows: TableRows) -> float:
    """Returns Spearman's correlation of what a model says of rows with their scores."""
    return float(stats.spearmanr(predicted.numpy(), rows.score.numpy()).statistic)


def chances_of_ranks(rows: int, draws: int) -> Tensor:
    """Returns how likely each rank is that of the best row of uniform draws with replacement, ``(rows,)``, float64.

    The row of rank r of n (from 0) is the best of m draws with the probability ``(1 - r / n)^m - (1 - (r + 1) / n)^m``.
    """
    left = torch.linspace(1, 0, rows + 1, dtype=torch.float64)
    return left[:-1] ** draws - left[1:] ** draws


def _refusal(candidates: Sequence[RowModel], rows: TableRows, encoding: TableEncoding, censored: bool) -> str:
    if not candidates or (len(candidates) == 1 and not censored):
        return _misfit("gp", encoding, len(rows))
    if not FEWEST_CHOICE_ROWS <= len(rows) <= MOST_CHOICE_ROWS:
        return (
            f"expected from {FEWEST_CHOICE_ROWS} to {MOST_CHOICE_ROWS:,} rows to compare models on, got {len(rows):,}"
        )
    return ""


def _decided(scores: Mapping[RowModel, list[float]], measure: str, errors: dict[str, float]) -> ModelChoice:
    first, *others = scores
    chosen = first
    told = ", ".join(f"{name} {fmean(found):.3f}" for name, found in scores.items())
    for name in others:
        gains = [other - usual for other, usual in zip(scores[name], scores[first], strict=True)]
        better_than_chosen = chosen == first or fmean(scores[name]) > fmean(scores[chosen])
        if fmean(gains) > 2 * stdev(gains) / sqrt(FOLDS) and better_than_chosen:
            chosen = name
    why = (
        "no other is better by two standard errors"
        if chosen == first
        else f"better than {first} by two standard errors"
    )
    reason = f"{chosen}, {why}: {measure} held-out rows: {told}"
    return ModelChoice(chosen, reason, {str(name): found for name, found in scores.items()}, errors)
