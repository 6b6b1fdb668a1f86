"""Pretraining a slate estimator on files of logged slates, or on the log of the simulated user."""

from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from slot_rl.console import console, fit_progress, print_figures, say
from slot_rl.estimators.columns import Encoded, FileColumns
from slot_rl.estimators.fitting import r_squared
from slot_rl.estimators.frames import Integers, read_frame, texts
from slot_rl.estimators.kept_fit import KeptFit
from slot_rl.estimators.slate import SlateNet, slate_shape
from slot_rl.estimators.slate_fitting import (
    SlateData,
    SlateFit,
    fit_slates,
    is_binary,
    log_loss,
    predict_slates,
    split_by_request,
)
from slot_rl.estimators.slate_log import CANDIDATES, REQUEST_IDS, Items, SlateLog, encode_requests
from slot_rl.estimators.slate_store import StoredSlates, load_slates, save_slates
from slot_rl.plots import plot_fit
from slot_rl.problems.simulated_user import DIM, LOGGED_REQUESTS, SLATES_EACH, SLOTS, logged_pages, slate_catalogue
from slot_rl.provenance import command_line, versions
from slot_rl.seeding import generator_from

HELD_OUT = 0.1
MOST_KEPT = 20_000
"""Requests that are stored with an estimator, to train policies and to judge them; at random from more."""


@dataclass(frozen=True)
class SlateFiles:
    """The files of a log.

    Attributes:
        log: The slates.
        items: The items.
        requests: The requests.
        score: The log's column of scores.
        slots: The log's columns of items; all others if empty.
        categorical: FileColumns that are categories although their cells are numbers.
    """

    log: Path
    items: Path
    requests: Path
    score: str
    slots: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """A log with all that is stored beside the network."""

    data: SlateData
    items: Items
    request_columns: FileColumns
    lists: list[Integers | None]
    card: dict[str, Any]


def pretrain_slates(
    out: Path,
    files: SlateFiles | None,
    fit: SlateFit,
    seed: int,
    product_widths: tuple[int, ...] = (),
    kept: KeptFit | None = None,
) -> None:
    """Fits, writes and reports a slate estimator.

    Args:
        out: The folder to write to.
        files: The log's files; None for the simulated user's log.
        fit: The settings.
        seed: Seeds weights, split and order.
        product_widths: Widths of the layers of products of an item's numbers; empty for none.
        kept: Where the state of the fit is kept; one that is there is gone on with.

    Raises:
        ValueError: If a file is unusable.
    """
    with console.status("reading the log"):
        source = _simulated(seed) if files is None else _read(files)
    fit = replace(fit, id_dim=0) if files is None else fit
    log, generator = source.data.log, generator_from(seed)
    if bool((log.score == log.score[0]).all()):
        raise ValueError(f"expected scores that vary in the log, got {float(log.score[0]):g} throughout")
    train, test = split_by_request(log, HELD_OUT, generator)
    known = len(source.items.ids) if fit.id_dim else 0
    sizes: dict[str, Any] = {"id_dim": fit.id_dim, "width": fit.width, "product_widths": product_widths}
    sizes |= {"binary": is_binary(log.score)}
    shape = slate_shape(len(log.slots), source.items.columns, known, source.request_columns, **sizes)
    with fit_progress(fit.passes * ceil(len(train) / fit.batch), "loss") as report:
        net = fit_slates(shape, source.data, train, fit, seed, generator, report, kept)
    predicted, true = predict_slates(net, source.data, test), log.score[test]
    figures = _figures(predicted, true, shape.binary)
    made = {"command": command_line(), "seed": seed, "test": figures, "fit": asdict(fit)}
    rows = {"train_slates": len(train), "test_slates": len(test)}
    card = {**made, **rows, **source.card, "versions": versions()}
    save_slates(out, _stored(net, source, card, files is None, generator))
    plot_fit(out / "fit.png", predicted.numpy(), true.numpy(), f"held-out requests, R² = {figures['r2']:.3f}")
    names = ("R2", "Spearman", "log-loss")
    shown = {name: f"{value:.4f}" for name, value in zip(names, figures.values(), strict=False)}
    shown |= {"test slates": f"{len(test):,}", "of requests": f"{len(log.request[test].unique()):,}"}
    print_figures("estimator on held-out requests", {**shown, "SHA-256 of the weights": load_slates(out).sha256[:12]})
    say(f"written: {out}")


def _stored(
    net: SlateNet, source: _Source, card: dict[str, Any], simulated: bool, generator: torch.Generator
) -> StoredSlates:
    items, kept = source.items, torch.arange(len(source.lists))
    if len(kept) > MOST_KEPT:
        kept = torch.randperm(len(kept), generator=generator)[:MOST_KEPT].sort().values
    if simulated:  # Items and requests follow from the simulation.
        items, kept = Items(items.columns, (), items.encoded[:0]), kept[:0]
    requests, lists = source.data.requests[kept], [source.lists[row] for row in kept.tolist()]
    names = source.data.log.slots, items.columns, source.request_columns, items.ids
    return StoredSlates(net, *names, items.encoded, requests, lists, card)


def _figures(predicted: Tensor, true: Tensor, binary: bool) -> dict[str, float]:
    found = {
        "r2": r_squared(predicted, true),
        "spearman": float(stats.spearmanr(predicted.numpy(), true.numpy()).statistic),
    }
    return found | ({"log_loss": log_loss(predicted, true)} if binary else {})


def _read(files: SlateFiles) -> _Source:
    items, frame = Items.read(files.items, categorical=files.categorical), read_frame(files.requests)
    columns = FileColumns.of(frame, REQUEST_IDS, files.requests, files.categorical, leave=(CANDIDATES,))
    for name in files.categorical:
        if name not in (*items.columns.names, *columns.names):
            raise ValueError(
                f"expected --categorical among {', '.join(items.columns.names + columns.names)}, got {name!r}"
            )
    ids = texts(frame[columns.id])
    log = SlateLog.read(
        files.log, files.score, files.slots, items.places(), {each: row for row, each in enumerate(ids)}
    )
    asked = encode_requests(frame, files.requests, columns, items.ids, least=len(log.slots))
    data = SlateData(log, items.encoded, asked.encoded)
    card = {"log": files.log.name, "items": files.items.name, "requests": files.requests.name, "score": files.score}
    return _Source(data, items, columns, asked.lists, card)


def _simulated(seed: int) -> _Source:
    pages, numbers = logged_pages(LOGGED_REQUESTS, SLATES_EACH, generator_from(seed)), slate_catalogue()
    columns, users = (FileColumns(name, {f"x{i + 1}": 0.0 for i in range(DIM)}, (), {}) for name in ("item", "request"))
    items, requests = (Encoded(part, torch.zeros(len(part), 0, dtype=torch.long)) for part in (numbers, pages.users))
    slots = tuple(f"slot_{i + 1}" for i in range(SLOTS))
    log = SlateLog(slots, pages.request, pages.shown, pages.clicks, pages.propensity)
    ids = tuple(map(str, range(len(numbers))))
    card = {
        "log": f"{len(log):,} pages of {LOGGED_REQUESTS:,} requests, shown by a policy that prefers popular items and "
        "knows nothing of the user (slot_rl.problems.simulated_user)",
        "score": "number of clicks",
    }
    return _Source(SlateData(log, items, requests), Items(columns, ids, items), users, [None] * len(pages.users), card)
