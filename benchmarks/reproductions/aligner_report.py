"""Does the aligner's similarity follow behaviour, on rows that neither it nor its estimator has seen?

For each measured landscape an estimator is fitted on a few thousand random rows, and an aligner on its latents, the
measured scores and the swap effects of those same rows. On other rows a similarity is judged by the rank correlation
(Spearman) with the difference of two rows' scores, measured or estimated: strongly negative is good. Beside it stand
the cosine of the bare latents and the number of equal attributes, which on pairs one swap apart is constant and thus
knows nothing.

Every row is in one pair at most, so that pairs are independent; the 95 % intervals resample pairs (a percentile
bootstrap), the same ones for both terms of a difference. They say nothing about other splits: ``--seed`` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from benchmarks.reproductions.results import Place, publish, refuse_missing
from slot_rl.agents.aligned import study
from slot_rl.console import progress_bar
from slot_rl.estimators.aligner import Aligner, AlignerConfig, Behaviour, fit_aligner, one_swap_pairs
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableFit, TableRows, fit_on_table, network_for, r_squared, read_rows
from slot_rl.estimators.store import context_tensor
from slot_rl.plots import Interval, plot_intervals
from slot_rl.problems import Observation, RowProblem
from slot_rl.seeding import generator_from

Numbers = npt.NDArray[np.float64]
NAMES = ("aligner", "raw", "overlap")
DIFFERENCE = "aligner - raw"
MOST_HELD = 30_000


@dataclass(frozen=True)
class Landscape:
    """A measured landscape and how much of it is shown to the estimator.

    Attributes:
        file: Its file's name.
        score: Its score column.
        contexts: Its context columns.
        rows: Random rows to fit estimator and aligner on; a ninth of them decides when the estimator's fit stops.
    """

    file: str
    score: str
    contexts: tuple[str, ...]
    rows: int


LANDSCAPES = {
    "gb1": Landscape("gb1.csv", "fitness", (), 6_000),
    "tfbind8": Landscape("tfbind8.csv", "score", (), 3_000),
    "suzuki": Landscape("suzuki.csv", "yield", ("electrophile", "nucleophile"), 1_000),
}


@dataclass(frozen=True)
class AlignerReportConfig:
    """Whether the aligner's similarity follows behaviour, on held-out rows of measured landscapes.

    Attributes:
        data: Folder with gb1.csv, tfbind8.csv and suzuki.csv.
        seed: Seeds split, weights, pairs and resampling.
        pairs: Most pairs of each kind.
        resamples: Resamples for the intervals.
        place: Where the results go.
    """

    data: Path
    seed: int = 0
    pairs: int = 4_000
    resamples: int = 1_000
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        """Refuses a missing file, and too few pairs or resamples for an interval."""
        refuse_missing(self.data, [one.file for one in LANDSCAPES.values()])
        if self.pairs < 3 or self.resamples < 40:
            raise ValueError(f"expected pairs >= 3 and resamples >= 40, got {self.pairs} and {self.resamples}")


@dataclass(frozen=True)
class Judged:
    """What one landscape shows.

    Attributes:
        estimator_r2: How well the estimator predicts the held-out rows.
        training_swaps: Pairs of training rows one swap apart.
        pairs: How many pairs of each kind were judged.
        correlations: For each kind of pairs and each kind of score, the correlation of every similarity with the score
            difference, and the difference of aligner and raw latents; None where a similarity is constant.
    """

    estimator_r2: float
    training_swaps: int
    pairs: dict[str, int]
    correlations: dict[str, dict[str, Interval | None]]


def report_aligner(config: AlignerReportConfig) -> dict[str, Judged]:
    """Judges the aligner on every landscape, prints the table, draws the picture.

    Returns:
        What each landscape shows.
    """
    folder = config.place.folder("aligner")
    found: dict[str, Judged] = {}
    with progress_bar() as progress:
        task = progress.add_task("landscapes", total=len(LANDSCAPES), note="")
        for name, landscape in LANDSCAPES.items():
            progress.update(task, note=name)
            found[name] = judge_landscape(landscape, config)
            progress.advance(task)
    figures = {name: _json_ready(judged) for name, judged in found.items()}

    def draw(path: Path) -> None:
        panels = {
            f"{name}: {LANDSCAPES[name].rows:,} rows, R² {judged.estimator_r2:.2f}": {
                kind: {similarity: by[similarity] for similarity in NAMES} for kind, by in judged.correlations.items()
            }
            for name, judged in found.items()
        }
        plot_intervals(path, panels, "rank correlation with |score difference|")

    title, columns = "similarity against |score difference|", ["", *NAMES, DIFFERENCE]
    publish(folder, config, title, columns, _table(found), figures, draw)
    return found


def judge_landscape(landscape: Landscape, config: AlignerReportConfig) -> Judged:
    """Fits estimator and aligner on some rows and judges the similarities on others."""
    generator = generator_from(config.seed)
    rows, encoding = _read(config.data / landscape.file, landscape)
    order = torch.randperm(len(rows), generator=generator)
    seen, held = rows[order[: landscape.rows]], rows[order[landscape.rows :][:MOST_HELD]]
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
    return Judged(r_squared(behaviour.scores, held.score), len(swaps), counts, correlations)


def _read(path: Path, landscape: Landscape) -> tuple[TableRows, TableEncoding]:
    rows, encoding = read_rows(path, landscape.score, landscape.contexts)
    if len(rows) < landscape.rows + 6:
        raise ValueError(f"expected more than {landscape.rows + 6} rows in {path}, got {len(rows)}")
    return rows, encoding


def _problem(seen: TableRows, encoding: TableEncoding, seed: int, generator: torch.Generator) -> RowProblem:
    """Fits an estimator on the rows that it may see."""
    # As pretrain_estimator.py does, with less patience: the report shall take minutes.
    fit = TableFit(patience=15)
    net = network_for(encoding, fit, seed)
    order = torch.arange(len(seen))
    validation = len(seen) // 9
    fit_on_table(net, seen[order[validation:]], seen[order[:validation]], fit, generator, lambda step, error: None)
    known = None if seen.contexts is None else context_tensor(seen.contexts)
    return RowProblem(net, known, encoding=encoding)


def _behaviour(problem: RowProblem, rows: TableRows) -> Behaviour:
    context = torch.zeros(len(rows), 1, dtype=torch.long) if rows.contexts is None else rows.contexts
    return study(problem, Observation(context=context), rows.features)


def disjoint(pairs: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Returns pairs ``(pairs, 2)`` of which no two share a row, drawn at random, at most ``most`` of them."""
    taken: set[int] = set()
    chosen: list[list[int]] = []
    for first, second in pairs[torch.randperm(len(pairs), generator=generator)].tolist():
        if len(chosen) == most:
            break
        if first not in taken and second not in taken:
            taken |= {first, second}
            chosen.append([first, second])
    return torch.tensor(chosen, dtype=torch.long).view(-1, 2)


def similarities(aligner: Aligner, behaviour: Behaviour, features: Tensor, pairs: Tensor) -> dict[str, Numbers]:
    """Returns the similarity of pairs of rows by each of :data:`NAMES`, ``(pairs,)`` each."""
    first, second = pairs.unbind(dim=1)
    latents = behaviour.latents
    with torch.no_grad():
        return {
            "aligner": aligner.similarity(latents[first], latents[second]).double().numpy(),
            "raw": torch.cosine_similarity(latents[first].double(), latents[second].double(), dim=-1).numpy(),
            "overlap": (features[first] == features[second]).sum(dim=-1).double().numpy(),
        }


def correlate(
    similarity: Mapping[str, Numbers], apart: Numbers, draws: npt.NDArray[np.int64]
) -> dict[str, Interval | None]:
    """Correlates similarities with score differences, with intervals.

    Args:
        similarity: The similarities of :data:`NAMES`, ``(pairs,)`` each.
        apart: The score differences, ``(pairs,)``.
        draws: Which pairs each resample takes, ``(resamples, pairs)``.

    Returns:
        Each similarity's rank correlation, None where it is constant, and that of the difference of aligner and raw.
    """
    apart_ranks = stats.rankdata(apart[draws], axis=-1)
    value: dict[str, float] = {}
    resampled: dict[str, Numbers] = {}
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


def _pearson(first: Numbers, second: Numbers) -> Numbers:
    first = first - first.mean(axis=-1, keepdims=True)
    second = second - second.mean(axis=-1, keepdims=True)
    correlation: Numbers = (first * second).sum(axis=-1) / np.sqrt(
        np.square(first).sum(axis=-1) * np.square(second).sum(axis=-1)
    )
    return correlation


def _table(found: Mapping[str, Judged]) -> list[list[str]]:
    return [
        [f"{name}, {kind}", *(_cell(by[similarity]) for similarity in NAMES), _range(by[DIFFERENCE])]
        for name, judged in found.items()
        for kind, by in judged.correlations.items()
    ]


def _cell(interval: Interval | None) -> str:
    return "constant" if interval is None else _short(interval.value)


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f"{_short(interval.low)} to {_short(interval.high)}"


def _short(value: float) -> str:
    # No correlation needs a digit before the point, and the table shall fit into 80 columns.
    return f"{value:.3f}".replace("0.", ".", 1)


def _json_ready(judged: Judged) -> dict[str, object]:
    correlations = {
        kind: {name: None if one is None else vars(one) for name, one in by.items()}
        for kind, by in judged.correlations.items()
    }
    return {**vars(judged), "correlations": correlations}
