"""The registry: every selector by its name, and the messages for wrong options."""

import importlib
import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl import selectors
from slot_rl.seeding import generator_from
from slot_rl.selectors import NAMES, SELECTORS, Exact, Gumbel, IntermediateLoss, ReinMax, Selector, make

OPTIONS: dict[str, dict[str, type]] = {
    "exact": {"limit": int, "chunk": int},
    "softmax": {"tau": float},
    "straight_through": {"tau_forward": float, "tau_backward": float, "noise": bool},
    "gumbel": {"tau": float, "hard": bool},
    "gumbel_rao": {"tau": float, "k": int},
    "reinmax": {"tau": float},
    "gapped": {"gap": float, "tau": float},
    "intermediate_loss": {"step": float, "normaliser": str, "faithful": bool},
    "reinforce": {"baseline": str},
    "rloo": {"k": int},
    "local_expectation": {"chunk": int},
    "screened_expectation": {"m": int, "chunk": int},
    "rebar": {"eta": float, "tau": float},
}
EVERY_OPTION = [(name, option) for name, options in OPTIONS.items() for option in options]


def total(selection: Tensor) -> Tensor:
    return selection.flatten(-2).sum(dim=-1)


def test_the_roster_is_complete_and_in_its_order() -> None:
    assert NAMES == (
        "exact",
        "softmax",
        "straight_through",
        "gumbel",
        "gumbel_rao",
        "reinmax",
        "gapped",
        "intermediate_loss",
        "reinforce",
        "rloo",
        "local_expectation",
        "screened_expectation",
        "rebar",
    )
    assert tuple(SELECTORS) == NAMES == tuple(OPTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_a_selectors_class_is_public_in_its_module(name: str) -> None:
    kind = SELECTORS[name]
    module = importlib.import_module(f"slot_rl.selectors.{name}")
    assert kind.name == name and kind.__module__ == module.__name__
    assert getattr(module, kind.__name__) is getattr(selectors, kind.__name__) is kind
    assert kind.__name__ in selectors.__all__
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    assert own == [kind]


@pytest.mark.parametrize("name", NAMES)
def test_a_selector_is_built_by_its_name_with_its_defaults(name: str) -> None:
    selector = make(name)
    assert type(selector) is SELECTORS[name] and isinstance(selector, Selector)
    defaults = {field.name: field.default for field in fields(SELECTORS[name])}  # type: ignore[arg-type]
    assert {option: type(value) for option, value in defaults.items()} == OPTIONS[name]
    assert selector == SELECTORS[name]() == make(name, **defaults) and hash(selector) == hash(make(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_selector_cannot_be_altered(name: str) -> None:
    selector = make(name)
    option = next(iter(OPTIONS[name]))
    with pytest.raises(FrozenInstanceError, match=option):
        setattr(selector, option, 2)


def test_options_reach_the_selector() -> None:
    assert make("gumbel", tau=0.5, hard=False) == Gumbel(0.5, False)
    assert make("intermediate_loss", step=1.0, normaliser="sum", faithful=True) == IntermediateLoss(1.0, "sum", True)


def test_a_whole_number_will_do_for_a_fraction() -> None:
    assert make("gumbel", tau=2) == Gumbel(2.0)


def test_zgr_is_reinmax_at_one_and_takes_no_options() -> None:
    assert make("zgr") == ReinMax(1.0) == make("reinmax")
    assert make("zgr").name == "reinmax" and "zgr" not in NAMES
    with pytest.raises(TypeError, match="expected no options for 'zgr', reinmax at tau = 1, got tau"):
        make("zgr", tau=1.0)


@pytest.mark.parametrize("name", ["", "Gumbel", "gumbel-rao", "reinmax ", "base", "zgr2"])
def test_an_unknown_name_is_refused_with_those_that_there_are(name: str) -> None:
    like = {"Gumbel": "gumbel", "gumbel-rao": "gumbel_rao", "reinmax ": "reinmax", "zgr2": "zgr"}.get(name)
    meant = rf"; did you mean '{like}'\?" if like else ""
    with pytest.raises(ValueError, match=f"^expected one of exact, softmax, .*, rebar, zgr, got '{name}'{meant}$"):
        make(name)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused_with_those_that_there_are(name: str) -> None:
    known = ", ".join(OPTIONS[name])
    with pytest.raises(TypeError, match=f"^expected options of '{name}' among {known}, got 'temperature'$"):
        make(name, temperature=1.0)
    # An attribute of the class that is not a field.
    with pytest.raises(TypeError, match=f"^expected options of '{name}' among {known}, got 'scores_draws'$"):
        make(name, scores_draws=True)


@pytest.mark.parametrize(("name", "option"), EVERY_OPTION)
def test_an_option_of_another_type_is_refused(name: str, option: str) -> None:
    kind = OPTIONS[name][option]
    if kind is str:
        for value in ("other", "", 1, None, True):
            with pytest.raises(ValueError, match=f"^expected {name}'s {option} to be one of '.*', got {value!r}$"):
                make(name, **{option: value})
        return
    wrong: dict[type, tuple[Any, ...]] = {
        bool: (1, 0, 1.0, "x", "True", None),
        int: (True, False, 2.0, "x", "2", None),
        float: (True, False, "x", "1.0", None, 1j),
    }
    for value in wrong[kind]:
        with pytest.raises(TypeError, match="^expected .* to be of type .*, got .*$") as refusal:
            make(name, **{option: value})
        assert str(refusal.value) == f"expected {name}'s {option} to be of type {kind.__name__}, got {value!r}"


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("intermediate_loss", "normaliser", ("mirror", "simplex", "sum")),
        ("reinforce", "baseline", ("batch", "none")),
    ],
)
def test_every_word_that_an_option_may_be_is_accepted(name: str, option: str, values: tuple[str, ...]) -> None:
    for value in values:
        assert getattr(make(name, **{option: value}), option) == value


POSITIVE = [
    *(("exact", option) for option in ("limit", "chunk")),
    ("softmax", "tau"),
    *(("straight_through", option) for option in ("tau_forward", "tau_backward")),
    ("gumbel", "tau"),
    *(("gumbel_rao", option) for option in ("tau", "k")),
    ("reinmax", "tau"),
    *(("gapped", option) for option in ("gap", "tau")),
    ("intermediate_loss", "step"),
    ("local_expectation", "chunk"),
    *(("screened_expectation", option) for option in ("m", "chunk")),
    ("rebar", "tau"),
]


@pytest.mark.parametrize(("name", "option"), POSITIVE)
def test_options_that_are_not_positive_are_refused(name: str, option: str) -> None:
    zero = OPTIONS[name][option](0)
    for value in (zero, zero - 1, *([math.nan, -math.inf, -0.0] if isinstance(zero, float) else [])):
        for build in (lambda **options: make(name, **options), SELECTORS[name]):
            with pytest.raises(ValueError, match=f"^expected {option} > 0, got {value}$"):
                build(**{option: value})


def test_every_number_among_the_options_has_its_refusals_tested() -> None:
    numbers = {(name, option) for name, option in EVERY_OPTION if OPTIONS[name][option] in (int, float)}
    # RLOO needs two draws to compare; REBAR is unbiased for every weight of its control variate.
    assert numbers - set(POSITIVE) == {("rloo", "k"), ("rebar", "eta")}


@pytest.mark.parametrize("k", [1, 0, -3])
def test_rloo_refuses_fewer_than_two_draws(k: int) -> None:
    with pytest.raises(ValueError, match=f"^expected k >= 2, got {k}$"):
        make("rloo", k=k)


@pytest.mark.parametrize("eta", [0.0, -1.0, 2.5])
def test_rebar_takes_any_finite_weight_of_its_control_variate(eta: float) -> None:
    logits = torch.zeros(5, 2, 3, requires_grad=True)
    make("rebar", eta=eta)(logits, total, generator=generator_from(0)).surrogate.sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


def test_the_classes_refuse_unknown_words_themselves() -> None:
    with pytest.raises(ValueError, match=r"^expected normaliser 'mirror', 'simplex' or 'sum', got 'other'$"):
        SELECTORS["intermediate_loss"](normaliser="other")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"^expected baseline 'batch' or 'none', got 'other'$"):
        SELECTORS["reinforce"](baseline="other")  # type: ignore[call-arg]


@pytest.mark.parametrize("normaliser", ["mirror", "simplex"])
def test_the_faithful_form_needs_the_sum_normaliser(normaliser: str) -> None:
    with pytest.raises(ValueError, match=f"^expected normaliser 'sum' for the faithful form, got '{normaliser}'$"):
        make("intermediate_loss", normaliser=normaliser, faithful=True)


def test_exact_refuses_too_many_configurations() -> None:
    asked: list[Tensor] = []

    def objective(selection: Tensor) -> Tensor:
        asked.append(selection)
        return total(selection)

    with pytest.raises(ValueError, match=r"^expected at most 65,536 configurations to enumerate, got 10\^5$"):
        make("exact")(torch.zeros(2, 5, 10), objective)
    with pytest.raises(ValueError, match=r"^expected at most 8 configurations to enumerate, got 3\^2$"):
        Exact(limit=8)(torch.zeros(2, 2, 3), objective)
    assert asked == []
    assert Exact(limit=9)(torch.zeros(2, 2, 3), objective).forwards == 18
