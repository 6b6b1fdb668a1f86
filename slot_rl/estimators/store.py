"""Estimators on disk: weights and a card that says how they were made and how well they fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from slot_rl.documents import as_declared
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.grouping import group_rows
from slot_rl.estimators.kinds import Model, model_of, shape_of
from slot_rl.estimators.seen_rows import SeenRows
from slot_rl.io import BundleError, as_written, read_bundle, weights_hash, write_bundle
from slot_rl.seeding import seeded_initialisation

CARD = "card.json"
SEEN = ("seen_choice", "seen_score", "seen_counts")
SHIPPED = Path(__file__).parent / "shipped"
Net = TypeVar("Net", bound=nn.Module)


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
        seen: The best measured rows of the table; None for an estimator of given vectors, or one that was stored
            without them.
    """

    net: Model
    sha256: str
    card: Mapping[str, Any]
    encoding: TableEncoding | None = None
    contexts: Tensor | None = None
    seen: SeenRows | None = None


def save_estimator(
    folder: Path,
    net: Model,
    card: Mapping[str, Any],
    encoding: TableEncoding | None = None,
    contexts: Tensor | None = None,
    seen: SeenRows | None = None,
) -> None:
    """Writes an estimator to a folder, which is made if it is missing; arguments as in :class:`StoredEstimator`."""
    document: dict[str, Any] = {
        "card": dict(card),
        "shape": shape_of(net),
        "encoding": None if encoding is None else encoding.to_json(),
    }
    tensors = dict(net.state_dict())
    if contexts is not None:
        tensors["contexts"] = contexts
    if seen is not None:
        tensors |= dict(zip(SEEN, (seen.choice, seen.score, seen.counts), strict=True))
        document |= {"seen_is_censored": seen.censored, "error_at_top": seen.error}
    write_bundle(folder, "estimator", tensors, document, CARD)


def load_estimator(folder: Path) -> StoredEstimator:
    """Reads an estimator that :func:`save_estimator` wrote.

    Raises:
        BundleError: If the folder holds no estimator, a file was changed, or weights and card do not fit.
    """
    tensors, document = read_bundle(folder, "estimator", CARD)
    contexts = tensors.pop("contexts", None)
    measured = {name: tensors.pop(name) for name in SEEN if name in tensors}
    with as_written(f"{CARD} and weights that fit it in {folder}"):
        net = with_weights(lambda: model_of(document["shape"]), tensors)
        encoding = None if document["encoding"] is None else TableEncoding.from_json(document["encoding"])
        card = as_declared(dict[str, Any], document["card"], "card")
        choice, score, counts = SEEN
        seen = None
        if measured:
            # What was stored without an error is compared as before.
            censored = as_declared(bool, document["seen_is_censored"], "seen_is_censored")
            error = as_declared(float, document.get("error_at_top", 0.0), "error_at_top")
            seen = SeenRows(measured[choice], measured[score], measured[counts], censored, error)
    return StoredEstimator(net.eval(), weights_hash(document), card, encoding, contexts, seen)


def with_weights(build: Callable[[], Net], tensors: Mapping[str, Tensor]) -> Net:
    """Builds a model with its weights.

    Raises:
        BundleError: If they are of other sizes or types than the model's.
    """
    # On a device without memory first: a shape that was altered may ask for more than there is.
    with torch.device("meta"):
        expected = {name: (value.shape, value.dtype) for name, value in build().state_dict().items()}
    if expected != {name: (value.shape, value.dtype) for name, value in tensors.items()}:
        raise BundleError("expected weights of the sizes and types that the card says, got others")
    with seeded_initialisation(0):  # replaced by the stored weights
        model = build()
    model.load_state_dict(tensors)
    return model


def load_shipped(name: str) -> StoredEstimator:
    """Reads an estimator of this package, for example ``"slots-v0"``."""
    return load_estimator(SHIPPED / name)


def context_tensor(rows: Tensor) -> Tensor:
    """Returns the distinct rows, sorted, of contexts ``(rows, columns)``: non-negative indices (long), or numbers."""
    # torch.unique(dim=0) takes seconds for a million rows.
    return rows[torch.from_numpy(group_rows(rows.numpy())[0])]
