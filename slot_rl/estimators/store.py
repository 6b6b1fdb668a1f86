"""Estimators on disk: weights and a card that says how they were made and how well they fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.kinds import Model, model_of, shape_of
from slot_rl.io import BundleError, read_bundle, weights_hash, write_bundle
from slot_rl.seeding import seeded_initialisation

CARD = "card.json"
SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class StoredEstimator:
    """An estimator that was read from disk.

    Attributes:
        net: The model, in eval mode: a network of vectors or of a table, or another model of a table.
        sha256: Hash of the weights.
        card: How it was made and how well it fits.
        encoding: Names and categories of features and contexts; None for an estimator of given vectors.
        contexts: The contexts in the table ``(contexts, columns)``, long, or float64 if there are columns of numbers;
            None without contexts.
    """

    net: Model
    sha256: str
    card: Mapping[str, Any]
    encoding: TableEncoding | None = None
    contexts: Tensor | None = None


def save_estimator(
    folder: Path,
    net: Model,
    card: Mapping[str, Any],
    encoding: TableEncoding | None = None,
    contexts: Tensor | None = None,
) -> None:
    """Writes an estimator to a folder, which is made if it is missing; arguments as in :class:`StoredEstimator`."""
    document = {
        "card": dict(card),
        "shape": shape_of(net),
        "encoding": None if encoding is None else encoding.to_json(),
    }
    tensors = dict(net.state_dict())
    if contexts is not None:
        tensors["contexts"] = contexts
    write_bundle(folder, "estimator", tensors, document, CARD)


def load_estimator(folder: Path) -> StoredEstimator:
    """Reads an estimator that :func:`save_estimator` wrote.

    Raises:
        BundleError: If the folder holds no estimator, a file was changed, or weights and card do not fit.
    """
    tensors, document = read_bundle(folder, "estimator", CARD)
    contexts = tensors.pop("contexts", None)
    try:
        with seeded_initialisation(0):  # replaced by the stored weights
            net = model_of(document["shape"])
        net.load_state_dict(tensors)
        encoding = None if document["encoding"] is None else TableEncoding.from_json(document["encoding"])
        card = document["card"]
    except (AttributeError, IndexError, KeyError, TypeError, RuntimeError) as error:
        raise BundleError(f"expected weights that fit the card in {folder}, got: {error}") from error
    return StoredEstimator(net.eval(), weights_hash(document), card, encoding, contexts)


def load_shipped(name: str) -> StoredEstimator:
    """Reads an estimator of this package, for example ``"slots-v0"``."""
    return load_estimator(SHIPPED / name)


def context_tensor(rows: Tensor) -> Tensor:
    """Returns the distinct rows, sorted, of contexts ``(rows, columns)``: non-negative indices (long), or numbers."""
    if not rows.is_floating_point():
        return _distinct(rows)
    found = [torch.unique(column, return_inverse=True) for column in rows.unbind(dim=1)]
    places = _distinct(torch.stack([place for _, place in found], dim=1))
    return torch.stack([values[place] for (values, _), place in zip(found, places.unbind(1), strict=True)], dim=1)


def _distinct(rows: Tensor) -> Tensor:
    distinct, places = rows.new_zeros(1, 0), rows.new_zeros(len(rows))
    # Column by column, because torch.unique(dim=0) takes seconds for a million rows.
    for column in rows.unbind(dim=1):
        size = int(column.max()) + 1
        values, places = torch.unique(places * size + column, return_inverse=True)
        distinct = torch.cat([distinct[values // size], (values % size).unsqueeze(1)], dim=1)
    return distinct
