"""Selectors: estimators of the gradient through a discrete choice, as functions of tensors alone.

A new selector is one file with its formula, and an import and an entry in :data:`SELECTORS` here.
"""

from dataclasses import fields
from typing import Any, get_args, get_type_hints

from slot_rl.selectors.base import Estimate, Objective, Selector
from slot_rl.selectors.categorical import masked_logits
from slot_rl.selectors.exact import Exact
from slot_rl.selectors.gapped import Gapped
from slot_rl.selectors.gumbel import Gumbel
from slot_rl.selectors.gumbel_rao import GumbelRao
from slot_rl.selectors.intermediate_draws import BernoulliDraw, GaussianDraw, PoissonDraw
from slot_rl.selectors.intermediate_loss import IntermediateLoss
from slot_rl.selectors.local_expectation import LocalExpectation
from slot_rl.selectors.rebar import Rebar
from slot_rl.selectors.reinforce import Reinforce
from slot_rl.selectors.reinmax import ReinMax
from slot_rl.selectors.rloo import RLOO
from slot_rl.selectors.screened_expectation import ScreenedExpectation
from slot_rl.selectors.softmax import Softmax
from slot_rl.selectors.straight_through import StraightThrough
from slot_rl.spelling import unknown

__all__ = [
    "BernoulliDraw",
    "GaussianDraw",
    "NAMES",
    "PoissonDraw",
    "RLOO",
    "SELECTORS",
    "Estimate",
    "Exact",
    "Gapped",
    "Gumbel",
    "GumbelRao",
    "IntermediateLoss",
    "LocalExpectation",
    "Objective",
    "Rebar",
    "ReinMax",
    "Reinforce",
    "ScreenedExpectation",
    "Selector",
    "Softmax",
    "StraightThrough",
    "make",
    "masked_logits",
]

SELECTORS: dict[str, type[Selector]] = {
    selector.name: selector
    for selector in (
        Exact,
        Softmax,
        StraightThrough,
        Gumbel,
        GumbelRao,
        ReinMax,
        Gapped,
        IntermediateLoss,
        Reinforce,
        RLOO,
        LocalExpectation,
        ScreenedExpectation,
        Rebar,
    )
}
"""The class of each selector, by its name."""
NAMES = tuple(SELECTORS)
"""The names of all selectors."""


def make(name: str, **options: Any) -> Selector:
    """Builds a selector: ``make("gumbel", tau=0.5)``.

    Args:
        name: One of :data:`NAMES`, or ``"zgr"``, which is ``reinmax`` at tau = 1.
        options: The fields of the selector's class.

    Raises:
        ValueError: If the name is unknown, or an option has a value that the selector refuses.
        TypeError: If an option is unknown or has the wrong type.
    """
    if name == "zgr":
        if options:
            raise TypeError(f"expected no options for 'zgr', reinmax at tau = 1, got {', '.join(options)}")
        return SELECTORS["reinmax"]()
    if name not in SELECTORS:
        raise ValueError(unknown("expected one of", (*NAMES, "zgr"), name))
    kind = SELECTORS[name]
    hints = get_type_hints(kind)
    types = {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in types:
            raise TypeError(unknown(f"expected options of {name!r} among", types or ("none",), key))
        _check_type(f"{name}'s {key}", types[key], value)
    return kind(**options)


def _check_type(what: str, hint: Any, value: Any) -> None:
    choices = get_args(hint)
    if choices:
        if value not in choices:
            raise ValueError(f"expected {what} to be one of {', '.join(map(repr, choices))}, got {value!r}")
        return
    # In Python a bool is an int, but k=True is a mistake.
    fits = isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))
    if not fits:
        raise TypeError(f"expected {what} to be of type {hint.__name__}, got {value!r}")
