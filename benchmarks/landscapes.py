"""The study of measured landscapes: estimators that see a part of each table, then every agent on each of them.

An estimator sees few rows of its table, as where measurements are expensive; all other rows are held out. Categories
and contexts come from the whole table, because every combination may be chosen. The ground truth is the whole table.
The study itself is ``landscapes.yaml``, which the runner of comparisons executes.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import torch
import yaml
from scipy import stats
from torch import Tensor

from benchmarks.reproductions.results import refuse_missing
from slot_rl.compare.command import CompareConfig, run_comparison
from slot_rl.compare.runner import COMPARISON, opened
from slot_rl.console import progress_bar
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import (
    TableFit,
    TableRows,
    fit_on_table,
    network_for,
    predict_rows,
    r_squared,
    read_rows,
)
from slot_rl.estimators.seen_rows import KEPT_ROWS, SeenRows, error_at_top
from slot_rl.estimators.store import CARD, context_tensor, save_estimator
from slot_rl.io import read_document, write_json
from slot_rl.provenance import provenance, versions
from slot_rl.seeding import generator_from

STUDY = Path(__file__).parent / "landscapes.yaml"
SEED = 0
FEW_ROWS = 1_000


@dataclass(frozen=True)
class PerContext:
    """So many random rows of each context; of the whole table where there is no context.

    Attributes:
        rows: How many.
    """

    rows: int

    def pick(self, table: TableRows, generator: torch.Generator) -> Tensor:
        """Returns the numbers of the rows to see, in random order.

        Raises:
            ValueError: If a context has fewer rows.
        """
        order = torch.randperm(len(table), generator=generator)
        contexts = torch.zeros(len(table), 1, dtype=torch.long) if table.contexts is None else table.contexts
        _, places, counts = torch.unique(contexts[order], dim=0, return_inverse=True, return_counts=True)
        if int(counts.min()) < self.rows:
            raise ValueError(f"expected at least {self.rows:,} rows in each context, got {int(counts.min()):,} in one")
        by_context = torch.argsort(places, stable=True)
        rank = torch.arange(len(table)) - (counts.cumsum(0) - counts)[places[by_context]]
        chosen = torch.zeros(len(table), dtype=torch.bool)
        chosen[by_context[rank < self.rows]] = True
        return order[chosen]


@dataclass(frozen=True)
class Share:
    """A random share of all rows.

    Attributes:
        share: The share, between 0 and 1.
    """

    share: float

    def pick(self, table: TableRows, generator: torch.Generator) -> Tensor:
        """Returns the numbers of the rows to see, in random order."""
        return torch.randperm(len(table), generator=generator)[: round(self.share * len(table))]


@dataclass(frozen=True)
class LowerHalf:
    """The half of the rows with the lower scores: whatever is better, the estimator has never seen."""

    def pick(self, table: TableRows, generator: torch.Generator) -> Tensor:
        """Returns the numbers of the rows to see, in random order; of equal scores the earlier rows count as lower."""
        lower = torch.argsort(table.score, stable=True)[: len(table) // 2]
        return lower[torch.randperm(len(lower), generator=generator)]


Subset = PerContext | Share | LowerHalf


@dataclass(frozen=True)
class Landscape:
    """A measured landscape and how much of it the estimator sees.

    Attributes:
        name: Its name at the command line.
        file: Its file's name.
        score: Its score column.
        contexts: Its context columns.
        subset: The rows that the estimator sees.
        calls: Estimator calls of a training, as in the study: they limit the rows to imitate.
        fit: How the estimator is fitted; ``validation`` is its share of the rows seen, ``train`` is not used.
    """

    name: str
    file: str
    score: str
    contexts: tuple[str, ...]
    subset: Subset
    calls: int = 100_000
    fit: TableFit = field(default_factory=TableFit)

    @property
    def logged_rows(self) -> int:
        """Rows that agents imitate at most: scoring them, twice for some agents, must not use up the budget."""
        return self.calls // 4


# A small network in small batches, because there are few rows; enough of them decide when to stop.
_FEW = TableFit(train=0.7, validation=0.25, batch_size=32, hidden=(32,))
_SUZUKI = ("suzuki.csv", "yield", ("electrophile", "nucleophile"))
_FACTORS = ("tfbind_factors.parquet", "score", ("factor",))

LANDSCAPES = {
    landscape.name: landscape
    for landscape in (
        # Fewer epochs than the default, which take half an hour for an R2 of .57 on tf-2000 instead of .53.
        Landscape("tf-2000", *_FACTORS, PerContext(2_000), 400_000, TableFit(epochs=60)),
        Landscape("tf-8000", *_FACTORS, PerContext(8_000), 400_000, TableFit(epochs=30)),
        Landscape("suzuki-30", *_SUZUKI, Share(0.3)),
        Landscape("suzuki-80", *_SUZUKI, Share(0.8)),
        Landscape("gb1-384", "gb1.csv", "fitness", (), PerContext(384), fit=_FEW),
        Landscape("gb1-8000", "gb1.csv", "fitness", (), PerContext(8_000)),
        Landscape("tfbind8", "tfbind8.csv", "score", (), LowerHalf()),
        Landscape("arylation-100", "direct_arylation.csv", "yield", (), PerContext(100), fit=_FEW),
    )
}


@dataclass(frozen=True)
class LandscapesConfig:
    """Every agent and search on measured landscapes at equal budget; 40 minutes, and continues where it stopped.

    Attributes:
        data: Folder with the measured landscapes.
        landscapes: The landscapes by name; all if left out.
        agents: The agents by their labels in benchmarks/landscapes.yaml; all if left out.
        seeds: Runs of each, seeds 0 and up.
        workers: Processes that run at the same time.
        out: Where estimators and results go. What is there already is not repeated.
    """

    data: Path
    landscapes: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    seeds: int = 3
    workers: int = 2
    out: Path = Path("runs/reproduce-landscapes")

    def __post_init__(self) -> None:
        """Refuses unknown names, missing files, and nothing to do."""
        labels = yaml.safe_load(STUDY.read_text(encoding="utf-8"))["agents"]
        for flag, names, known in (("landscapes", self.landscapes, LANDSCAPES), ("agents", self.agents, labels)):
            for name in names:
                if name not in known:
                    raise ValueError(f"expected --{flag} to be of {', '.join(known)}, got {name!r}")
        if self.workers < 1:
            raise ValueError(f"expected workers >= 1, got {self.workers}")
        refuse_missing(self.data, [LANDSCAPES[name].file for name in self.landscapes or LANDSCAPES])


def reproduce_landscapes(config: LandscapesConfig) -> int:
    """Fits the estimators that are missing, then runs the study and reports on it.

    Raises:
        ValueError: If the folder of results holds something else, or a landscape is not as expected.
    """
    names = [name for name in LANDSCAPES if name in (config.landscapes or LANDSCAPES)]
    study = CompareConfig(
        out=config.out,
        agents=config.agents,
        env=tuple(names),
        study=STUDY,
        variables=(f"data={config.data}", f"out={config.out}"),
        seeds=config.seeds,
        workers=config.workers,
        wandb="disabled",
    )
    with opened(config.out):
        write_json(config.out / COMPARISON, provenance(config))
        _prepare([LANDSCAPES[name] for name in names], config)
    return run_comparison(study)


def _prepare(landscapes: Sequence[Landscape], config: LandscapesConfig) -> None:
    """Fits estimators, several at a time, with a progress bar."""
    pool = ProcessPoolExecutor(config.workers, get_context("spawn"), torch.set_num_threads, (1,))
    with progress_bar() as progress:
        task = progress.add_task("estimators", total=len(landscapes), note="")
        try:
            futures = {pool.submit(prepare, each, config.data, config.out): each.name for each in landscapes}
            for future in as_completed(futures):
                future.result()
                progress.update(task, advance=1, note=futures[future])
        finally:
            # After an error, estimators that were not begun are left for the next call.
            pool.shutdown(cancel_futures=True)


def prepare(landscape: Landscape, data: Path, out: Path) -> None:
    """Fits a landscape's estimator and writes it with the rows to imitate, unless that was done before."""
    folder, file = out / "estimators" / landscape.name, data / landscape.file
    logged, source = folder / "logged.csv", _source(landscape, file)
    if (folder / CARD).is_file() and logged.is_file():
        if read_document(folder, "estimator", CARD)["card"].get("source") == source:
            return
    generator = generator_from(SEED)
    rows, encoding = read_rows(file, landscape.score, landscape.contexts)
    seen, held = split(rows, landscape, generator)
    net = network_for(encoding, landscape.fit, SEED)
    train, validation = validation_split(seen, landscape.fit.validation)
    epoch = fit_on_table(net, train, validation, landscape.fit, generator, lambda step, error: None)
    predicted = predict_rows(net, held)
    rank = float(stats.spearmanr(predicted.numpy(), held.score.numpy()).statistic)
    card = {
        "source": source,
        "seen_rows": len(seen),
        "held_rows": len(held),
        "best_epoch": epoch,
        "test": {"r2": r_squared(predicted, held.score), "spearman": rank},
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(logged, seen[torch.arange(min(len(seen), landscape.logged_rows))], encoding)
    contexts = None if rows.contexts is None else context_tensor(rows.contexts)
    error = error_at_top(predict_rows(net, validation), validation)
    censored = isinstance(landscape.subset, LowerHalf)
    measured = SeenRows.of(seen.features, seen.contexts, seen.score, contexts, censored, error)
    save_estimator(folder, net, card, encoding, contexts, measured)


def split(rows: TableRows, landscape: Landscape, generator: torch.Generator) -> tuple[TableRows, TableRows]:
    """Returns the rows that the estimator may see, in random order, and all others.

    Raises:
        ValueError: If either are too few to fit or to test on.
    """
    seen = landscape.subset.pick(rows, generator)
    held = torch.ones(len(rows), dtype=torch.bool).index_fill_(0, seen, False).nonzero().squeeze(1)
    if len(seen) < 4 or len(held) < 2:
        raise ValueError(
            f"expected at least 4 rows to fit on and 2 to test on in {landscape.file}, got {len(seen)} and {len(held)}"
        )
    return rows[seen], rows[held]


def validation_split(seen: TableRows, share: float) -> tuple[TableRows, TableRows]:
    """Splits rows in random order into those to fit on and those that decide when to stop."""
    chosen = torch.zeros(len(seen), dtype=torch.bool)
    if len(seen) < FEW_ROWS:
        # Good rows are rare: a few random rows may hold none of them, and no fit would look better than a constant.
        every = max(2, round(1 / share))
        chosen[torch.argsort(seen.score, stable=True)[every // 2 :: every]] = True
    else:
        chosen[: max(2, round(share * len(seen)))] = True
    return seen[(~chosen).nonzero().squeeze(1)], seen[chosen.nonzero().squeeze(1)]


def _source(landscape: Landscape, file: Path) -> dict[str, Any]:
    """Returns what the estimator depends on, as it reads back from JSON."""
    source = {
        "file": landscape.file,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "score": landscape.score,
        "contexts": landscape.contexts,
        "subset": repr(landscape.subset),
        "fit": asdict(landscape.fit),
        "logged_rows": landscape.logged_rows,
        "kept_rows": KEPT_ROWS,
        "seed": SEED,
    }
    found: dict[str, Any] = json.loads(json.dumps(source))
    return found


def _write_rows(path: Path, rows: TableRows, encoding: TableEncoding) -> None:
    columns = _cells(rows.features, encoding.features.items())
    if rows.contexts is not None:
        columns |= _cells(rows.contexts, encoding.contexts.items())
    pa.csv.write_csv(pa.table(columns), path)


def _cells(codes: Tensor, columns: Any) -> dict[str, list[str]]:
    return {
        name: [found[code] for code in column] for (name, found), column in zip(columns, codes.T.tolist(), strict=True)
    }
