"""Measures whether the aligner's similarity follows behaviour, on rows that it and its estimator have not seen.

For each measured table an estimator is fitted on a few thousand random rows. An aligner is fitted on the latents, the
measured scores and the swap effects of these rows. On other rows, a similarity is measured by its rank correlation
(Spearman) with the difference of two rows' scores, measured or estimated: strongly negative is good. It is compared
with the cosine of the raw latents and with the number of equal attributes, which is constant on pairs one swap apart.

Every row is in at most one pair, so that pairs are independent. The 95 % intervals are percentile bootstraps over
pairs, with the same resamples for both terms of a difference. They do not cover other splits; ``--seed`` gives those.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from benchmarks.reproductions.results import Place, refuse_missing, run_each, write_results
from slot_rl.agents.aligned import study
from slot_rl.estimators.aligner import Aligner, AlignerConfig, Behaviour, fit_aligner, one_swap_pairs
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableFit, TableRows, fit_on_table, network_for, r_squared, read_rows
from slot_rl.estimators.store import context_tensor
from slot_rl.plots import Interval, plot_intervals
from slot_rl.problems import Observation, RowProblem
from slot_rl.seeding import generator_from

_Numbers = npt.NDArray[np.float64]
SIMILARITIES = ("aligner", "raw", "overlap")
DIFFERENCE = "aligner - raw"
MOST_HELD = 30_000


@dataclass(frozen=True)
class MeasuredTable:
    """A measured table, and how many random rows the estimator and the aligner are fitted on."""

    file: str
    score: str
    contexts: tuple[str, ...]
    rows: int


TABLES = {
    "gb1": MeasuredTable("gb1.csv", "fitness", (), 6_000),
    "tfbind8": MeasuredTable("tfbind8.csv", "score", (), 3_000),
    "suzuki": MeasuredTable("suzuki.csv", "yield", ("electrophile", "nucleophile"), 1_000),
}


@dataclass(frozen=True)
class AlignerReportConfig:
    """Whether the aligner's similarity follows behaviour, on held-out rows of measured tables.

    Attributes:
        data: Folder with gb1.csv, tfbind8.csv and suzuki.csv.
        seed: Seeds split, weights, pairs and resampling.
        pairs: Maximum number of pairs of each kind.
        resamples: Number of resamples for the intervals.
        place: Where the results go.
    """

    data: Path
    seed: int = 0
    pairs: int = 4_000
    resamples: int = 1_000
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses a missing file, and too few pairs or resamples for an interval."""
        refuse_missing(self.data, [one.file for one in TABLES.values()])
        if self.pairs < 3 or self.resamples < 40:
            raise ValueError(f"expected pairs >= 3 and resamples >= 40, got {self.pairs} and {self.resamples}")


@dataclass(frozen=True)
class Correlations:
    """The figures of one table.

    Attributes:
        estimator_r2: How well the estimator predicts the held-out rows.
        training_swaps: Number of pairs of training rows one swap apart.
        pairs: Number of held-out pairs of each kind.
        correlations: For each kind of pairs and of scores, the correlation of every similarity with the score
            difference, and the difference of aligner and raw latents; None for a constant similarity.
    """

    estimator_r2: float
    training_swaps: int
    pairs: dict[str, int]
    correlations: dict[str, dict[str, Interval | None]]


def report_aligner(config: AlignerReportConfig) -> dict[str, Correlations]:
    """Measures the correlations on every table, prints them, and draws the picture."""
    folder = config.place.folder("aligner")
    found = run_each(TABLES, 1, lambda name, on_point: measure_table(TABLES[name], config, on_point))
    rows = [
        [f"{name}, {kind}", *(_cell(by[similarity]) for similarity in SIMILARITIES), _range(by[DIFFERENCE])]
        for name, one in found.items()
        for kind, by in one.correlations.items()
    ]
    panels = {
        f"{name}: {TABLES[name].rows:,} rows, R² {one.estimator_r2:.2f}": {
            kind: {similarity: by[similarity] for similarity in SIMILARITIES} for kind, by in one.correlations.items()
        }
        for name, one in found.items()
    }
    table = ("similarity against |score difference|", ["", *SIMILARITIES, DIFFERENCE], rows)
    figures, label = {name: asdict(one) for name, one in found.items()}, "rank correlation with |score difference|"
    write_results(folder, config, table, figures, lambda path: plot_intervals(path, panels, label))
    return found


def measure_table(table: MeasuredTable, config: AlignerReportConfig, on_end: Callable[[], None]) -> Correlations:
    """Fits estimator and aligner on some rows of a table and correlates the similarities on others."""
    generator = generator_from(config.seed)
    rows, encoding = read_rows(config.data / table.file, table.score, table.contexts)
    if len(rows) < table.rows + 6:
        raise ValueError(f"expected at least {table.rows + 6} rows in {table.file}, got {len(rows)}")
    order = torch.randperm(len(rows), generator=generator)
    seen, held = rows[order[: table.rows]], rows[order[table.rows :][:MOST_HELD]]
    problem = _problem(seen, encoding, config.seed, generator)
    swaps = one_swap_pairs(seen.features, seen.contexts)
    aligner, _ = fit_aligner(replace(_behaviour(problem, seen), scores=seen.score), swaps, AlignerConfig(), generator)
    behaviour = _behaviour(problem, held)
    chosen = {
        "random": torch.randperm(len(held), generator=generator)[: len(held) // 2 * 2].view(-1, 2)[: config.pairs],
        "one swap": disjoint(one_swap_pairs(held.features, held.contexts), config.pairs, generator),
    }
    correlations: dict[str, dict[str, Interval | None]] = {}
    for kind, pairs in chosen.items():
        similarity = similarities(aligner, behaviour, held.features, pairs)
        draws = torch.randint(len(pairs), (config.resamples, len(pairs)), generator=generator).numpy()
        for which, score in (("measured", held.score), ("estimated", behaviour.scores)):
            apart = (score[pairs[:, 0]] - score[pairs[:, 1]]).abs().double().numpy()
            correlations[f"{kind}, {which}"] = correlate(similarity, apart, draws)
    counts = {kind: len(pairs) for kind, pairs in chosen.items()}
    on_end()
    return Correlations(r_squared(behaviour.scores, held.score), len(swaps), counts, correlations)


def _problem(seen: TableRows, encoding: TableEncoding, seed: int, generator: torch.Generator) -> RowProblem:
    """Fits an estimator on the seen rows; a ninth of them decides when to stop."""
    # Less patience than slot-rl pretrain, to save time.
    fit = TableFit(patience=15)
    net = network_for(encoding, fit, seed)
    validation, training = torch.arange(len(seen)).tensor_split([len(seen) // 9])
    fit_on_table(net, seen[training], seen[validation], fit, generator, lambda step, error: None)
    known = None if seen.contexts is None else context_tensor(seen.contexts)
    return RowProblem(net, known, encoding=encoding)


def _behaviour(problem: RowProblem, rows: TableRows) -> Behaviour:
    context = torch.zeros(len(rows), 1, dtype=torch.long) if rows.contexts is None else rows.contexts
    return study(problem, Observation(context=context), rows.features)


def disjoint(pairs: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Returns at most ``most`` random pairs ``(pairs, 2)`` of which no two share a row."""
    taken: set[int] = set()
    chosen: list[list[int]] = []
    for first, second in pairs[torch.randperm(len(pairs), generator=generator)].tolist():
        if len(chosen) == most:
            break
        if first not in taken and second not in taken:
            taken |= {first, second}
            chosen.append([first, second])
    return torch.tensor(chosen, dtype=torch.long).view(-1, 2)


def similarities(aligner: Aligner, behaviour: Behaviour, features: Tensor, pairs: Tensor) -> dict[str, _Numbers]:
    """Returns the similarities ``(pairs,)`` of pairs of rows, for each of :data:`SIMILARITIES`."""
    first, second = pairs.unbind(dim=1)
    latents = behaviour.latents
    with torch.no_grad():
        return {
            "aligner": aligner.similarity(latents[first], latents[second]).double().numpy(),
            "raw": torch.cosine_similarity(latents[first].double(), latents[second].double(), dim=-1).numpy(),
            "overlap": (features[first] == features[second]).sum(dim=-1).double().numpy(),
        }


def correlate(
    similarity: Mapping[str, _Numbers], apart: _Numbers, draws: npt.NDArray[np.int64]
) -> dict[str, Interval | None]:
    """Returns each similarity's rank correlation with score differences, and the difference of aligner and raw.

    Args:
        similarity: The similarities of :data:`SIMILARITIES`, ``(pairs,)`` each.
        apart: The score differences, ``(pairs,)``.
        draws: Indices of the pairs of each resample, ``(resamples, pairs)``.
    """
    apart_ranks = stats.rankdata(apart[draws], axis=-1)
    value: dict[str, float] = {}
    resampled: dict[str, _Numbers] = {}
    for name, one in similarity.items():
        if np.ptp(one) > 0:
            value[name] = float(_pearson(stats.rankdata(one), stats.rankdata(apart)))
            resampled[name] = _pearson(stats.rankdata(one[draws], axis=-1), apart_ranks)
    value[DIFFERENCE] = value["aligner"] - value["raw"]
    resampled[DIFFERENCE] = resampled["aligner"] - resampled["raw"]
    found: dict[str, Interval | None] = dict.fromkeys(similarity)
    for name, one in resampled.items():
        low, high = np.quantile(one, [0.025, 0.975])
        found[name] = Interval(value[name], float(low), float(high))
    return found


def _pearson(first: _Numbers, second: _Numbers) -> _Numbers:
    first = first - first.mean(axis=-1, keepdims=True)
    second = second - second.mean(axis=-1, keepdims=True)
    correlation: _Numbers = (first * second).sum(axis=-1) / np.sqrt(
        np.square(first).sum(axis=-1) * np.square(second).sum(axis=-1)
    )
    return correlation


def _cell(interval: Interval | None) -> str:
    return "constant" if interval is None else _short(interval.value)


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f"{_short(interval.low)} to {_short(interval.high)}"


def _short(value: float) -> str:
    # Without the digit before the point, the table has at most 80 columns.
    return f"{value:.3f}".replace("0.", ".", 1)
