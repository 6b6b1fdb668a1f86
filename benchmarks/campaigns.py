"""How good is the best row that a campaign finds? Batches on measured landscapes, beside simpler ways to propose.

Each run starts with a batch of random rows. In each round every proposer names a batch, is told the true scores, and
names the next. What may be proposed is what the landscape holds, as in the published protocol. The figure is the best
score found so far, normalised to the landscape's lowest (0) and highest (1) measurement.

The protocol of batches of 96 on GB1: Yang, Lal, Bowden, Astudillo, Hameedi, Kaur, Hill, Yue, Arnold, "Active
Learning-Assisted Directed Evolution" (2025). There, the best found is divided by the maximum; GB1's minimum is 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor

from benchmarks.reproductions.results import PICTURE, RESULTS, refuse_missing, run_each
from slot_rl.compare.statistics import t_quantile
from slot_rl.console import print_table, say
from slot_rl.estimators.fitting import read_rows
from slot_rl.estimators.gp_draws import draw_functions
from slot_rl.estimators.grid_kernel import grid_cells
from slot_rl.estimators.mixed_members import MemberFit, fit_members
from slot_rl.estimators.product_gp import fit_gp
from slot_rl.io import read_json, write_json
from slot_rl.looks import looks_of
from slot_rl.places import check_continued
from slot_rl.plots import Panel, plot_curves
from slot_rl.provenance import provenance
from slot_rl.search.next_batch import Candidates, MeasuredRows, next_batch
from slot_rl.seeding import generator_from

FIRST_RUN = 1_000
"""The runs' seeds begin here: what is proposed, and how, was chosen on others."""
NO_CONTEXT = torch.zeros(1, 0, dtype=torch.long)
Proposer = Callable[[MeasuredRows, Candidates, int, torch.Generator], Tensor]


@dataclass(frozen=True)
class CampaignTable:
    """A table that campaigns are run on; all its columns but the score are features.

    Attributes:
        file: Its file's name.
        score: Its score column.
        batch: Rows of a batch: fewer for small tables, or every proposer finds the best row.
    """

    file: str
    score: str
    batch: int = 96


CAMPAIGN_TABLES = {
    "gb1": CampaignTable("gb1.csv", "fitness"),
    "tfbind8": CampaignTable("tfbind8.csv", "score"),
    "suzuki": CampaignTable("suzuki.csv", "yield", 10),
    "arylation": CampaignTable("direct_arylation.csv", "yield", 10),
}


def _random(measured: MeasuredRows, candidates: Candidates, count: int, generator: torch.Generator) -> Tensor:
    nothing = replace(measured, score=torch.full_like(measured.score, torch.nan))
    return next_batch(nothing, candidates, count, generator).rows


def _greedy(measured: MeasuredRows, candidates: Candidates, count: int, generator: torch.Generator) -> Tensor:
    """The best rows by the mean of five networks."""
    assert candidates.rows is not None
    rows, fit = candidates.rows, MemberFit(draws=0)
    members = fit_members(measured.rows, measured.score, candidates.sizes, fit, generator)
    known = torch.isin(grid_cells(rows, candidates.sizes), grid_cells(measured.rows, candidates.sizes))
    means = members.at(rows, generator).mean(dim=0).masked_fill(known, -torch.inf)
    return rows[means.argsort(descending=True, stable=True)[:count]]


def _thompson(measured: MeasuredRows, candidates: Candidates, count: int, generator: torch.Generator) -> Tensor:
    """Each draw of one Gaussian process names its best row that no other draw has named."""
    assert candidates.rows is not None
    gp = fit_gp(measured.rows, measured.score, candidates.sizes, (), generator)
    places = grid_cells(candidates.rows, candidates.sizes)
    free = ~torch.isin(places, grid_cells(measured.rows, candidates.sizes))
    chosen = []
    for function in draw_functions(gp, count, generator)[:, 0]:
        chosen.append(int(function[places].masked_fill(~free, -torch.inf).argmax()))
        free[chosen[-1]] = False
    return candidates.rows[chosen]


def _campaign(measured: MeasuredRows, candidates: Candidates, count: int, generator: torch.Generator) -> Tensor:
    return next_batch(measured, candidates, count, generator).rows


PROPOSERS: dict[str, Proposer] = {
    "campaign": _campaign,
    "greedy nets": _greedy,
    "thompson gp": _thompson,
    "random": _random,
}


@dataclass(frozen=True)
class CampaignsConfig:
    """The best score that campaigns find; about 40 seconds for a run of all proposers. Continues where it stopped.

    Attributes:
        data: Folder with the measured landscapes.
        landscapes: The landscapes by name; all if left out.
        table: Your own CSV or Parquet file in place of the landscapes; all columns but the score are features.
        score: Score column of --table.
        proposers: Ways to propose by name; all if left out.
        runs: Runs of each, seeds 1,000 and up.
        batch: Rows of a batch; what is said with the landscape if left out, 96 for --table.
        rounds: Batches after the random one.
        out: Where the results go. Runs that are there already are not repeated.
    """

    data: Path | None = None
    landscapes: tuple[str, ...] = tuple(CAMPAIGN_TABLES)
    table: Path | None = None
    score: str | None = None
    proposers: tuple[str, ...] = tuple(PROPOSERS)
    runs: int = 70
    batch: int | None = None
    rounds: int = 4
    out: Path = Path("runs/reproduce-campaigns")

    def __post_init__(self) -> None:
        """Refuses unknown names, missing files, and nothing to do."""
        for flag, names, known in (
            ("landscapes", self.landscapes, CAMPAIGN_TABLES),
            ("proposers", self.proposers, PROPOSERS),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"expected --{flag} to be of {', '.join(known)}, got {name!r}")
        if self.runs < 2 or self.rounds < 1 or (self.batch is not None and self.batch < 2):
            raise ValueError(f"expected runs >= 2, rounds >= 1 and batch >= 2, got {self}")
        if (self.data is None) == (self.table is None) or (self.table is None) != (self.score is None):
            raise ValueError("expected --data FOLDER, or --table FILE with --score NAME")
        if self.data is not None:
            refuse_missing(self.data, [CAMPAIGN_TABLES[name].file for name in self.landscapes])

    @property
    def tables(self) -> dict[str, tuple[Path, CampaignTable]]:
        """Files and tables by name."""
        if self.data is not None:
            found = {name: (self.data / CAMPAIGN_TABLES[name].file, CAMPAIGN_TABLES[name]) for name in self.landscapes}
        else:
            assert self.table is not None and self.score is not None
            found = {self.table.stem: (self.table, CampaignTable(self.table.name, self.score))}
        return {name: (path, replace(table, batch=self.batch or table.batch)) for name, (path, table) in found.items()}


@dataclass(frozen=True)
class TrueRows:
    """A landscape.

    Attributes:
        candidates: Its rows.
        score: Their normalised scores, ``(rows,)``.
    """

    candidates: Candidates
    score: Tensor

    @classmethod
    def read(cls, path: Path, score: str) -> "TrueRows":
        """Reads a table all of whose columns but the score are features; rows that are there twice have their mean."""
        rows, encoding = read_rows(path, score, ())
        distinct, place, counts = torch.unique(rows.features, dim=0, return_inverse=True, return_counts=True)
        means = torch.zeros(len(distinct)).index_add_(0, place, rows.score) / counts
        low, high = means.min(), means.max()
        if not bool(high > low):
            raise ValueError(f"expected different scores in column {score!r} of {path}, got {float(low):g} alone")
        sizes = tuple(map(len, encoding.features.values()))
        return cls(Candidates(sizes, NO_CONTEXT, distinct), (means - low) / (high - low))


def measure_campaigns(config: CampaignsConfig) -> None:
    """Runs what is missing, prints a table for each landscape, and draws the best score found.

    Raises:
        ValueError: If the folder of results holds other files, or a table has too few rows.
    """
    check_continued(config.out, RESULTS)
    config.out.mkdir(parents=True, exist_ok=True)
    if not (config.out / RESULTS).is_file():
        write_json(config.out / RESULTS, {**provenance(config), "figures": {}})
    seeds = range(FIRST_RUN, FIRST_RUN + config.runs)
    # Runs first, so that a study that is stopped early has all proposers.
    keys = [(name, seed, proposer) for name in config.tables for seed in seeds for proposer in config.proposers]
    read: dict[str, TrueRows] = {}

    def work(key: tuple[str, int, str], report: Callable[[], None]) -> list[float]:
        name, seed, proposer = key
        path, table = config.tables[name]
        file = config.out / f"{name} {proposer} {seed} {table.batch}x{config.rounds}.json".replace(" ", "-")
        if not file.is_file():
            if name not in read:
                read[name] = TrueRows.read(path, table.score)
            best = campaign_run(read[name], PROPOSERS[proposer], seed, table.batch, config.rounds)
            write_json(file, {"best_found": best})
        report()
        found: list[float] = read_json(file)["best_found"]
        return found

    found = run_each(keys, 1, work)
    figures = {", ".join(map(str, key)): best for key, best in found.items()}
    write_json(config.out / RESULTS, {**provenance(config), "figures": figures})
    panels = []
    for name, (_, table) in config.tables.items():
        curves = {each: [found[name, seed, each] for seed in seeds] for each in config.proposers}
        panels.append(_report(name, table, curves))
    plot_curves(config.out / PICTURE, panels, "rows measured", looks_of(config.proposers))
    say(f"figures and picture: {config.out}")


def campaign_run(landscape: TrueRows, proposer: Proposer, seed: int, batch: int, rounds: int) -> list[float]:
    """Returns the best normalised score after the random rows and after each round.

    Raises:
        ValueError: If the landscape has too few rows for all batches.
    """
    rows, score = landscape.candidates.rows, landscape.score
    assert rows is not None
    if len(rows) < batch * (rounds + 1):
        raise ValueError(f"expected at least {batch * (rounds + 1):,} rows for all batches, got {len(rows):,}")
    generator = generator_from(seed)
    sizes = landscape.candidates.sizes
    places = {place: row for row, place in enumerate(grid_cells(rows, sizes).tolist())}
    seen = torch.randperm(len(rows), generator=generator)[:batch]
    best = [float(score[seen].max())]
    for _ in range(rounds):
        proposed = proposer(MeasuredRows(rows[seen], score[seen]), landscape.candidates, batch, generator)
        fresh = torch.tensor([places[place] for place in grid_cells(proposed, sizes).tolist()])
        seen = torch.cat([seen, fresh])
        best.append(float(score[seen].max()))
    return best


def _report(name: str, table: CampaignTable, found: dict[str, list[list[float]]]) -> Panel:
    """Prints the table of one landscape; returns its curves."""
    rounds, runs = len(next(iter(found.values()))[0]), len(next(iter(found.values())))
    measured = [table.batch * (number + 1) for number in range(rounds)]
    lines, curves = [], {}
    for proposer, best in found.items():
        means = [fmean(column) for column in zip(*best, strict=True)]
        last = [run[-1] for run in best]
        # The 95 % interval of Student's t.
        half = t_quantile(runs - 1) * stdev(last) / sqrt(runs)
        share = fmean(value == 1.0 for value in last)
        lines.append([proposer, *(f"{mean:.3f}" for mean in means), f"{half:.3f}", f"{share:.2f}"])
        curves[proposer] = (measured, means)
    columns = ["rows measured", *(f"{count:,}" for count in measured), "±", "found"]
    print_table(f"{name}, {runs} runs: best score; the last one's ±; share that found the maximum", columns, lines)
    return Panel(f"{name}, {runs} runs", "best score found", curves, marked=True)
