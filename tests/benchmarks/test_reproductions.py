"""The reproductions: each toy against figures by hand, what a run leaves behind, and, slowly, the published figures.

The published figures are written out here once more, so that a slip in the tables that the commands print would show.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.reproductions import intermediate_loss_toy, pick_value, polynomial, quadratics
from benchmarks.reproductions.intermediate_loss_toy import (
    IntermediateLossConfig,
    descend,
    divergence,
    reproduce_intermediate_loss,
    start,
)
from benchmarks.reproductions.pick_value import Learned, PickValueConfig, learn, reproduce_pick_value
from benchmarks.reproductions.polynomial import (
    PolynomialConfig,
    lowest_loss,
    minimise,
    reproduce_polynomial,
    values,
)
from benchmarks.reproductions.quadratics import (
    PROBLEMS,
    Moments,
    QuadraticsConfig,
    moments,
    reproduce_quadratics,
)
from benchmarks.reproductions.results import Place, mean_of_last
from slot_rl.io import read_json
from slot_rl.problems import Observation, Problem
from slot_rl.selectors import IntermediateLoss, StraightThrough
from tests.conftest import Command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reproduce.py"
PNG = b"\x89PNG\r\n\x1a\n"
NAMES = ("intermediate-loss", "pick-value", "poly", "quadratics")


def nothing() -> None:
    pass


@dataclass(frozen=True)
class Toy:
    """A reproduction with few steps; it takes a place and, unless it enumerates, a seed."""

    run: Callable[[Place, int], object]
    flags: tuple[str, ...]


TOYS = {
    "intermediate-loss": Toy(
        lambda place, seed: reproduce_intermediate_loss(IntermediateLossConfig(seed, 12, place)), ("--steps", "12")
    ),
    "pick-value": Toy(lambda place, seed: reproduce_pick_value(PickValueConfig(seed, 4, place)), ("--steps", "4")),
    "poly": Toy(lambda place, seed: reproduce_polynomial(PolynomialConfig(seed, 2, place)), ("--epochs", "2")),
    "quadratics": Toy(lambda place, seed: reproduce_quadratics(QuadraticsConfig(place)), ()),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and small steps, every method."""
    monkeypatch.setattr(intermediate_loss_toy, "CURVE_POINTS", 6)
    monkeypatch.setattr(polynomial, "STEPS_PER_EPOCH", 4)
    for name, value in {"POINTS": 3, "BATCH": 8, "EVALUATED": 20}.items():
        monkeypatch.setattr(pick_value, name, value)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a few steps."""
    for module in (intermediate_loss_toy, pick_value, polynomial):
        monkeypatch.setattr(module, "plot_curves", lambda *arguments, **options: None)
    monkeypatch.setattr(quadratics, "plot_bias_and_variance", lambda *arguments, **options: None)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "results.json")
    return found


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Quadratics, figure 1.

STRAIGHT_THROUGH = [("0.2781", "0.7724"), ("2.745", "17.85"), ("4.525", "40.27"), ("0.08107", "0.2701")]
UNBIASED = ("reinmax", "reinforce, no baseline", "reinforce, mean baseline", "local_expectation")


@pytest.fixture(scope="module")
def enumerated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Moments]]:
    return reproduce_quadratics(QuadraticsConfig(Place(tmp_path_factory.mktemp("quadratics") / "run")))


def test_the_quadratics_have_the_published_moments(
    enumerated: dict[str, list[Moments]],
) -> None:
    assert PROBLEMS == ((4, 0), (8, 0), (12, 0), (4, 1))
    found = [(f"{row.bias2:.4g}", f"{row.variance:.4g}") for row in enumerated["straight_through"]]
    assert found == STRAIGHT_THROUGH
    assert [f"{row.variance:.4g}" for row in enumerated["reinmax"]] == ["13.79", "77.53", "170.5", "1.534"]
    score_function = enumerated["reinforce, mean baseline"][:3]
    assert [f"{row.variance:.2g}" for row in score_function] == ["1.7", "10", "28"]


def test_the_quadratics_show_bias_only_where_there_is_some(
    enumerated: dict[str, list[Moments]],
) -> None:
    for name, row in enumerated.items():
        for cell in row:
            if name in UNBIASED:
                assert cell.bias2 < 1e-20 * cell.true2, name
            else:
                assert cell.bias2 > 1e-3 * cell.true2, name
    assert all(cell.variance < 1e-20 * cell.true2 for cell in enumerated["local_expectation"])


@pytest.mark.parametrize(("power", "true", "variance"), [(2, 0.25, 2 * 0.25**2), (3, 0.25, 0.125), (1, 0.25, 0.0)])
def test_moments_of_two_items_are_those_by_hand(power: int, true: float, variance: float) -> None:
    # f = z_0^k at even logits: the slope is (k, 0) at the first item and 0 at the second, so that the estimates are
    # (k, -k) / 4 and 0, for k = 1 both (1, -1) / 4; the true gradient is (1, -1) / 4. With k = 3 the scale is 2 / 3.
    found = moments(StraightThrough(), torch.zeros(1, 2).double(), lambda z: z[..., 0, 0] ** power)
    assert found.true2 == pytest.approx(2 * true**2)
    assert found.bias2 == pytest.approx(0, abs=1e-20)
    assert found.variance == pytest.approx(variance, abs=1e-15)


# Polynomial programming, figure 2.


def test_the_polynomials_values_and_lowest_losses_are_right() -> None:
    assert [round(float(value), 4) for value in values()] == [1.0, 0.5068, 0.0, 0.7385]
    assert [f"{lowest_loss(power):.5f}" for power in (1.5, 2.0)] == ["0.01355", "0.00323"]


@pytest.mark.parametrize("power", [1.5, 2.0])
def test_the_polynomial_descends_from_even_odds(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polynomial, "STEPS_PER_EPOCH", 1)
    losses = minimise(power, "exact gradient", 50, 0, nothing)
    even = sum(abs(value - 0.45) ** power for value in (1.0, 0.50683, 0.0, 0.73849)) / 4
    assert losses[0] == pytest.approx(even, abs=1e-4)
    assert losses == sorted(losses, reverse=True) and losses[-1] > lowest_loss(power)


def test_the_polynomials_loss_is_a_mean_over_slots_and_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(polynomial, "STEPS_PER_EPOCH", 25)
    (loss,) = minimise(2.0, "straight_through", 1, 0, nothing)
    terms = (values() - 0.45).square()
    # Mean of 25 * 8 * 128 even draws; the logits hardly move in so few steps.
    error = float(terms.std(correction=0)) / (25 * 8 * 128) ** 0.5
    assert loss == pytest.approx(float(terms.mean()), abs=5 * error)


# Intermediate loss, figure 5.


def test_the_divergence_is_that_by_hand() -> None:
    target, _ = start(0)
    assert divergence(target, target) == pytest.approx(0, abs=1e-6)
    even, lopsided = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    # (log 2 + log 2/3) / 2, per probability.
    assert divergence(even, lopsided) == pytest.approx(0.1438410 / 2, abs=1e-6)


def test_targets_are_distributions_that_depend_on_the_seed_alone() -> None:
    target, logits = start(3)
    assert target.shape == logits.shape == (5, 5)
    assert torch.allclose(target.sum(dim=-1), torch.ones(5)) and bool((target > 0).all())
    assert torch.equal(start(3)[0], target) and not torch.equal(start(4)[0], target)


@pytest.mark.parametrize(("length", "mean"), [(5, 5.0), (20, 20.0), (40, 39.5), (200, 195.5)])
def test_the_final_value_is_the_mean_of_the_last_twentieth(length: int, mean: float) -> None:
    assert mean_of_last([float(i + 1) for i in range(length)], 20) == pytest.approx(mean)


def mean_gradient(selector: IntermediateLoss, target: Tensor, p: Tensor) -> Tensor:
    """The estimate's mean over all draws of one slot with probabilities p."""
    items = len(p)
    logits = p.log().expand(items, 1, items)

    def objective(selection: Tensor, /) -> Tensor:
        return (target * (selection[..., 0, :] + 1e-8).log()).sum(dim=-1)

    return p @ selector.given(logits, torch.arange(items).unsqueeze(-1), objective)[:, 0]


@pytest.mark.parametrize("step", [0.1, 0.01, 0.001])
def test_the_published_form_rests_near_the_target(step: float) -> None:
    target = start(0)[0][0].double()
    target = target / target.sum()
    rest = target * (1 - target) / (target * (1 - target)).sum()
    corrected, published = IntermediateLoss(step, "sum"), IntermediateLoss(step, "sum", faithful=True)
    assert mean_gradient(corrected, target, rest).tolist() == pytest.approx([0] * 5, abs=1e-4)
    assert float(mean_gradient(corrected, target, target).abs().max()) > 0.01
    # The published gradient is never zero, but a part that is equal for all items does not change the softmax.
    at_rest = mean_gradient(published, target, rest)
    assert at_rest.tolist() == pytest.approx([float(at_rest.mean())] * 5, rel=1e-3)
    at_target = mean_gradient(published, target, target)
    assert float(at_target.max() / at_target.min()) > 1.1


def test_a_descent_follows_the_hand_computed_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intermediate_loss_toy, "CURVE_POINTS", 2)
    curve = descend("exact gradient", 2, 3, nothing)
    target, logits = start(3)
    assert curve[0] == pytest.approx(divergence(target, torch.softmax(logits, dim=-1)))
    # The gradient of sum t log softmax is t - p; the loss is a mean over 25 probabilities.
    moved = logits + 0.01 * (target - torch.softmax(logits, dim=-1)) / 25
    assert curve[1] == pytest.approx(divergence(target, torch.softmax(moved, dim=-1)), abs=1e-8)


def test_a_descents_draws_depend_on_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intermediate_loss_toy, "CURVE_POINTS", 8)
    fixed = start(0)
    monkeypatch.setattr(intermediate_loss_toy, "start", lambda seed: (fixed[0], fixed[1].clone()))
    first, again, other = (descend("pi_D - p, step .01", 8, seed, nothing) for seed in (0, 0, 1))
    assert first == again and first[0] == other[0] and first[1:] != other[1:]


# Pick the value, figure 6.


def test_the_best_item_is_the_one_nearest_to_one_half() -> None:
    lists = torch.tensor([[0.1, 0.44, 0.9, 0.55], [0.57, 0.46, 0.0, 1.0], [0.0, 0.29, 0.7, 0.9]])
    assert pick_value._best(Observation(lists.unsqueeze(-1))).tolist() == [[3], [1], [2]]


@pytest.fixture
def half_right(monkeypatch: pytest.MonkeyPatch) -> list[nn.Parameter]:
    """Replaces the policy by one with a single parameter, the logits' scale, and the best item in two of four slots."""
    monkeypatch.setattr(pick_value, "POINTS", 1)
    scales: list[nn.Parameter] = []

    def policy(kind: str, problem: Problem, seed: int) -> tuple[Callable[[Observation], Tensor], list[nn.Parameter]]:
        scale = nn.Parameter(torch.ones(()))
        scales.append(scale)

        def logits(observation: Observation) -> Tensor:
            best = pick_value._best(observation)
            chosen = torch.cat([best, best, (best + 1) % 8, (best + 2) % 8], dim=-1)
            return 2 * scale * nn.functional.one_hot(chosen, 8)

        return logits, [scale]

    monkeypatch.setattr(pick_value, "_policy", policy)
    return scales


def test_share_and_spread_are_those_by_hand(half_right: list[nn.Parameter]) -> None:
    learned = learn("plain", "straight_through", 1, 0, nothing)
    assert learned.steps == [0, 1]
    assert learned.share == [0.5, 0.5]
    # One logit 2 among seven 0: a mean of 1/4 and a variance of (49/16 + 7/16) / 7 = 1/2.
    after = half_right[0].item()
    assert after != 1.0
    assert learned.spread == pytest.approx([0.5**0.5, 0.5**0.5 * after])


@pytest.mark.parametrize(("looks", "averaged"), [(4, 1), (20, 2), (61, 6)])
def test_the_final_share_is_the_mean_of_the_last_tenth(looks: int, averaged: int) -> None:
    share = [float(i + 1) for i in range(looks)]
    assert Learned([], share, []).final_share == pytest.approx(looks - (averaged - 1) / 2)


def test_the_requests_and_draws_of_a_training_depend_on_the_seed(half_right: list[nn.Parameter]) -> None:
    # The first weights are fixed here, and the requests of the evaluation do not change the scale.
    for seed in (0, 0, 1):
        learn("plain", "straight_through", 4, seed, nothing)
    first, again, other = (scale.item() for scale in half_right)
    assert first == again != other


# The results of every reproduction.


def shape(figures: Any) -> Any:
    """The figures' keys and the lengths of their lists."""
    if isinstance(figures, dict):
        return {key: shape(value) for key, value in figures.items()}
    return len(figures) if isinstance(figures, list) else "number"


SHAPES: dict[str, Any] = {
    "intermediate-loss": {
        "curves": dict.fromkeys(intermediate_loss_toy.TOY_METHODS, 6),
        "mean_zero": "number",
    },
    "pick-value": {
        kind: dict.fromkeys(pick_value.PICK_METHODS, {"steps": 4, "share": 4, "spread": 4})
        for kind in ("plain", "pointer")
    },
    "poly": {power: dict.fromkeys(polynomial.POLYNOMIAL_METHODS, 2) for power in ("1.5", "2.0")},
    "quadratics": dict.fromkeys(
        ["straight_through", "reinmax", "gapped", "intermediate_loss", *UNBIASED[1:]],
        4,
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_reproduction_writes_figures_that_depend_on_the_seed(name: str, small: None, tmp_path: Path) -> None:
    for run in ("first", "second"):
        TOYS[name].run(Place(tmp_path / run), 5)
    first = results(tmp_path / "first")
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"results.json", "picture.png"}
    assert (tmp_path / "first" / "picture.png").read_bytes().startswith(PNG)
    assert set(first) == {"command", "config", "versions", "git", "figures"}
    assert first["config"]["place"] == {"out": str(tmp_path / "first"), "force": False}
    assert shape(first["figures"]) == SHAPES[name]
    assert results(tmp_path / "second")["figures"] == first["figures"]
    if name != "quadratics":
        TOYS[name].run(Place(tmp_path / "other"), 6)
        assert results(tmp_path / "other")["figures"] != first["figures"]


@pytest.mark.parametrize("name", NAMES)
def test_a_taken_folder_is_refused_before_any_work(
    name: str, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")

    def work(*arguments: object) -> None:
        raise AssertionError("worked before it refused")

    for module, function in (
        (intermediate_loss_toy, "descend"),
        (pick_value, "learn"),
        (polynomial, "minimise"),
        (quadratics, "moments"),
    ):
        monkeypatch.setattr(module, function, work)
    with pytest.raises(ValueError, match=r"expected a new folder for --out, got .*--force"):
        TOYS[name].run(Place(tmp_path), 0)
    with pytest.raises(ValueError, match=r"expected --force to replace a folder with results.json"):
        TOYS[name].run(Place(tmp_path, force=True), 0)
    assert files(tmp_path) == {tmp_path / "thesis.txt": b"precious"}


def test_force_replaces_results_once_there_are_new_ones(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = tmp_path / "run", TOYS["poly"].run
    run(Place(out), 0)
    (out / "notes.txt").write_text("old")
    before = files(tmp_path)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(polynomial, "plot_curves", fail)
        run(Place(out, force=True), 1)
    assert files(tmp_path) == before
    run(Place(out, force=True), 1)
    assert {path.name for path in files(tmp_path)} == {"results.json", "picture.png"}
    assert results(out)["config"]["seed"] == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PolynomialConfig(epochs=0), "expected epochs >= 1, got 0"),
        (lambda: PickValueConfig(steps=59), "expected steps >= 60, got 59"),
        (lambda: IntermediateLossConfig(steps=199), "expected steps >= 200, got 199"),
    ],
)
def test_a_training_too_short_to_plot_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Command) -> Command:
    """The script, inside this process, in an empty folder."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return partial(script, SCRIPT)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["poly", "--epochs", "0"], "expected epochs >= 1"),
        (["pick-value", "--steps", "59"], "expected steps >= 60"),
        (["intermediate-loss", "--steps", "199"], "expected steps >= 200"),
        (["quadratics", "--seed", "1"], "--seed"),
        (["pick_the_value"], "pick_the_value"),
    ],
)
def test_the_command_answers_wrong_flags_with_exit_code_2(
    flags: list[str], message: str, command: Command, tmp_path: Path
) -> None:
    code, _, errors = command(*flags)
    assert code == 2
    assert message in errors and "Traceback" not in errors
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_the_command_runs_and_then_refuses_the_taken_folder(
    name: str, small: None, without_pictures: None, command: Command, tmp_path: Path
) -> None:
    code, shown, errors = command(name, *TOYS[name].flags)
    assert (code, errors) == (0, "")
    out = tmp_path / "runs" / f"reproduce-{name}"
    assert f"figures and picture: runs/reproduce-{name}" in shown
    assert shape(results(out)["figures"]) == SHAPES[name]
    before = files(tmp_path)
    code, _, errors = command(name, *TOYS[name].flags)
    assert code == 2 and errors.startswith("error: expected a new folder") and errors.count("\n") == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", NAMES)
def test_the_table_shows_the_published_figures_in_80_columns(
    name: str, small: None, without_pictures: None, command: Command
) -> None:
    _, shown, _ = command(name, *TOYS[name].flags)
    assert "…" not in shown
    published = {
        "intermediate-loss": [".0174, after .0047", ".0020", ".0186", ".0016"],
        "pick-value": [".22", ".14", ".86", ".84", ".58", ".51", ".90", ".53-.58", ".98", ".97", ".985"],
        "poly": "0.2272 0.0203 0.0156 0.0152 0.0138 0.1480 0.0075 0.0045 0.0043 0.0034 0.01355 0.00323".split(),
        "quadratics": [figure for pair in STRAIGHT_THROUGH for figure in pair] + ["13.79", "77.53", "170.5", "1.534"],
    }
    for figure in published[name]:
        assert f" {figure} " in shown, figure


# The published figures themselves.

TABLE = {
    "straight_through": (0.2272, 0.1480),
    "gumbel, tau .1": (0.0203, 0.0075),
    "gumbel_rao, tau .1, k 20": (0.0156, 0.0045),
    "reinmax": (0.0152, 0.0043),
    "exact gradient": (0.0138, 0.0034),
}
ONE_SEED = ("gumbel_rao, tau .1, k 20", "exact gradient")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "power"),
    [
        pytest.param(
            name,
            power,
            marks=pytest.mark.xfail(
                (name, power) == ("straight_through", 1.5),
                reason="median .2279 against .2272, .0001 outside; other seeds and starts gave .2273 to .2281",
                strict=True,
            ),
        )
        for name in TABLE
        for power in (1.5, 2.0)
    ],
)
def test_figure_2_ends_at_the_published_loss(name: str, power: float) -> None:
    # Gumbel-Rao is slow, and the exact gradient has no noise.
    seeds = (0,) if name in ONE_SEED else (0, 1, 2)
    losses = [minimise(power, name, 50, seed, nothing)[-1] for seed in seeds]
    print(f"figure 2, p = {power}, {name}: {losses}")
    assert median(losses) == pytest.approx(TABLE[name][power == 2.0], abs=6e-4)


@pytest.mark.slow
def test_figure_5_the_published_form_ends_near_the_target() -> None:
    """The published targets are unknown. Ours give figures of the same order and the same comparison.

    Published, at the last: gumbel .0174 (tau .1, after .0047) and .0186 (tau 10), the first form .0016 at every step.
    """
    published = [f"published form, step {step}" for step in (".1", ".01", ".001")]
    curves = {name: descend(name, 50_000, 0, nothing) for name in ("gumbel, tau .1", "gumbel, tau 10", *published)}
    last = {name: mean_of_last(curve, 20) for name, curve in curves.items()}
    print(f"figure 5: last {last}, least { ({name: min(curve) for name, curve in curves.items()}) }")
    assert last["gumbel, tau .1"] > 3 * min(curves["gumbel, tau .1"])
    assert curves["gumbel, tau .1"][0] > 3 * min(curves["gumbel, tau .1"])
    assert min(curves["gumbel, tau 10"]) > 0.01
    ends = [last[name] for name in published]
    assert max(ends) < 1.1 * min(ends)
    assert max(ends) < min(last["gumbel, tau .1"], last["gumbel, tau 10"])
    target, _ = start(0)
    rest = target * (1 - target)
    assert ends == pytest.approx([divergence(target, rest / rest.sum(dim=-1, keepdim=True))] * 3, rel=0.15)


def trained(kind: pick_value.PolicyKind, *names: str) -> dict[str, Learned]:
    learned = {name: learn(kind, name, 3_000, 0, nothing) for name in names}
    for name, one in learned.items():
        share = f"share {one.final_share:.3f}, at last {one.share[-1]:.3f}, at best {max(one.share):.3f}"
        print(f"figure 6, {kind}, {name}: {share}; spread {one.spread[0]:.3f} to {one.spread[-1]:.4f}")
    return learned


@pytest.mark.slow
def test_figure_6_a_plain_network_needs_gumbel_noise() -> None:
    """Published: softmax .22, straight-through without noise .14, gumbel .86 hard and .84 soft.

    Our hard gumbel reaches only .76 to .79; our soft gumbel reaches .84 to .88.
    """
    learned = trained("plain", "softmax", "straight_through, no noise", "gumbel", "gumbel, soft")
    share = {name: one.final_share for name, one in learned.items()}
    assert share["softmax"] < 0.35 and share["straight_through, no noise"] < 0.35
    assert share["gumbel"] > 0.7 and share["gumbel, soft"] > 0.75
    # Without noise the logits become equal, so the network no longer prefers any item.
    assert learned["straight_through, no noise"].spread[-1] < learned["gumbel"].spread[-1] / 5


@pytest.mark.slow
def test_figure_6_a_pointer_network_learns_more_from_noise() -> None:
    """Published: gumbel at tau .3 .98, RLOO-4 .985, straight-through .53 to .58, with or without noise is unknown.

    Ours is another pointer network: gumbel reaches only .89, RLOO .96. With Adam's 1e-3 its share varies widely between
    evaluations, so the best evaluations are compared as well.
    """
    learned = trained("pointer", "gumbel, tau .3", "rloo, k 4", "straight_through, no noise")
    noisy, bare = ("gumbel, tau .3", "rloo, k 4"), learned["straight_through, no noise"]
    assert min(max(learned[name].share) for name in noisy) > max(0.98, *bare.share)
    # Without noise the logits are almost equal.
    assert all(bare.spread[-1] < learned[name].spread[-1] / 100 for name in noisy)
    assert all(bare.final_share < learned[name].final_share for name in noisy)
    assert learned["rloo, k 4"].final_share > 0.95 and learned["gumbel, tau .3"].final_share > 0.85
