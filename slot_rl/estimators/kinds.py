"""The kinds of estimators that are stored: how each is described in a card, and built again from that."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from slot_rl.documents import as_declared
from slot_rl.estimators.blend import Blend
from slot_rl.estimators.drawn_functions import DrawnFunctions
from slot_rl.estimators.motif_nets import MotifNets, MotifShape
from slot_rl.estimators.net import EstimatorNet, EstimatorShape
from slot_rl.estimators.net_ensemble import NetEnsemble, NetEnsembleShape
from slot_rl.estimators.product_gp import ProductGP
from slot_rl.estimators.row_scorer import RowScorer
from slot_rl.estimators.score_units import InScoreUnits, ScoreUnits

_KIND = "kind"
Shape = Mapping[str, Any]
Model = EstimatorNet | RowScorer


def _sizes(shape: Shape, count: str) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    sizes = as_declared(tuple[int, ...], shape["sizes"], "shape.sizes")
    contexts = as_declared(tuple[int, ...], shape["context_sizes"], "shape.context_sizes")
    return sizes, contexts, as_declared(int, shape[count], f"shape.{count}")


def _blend(shape: Shape) -> Blend:
    parts = [part for part in map(model_of, shape["parts"]) if isinstance(part, RowScorer)]
    if len(parts) < 2 or len(parts) < len(shape["parts"]):
        raise TypeError(f"a blend of {len(shape['parts'])} parts, {len(parts)} of which score rows")
    return Blend(parts)


def _in_score_units(shape: Shape) -> InScoreUnits:
    model = model_of(shape["model"])
    if not isinstance(model, RowScorer):
        raise TypeError(f"a model in score units that is a {type(model).__name__}")
    return InScoreUnits(model, ScoreUnits(as_declared(tuple[int, ...], shape["context_sizes"], "shape.context_sizes")))


_BUILDERS: dict[str, Callable[[Shape], Model]] = {
    "net": lambda shape: EstimatorNet(EstimatorShape.from_json(dict(shape))),
    "nets": lambda shape: NetEnsemble(NetEnsembleShape.from_json(dict(shape))),
    "motifs": lambda shape: MotifNets(MotifShape.from_json(dict(shape))),
    "gp": lambda shape: ProductGP(*_sizes(shape, "rows")),
    "draws": lambda shape: DrawnFunctions(*_sizes(shape, "members")),
    "blend": _blend,
    "score_units": _in_score_units,
}


def shape_of(model: nn.Module) -> dict[str, Any]:
    """Returns what :func:`model_of` builds the same model from, ready for JSON.

    Raises:
        TypeError: If it is of another kind.
    """
    if isinstance(model, EstimatorNet):
        # Without its kind, as before there were others: the cards of earlier versions stay as they are.
        return model.shape.to_json()
    if isinstance(model, NetEnsemble):
        return {_KIND: "nets", **model.shape.to_json()}
    if isinstance(model, MotifNets):
        return {_KIND: "motifs", **model.shape.to_json()}
    if isinstance(model, ProductGP | DrawnFunctions):
        sizes = {"sizes": list(model.sizes), "context_sizes": list(model.context_sizes)}
        if isinstance(model, ProductGP):
            return {_KIND: "gp", **sizes, "rows": len(model.rows)}
        return {_KIND: "draws", **sizes, "members": model.functions.shape[-1]}
    if isinstance(model, Blend):
        return {_KIND: "blend", "parts": [shape_of(part) for part in model.parts]}
    if isinstance(model, InScoreUnits):
        sizes = {"context_sizes": list(model.units.context_sizes)}
        return {_KIND: "score_units", **sizes, "model": shape_of(model.model)}
    raise TypeError(f"expected a model of one of the kinds {', '.join(_BUILDERS)}, got {type(model).__name__}")


def model_of(shape: Shape) -> Model:
    """Builds a model whose weights are still to be loaded.

    Raises:
        KeyError, TypeError: If the shape is not one that :func:`shape_of` gives.
    """
    sizes = dict(shape)
    kind = sizes.pop(_KIND, "net")
    if kind not in _BUILDERS:
        raise TypeError(f"a model of kind {kind!r}")
    return _BUILDERS[kind](sizes)
