"""How good is the best row of each model of a table? True scores of what the models would choose, on random subsets.

A model is fitted to a part of a measured landscape and scores all combinations, and the best one of each context is
looked up in the whole table. Scores are normalised to each context's lowest (0) and highest (1) measurement; what was
not measured counts with the lowest. The best row that was measured already is a competitor: "with best seen" takes the
model's best row only where its estimate is above that row's score by the error of the model's high estimates.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor, nn

from benchmarks.landscapes import LANDSCAPES, Landscape, LowerHalf, PerContext, Share, validation_split
from benchmarks.reproductions.results import RESULTS, Place, refuse_missing, run_each
from slot_rl.compare.statistics import t_quantile
from slot_rl.console import print_table, say
from slot_rl.estimators.blend import Blend
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import (
    TableFit,
    TableRows,
    fit_on_table,
    network_for,
    predict_rows,
    read_rows,
    table_loss,
)
from slot_rl.estimators.model_choice import choose_model, models_to_compare
from slot_rl.estimators.net import EstimatorNet
from slot_rl.estimators.net_ensemble import EnsembleFit
from slot_rl.estimators.seen_rows import error_at_top
from slot_rl.estimators.store import context_tensor
from slot_rl.estimators.table_models import fit_row_model
from slot_rl.io import write_json
from slot_rl.places import fresh_folder
from slot_rl.problems import Observation, RowProblem
from slot_rl.problems.truth_table import TruthTable
from slot_rl.provenance import provenance
from slot_rl.seeding import generator_from

CENSORED_ROWS, TOP = 8_000, 128
ON_ALL_ROWS = "net, all rows"
"""The network of net, fitted again to all rows for as many epochs as net was trained for."""
MODELS = ("net", ON_ALL_ROWS, "gp", "nets", "blend", "motifs", "auto")
FIRST_SUBSET = 1_000
"""The subsets' seeds begin here: settings were chosen on others."""
_Read = tuple[TableRows, TableEncoding, TruthTable]


@dataclass(frozen=True)
class FirstOfLowerHalf(LowerHalf):
    """Some random rows of the half with the lower scores.

    Attributes:
        rows: How many.
    """

    rows: int = CENSORED_ROWS

    def pick(self, table: TableRows, generator: torch.Generator) -> Tensor:
        """Returns the numbers of the rows to see, in random order."""
        return super().pick(table, generator)[: self.rows]


STUDIED: dict[str, Landscape] = {
    "tf-1000": replace(LANDSCAPES["tf-2000"], subset=PerContext(1_000)),
    "suzuki-20": replace(LANDSCAPES["suzuki-30"], subset=Share(0.2)),
    "gb1-384": LANDSCAPES["gb1-384"],
    "arylation-100": LANDSCAPES["arylation-100"],
    "tfbind8-low": replace(LANDSCAPES["tfbind8"], subset=FirstOfLowerHalf()),
}


@dataclass(frozen=True)
class TableModelsConfig:
    """True scores of what each model of a table would choose; 42 seconds for each subset of gb1-384, more for others.

    Attributes:
        data: Folder with the measured landscapes.
        landscapes: The landscapes by name; all if left out.
        subsets: Random subsets of each; the two large ones are fitted to a third as many.
        place: Where the results go.
    """

    data: Path
    landscapes: tuple[str, ...] = tuple(STUDIED)
    subsets: int = 16
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses unknown names, missing files, and nothing to do."""
        for name in self.landscapes:
            if name not in STUDIED:
                raise ValueError(f"expected --landscapes to be of {', '.join(STUDIED)}, got {name!r}")
        if self.subsets < 2:
            raise ValueError(f"expected subsets >= 2, got {self.subsets}")
        refuse_missing(self.data, [STUDIED[name].file for name in self.landscapes])

    def seeds(self, name: str) -> range:
        """Returns the seeds of a landscape's subsets."""
        large = name in ("tf-1000", "tfbind8-low")
        return range(FIRST_SUBSET, FIRST_SUBSET + (max(2, self.subsets // 3) if large else self.subsets))


@dataclass(frozen=True)
class Chosen:
    """What a model's choices are worth, means over contexts.

    Attributes:
        best: Normalised true score of the model's best row.
        with_seen: The same, or of the best measured row, as the estimates say; of a censored log always the model's.
        top_median: Median of those of the model's best 128 rows.
    """

    best: float
    with_seen: float
    top_median: float


@dataclass(frozen=True)
class SubsetResult:
    """What models would choose on one subset.

    Attributes:
        seen: Normalised score of the best measured row, the mean over contexts.
        models: By model.
        auto: The model that was chosen by its choices.
    """

    seen: float
    models: dict[str, Chosen]
    auto: str


def measure_table_models(config: TableModelsConfig) -> None:
    """Fits and looks up, prints a table for each landscape, and writes the figures.

    Raises:
        ValueError: If the folder of results holds other files.
    """
    folder = config.place.folder("table-models")
    keys = [(name, seed) for name in config.landscapes for seed in config.seeds(name)]
    with fresh_folder(folder):
        tables = {name: _read(STUDIED[name], config.data) for name in config.landscapes}
        found = run_each(keys, 1, lambda key, report: _subset(key, tables[key[0]], report))
        figures = {f"{name}, {seed}": asdict(result) for (name, seed), result in found.items()}
        write_json(folder / RESULTS, {**provenance(config), "figures": figures})
    for name in config.landscapes:
        _print(name, [result for (landscape, _), result in found.items() if landscape == name])
    say(f"figures: {folder}")


def _read(landscape: Landscape, data: Path) -> _Read:
    rows, encoding = read_rows(data / landscape.file, landscape.score, landscape.contexts)
    return rows, encoding, TruthTable.read(data / landscape.file, encoding, "worst")


def _subset(key: tuple[str, int], read: _Read, report: Callable[[], None]) -> SubsetResult:
    name, seed = key
    (rows, encoding, truth), landscape, generator = read, STUDIED[name], generator_from(seed)
    seen = rows[landscape.subset.pick(rows, generator)]
    # Every context that was seen; in a subset of a large table these are all.
    contexts = None if seen.contexts is None else context_tensor(seen.contexts)
    models, net_error = _fitted(seen, encoding, landscape, generator)
    censored = isinstance(landscape.subset, LowerHalf)
    choice = choose_model(seen, encoding, EnsembleFit(), generator, censored=censored)
    errors = {} if censored else {"net": net_error, ON_ALL_ROWS: net_error, **choice.errors}
    chosen = {
        model: _chosen(RowProblem(module, contexts, truth, name, encoding), truth, seen, errors.get(model))
        for model, module in models.items()
    }
    auto = choice.model or "net"
    best_seen = fmean(
        float(truth.normalised(part.features, part.contexts).max()) for part in map(seen.__getitem__, seen.by_context())
    )
    report()
    return SubsetResult(best_seen, {**chosen, "auto": chosen[auto]}, auto)


def _fitted(
    seen: TableRows, encoding: TableEncoding, landscape: Landscape, generator: torch.Generator
) -> tuple[dict[str, nn.Module], float]:
    """Returns the models, and how wrong the network is about promising rows that decided when to stop."""
    # Seeded on its own: what the others draw does not depend on how many steps it takes.
    seed = int(torch.randint(2**31, (), generator=generator))
    net, again = (network_for(encoding, landscape.fit, seed) for _ in range(2))
    parts = validation_split(seen, landscape.fit.validation)
    epochs = fit_on_table(net, *parts, landscape.fit, generator_from(seed), lambda step, error: None)
    _fit_all_rows(again, seen, landscape.fit, epochs, generator_from(seed))
    gp, nets = (fit_row_model(model, seen, encoding, EnsembleFit(), generator) for model in ("gp", "nets"))
    models = {"net": net, ON_ALL_ROWS: again, "gp": gp, "nets": nets, "blend": Blend([gp, nets])}
    if "motifs" in models_to_compare(encoding, len(seen), censored=False):
        models["motifs"] = fit_row_model("motifs", seen, encoding, EnsembleFit(), generator)
    return models, error_at_top(predict_rows(net, parts[1]), parts[1])


def _fit_all_rows(net: EstimatorNet, rows: TableRows, fit: TableFit, epochs: int, generator: torch.Generator) -> None:
    """Fits a new network to all rows, for so many epochs, with a step size that falls as a cosine to zero."""
    net.offset.fill_(rows.score.mean())
    net.scale.fill_(rows.score.std().clamp_min(1e-12))
    optimizer = torch.optim.AdamW(net.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay)
    steps = epochs * fit.steps_per_epoch(len(rows))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for part in torch.randperm(len(rows), generator=generator).split(fit.batch_size):
            loss = table_loss(net, rows[part], fit.swap_linearity, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _chosen(problem: RowProblem, truth: TruthTable, seen: TableRows, error: float | None) -> Chosen:
    """Scores all combinations of each context and looks the best ones up.

    Args:
        problem: The model's.
        truth: The whole table.
        seen: The rows that the model was fitted to.
        error: That of the model's high estimates; None where measured rows do not compete.
    """
    combinations = torch.cartesian_prod(*map(torch.arange, problem.sizes))
    requests = problem.evaluation_observations(len(problem.contexts), generator_from(0))
    figures = []
    for number, part in enumerate(map(seen.__getitem__, seen.by_context())):
        request = requests[torch.tensor([number])]
        estimates = torch.cat([_scores(problem, request, piece) for piece in combinations.split(16_384)])
        top = combinations[estimates.topk(min(TOP, len(estimates))).indices]
        true = truth.normalised(top, None if part.contexts is None else part.contexts[:1].expand(len(top), -1))
        best, known = float(true[0]), int(part.score.argmax())
        seen_best = float(truth.normalised(part.features, part.contexts)[known])
        competes = error is not None and float(part.score[known]) > float(estimates.max()) - error
        with_seen = seen_best if competes else best
        figures.append((best, with_seen, float(true.median())))
    return Chosen(*(fmean(column) for column in zip(*figures, strict=True)))


def _scores(problem: RowProblem, request: Observation, combinations: Tensor) -> Tensor:
    return problem.score(request[torch.zeros(len(combinations), dtype=torch.long)], combinations)


def _print(name: str, results: Sequence[SubsetResult]) -> None:
    seen = fmean(result.seen for result in results)
    lines = [["best seen", f"{seen:.3f}", "", "", ""]]
    today = [result.models["net"].best for result in results]
    for model in (each for each in MODELS if each in results[0].models):
        found = [result.models[model] for result in results]
        gains = [each.best - before for each, before in zip(found, today, strict=True)]
        lines.append(
            [
                model,
                f"{fmean(each.best for each in found):.3f}",
                "" if model == "net" else difference_with_interval(gains),
                f"{fmean(each.with_seen for each in found):.3f}",
                f"{fmean(each.top_median for each in found):.3f}",
            ]
        )
    columns = ["", "best row", "less net's", "with best seen", f"median of {TOP}"]
    print_table(f"{name}, {len(results)} subsets: normalised true scores", columns, lines)
    chosen = [result.auto for result in results]
    say("auto chose " + ", ".join(f"{model} {chosen.count(model)} times" for model in dict.fromkeys(chosen)))


def difference_with_interval(gains: Sequence[float]) -> str:
    """Returns the mean of differences with the 95 % interval of Student's t."""
    half = t_quantile(len(gains) - 1) * stdev(gains) / sqrt(len(gains))
    return f"{fmean(gains):+.3f} ± {half:.3f}"
