"""A small shop's log as files: who likes what is a formula, so tests know the best page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ITEMS, REQUESTS, SLOTS = 24, 60, 3
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Shop:
    """Files of a log, and the rows that they hold."""

    items: Path
    requests: Path
    log: Path
    item_rows: pd.DataFrame
    request_rows: pd.DataFrame

    def flags(self) -> list[Any]:
        return ["--log", self.log, "--items", self.items, "--requests", self.requests, "--score", "value"]


def value(price: Any, colour: Any, wealth: Any, liked: Any) -> Any:
    """What an item is worth to a user: rich ones like dear items, and all like one colour."""
    return price * wealth + 1.0 * (colour == liked)


def _some(ids: list[str], random: np.random.Generator) -> list[str]:
    return [ids[i] for i in random.permutation(len(ids))[: random.integers(6, 15)]]


def write_shop(folder: Path, slates: int = 4_000, binary: bool = False) -> Shop:
    """Writes items, requests and a log of random pages, whose score is the sum over slots; upper slots weigh more."""
    random = np.random.default_rng(0)
    items = pd.DataFrame(
        {
            "item": [f"i{i}" for i in range(ITEMS)],
            "price": random.normal(size=ITEMS),
            "colour": random.choice(COLOURS, ITEMS),
        }
    )
    requests = pd.DataFrame(
        {
            "request": range(REQUESTS),
            "wealth": random.normal(size=REQUESTS),
            "liked": random.choice(COLOURS, REQUESTS),
            "candidates": [
                random.permutation(items["item"])[: random.integers(6, 15)].tolist() for _ in range(REQUESTS)
            ],
        }
    )
    asked = random.integers(REQUESTS, size=slates)
    shown = random.integers(ITEMS, size=(slates, SLOTS))
    worth = value(
        items["price"].to_numpy()[shown],
        items["colour"].to_numpy()[shown],
        requests["wealth"].to_numpy()[asked, None],
        requests["liked"].to_numpy()[asked, None],
    )
    score = worth @ np.array([1.0, 0.7, 0.4]) + 0.1 * random.normal(size=slates)
    log = pd.DataFrame({"request": asked, **{f"s{i}": items["item"].to_numpy()[shown[:, i]] for i in range(SLOTS)}})
    log["value"] = (score > 0).astype(int) if binary else score
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.parquet" for name in ("items", "requests", "log")]
    for path, frame in zip(paths, (items, requests, log), strict=True):
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    return Shop(paths[0], paths[1], paths[2], items, requests)
