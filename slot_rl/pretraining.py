"""Pretraining an estimator, on a table or on one of the synthetic ground truths, as one command."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import torch
from rich.text import Text
from scipy import stats
from torch import Tensor

from slot_rl.console import console, fit_progress, print_figures, print_table, say, visible
from slot_rl.estimators.described import ColumnKinds
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.ensemble_kinds import INDEPENDENT, EnsembleMaking
from slot_rl.estimators.fitting import (
    Draw,
    TableFit,
    TableRows,
    counted_from,
    encode_rows,
    fit_on_table,
    fit_on_truth,
    network_for,
    predict_rows,
    r_squared,
    split_places,
    with_categories,
)
from slot_rl.estimators.kept_fit import KeptFit
from slot_rl.estimators.model_choice import NETWORKS, ModelChoice, choose_model, steps_to_choose
from slot_rl.estimators.net import EstimatorNet
from slot_rl.estimators.net_ensemble import EnsembleFit, NetEnsembleShape
from slot_rl.estimators.row_scorer import RowScorer
from slot_rl.estimators.seen_rows import SeenRows, error_at_top
from slot_rl.estimators.slate_fitting import SlateFit
from slot_rl.estimators.spread import FEWEST_CHOSEN, Spread
from slot_rl.estimators.store import CARD, context_tensor, load_estimator, load_shipped, save_estimator
from slot_rl.estimators.table import Table, read_table
from slot_rl.estimators.table_files import row_number_notice
from slot_rl.estimators.table_models import RowModel, check_row_model, fit_row_model, score_members, score_rows
from slot_rl.io import sha256_of
from slot_rl.places import check_free, claimed
from slot_rl.plots import plot_fit
from slot_rl.problems.named import SHIPPED_SLATE, SYNTHETIC, Synthetic
from slot_rl.provenance import command_line, versions
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.slate_pretraining import SlateFiles, pretrain_slates
from slot_rl.spelling import unknown

TEST_SAMPLES = 100_000
_USED_BY_ALL = ("out", "seed", "force")
_USED = {
    "problem": ("product_widths",),
    "table": (
        "score",
        "context",
        "features",
        "numeric",
        "levels",
        "descriptors",
        "categorical",
        "model",
        "making",
        "fit",
        "censored",
    ),
    "log": ("score", "categorical", "items", "requests", "slots", "slates", "product_widths"),
}


@dataclass(frozen=True)
class PretrainConfig:
    """Fits an estimator: on a table of features and a score, on logged slates, or on a synthetic problem.

    Attributes:
        problem: Synthetic problem to fit instead of a table: slots-v0, slots-large-v0 or slate-v0.
        table: CSV or Parquet file with one configuration a row.
        score: The table's score column, higher is better.
        context: Columns that are given, not chosen.
        features: Columns to choose; every column that is neither score nor context if left out.
        numeric: Columns that are numbers. A context may then have any value, a feature one of its levels.
        levels: Levels of a numeric feature to choose from, as temperature=90,105,120; those of the table if left out.
        descriptors: Files of numbers that describe the categories of a column, as ligand=ligands.csv: a row for each
            category, with a column of the same name. Categories of the file need not be in the table.
        categorical: Columns of numbers that are categories all the same, of a table, of items or of requests.
        model: What is fitted to a table: one network; a Gaussian process (gp), for few rows; the mean of five networks
            (nets); the mean of both (blend); five networks that look for motifs in a sequence, whose positions are the
            features (motifs); or the one of these that is chosen by how its choices among held-out rows score (auto),
            with --censored nets or motifs.
        out: Folder to write the estimator to.
        seed: Seeds weights, split and order.
        force: Replace an estimator that is already there.
        making: How the members of --model nets come about.
        fit: How a table is fitted.
        log: File of logged slates: a request's id, one item's id a slot, the score, and perhaps a propensity.
        items: File of the log's items: an id (item), numbers and categories.
        requests: File of the log's requests: an id (request), numbers and categories, and perhaps lists of candidates.
        slots: The log's columns of items, from the top of the page; all but request, score and propensity if left out.
        slates: How logged slates are fitted.
        censored: The table holds low scores only, so its best measured rows are no answers.
        product_widths: Widths of layers that multiply a slot's numbers with each other, before the rest of the network
            of a problem or of logged slates; none if nothing follows the flag, and those of the shipped estimator if
            left out.
    """

    problem: str | None = None
    table: Path | None = None
    score: str | None = None
    context: tuple[str, ...] = ()
    features: tuple[str, ...] | None = None
    numeric: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    descriptors: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    model: Literal["net", "auto", RowModel] = "net"
    out: Path | None = None
    seed: int = 0
    force: bool = False
    making: EnsembleMaking = field(default_factory=EnsembleMaking)
    fit: TableFit = field(default_factory=TableFit)
    log: Path | None = None
    items: Path | None = None
    requests: Path | None = None
    slots: tuple[str, ...] = ()
    slates: SlateFit = field(default_factory=SlateFit)
    product_widths: tuple[int, ...] | None = None
    censored: bool = False


@dataclass(frozen=True)
class Fit:
    """A fitted estimator, and what it, or the same fitted without them, predicts on rows that were not seen."""

    net: EstimatorNet | RowScorer
    predicted: Tensor
    true: Tensor
    details: dict[str, object]
    encoding: TableEncoding | None = None
    contexts: Tensor | None = None
    seen: SeenRows | None = None
    spread: Spread | None = None

    def figures(self) -> dict[str, float]:
        """Returns R2, RMSE and Spearman's rank correlation on the test rows."""
        return {
            "r2": r_squared(self.predicted, self.true),
            "rmse": float((self.predicted - self.true).square().mean().sqrt()),
            "spearman": float(stats.spearmanr(self.predicted.numpy(), self.true.numpy()).statistic),
        }


def pretrain(config: PretrainConfig) -> None:
    """Fits, writes and reports an estimator.

    Raises:
        ValueError: If the configuration is contradictory, the table is unusable, or the folder is taken.
    """
    sources = ("problem", "table", "log")
    given = [source for source in sources if getattr(config, source) is not None]
    if len(given) != 1:
        flags = ", ".join(f"--{source}" for source in sources)
        raise ValueError(f"expected one of {flags}, got {' and '.join(f'--{source}' for source in given) or 'none'}")
    _refuse_flags(config, given[0])
    out = _folder(config)
    with claimed(out):
        check_free(out, config.force, CARD)
        _pretrain_into(out, config)


def _pretrain_into(out: Path, config: PretrainConfig) -> None:
    """Fits into a folder that is claimed and free."""
    kept = KeptFit(out.with_name(f".{out.name}.fitting"), _key(config))
    if kept.read(1) is not None:
        say(f"goes on with the fit in {kept.folder}")
    for path in (config.table, config.log, config.items, config.requests):
        notice = "" if path is None else row_number_notice(path)
        if notice and (path != config.table or config.features is None):
            say(notice)
    if config.log is not None or config.problem == SHIPPED_SLATE:
        log = None if config.log is None else _slate_files(config, config.log)
        pretrain_slates(out, log, config.slates, config.seed, config.product_widths or (), kept)
        kept.remove()
        return
    fit = _fit_problem(config, kept) if config.table is None else _fit_table(config, config.table, kept)
    figures = fit.figures()
    card = {
        "command": command_line(),
        "seed": config.seed,
        "test": figures,
        **fit.details,
        "versions": versions(),
    }
    shipped = None if config.problem is None else _shipped_hash(config.problem)
    save_estimator(out, fit.net, card, fit.encoding, fit.contexts, fit.seen)
    kept.remove()
    source = config.problem or str(fit.details["table"])
    plot_fit(out / "fit.png", fit.predicted.numpy(), fit.true.numpy(), f"{source}, test R² = {figures['r2']:.3f}")
    _report(out, figures, len(fit.true), shipped)
    if fit.spread is not None:
        _report_members(fit.spread)


def _refuse_flags(config: PretrainConfig, source: str) -> None:
    """Refuses flags that a fit on this source does not use."""
    slates = ("slates",) if config.problem == SHIPPED_SLATE else ()
    used = (*_USED_BY_ALL, source, *slates, *_USED[source])
    default = _flags(PretrainConfig())
    for (part, flag), value in _flags(config).items():
        if part not in used and value != default[part, flag]:
            raise ValueError(f"expected no --{flag.replace('_', '-')} with --{source}, got {value}")


def _flags(config: PretrainConfig) -> dict[tuple[str, str], object]:
    """Returns values by field and flag: the settings of a fit are flags of their own."""
    found: dict[tuple[str, str], object] = {}
    for part in fields(config):
        value = getattr(config, part.name)
        flags = asdict(value) if isinstance(value, TableFit | SlateFit | EnsembleMaking) else {part.name: value}
        found |= {(part.name, flag): each for flag, each in flags.items()}
    return found


def _folder(config: PretrainConfig) -> Path:
    if config.out is None and config.problem is None:
        raise ValueError("expected --out FOLDER for the estimator, got none")
    return config.out or Path("runs", "estimators", str(config.problem))


def _slate_files(config: PretrainConfig, log: Path) -> SlateFiles:
    if config.items is None or config.requests is None or config.score is None:
        raise ValueError(
            f"expected --items FILE, --requests FILE and --score COLUMN with --log, got {config.items}, "
            f"{config.requests} and {config.score}"
        )
    return SlateFiles(log, config.items, config.requests, config.score, config.slots, config.categorical)


def _fit_problem(config: PretrainConfig, kept: KeptFit) -> Fit:
    by_name = {synthetic.shipped: synthetic for synthetic in SYNTHETIC.values()}
    if config.problem not in by_name:
        raise ValueError(unknown("expected --problem to be one of", (*by_name, SHIPPED_SLATE), config.problem))
    synthetic = by_name[config.problem]
    shape, widths = synthetic.shape, config.product_widths
    with seeded_initialisation(config.seed):
        net = EstimatorNet(shape if widths is None else replace(shape, product_widths=widths))
    draw, generator = _drawer(synthetic), generator_from(config.seed)
    with fit_progress(synthetic.fit.steps, "loss") as report:
        fit_on_truth(net, draw, synthetic.fit, generator, report, kept)
    vectors, true = draw(TEST_SAMPLES, generator)
    with torch.no_grad():
        predicted = net(vectors)
    return Fit(net, predicted, true, {"fit": asdict(synthetic.fit), "test_rows": TEST_SAMPLES})


def _drawer(synthetic: Synthetic) -> Draw:
    truth = synthetic.truth()

    def draw(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # A choice of different i.i.d. candidates is itself i.i.d., so random configurations need no candidates.
        vectors = torch.randn(batch, synthetic.shape.slots, synthetic.shape.dim, generator=generator)
        return vectors, truth(vectors)

    return draw


def _key(config: PretrainConfig) -> str:
    """Returns a hash of all that a fit depends on, the contents of its files too."""
    asked = {**asdict(replace(config, out=None, force=False)), "versions": versions()}
    described = (Path(text.partition("=")[2]) for text in config.descriptors)
    for path in (config.table, config.log, config.items, config.requests, *described):
        # A file that is missing is refused where it is read.
        if path is not None and path.is_file():
            asked[str(path)] = sha256_of(path)
    return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()


def _fit_table(config: PretrainConfig, path: Path, kept: KeptFit) -> Fit:
    if config.score is None:
        raise ValueError("expected --score COLUMN with --table, got none")
    kinds = ColumnKinds.parse(config.numeric, config.levels, config.descriptors, config.categorical)
    generator = generator_from(config.seed)
    with console.status(Text(visible(f"reading {path}"))):
        table = read_table(path, config.score, config.context, config.features, kinds.known)
        encoding = TableEncoding.of(table, config.score, config.context, kinds)
        parts = split_places(len(table), config.fit, generator)
        encoding = encoding.in_units_of(table, parts[0])
        rows = encode_rows(table, encoding)
    train, validation, test = (rows[part] for part in parts)
    for part, name in ((rows, "the table"), (test, "the test rows")):
        _refuse_constant(part, config.score, name, path)
    seen, model, errors = torch.cat(parts[:2]), config.model, dict[str, float]()
    details: dict[str, object] = {"table": path.name}
    if model != "nets" and config.making != INDEPENDENT:
        raise ValueError(f"expected no --ensemble {config.making.ensemble} with --model {model}, but with --model nets")
    if model == "auto":
        choice = _chosen_model(config, rows[seen], encoding, generator, kept)
        model, details["choice"], errors = choice.model or "net", asdict(choice), dict(choice.errors)
    if model != "net":
        whole, predicted, spread = _fit_row_model(config, model, rows, encoding, seen, parts[2], generator, kept)
        made = {} if config.making == INDEPENDENT else asdict(config.making)
        details |= {"model": model, **made, "rows": len(rows)}
        measured = _measured(table, encoding, config.censored, errors.get(model, error_at_top(predicted, test)))
        return Fit(whole, predicted, test.score, details, encoding, *measured, spread)
    net = network_for(encoding, config.fit, config.seed)
    with fit_progress(config.fit.epochs * config.fit.steps_per_epoch(len(train)), "validation RMSE") as report:
        epoch = fit_on_table(net, train, validation, config.fit, generator, report, kept)
    details |= {
        "fit": asdict(config.fit),
        "best_epoch": epoch,
        "train_rows": len(train),
        "validation_rows": len(validation),
        "test_rows": len(test),
    }
    predicted = predict_rows(net, test)
    if kinds.levels:
        encoding = encoding.with_levels(kinds.levels)
        net = with_categories(net, encoding)
    measured = _measured(table, encoding, config.censored, error_at_top(predicted, test))
    return Fit(net, predicted, test.score, details, encoding, *measured)


def _measured(
    table: Table, encoding: TableEncoding, censored: bool, error: float
) -> tuple[Tensor | None, SeenRows | None]:
    """Returns the table's contexts, and the best of its rows whose levels can be chosen; None for what there is not."""
    contexts = encoding.encode_contexts(table) if encoding.contexts else None
    known = None if contexts is None else context_tensor(contexts)
    features, offered = encoding.encode_levels(table)
    if not bool(offered.any()):
        return known, None
    asked, score = None if contexts is None else contexts[offered], torch.tensor(table.score)[offered]
    return known, SeenRows.of(features[offered], asked, score, known, censored, error)


def _chosen_model(
    config: PretrainConfig, rows: TableRows, encoding: TableEncoding, generator: torch.Generator, kept: KeptFit
) -> ModelChoice:
    """Compares models on all rows but the test rows, and says which one is chosen and why."""
    _refuse_fit(config)
    fit = EnsembleFit()
    steps = steps_to_choose(encoding, len(rows), fit, config.censored)
    with fit_progress(steps, "") as report:
        choice = choose_model(rows, encoding, fit, generator, lambda step: report(step, None), config.censored, kept)
    say(f"model: {choice.reason}" if choice.model else f"model: net, because nothing else fits: {choice.reason}")
    return choice


def _refuse_fit(config: PretrainConfig) -> None:
    default = TableFit(train=config.fit.train, validation=config.fit.validation)
    if config.fit != default:
        raise ValueError(f"expected no settings of a network's fit with --model {config.model}, got {config.fit}")


def _fit_row_model(
    config: PretrainConfig,
    model: RowModel,
    rows: TableRows,
    encoding: TableEncoding,
    seen: Tensor,
    held: Tensor,
    generator: torch.Generator,
    kept: KeptFit,
) -> tuple[RowScorer, Tensor, Spread | None]:
    """Fits a model to the rows but for the test rows, to say how good it is, and then to all rows."""
    check_row_model(model, encoding, len(rows), config.making)
    _refuse_fit(config)
    fit, making = EnsembleFit(), config.making
    steps, more = (making.steps(fit, count, NetEnsembleShape.members) for count in (len(seen), len(rows)))
    models = []
    with fit_progress(steps + more, "") as report:
        for part, before, after in ((rows[seen], 0, steps), (rows, steps, steps + more)):
            told = counted_from(before, lambda step: report(step, None))
            models.append(fit_row_model(model, part, encoding, fit, generator, told, making, kept))
            report(after, None)  # a Gaussian process tells of no steps
    first, whole = models
    predicted = score_rows(first, rows[held])
    shown = model in NETWORKS and len(held) >= FEWEST_CHOSEN
    return whole, predicted, Spread.of(score_members(first, rows[held]), rows[held].score) if shown else None


def _refuse_constant(rows: TableRows, score: str, name: str, path: Path) -> None:
    if bool((rows.score == rows.score[0]).all()):
        raise ValueError(f"expected {score!r} to vary in {name} of {path}, got {float(rows.score[0])} throughout")


def _report(out: Path, figures: dict[str, float], rows: int, shipped: str | None) -> None:
    sha256 = load_estimator(out).sha256
    shown = {name: f"{figures[key]:.4f}" for name, key in [("R2", "r2"), ("RMSE", "rmse"), ("Spearman", "spearman")]}
    shown |= {"test rows": f"{rows:,}", "SHA-256 of the weights": sha256[:12]}
    if shipped is not None:
        shown["equal to the shipped ones"] = "yes" if shipped == sha256 else "no"
    print_figures("estimator on its test split", shown)
    say(f"written: {out}")


def _report_members(spread: Spread) -> None:
    """Prints how different the members are on the test rows, and whether it tells where their mean errs."""
    columns = ["member", *(f"given {number}" for number in range(1, len(spread.given) + 1))]
    lines = [
        [str(member), *("" if other == member else f"{value:.2f}" for other, value in enumerate(row, 1))]
        for member, row in enumerate(spread.given.tolist(), 1)
    ]
    print_table("what a member explains of the test rows that another one does not", columns, lines)
    others = spread.errors[~torch.eye(len(spread.errors), dtype=torch.bool)]
    say(f"correlation of two members' errors: {float(others.mean()):.3f}")
    say(f"rank correlation of spread and error on the test rows with the highest means: {spread.of_chosen:.3f}")


def _shipped_hash(name: str) -> str | None:
    try:
        return load_shipped(name).sha256
    except ValueError:
        return None
