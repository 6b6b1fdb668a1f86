"""Slate estimators on disk: the network, what the columns mean, and the items and requests that it was fitted with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slot_rl.documents import as_declared
from slot_rl.estimators.columns import Encoded, FileColumns
from slot_rl.estimators.frames import Integers
from slot_rl.estimators.slate import SlateNet, SlateShape
from slot_rl.estimators.store import CARD, with_weights
from slot_rl.io import as_written, read_bundle, weights_hash, write_bundle

KIND = "slate estimator"
EVERY = -1
"""In place of a list's length: the request may have every item."""


@dataclass(frozen=True)
class StoredSlates:
    """A slate estimator with its items and requests.

    Attributes:
        net: The network, in eval mode.
        slots: Names of the slots.
        item_columns: What the columns of items mean.
        request_columns: What the columns of requests mean.
        item_ids: The ids of the items.
        items: Their cells.
        requests: The cells of requests to train and to judge on.
        lists: The rows of each request's candidates among the items; None for every item.
        card: How it was made and how well it fits.
        sha256: Hash of the weights; empty before it is stored.
    """

    net: SlateNet
    slots: tuple[str, ...]
    item_columns: FileColumns
    request_columns: FileColumns
    item_ids: tuple[str, ...]
    items: Encoded
    requests: Encoded
    lists: Sequence[Integers | None]
    card: Mapping[str, Any]
    sha256: str = ""

    def item_vectors(self) -> Tensor:
        """Returns the vectors of all items, ``(items, dim)``."""
        return self.net.item_vectors(self.items, torch.arange(1, len(self.item_ids) + 1))


def save_slates(folder: Path, stored: StoredSlates) -> None:
    """Writes a slate estimator to a folder, which is made if it is missing."""
    lengths = [EVERY if each is None else len(each) for each in stored.lists]
    listed = [each for each in stored.lists if each is not None]
    tensors = {f"net.{name}": value for name, value in stored.net.state_dict().items()} | {
        "items.numbers": stored.items.numbers,
        "items.codes": stored.items.codes.int(),
        "requests.numbers": stored.requests.numbers,
        "requests.codes": stored.requests.codes.int(),
        "lists.lengths": torch.tensor(lengths, dtype=torch.int32),
        "lists.items": torch.from_numpy(np.concatenate([*listed, np.zeros(0, dtype=np.int64)])).int(),
    }
    document = {
        "card": dict(stored.card),
        "shape": stored.net.shape.to_json(),
        "slots": list(stored.slots),
        "item_columns": stored.item_columns.to_json(),
        "request_columns": stored.request_columns.to_json(),
        "item_ids": list(stored.item_ids),
    }
    write_bundle(folder, KIND, tensors, document, CARD)


def load_slates(folder: Path) -> StoredSlates:
    """Reads what :func:`save_slates` wrote.

    Raises:
        BundleError: If the folder holds something else, a file was changed, or weights and card do not fit.
    """
    tensors, document = read_bundle(folder, KIND, CARD)
    with as_written(f"{CARD} and weights that fit it in {folder}"):
        shape = SlateShape.from_json(document["shape"])
        weights = {name[4:]: value for name, value in tensors.items() if name.startswith("net.")}
        net = with_weights(lambda: SlateNet(shape), weights)
        items, requests = (
            Encoded(tensors[f"{name}.numbers"], tensors[f"{name}.codes"].long()) for name in ("items", "requests")
        )
        return StoredSlates(
            net.eval().requires_grad_(False),
            as_declared(tuple[str, ...], document["slots"], "slots"),
            FileColumns.from_json(document["item_columns"]),
            FileColumns.from_json(document["request_columns"]),
            as_declared(tuple[str, ...], document["item_ids"], "item_ids"),
            items,
            requests,
            _lists(tensors["lists.lengths"].tolist(), tensors["lists.items"].long().numpy()),
            as_declared(dict[str, Any], document["card"], "card"),
            weights_hash(document),
        )


def _lists(lengths: list[int], items: Integers) -> list[Integers | None]:
    ends = np.cumsum([max(length, 0) for length in lengths])
    return [None if n == EVERY else items[end - n : end] for n, end in zip(lengths, ends, strict=True)]
