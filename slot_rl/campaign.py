"""Campaigns: ask which rows of a table to measure next, tell what was measured, and ask again.

What is known is a table of rows of categories with scores. :meth:`Campaign.ask` fits an ensemble to it and proposes a
batch; :meth:`Campaign.tell` adds results. The state is a folder that a person can read: ``campaign.json`` with the
categories, and one file a round, ``measured_0.csv`` and so on, which only grow in number. The document names each
file's SHA-256 and is replaced last, so a process that is killed loses at most the round that it was told.

A proposal depends on what was told, on the size of the batch and on the seed alone. So it needs no state: rows that
were proposed but never told are proposed again, if they are still the best.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from statistics import fmean

import pandas as pd
import torch
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from slot_rl.campaign_rows import MEAN, SPREAD, GivenRows, feature_names, told_rows
from slot_rl.documents import as_declared
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.spreadsheet_cells import neutral_frame
from slot_rl.estimators.table import Table
from slot_rl.estimators.table_files import TableError
from slot_rl.io import BundleError, as_written, file_of, read_json, sha256_of, write_atomically, write_json
from slot_rl.places import claimed
from slot_rl.search.next_batch import Candidates, MeasuredRows, next_batch
from slot_rl.seeding import SEEDS, as_seed, generator_from

STATE, CANDIDATES = "campaign.json", "candidates.csv"


class StateFile(TypedDict):
    """A file of a campaign's state."""

    file: str
    sha256: str
    rows: NotRequired[int]


class CampaignState(TypedDict):
    """The contents of ``campaign.json``."""

    encoding: TableEncoding
    seed: int
    candidates: StateFile | None
    rounds: list[StateFile]


class Campaign:
    """Rows that were measured, and the rows to measure next.

    Attributes:
        encoding: Names of the columns, and the categories of each.
        folder: Where the state is; None for a campaign in memory.
        rounds: How often results were told since the start.
    """

    def __init__(self, encoding: TableEncoding, candidates: Tensor | None, seed: int, folder: Path | None) -> None:
        """Builds a campaign that knows no results; use :meth:`start` or :meth:`load`."""
        self.encoding, self.folder, self.rounds = encoding, folder, -1
        self._candidates, self._seed = candidates, seed
        self._files: list[StateFile] = []
        self._rows = torch.zeros(0, len(self.columns), dtype=torch.long)
        self._score = torch.zeros(0)

    @classmethod
    def start(
        cls,
        rows: GivenRows | None,
        score: str,
        contexts: Sequence[str] = (),
        features: Sequence[str] | None = None,
        categories: Mapping[str, Sequence[str]] | None = None,
        candidates: GivenRows | None = None,
        folder: Path | None = None,
        seed: int = 0,
    ) -> "Campaign":
        """Starts a campaign.

        Args:
            rows: What was measured so far, with a score column; an empty score is a failed measurement, and rows that
                occur more than once count with their mean. None if nothing was measured yet.
            score: Name of the score column; high is good.
            contexts: Columns that are given and not chosen: each batch has equal shares of the contexts.
            features: Columns to choose; all others if left out.
            categories: Further categories by column, which no row has yet.
            candidates: The only rows that can be measured; all combinations of categories if left out.
            folder: A new folder for the state; in memory alone if left out.
            seed: Seeds all proposals.

        Raises:
            ValueError: If the folder is taken, a column or a cell cannot be used, or there is nothing to choose.
        """
        if folder is not None:
            _refuse_taken(folder)
        told = None if rows is None else told_rows(rows, score, contexts, features)
        if told is not None:
            features = [name for name in told.table.text if name not in contexts]
        elif candidates is not None and features is None:
            features = feature_names(candidates, (*contexts, score))
        listed = None if candidates is None else told_rows(candidates, None, contexts, features)
        encoding = _encoding(
            score, contexts, features, [part.table for part in (told, listed) if part], categories or {}
        )
        campaign = cls(encoding, None if listed is None else listed.codes(encoding), as_seed(seed), folder)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if campaign._candidates is not None:
                write_atomically(folder / CANDIDATES, _csv(campaign.named(campaign._candidates)))
        empty = torch.zeros(0, len(campaign.columns), dtype=torch.long)
        campaign._add(empty if told is None else told.codes(encoding), torch.zeros(0) if told is None else told.score)
        return campaign

    @classmethod
    def load(cls, folder: Path) -> "Campaign":
        """Continues a campaign from its folder.

        Raises:
            BundleError: If the folder holds no campaign, or one of its files was changed.
        """
        if not (folder / STATE).is_file():
            raise BundleError(f"expected a campaign's folder with {STATE}, got {folder} without one")
        with as_written(str(folder / STATE)):
            return cls._restored(folder, as_declared(CampaignState, read_json(folder / STATE), STATE))

    @classmethod
    def _restored(cls, folder: Path, state: CampaignState) -> "Campaign":
        encoding, listed = state["encoding"], state["candidates"]
        columns = (*encoding.contexts, *encoding.features)
        candidates = None
        if listed is not None:
            candidates = told_rows(_unchanged(folder, listed), None, (), columns).codes(encoding)
        campaign = cls(encoding, candidates, state["seed"], folder)
        for entry in state["rounds"]:
            campaign.rounds += 1
            if entry.get("rows"):
                told = told_rows(_unchanged(folder, entry), encoding.score, (), columns)
                campaign._take(told.codes(encoding), told.score)
        campaign._files = state["rounds"]
        return campaign

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the context columns, then of the features."""
        return (*self.encoding.contexts, *self.encoding.features)

    @property
    def measured(self) -> pd.DataFrame:
        """All rows told, with their scores; NaN where a measurement failed."""
        return self.named(self._rows).assign(**{self.encoding.score: self._score.numpy()})

    @property
    def best(self) -> pd.DataFrame:
        """The row with the highest score, of each context; empty as long as nothing succeeded."""
        rows = self.measured.dropna(subset=[self.encoding.score])
        contexts = list(self.encoding.contexts)
        ranked = rows.sort_values(self.encoding.score, ascending=False, kind="stable")
        return ranked.drop_duplicates(contexts) if contexts else ranked[:1]

    def ask(self, count: int = 96, report: Callable[[int], None] = lambda step: None) -> pd.DataFrame:
        """Proposes rows to measure, the same ones until new results are told; to measure fewer, take the first ones.

        Args:
            count: How many; fewer come back if fewer are left.
            report: Called with the number of each step of the fit.

        Returns:
            The rows, and the columns ``predicted_mean`` and ``predicted_spread`` in the units of the score.

        Raises:
            ValueError: If no row is left, or none is asked for.
        """
        generator = generator_from((self._seed + 7919 * (self.rounds + 1)) % SEEDS)
        measured = MeasuredRows(self._rows, self._score.float())
        batch = next_batch(measured, self._asked(), count, generator, report=report)
        if len(batch.rows) == 0:
            raise ValueError(f"expected rows that were not measured yet, got none: all {len(self._rows):,} were told")
        return self.named(batch.rows).assign(**{MEAN: batch.mean.numpy(), SPREAD: batch.spread.numpy()})

    def tell(self, rows: GivenRows, scores: Sequence[float | None] | None = None) -> int:
        """Adds results, proposed or not, and saves them; the next :meth:`ask` takes them into account.

        Args:
            rows: The rows; their columns must be the campaign's, others are ignored. Rows that occur more than once
                count with the mean of their scores.
            scores: Their scores, None or NaN where a measurement failed; the score column if left out.

        Returns:
            How many different rows were added.

        Raises:
            ValueError: If a category is unknown, or a row was told before, unless it failed then and now has a score.
                Then nothing is added.
        """
        told = told_rows(rows, self.encoding.score if scores is None else None, (), self.columns)
        if scores is not None:
            told = told.with_scores(scores)
        return self._add(told.codes(self.encoding), told.score)

    def named(self, rows: Tensor) -> pd.DataFrame:
        """Returns rows ``(rows, columns)`` by the names of their categories."""
        categories = {**self.encoding.contexts, **self.encoding.features}
        cells = zip(categories.items(), rows.T.tolist(), strict=True)
        return pd.DataFrame({name: [found[code] for code in column] for (name, found), column in cells}, dtype=object)

    def _asked(self) -> Candidates:
        """Returns what may be measured: without a list, in the contexts that were measured."""
        sizes = [len(found) for part in (self.encoding.contexts, self.encoding.features) for found in part.values()]
        width = len(self.encoding.contexts)
        source = self._rows if self._candidates is None else self._candidates
        contexts = source[:, :width].unique(dim=0) if width else torch.zeros(1, 0, dtype=torch.long)
        if len(contexts) == 0:
            contexts = torch.cartesian_prod(*map(torch.arange, sizes[:width])).view(-1, width)
        return Candidates(tuple(sizes), contexts, self._candidates)

    def _add(self, rows: Tensor, score: Tensor) -> int:
        rows, score = _averaged(rows, score)
        self._refuse_told(rows, score)
        if self.folder is not None:
            with claimed(self.folder / STATE):
                self._refuse_stale(self.folder)
                self._save(rows, score)
        self._take(rows, score)
        self.rounds += 1
        return len(rows)

    def _take(self, rows: Tensor, score: Tensor) -> None:
        # A row that failed before and has a score now moves to the end.
        told = set(map(tuple, rows.tolist()))
        kept = torch.tensor([tuple(row) not in told for row in self._rows.tolist()], dtype=torch.bool)
        self._rows = torch.cat([self._rows[kept], rows])
        self._score = torch.cat([self._score.double()[kept], score.double()])

    def _refuse_told(self, rows: Tensor, score: Tensor) -> None:
        before = {tuple(row): float(old) for row, old in zip(self._rows.tolist(), self._score, strict=True)}
        for row, new in zip(rows.tolist(), score.tolist(), strict=True):
            old = before.get(tuple(row))
            # A failed measurement may be followed by one with a score.
            if old is not None and not (isnan(old) and not isnan(new)):
                cells = ", ".join(f"{n}={c}" for n, c in self.named(torch.tensor([row])).iloc[0].items())
                was = "a failed measurement" if isnan(old) else f"the score {old:g}"
                raise ValueError(
                    f"expected rows that were not told before, got {cells}, which has {was}; nothing added"
                )

    def _refuse_stale(self, folder: Path) -> None:
        """Refuses to add to what somebody else has added to since this campaign was read."""
        rounds = read_json(folder / STATE).get("rounds") if (folder / STATE).is_file() else []
        if rounds != self._files:
            raise ValueError(
                f"expected {folder} as this campaign read it, got one that results were added to since: load it again; "
                "nothing added"
            )

    def _save(self, rows: Tensor, score: Tensor) -> None:
        assert self.folder is not None
        name = _measured_name(self.rounds + 1)
        data = _csv(self.named(rows).assign(**{self.encoding.score: score.double().numpy()}))
        write_atomically(self.folder / name, data)
        entry: StateFile = {"file": name, "rows": len(rows), "sha256": hashlib.sha256(data).hexdigest()}
        listed = None
        if self._candidates is not None:
            listed = {"file": CANDIDATES, "sha256": sha256_of(self.folder / CANDIDATES)}
        state = {"encoding": self.encoding.to_json(), "seed": self._seed}
        files = [*self._files, entry]
        write_json(self.folder / STATE, {**state, "candidates": listed, "rounds": files})
        self._files = files


def _encoding(
    score: str,
    contexts: Sequence[str],
    features: Sequence[str] | None,
    tables: Sequence[Table],
    categories: Mapping[str, Sequence[str]],
) -> TableEncoding:
    """Returns the encoding by all categories that tables or the caller name."""
    names = list(tables[0].text) if tables else [*contexts, *(features or [n for n in categories if n not in contexts])]
    known: dict[str, tuple[str, ...]] = {}
    for name in names:
        found = {text for table in tables for text in table.text[name].distinct} | {*map(str, categories.get(name, ()))}
        known[name] = tuple(sorted(found))
    for name in categories:
        if name not in known:
            raise TableError(f"expected categories of a column of the campaign ({', '.join(names)}), got {name!r}")
    for name, texts in known.items():
        if len(texts) < (1 if name in contexts else 2):
            raise TableError(f"expected at least two categories of {name!r}, got {', '.join(texts) or 'none'}")
    if score in names:
        raise TableError(f"expected {score!r} as one of score, context or feature, got it more than once")
    if len(names) == len(contexts):
        raise TableError("expected columns to choose, got no rows, no candidates and no categories")
    return TableEncoding(
        score,
        {name: found for name, found in known.items() if name not in contexts},
        {name: known[name] for name in contexts},
    )


def _averaged(rows: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the different rows, in their order, with the means of their scores; NaN if all of a row's failed."""
    scores: dict[tuple[int, ...], list[float]] = {}
    for row, number in zip(rows.tolist(), score.tolist(), strict=True):
        scores.setdefault(tuple(row), []).extend([] if isnan(number) else [number])
    means = [fmean(found) if found else nan for found in scores.values()]
    distinct = torch.tensor(list(scores), dtype=torch.long).view(-1, rows.shape[1])
    return distinct, torch.tensor(means, dtype=torch.float64)


def _refuse_taken(folder: Path) -> None:
    """Refuses a folder that holds something, unless a start that was killed left it."""
    left = (CANDIDATES, _measured_name(0))
    files = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    others = [name for name in files if name not in left and not name.endswith((".tmp", ".lock"))]
    if others or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"expected a new folder for a campaign, got {folder}, which exists; nothing was written")


def _measured_name(number: int) -> str:
    return f"measured_{number}.csv"


def _csv(frame: pd.DataFrame) -> bytes:
    return neutral_frame(frame).to_csv(index=False, lineterminator="\n").encode()


def _unchanged(folder: Path, entry: StateFile) -> Path:
    """Returns the path of a file of the state, which must be as it was written."""
    path = file_of(folder, entry["file"])
    if path is None:
        raise BundleError(f"expected the file {entry['file']!r} of the campaign in {folder}, got no such file")
    digest = sha256_of(path)
    if digest != entry["sha256"]:
        raise BundleError(
            f"expected {path} to have SHA-256 {entry['sha256'][:12]}, got {digest[:12]}: the file was altered"
        )
    return path
