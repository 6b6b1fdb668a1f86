"""The log of the simulated user of ``SlotRL/Slate-v0`` as files, in the format of ``slot-rl pretrain --log``."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from slot_rl.console import console, say
from slot_rl.io import whole_file
from slot_rl.places import check_free, fresh_folder
from slot_rl.problems.simulated_user import DIM, LOGGED_REQUESTS, SLATES_EACH, SLOTS, logged_pages, slate_catalogue
from slot_rl.seeding import generator_from

LOG = "log.parquet"


@dataclass(frozen=True)
class SlateLogConfig:
    """Writes items.parquet, requests.parquet and log.parquet of the simulated user.

    Attributes:
        out: The folder to write to.
        requests: Number of requests.
        slates: Pages that each request was shown.
        seed: Seeds requests, pages and clicks; 0 gives the log that the shipped estimator was fitted on.
        force: Replace the log that is already there.
    """

    out: Path
    requests: int = LOGGED_REQUESTS
    slates: int = SLATES_EACH
    seed: int = 0
    force: bool = False

    def __post_init__(self) -> None:
        """Refuses an empty log."""
        if self.requests < 1 or self.slates < 1:
            raise ValueError(f"expected requests and slates >= 1, got {self.requests} and {self.slates}")


def write_slate_log(config: SlateLogConfig) -> None:
    """Simulates the log and writes its files.

    Raises:
        ValueError: If the folder is taken.
    """
    check_free(config.out, config.force, LOG)
    with console.status("simulating"):
        pages = logged_pages(config.requests, config.slates, generator_from(config.seed))
    items = slate_catalogue().numpy()
    lists = [row[row >= 0] for row in pages.candidates.numpy()]
    tables = {
        "items": {"item": pa.array(range(len(items))), **{f"x{i + 1}": items[:, i] for i in range(DIM)}},
        "requests": {
            "request": pa.array(range(config.requests)),
            **{f"u{i + 1}": pages.users[:, i].numpy() for i in range(DIM)},
            "candidates": pa.array(lists, pa.list_(pa.int32())),
        },
        "log": {
            "request": pages.request.int().numpy(),
            **{f"slot_{i + 1}": pages.shown[:, i].int().numpy() for i in range(SLOTS)},
            "clicks": pages.clicks.int().numpy(),
            "propensity": pages.propensity.numpy(),
        },
    }
    with fresh_folder(config.out):
        for name, columns in tables.items():
            with whole_file(config.out / f"{name}.parquet") as path:
                pa.parquet.write_table(pa.table(columns), path)
    say(f"written: {config.out}, {len(pages.clicks):,} pages with {pages.clicks.mean():.3f} clicks on average")
