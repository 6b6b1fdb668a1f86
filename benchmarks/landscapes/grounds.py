"""The ground on which agents compete: a landscape's estimator, fitted once and kept, its problem and its evaluation.

Categories and contexts come from the whole file, since every combination may be chosen; scores come from the rows that
the estimator may see. How well it predicts is measured on all rows that it never saw.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import torch
from scipy import stats
from torch import Tensor

from benchmarks.landscapes.tables import Landscape
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableRows, fit_on_table, network_for, predict_rows, r_squared, read_rows
from slot_rl.estimators.net import EstimatorNet
from slot_rl.estimators.store import CARD, context_tensor, load_estimator, save_estimator
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.io import read_document, weights_hash
from slot_rl.problems import RowProblem
from slot_rl.problems.truth_table import TruthTable
from slot_rl.provenance import versions
from slot_rl.seeding import generator_from

SEED = 0
FEW_ROWS = 1_000


@dataclass(frozen=True)
class Ground:
    """A landscape and where its files are.

    Attributes:
        landscape: The landscape.
        data: Folder with the measured landscapes.
        out: Folder of results.
    """

    landscape: Landscape
    data: Path
    out: Path

    @property
    def title(self) -> str:
        """A short name."""
        return self.landscape.name

    @property
    def file(self) -> Path:
        """The measurements."""
        return self.data / self.landscape.file

    @property
    def folder(self) -> Path:
        """The estimator's folder."""
        return self.out / "estimators" / self.landscape.name

    @property
    def logged(self) -> Path:
        """Rows to imitate: those that the estimator was fitted on."""
        return self.folder / "logged.csv"

    def card(self) -> dict[str, Any]:
        """Returns the card of the fitted estimator; raises :class:`BundleError` before it is there."""
        card: dict[str, Any] = read_document(self.folder, "estimator", CARD)["card"]
        return card

    def estimator(self) -> str:
        """Returns the SHA-256 of the fitted estimator's weights; raises as above."""
        return weights_hash(read_document(self.folder, "estimator", CARD))


def prepare(ground: Ground) -> None:
    """Fits the landscape's estimator and writes it, with the rows to imitate, unless that was done before."""
    source = _source(ground)
    if (ground.folder / CARD).is_file() and ground.logged.is_file() and ground.card().get("source") == source:
        return
    landscape, generator = ground.landscape, generator_from(SEED)
    rows, encoding = read_rows(ground.file, landscape.score, landscape.contexts)
    seen, held = split(rows, landscape, generator)
    net = network_for(encoding, landscape.fit, SEED)
    train, validation = _validation_split(seen, landscape.fit.validation)
    epoch = fit_on_table(net, train, validation, landscape.fit, generator, lambda step, error: None)
    known = None if rows.contexts is None else context_tensor(rows.contexts)
    card = {
        "source": source,
        "seen_rows": len(seen),
        "held_rows": len(held),
        "best_epoch": epoch,
        "test": _figures(net, held),
        "versions": versions(),
    }
    ground.folder.mkdir(parents=True, exist_ok=True)
    _write_rows(ground.logged, seen[torch.arange(min(len(seen), landscape.logged_rows))], encoding)
    save_estimator(ground.folder, net, card, encoding, known)


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


def _validation_split(seen: TableRows, share: float) -> tuple[TableRows, TableRows]:
    """Splits rows in random order into those to fit on and those that decide when to stop."""
    chosen = torch.zeros(len(seen), dtype=torch.bool)
    if len(seen) < FEW_ROWS:
        # Good rows are rare: a few random rows may hold none of them, and no fit would look better than a constant.
        every = max(2, round(1 / share))
        chosen[torch.argsort(seen.score, stable=True)[every // 2 :: every]] = True
    else:
        chosen[: max(2, round(share * len(seen)))] = True
    return seen[(~chosen).nonzero().squeeze(1)], seen[chosen.nonzero().squeeze(1)]


def problem_on(ground: Ground) -> RowProblem:
    """Returns the landscape's problem, with the whole file as its ground truth."""
    stored = load_estimator(ground.folder)
    assert stored.encoding is not None
    truth = TruthTable.read(ground.file, stored.encoding)
    return RowProblem(stored.net, stored.contexts, truth, ground.landscape.name, stored.encoding)


@lru_cache(maxsize=1)
def evaluation_on(ground: Ground, estimator: str) -> Evaluation:
    """Returns every context as a request, with the estimator's exhaustive optimum; kept, since it takes seconds.

    Args:
        ground: The landscape.
        estimator: The hash of its estimator, so that none is judged by another one's optimum.
    """
    return Evaluation(problem_on(ground), EvaluationConfig())


def _source(ground: Ground) -> dict[str, Any]:
    """Returns what the estimator depends on, as it reads back from JSON."""
    landscape = ground.landscape
    source = {
        "file": landscape.file,
        "sha256": hashlib.sha256(ground.file.read_bytes()).hexdigest(),
        "score": landscape.score,
        "contexts": landscape.contexts,
        "subset": repr(landscape.subset),
        "fit": asdict(landscape.fit),
        "logged_rows": landscape.logged_rows,
        "seed": SEED,
    }
    found: dict[str, Any] = json.loads(json.dumps(source))
    return found


def _figures(net: EstimatorNet, held: TableRows) -> dict[str, float]:
    predicted = predict_rows(net, held)
    rank = float(stats.spearmanr(predicted.numpy(), held.score.numpy()).statistic)
    return {"r2": r_squared(predicted, held.score), "spearman": rank}


def _write_rows(path: Path, rows: TableRows, encoding: TableEncoding) -> None:
    columns = _cells(rows.features, encoding.features.items())
    if rows.contexts is not None:
        columns |= _cells(rows.contexts, encoding.contexts.items())
    pa.csv.write_csv(pa.table(columns), path)


def _cells(codes: Tensor, columns: Any) -> dict[str, list[str]]:
    return {
        name: [found[code] for code in column] for (name, found), column in zip(columns, codes.T.tolist(), strict=True)
    }
