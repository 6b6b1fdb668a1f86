"""The campaign's command: results come in as a file, the rows to measure next go out as one.

A call does one of three things. With a new folder it starts a campaign. With ``--results`` it takes a filled-in file
and writes the next one. Without either it says where the campaign stands, and writes the next file if that is missing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

from slot_rl.campaign import STATE, Campaign
from slot_rl.campaign_rows import MEAN, SPREAD, categories_of_file, told_rows
from slot_rl.console import fit_progress, print_table, say
from slot_rl.estimators.mixed_members import MemberFit
from slot_rl.estimators.spreadsheet_cells import neutral_frame
from slot_rl.io import whole_file
from slot_rl.places import claimed

SHOWN, WIDTH, SHORTEST = 5, 76, 5
"""Rows that are printed, letters of a line that columns share, and letters of a cell at least."""
FIRST_BATCH = 96


@dataclass(frozen=True)
class CampaignConfig:
    """Proposes the rows to measure next, round by round; the state is a folder.

    Start with ``--out NEW --table start.csv --score NAME``. Fill in the score column of the file round_1.csv, then call
    with ``--out FOLDER --results FOLDER/round_1.csv``, which writes round_2.csv, and so on. An empty score, or the word
    failed, is a failed measurement: such a row is not proposed again. High scores are good.

    Attributes:
        out: The campaign's folder.
        table: To start: CSV or Parquet file of what was measured so far. It may be left out if categories or candidates
            are given; then the first batch is random.
        score: To start: the score column.
        contexts: To start: columns that are given and not chosen; each batch has equal shares of the contexts.
        features: To start: the columns to choose; all others if left out.
        categories: To start: file with further categories, which no row has yet: a column for each feature that has
            some, with one category in each line.
        candidates: To start: file with the only rows that can be measured; all combinations if left out.
        results: File with measured rows and their scores. Other rows than the proposed ones are welcome; rows that
            occur more than once count with their mean.
        batch: Rows to propose; if left out, as many as the round before, and 96 at the start.
        seed: To start: seeds the proposals.
        raw_cells: Leave texts as they are that a spreadsheet would execute, such as =O or -OH; otherwise an apostrophe
            goes before them, which results may have, too.
    """

    out: Path
    table: Path | None = None
    score: str | None = None
    contexts: tuple[str, ...] = ()
    features: tuple[str, ...] | None = None
    categories: Path | None = None
    candidates: Path | None = None
    results: Path | None = None
    batch: Annotated[int | None, tyro.conf.arg(metavar="ROWS")] = None
    seed: int | None = None
    raw_cells: bool = False

    def __post_init__(self) -> None:
        """Refuses a batch of no rows."""
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"expected --batch >= 1, got {self.batch}")

    @property
    def starting(self) -> dict[str, object]:
        """The flags given that only a start takes."""
        names = ("table", "score", "contexts", "features", "categories", "candidates", "seed")
        return {name: value for name in names if (value := getattr(self, name)) not in (None, ())}


def run_campaign(config: CampaignConfig) -> None:
    """Starts or continues a campaign and writes the next file of rows to measure.

    Raises:
        ValueError: If the flags or the files do not fit together; then nothing is written.
    """
    with claimed(config.out):
        _run_in_folder(config)


def _run_in_folder(config: CampaignConfig) -> None:
    if (config.out / STATE).is_file():
        campaign = Campaign.load(config.out)
        batch = config.batch or _batch_before(campaign, config.out)
        _continue(campaign, config)
    else:
        campaign, batch = _started(config), config.batch or FIRST_BATCH
    _say_state(campaign)
    path = config.out / _round_name(campaign.rounds + 1)
    if path.exists():
        say(f"waiting for its scores: {path}; give it with --results once they are filled in")
        return
    asked = _ask(campaign, batch)
    if len(asked) < batch:
        say(f"only {len(asked)} rows are left to propose, fewer than {batch}")
    _write(path, asked, campaign, config.raw_cells)
    _show(asked, campaign)
    say(f"rows to measure: {path}; fill in its column {campaign.encoding.score!r}, then give it with --results")


def _started(config: CampaignConfig) -> Campaign:
    if config.results is not None:
        raise ValueError(f"expected a campaign's folder with {STATE} for --results, got --out {config.out} without one")
    if config.score is None:
        raise ValueError("expected --score to start a campaign, got none")
    if config.table is None and config.categories is None and config.candidates is None:
        raise ValueError("expected --table, --categories or --candidates to start a campaign, got none of them")
    return Campaign.start(
        config.table,
        config.score,
        config.contexts,
        config.features,
        None if config.categories is None else categories_of_file(config.categories),
        config.candidates,
        config.out,
        config.seed or 0,
    )


def _continue(campaign: Campaign, config: CampaignConfig) -> None:
    """Adds the results that are given."""
    if config.starting:
        flags = ", ".join(f"--{name}" for name in config.starting)
        raise ValueError(f"expected {flags} with a new folder alone, got --out {config.out}, a campaign already begun")
    if config.results is None:
        return
    following = config.out / _round_name(campaign.rounds + 2)
    if following.exists():
        raise ValueError(f"expected no file {following} yet, got one: move it away; nothing was added")
    score = campaign.encoding.score
    blank = told_rows(config.results, None, (), (*campaign.columns, score)).table.text[score]
    if not any(text.strip() for text in blank.distinct):
        raise ValueError(
            f"expected scores in column {score!r} of {config.results}, got none; if all measurements failed, write "
            "'failed' in each row; nothing was added"
        )
    added = campaign.tell(config.results)
    say(f"added {added:,} rows of {config.results}")


def _batch_before(campaign: Campaign, folder: Path) -> int:
    """Returns how many rows the latest file proposed; raises TableError if it cannot be read any more."""
    for number in (campaign.rounds + 1, campaign.rounds):
        proposed = folder / _round_name(number)
        if proposed.is_file():
            return len(told_rows(proposed, None, (), campaign.columns).table)
    return FIRST_BATCH


def _ask(campaign: Campaign, batch: int) -> pd.DataFrame:
    with fit_progress(MemberFit().fit.steps, "") as progress:
        return campaign.ask(batch, lambda step: progress(step, None))


def _say_state(campaign: Campaign) -> None:
    measured, score = campaign.measured, campaign.encoding.score
    failed = int(measured[score].isna().sum())
    say(f"round {campaign.rounds}: {len(measured) - failed:,} rows measured, {failed:,} failed")
    best = campaign.best
    if len(best):
        names = [*campaign.columns, score]
        _print("best so far", names, best[:SHOWN])


def _show(asked: pd.DataFrame, campaign: Campaign) -> None:
    shown = asked[:SHOWN].rename(columns={MEAN: "mean", SPREAD: "spread"})
    _print(f"the first of {len(asked)} rows to measure", [*campaign.columns, "mean", "spread"], shown)


def _print(title: str, names: list[str], rows: pd.DataFrame) -> None:
    most = max(SHORTEST, WIDTH // len(names) - 3)
    lines = [[_shown(cell, most) for cell in row] for row in rows[names].to_numpy()]
    print_table(title, [_shown(name, most) for name in names], lines)


def _shown(cell: object, most: int) -> str:
    """Returns a cell short enough for a line: the files have it whole."""
    text = f"{cell:.4g}" if isinstance(cell, float) else str(cell)
    return text if len(text) <= most else text[: most - 1] + "…"


def _write(path: Path, asked: pd.DataFrame, campaign: Campaign, raw_cells: bool) -> None:
    frame = asked.copy()
    frame.insert(len(campaign.columns), campaign.encoding.score, "")
    with whole_file(path) as temporary:
        shown = frame if raw_cells else neutral_frame(frame)
        shown.to_csv(temporary, index=False, float_format="%.5g", lineterminator="\n")


def _round_name(number: int) -> str:
    return f"round_{number}.csv"
