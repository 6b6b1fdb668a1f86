"""The diagnosis: its figures find what was put into a gradient and state their own errors, and its race decides.

Two slots of three items stand in for every problem, with candidates 0, 1 and 2 where figures are computed by hand. A
selector made for these tests returns the true gradient with a known bias and known noise.
"""

import math
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from slot_rl import diagnosis
from slot_rl.agents import GumbelAgent, load_agent
from slot_rl.agents.policy import given
from slot_rl.diagnosis import (
    Diagnosis,
    DiagnosisConfig,
    SelectorFigures,
    Setup,
    TrueGradient,
    _measure,
    _setup,
    _true_gradient,
    diagnose,
    recommendation,
)
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import read_json
from slot_rl.networks import PointerSize
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem, make_problem
from slot_rl.problems.constraints import Distinct
from slot_rl.race import RaceResult
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors import NAMES, RLOO, LocalExpectation, Selector, StraightThrough, make
from slot_rl.selectors.base import Draws, Probe, RawEstimate
from slot_rl.training import RunConfig, train_run
from tests.conftest import Command

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "diagnose_gradients.py"
PNG = b"\x89PNG\r\n\x1a\n"
KEYS = {"command", "config", "versions", "git", "recommendation", "race", "true_gradient", "selectors"}


def cubic(vectors: Tensor) -> Tensor:
    """The slots interact, and one of them is cubed: first-order selectors are biased."""
    x = vectors[..., 0]
    return x.sum(dim=-1) + 2 * x.prod(dim=-1) + x[..., 0] ** 3


def tiny(*arguments: object, **options: object) -> Problem:
    return SlotProblem(cubic, 2, 3, 1, name="tiny")


@pytest.fixture(autouse=True)
def tiny_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "make_problem", tiny)


def config(out: Path, **changes: Any) -> DiagnosisConfig:
    settings: dict[str, Any] = {"out": out, "requests": 4, "draws": 60, "reference_draws": 60, "race_calls": 0}
    return DiagnosisConfig(**(settings | changes))


SHORT_RACE: dict[str, Any] = {"race_calls": 600, "race_seeds": 2, "evaluation": EvaluationConfig(eval_size=8)}


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "diagnosis.json")
    return found


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count_to_two(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.arange(3.0).view(1, 3, 1).expand(shape)


def by_hand(requests: int = 1) -> tuple[Setup, TrueGradient]:
    """Even logits over 0, 1, 2 and f = x0 x1 + x0: the gradient is (E[x1] + 1, E[x0]) times (-1, 0, 1) / 3."""
    problem = SlotProblem(lambda v: v[..., 0].prod(dim=-1) + v[..., 0, 0], 2, 3, 1, count_to_two)
    generator = generator_from(0)
    observation = problem.sample(requests, generator)
    gradient = torch.tensor([[-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=torch.float64) / 3
    truth = TrueGradient(gradient.repeat(requests, 1, 1), 0.0, "by hand")
    return Setup(problem, observation, torch.zeros(requests, 2, 3), generator), truth


def _enumerated(setup: Setup) -> TrueGradient:
    return _true_gradient(setup, DiagnosisConfig(), exact=True)


@dataclass(frozen=True)
class Constructed(Selector):
    """Returns a known mean plus normal noise; every fourth row is exactly zero if ``dies``."""

    name: ClassVar[str] = "constructed"

    mean: Tensor
    noise: float = 0.0
    dies: bool = False
    price: tuple[int, int] = (1, 0)

    def __post_init__(self) -> None:
        pass  # without noise, too

    def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
        rows = self.mean.repeat(len(logits) // len(self.mean), 1, 1)
        gradient = rows + self.noise * torch.randn(rows.shape, dtype=rows.dtype, generator=draws.generator)
        if self.dies:
            gradient[::4] = 0.0
        choice = torch.zeros(logits.shape[:-1], dtype=torch.long)
        return RawEstimate(gradient.to(logits.dtype), choice, torch.zeros(len(logits)))

    def cost(self, slots: int, items: int) -> tuple[int, int]:
        return self.price


ACROSS = torch.tensor([[1.0, 0.0, 1.0], [-2.0, 0.0, -2.0]], dtype=torch.float64)
"""Orthogonal to the gradient by hand, whose squared length is 10 / 9; its own is 10."""


def test_the_enumerated_gradient_is_the_one_computed_by_hand() -> None:
    setup, truth = by_hand(requests=2)
    found = _enumerated(setup)
    assert torch.allclose(found.mean, truth.mean, atol=1e-6)
    assert (found.variance, found.description) == (0.0, "enumerated over 9 configurations")


def test_the_exact_selector_has_no_bias_and_no_variance() -> None:
    setup = _setup(DiagnosisConfig(requests=4))
    found = _measure(setup, make("exact"), 2, _enumerated(setup), calls=18)
    assert found.bias == pytest.approx(0, abs=1e-12) and found.variance == 0.0
    assert (found.cosine, found.mean_cosine) == pytest.approx((1, 1))
    assert (found.forwards, found.backwards, found.dead) == (9, 0, 0.0)


# With m = t + v, v across t and |v| = 3/4 |t|: m is scaled by 4/5, and 4/5 m - t = -1/5 t + 4/5 v.
LEAN = 0.75 / 3


@pytest.mark.parametrize(
    ("shrink", "across", "bias", "cosine"),
    [
        (1.0, 0.0, 0.0, 1.0),
        (5.0, 0.0, 0.0, 1.0),
        (1.0, LEAN, 0.04 + 0.64 * 0.5625, 0.8),
        (0.1, 0.1 * LEAN, 0.4, 0.8),
        (-1.0, 0.0, 4.0, -1.0),
        (0.0, 1.0, 2.0, 0.0),
    ],
)
def test_bias_and_cosine_without_noise_are_those_by_hand(
    shrink: float, across: float, bias: float, cosine: float
) -> None:
    setup, truth = by_hand()
    mean = shrink * truth.mean + across * ACROSS
    found = _measure(setup, Constructed(mean), 10, truth, calls=1)
    assert found.bias == pytest.approx(bias, abs=1e-6)
    assert found.variance == pytest.approx(0, abs=1e-12)
    assert (found.cosine, found.mean_cosine) == pytest.approx((cosine, cosine), abs=1e-6)


def test_bias_is_summed_and_the_cosine_averaged_over_requests() -> None:
    setup, truth = by_hand(requests=4)
    # One request of four points the wrong way: |-t - t|^2 of its quarter of the squared length.
    turned = truth.mean * torch.tensor([1.0, 1.0, -1.0, 1.0]).view(4, 1, 1)
    found = _measure(setup, Constructed(turned), 10, truth, calls=1)
    assert found.bias == pytest.approx(4 / 4, abs=1e-6)
    assert (found.cosine, found.mean_cosine) == pytest.approx((0.5, 0.5), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_bias_and_variance_with_noise_are_as_constructed(seed: int) -> None:
    setup, truth = by_hand()
    setup.generator.manual_seed(seed)
    # Six entries of noise with variance 1/5 each: 6/5, over 10/9, times (4/5)^2 for the scale.
    selector = Constructed(truth.mean + LEAN * ACROSS, noise=0.2**0.5, price=(3, 2))
    found = _measure(setup, selector, 20_000, truth, calls=50)
    variance = 0.64 * 1.2 / (10 / 9)
    # 120,000 squared normals, and a scale whose noise is of the same order: within five of their errors.
    assert found.variance == pytest.approx(variance, rel=5 * (2 / 120_000) ** 0.5 + 0.01)
    assert abs(found.bias - 0.4) < 2 * found.bias_error < 0.02
    assert found.visible_bias == found.bias
    assert found.mean_cosine == pytest.approx(0.8, abs=0.01)
    assert found.cosine < found.mean_cosine - 0.1
    assert found.error == pytest.approx(found.bias + found.variance * 5 / 50)


def test_noise_in_the_mean_does_not_count_as_length() -> None:
    setup, truth = by_hand(requests=500)
    # Six entries with a variance of 2/3 each: 4 over 10/9. A tenth of it stays in the mean and lengthens it by 17%.
    found = _measure(setup, Constructed(truth.mean, noise=(2 / 3) ** 0.5), 10, truth, calls=10)
    assert found.variance == pytest.approx(3.6, rel=0.1)
    assert abs(found.bias) < 0.05


def test_the_true_gradients_own_noise_is_not_taken_for_a_bias() -> None:
    setup = _setup(DiagnosisConfig(requests=300))
    noisy = _true_gradient(setup, DiagnosisConfig(reference_draws=5), exact=False)
    share = float(torch.as_tensor(noisy.variance).sum()) / float(noisy.mean.square().sum())
    found = _measure(setup, Constructed(_enumerated(setup).mean), 2, noisy, calls=1)
    assert share > 0.02
    assert abs(found.bias) < share / 3 and found.visible_bias == 0.0


@pytest.mark.parametrize(("calls", "share"), [(5, 1.0), (10, 0.5), (1_000, 0.005), (4, math.inf), (1, math.inf)])
def test_the_error_averages_the_variance_and_not_the_bias(calls: int, share: float) -> None:
    setup, truth = by_hand()
    selector = Constructed(truth.mean + LEAN * ACROSS, noise=1.0, price=(3, 2))
    found = _measure(setup, selector, 500, truth, calls)
    expected = found.bias + share * found.variance
    assert found.bias > 0 and found.variance > 1
    assert found.error == (math.inf if math.isinf(share) else pytest.approx(expected))


def test_a_negative_estimate_of_the_squared_bias_earns_no_credit() -> None:
    setup, truth = by_hand()
    selector = Constructed(truth.mean, noise=1.0)
    found = [_measure(setup, selector, 50, truth, calls=10) for _ in range(10)]
    below = [one for one in found if one.bias < 0]
    assert below
    for one in below:
        assert one.error == pytest.approx(one.variance / 10)
        assert one.visible_bias == 0.0


def test_the_dead_share_counts_estimates_of_exactly_zero() -> None:
    setup, truth = by_hand(requests=2)
    dying = _measure(setup, Constructed(truth.mean, dies=True), 100, truth, calls=1)
    assert dying.dead == 0.25
    assert _measure(setup, Constructed(truth.mean), 100, truth, calls=1).dead == 0.0


@pytest.mark.parametrize("chunk", [1, 7, 20, 1_000])
def test_estimates_in_chunks_keep_their_requests(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "CHUNK", chunk)
    setup, truth = by_hand(requests=2)
    asked: list[int] = []

    class Counting(Constructed):
        def estimate(self, logits: Tensor, probe: Probe, draws: Draws) -> RawEstimate:
            asked.append(len(logits))
            return super().estimate(logits, probe, draws)

    # The requests differ in length, so that mixing them up would show as a bias.
    uneven = TrueGradient(truth.mean * torch.tensor([1.0, 7.0]).view(2, 1, 1), 0.0, "uneven")
    found = _measure(setup, Counting(uneven.mean), 25, uneven, calls=1)
    # The first call warms up.
    assert sum(asked[1:]) == 2 * 25 and max(asked) <= max(2, chunk)
    assert found.bias == pytest.approx(0, abs=1e-6)


def test_selectors_are_measured_under_constraints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = tiny().with_constraints([Distinct()])
    monkeypatch.setattr(diagnosis, "make_problem", lambda *arguments, **options: problem)
    settings = config(tmp_path / "run", draws=2_000)
    found = {one.name: one for one in diagnose(settings).figures}
    assert "not measured: expected another selector than rebar" in " ".join(capsys.readouterr().out.split())
    assert set(found) == set(NAMES) - {"rebar"}
    # The unconstrained gradient is another one.
    setup = _setup(settings)
    free = Setup(tiny(), setup.observation, setup.logits, setup.generator)
    assert _measure(setup, make("exact"), 2, _enumerated(free), calls=18).bias > 0.01
    for name in ("exact", "reinforce", "rloo", "local_expectation", "screened_expectation"):
        assert abs(found[name].bias) <= 3 * found[name].bias_error + 1e-10, name
    # Slopes miss what the first slot's item takes from the second.
    for name in ("straight_through", "gumbel"):
        assert found[name].bias > 10 * found[name].bias_error, name


def test_the_long_run_agrees_with_enumeration() -> None:
    ratios = []
    for seed in range(60):
        settings = DiagnosisConfig(requests=4, limit=1, reference_draws=200, seed=seed)
        setup = _setup(settings)
        true = _enumerated(setup)
        long = _true_gradient(setup, settings, exact=False)
        ratios.append(float((long.mean - true.mean).square().sum()) / float(torch.as_tensor(long.variance).sum()))
        assert long.description.startswith("mean of 200 local expectations, standard error ")
        share = float(long.description.split()[-4].rstrip("%")) / 100
        assert share == pytest.approx(
            (float(torch.as_tensor(long.variance).sum()) / float(long.mean.square().sum())) ** 0.5, abs=5.1e-4
        )
    found = torch.tensor(ratios)
    # A squared error over its expectation: 1 in the mean.
    assert float(found.mean()) == pytest.approx(1, abs=4 * float(found.std()) / 60**0.5)
    assert float(found.mean()) == pytest.approx(1, abs=0.5)


def test_a_low_limit_forces_the_long_run(tmp_path: Path) -> None:
    names = {one.name for one in diagnose(config(tmp_path / "long", limit=8)).figures}
    assert names == set(NAMES) - {"exact"}
    assert document(tmp_path / "long")["true_gradient"].startswith("mean of 60 local expectations")
    assert {one.name for one in diagnose(config(tmp_path / "short", limit=9)).figures} == set(NAMES)
    assert document(tmp_path / "short")["true_gradient"] == "enumerated over 9 configurations"


def _biases(selector: Selector, setup: Setup, truth: TrueGradient, draws: int) -> list[SelectorFigures]:
    found = []
    for seed in range(30):
        setup.generator.manual_seed(seed)
        found.append(_measure(setup, selector, draws, truth, calls=512))
    return found


@pytest.mark.parametrize("long_run", [False, True])
def test_unbiased_selectors_are_within_two_stated_errors(long_run: bool) -> None:
    found = []
    for seed in range(30):
        settings = DiagnosisConfig(requests=8, reference_draws=500, seed=seed)
        setup = _setup(settings)
        truth = _true_gradient(setup, settings, exact=not long_run)
        found += [_measure(setup, selector, 500, truth, 512) for selector in (RLOO(), LocalExpectation())]
    assert sum(abs(one.bias) > 2 * one.bias_error for one in found) <= 3
    # Not by stating errors without measure: what is stated is at most some five times what is seen.
    scores = torch.tensor([one.bias / one.bias_error for one in found])
    assert 0.2 < float(scores.square().mean().sqrt()) < 1


def test_the_bias_of_biased_selectors_only_is_found() -> None:
    setup = _setup(DiagnosisConfig(requests=8))
    truth = _enumerated(setup)
    biased = _biases(StraightThrough(), setup, truth, 1_000)
    assert all(one.visible_bias > 0 for one in biased)
    unbiased = _biases(LocalExpectation(), setup, truth, 1_000)
    assert sum(one.visible_bias > 0 for one in unbiased) <= 1


def test_the_stated_error_shrinks_with_the_draws() -> None:
    setup, truth = by_hand(requests=2)
    selector = Constructed(truth.mean + LEAN * ACROSS, noise=1.0)
    few, many = (_biases(selector, setup, truth, draws) for draws in (1_000, 16_000))
    for found in (few, many):
        assert sum(abs(one.bias - 0.4) > 2 * one.bias_error for one in found) <= 2
    # The noise's part in a visible bias falls with the root of the draws.
    ratio = sum(one.bias_error for one in few) / sum(one.bias_error for one in many)
    assert ratio == pytest.approx(4, rel=0.15)


RACE = [RaceResult("best", (0.92, 0.94)), RaceResult("second", (0.95, 0.89)), RaceResult("third", (0.91, 0.91))]


def test_the_recommendation_names_the_winner_and_the_reason() -> None:
    assert recommendation(RACE, 20_000) == (
        "recommended: use best, because it trains best: mean optimality 0.930 after 20,000 calls, "
        "0.920 to 0.940 over 2 seeds; within the spread of the seeds: second"
    )
    said = recommendation([RACE[0], RACE[2]], 500)
    assert said.endswith("after 500 calls, 0.920 to 0.940 over 2 seeds; next is third with 0.910")


def test_a_race_of_one_seed_or_one_selector_is_put_in_words() -> None:
    said = recommendation([RaceResult("only", (0.5,))], 500)
    assert said.endswith("optimality 0.500 after 500 calls, 0.500 to 0.500 over 1 seed; no other could take part")


def test_nothing_is_recommended_without_a_race() -> None:
    assert recommendation([], 0).startswith("recommended: none, because without a race the error of a gradient does")


def test_without_a_race_gradients_are_ranked_by_their_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "run"
    found = diagnose(config(out, calls=5)).figures
    assert {path.name for path in out.iterdir()} == {"diagnosis.json", "bias_and_variance.png"}
    assert (out / "bias_and_variance.png").read_bytes().startswith(PNG)
    written = document(out)
    assert set(written) == KEYS and written["config"]["calls"] == 5 and written["config"]["out"] == str(out)
    assert [one["name"] for one in written["selectors"]] == [one.name for one in found]
    assert sorted(one.name for one in found) == sorted(NAMES) and written["race"] == []
    errors = [one.error for one in found]
    assert errors == sorted(errors)
    dear = {one.name for one in found if one.forwards + one.backwards > 5}
    assert "exact" in dear and {one["name"] for one in written["selectors"] if one["error"] is None} == dear
    for one, stored in zip(found, written["selectors"], strict=True):
        expected = vars(one) | {"error": one.error if math.isfinite(one.error) else None}
        assert stored == expected
    said = capsys.readouterr().out
    assert "recommended: none" in said and "no race" in said and "enumerated over 9 configurations" in said
    assert "costly" in said


def test_with_a_race_the_table_is_in_its_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Exact gradients of 9 calls are measured up to a limit of 8 configurations only, and trained with nevertheless.
    out = tmp_path / "run"
    found = diagnose(config(out, limit=8, **SHORT_RACE))
    assert [one.name for one in found.race] == [one["name"] for one in document(out)["race"]]
    means = [one.mean for one in found.race]
    assert sorted(one.name for one in found.race) == sorted(NAMES) and means == sorted(means, reverse=True)
    assert [one.name for one in found.figures] == [one.name for one in found.race if one.name != "exact"]
    said = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in said.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows if row][: len(NAMES)] == [one.name for one in found.race]
    assert ["exact", f"{_of('exact', found):.3f}"] == next(row for row in rows if row and row[0] == "exact")[:2]
    advice = document(out)["recommendation"]
    assert advice == recommendation(found.race, 600) and f"use {found.race[0].name}, because" in advice
    assert advice in " ".join(said.split())


def _of(name: str, found: Diagnosis) -> float:
    return next(one.mean for one in found.race if one.name == name)


def test_a_selector_that_is_too_costly_for_the_race_comes_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = diagnose(config(tmp_path / "run", **SHORT_RACE | {"race_calls": 511}))
    # Most agents score 512 configurations for an update; reinforce scores 256.
    assert {one.name for one in found.race} >= {"reinforce"} and "gumbel" not in {one.name for one in found.race}
    assert {one.name for one in found.figures} == set(NAMES)
    assert [one.name for one in found.figures][: len(found.race)] == [one.name for one in found.race]
    assert "not raced: gumbel: one update costs 512 calls" in capsys.readouterr().out


def test_a_race_too_short_for_any_update_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a race of at least the 256 calls of one update, got 255"):
        diagnose(config(tmp_path / "run", race_calls=255))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("calls", [512, 30_000, 1])
def test_the_tables_fit_into_eighty_columns(
    calls: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    # The longest figures: errors such as 0.000123, and too costly.
    diagnose(config(tmp_path / "run", calls=calls, **SHORT_RACE))
    said = capsys.readouterr().out
    assert "bias²" in said and "…" not in said


def test_each_selector_costs_what_it_asks_of_the_problem(tmp_path: Path) -> None:
    setup = _setup(DiagnosisConfig(requests=4))
    for one in diagnose(config(tmp_path / "run")).figures:
        before = replace(setup.problem.budget)
        setup.sample(make(one.name), 6)
        spent = setup.problem.budget
        forwards, backwards = spent.forwards - before.forwards, spent.backwards - before.backwards
        assert (forwards, backwards) == (24 * one.forwards, 24 * one.backwards), one.name


def test_the_figures_depend_on_the_seed(tmp_path: Path) -> None:
    def figures(name: str, seed: int) -> list[Any]:
        found = diagnose(config(tmp_path / name, seed=seed, **SHORT_RACE))
        timeless = [{key: value for key, value in vars(one).items() if key != "milliseconds"} for one in found.figures]
        return [found.race, timeless]

    first, other = figures("first", 3), figures("other", 4)
    assert figures("second", 3) == first
    assert all(here != there for here, there in zip(first, other, strict=True))


def test_a_diagnosis_is_not_overwritten_without_force(tmp_path: Path) -> None:
    out = tmp_path / "run"
    diagnose(config(out))
    before = files(out)
    with pytest.raises(ValueError, match=r"expected a new folder for --out, got .*--force"):
        diagnose(config(out, seed=1))
    assert files(out) == before
    diagnose(config(out, seed=1, force=True))
    assert document(out)["config"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_force_never_deletes_a_folder_that_is_no_diagnosis(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"expected --force to replace a folder with diagnosis.json"):
        diagnose(config(tmp_path, force=True))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_picture_that_fails_leaves_the_earlier_diagnosis_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    diagnose(config(out))
    before = files(tmp_path)

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(diagnosis, "plot_bias_and_variance", fail)
    with pytest.raises(OSError, match="disk full"):
        diagnose(config(out, force=True))
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": 0},
        {"calls": 0},
        {"limit": 0},
        {"draws": 1},
        {"reference_draws": 1},
        {"spread": -1.0},
        {"spread": math.nan},
    ],
)
def test_an_empty_measurement_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected requests, calls and limit >= 1, draws and reference_draws >= 2"):
        DiagnosisConfig(**changes)


@pytest.mark.parametrize("changes", [{"race_calls": -1}, {"race_seeds": 0}])
def test_an_empty_race_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected race_calls >= 0 and race_seeds >= 1, got"):
        DiagnosisConfig(**changes)


def test_a_true_gradient_of_zero_is_refused_in_words(tmp_path: Path) -> None:
    # Logits so far apart that every other item has probability 0 in float32.
    with pytest.raises(ValueError, match="expected"):
        diagnose(config(tmp_path / "run", spread=1e30))
    assert not any(tmp_path.iterdir())


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Command) -> Command:
    """The script, inside this process, in an empty folder."""
    monkeypatch.setattr(diagnosis, "make_problem", make_problem)
    monkeypatch.chdir(tmp_path)
    return partial(script, SCRIPT)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--estimator", "nowhere"], "expected a folder with estimator weights and card.json, got nowhere"),
        (["--policy", "nowhere"], "expected a run folder with config.json, got nowhere"),
        (["--env", "SlotRL/Rows-v0"], "expected estimator=FOLDER for SlotRL/Rows-v0"),
        (["--env", "SlotRL/Slots-v9"], "expected one of SlotRL/Slots-v0"),
    ],
)
def test_the_command_refuses_missing_input_in_one_line(
    flags: list[str], message: str, command: Command, tmp_path: Path
) -> None:
    code, _, errors = command(*flags)
    assert code == 2
    assert errors.startswith(f"error: {message}") and errors.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags",
    [
        ["--requests", "0"],
        ["--draws", "1"],
        ["--selector", "gumbel"],
        ["--race-seeds", "0"],
        ["--race-calls", "few"],
        ["--race-calls", "100"],
        ["--eval-size", "0"],
    ],
)
def test_the_command_answers_wrong_flags_with_exit_code_2(flags: list[str], command: Command, tmp_path: Path) -> None:
    code, _, errors = command(*flags)
    assert code == 2
    assert errors and "Traceback" not in errors
    assert not any(tmp_path.iterdir())


def test_the_command_measures_and_then_refuses_the_taken_folder(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(diagnosis, "make_problem", tiny)
    flags = ["--requests", 2, "--draws", 20, "--race-calls", 600, "--race-seeds", 1, "--eval-size", 4, "--out", "run"]
    code, shown, errors = command(*flags)
    assert (code, errors) == (0, "") and "recommended: use " in shown
    before = files(tmp_path)
    code, _, errors = command(*flags)
    assert code == 2 and errors.count("\n") == 1 and "(--force replaces it)" in errors
    assert files(tmp_path) == before
    assert command(*flags, "--seed", 1, "--force")[0] == 0
    assert document(tmp_path / "run")["config"]["seed"] == 1


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short gumbel run on PickValue."""
    out = tmp_path_factory.mktemp("policy") / "run"
    options = replace(GumbelAgent.default_options, batch_size=64, policy=PointerSize(width=16, hidden=32))
    settings = RunConfig(
        "SlotRL/PickValue-v0", timesteps=1_280, out=out, wandb="disabled", evaluation=EvaluationConfig(eval_size=2)
    )
    assert train_run("gumbel", settings, options)[2]["status"] == "finished"
    return out


@pytest.mark.parametrize("env", [None, "SlotRL/PickValue-v0"])
def test_a_policys_gradients_are_taken_at_the_logits_of_that_run(
    env: str | None, policy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(diagnosis, "make_problem", make_problem)
    settings = config(tmp_path / "run", env=env, policy=policy, requests=6, seed=5, draws=20)
    setup = _setup(settings)
    assert setup.problem.name == "SlotRL/PickValue-v0"
    problem = make_problem("SlotRL/PickValue-v0")
    observation = problem.evaluation_observations(6, generator_from(5))
    agent = load_agent(policy / "checkpoint", SlotVecEnv(problem, 2))
    assert isinstance(agent, GumbelAgent)
    with torch.no_grad():
        output = agent.policy.output(observation)
        # Slots are drawn in turn: the logits on the way to the answer.
        expected = given(output.logits, agent.choose(observation), output.rules)
        untrained = GumbelAgent(SlotVecEnv(problem, 2), agent.options).policy.point(observation)[0]
    assert torch.equal(setup.logits, expected) and setup.logits.shape == (6, 4, 8)
    assert not torch.allclose(setup.logits, untrained, atol=0.01)
    without = replace(settings, policy=None, env="SlotRL/PickValue-v0")
    assert not torch.allclose(setup.logits, _setup(without).logits, atol=0.01)
    assert not setup.logits.requires_grad
    diagnose(settings)
    assert document(tmp_path / "run")["config"]["policy"] == str(policy)


def test_a_policy_for_another_problem_is_refused(policy: Path, command: Command, tmp_path: Path) -> None:
    code, _, errors = command("--policy", policy, "--env", "SlotRL/Slots-v0")
    assert code == 2 and errors.count("\n") == 1
    assert "expected a checkpoint of an agent for this environment" in errors
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{}", "not json"])
def test_a_broken_config_of_a_policy_is_refused_in_one_line(
    content: str, policy: Path, command: Command, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(policy, broken)
    (broken / "config.json").write_text(content)
    code, _, errors = command("--policy", broken)
    assert code == 2 and errors.startswith("error: expected") and errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_logits_without_a_policy_have_the_given_spread() -> None:
    for spread in (0.0, 1.0, 3.0):
        logits = _setup(DiagnosisConfig(requests=2_000, spread=spread)).logits
        assert logits.shape == (2_000, 2, 3)
        assert float(logits.std()) == pytest.approx(spread, rel=0.05)


def rows() -> RowProblem:
    """Vocabularies of 2, 4 and 3 categories: 24 configurations, 64 with the padding."""
    with seeded_initialisation(0):
        return RowProblem(EstimatorNet(EstimatorShape(3, 5, (8,), (2, 4, 3), (), context_dim=3)))


def test_short_vocabularies_are_masked_for_every_selector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(diagnosis, "make_problem", lambda *arguments, **options: rows())
    settings = config(tmp_path / "run", env="SlotRL/Rows-v0", requests=9, draws=300)
    setup = _setup(settings)
    observation = Observation(context=torch.zeros(1, 1, dtype=torch.long))
    mask = setup.problem.mask(observation)
    assert mask is not None and torch.equal(setup.logits[0] > -torch.inf, mask)
    for name in NAMES:
        gradient, _, _ = setup.sample(make(name), 50)
        assert gradient.shape == (50, 1, 3, 4)
        assert bool(gradient.isfinite().all()) and bool((gradient[:, 0, ~mask] == 0).all()), name
    found = {one.name: one for one in diagnose(settings).figures}
    assert document(tmp_path / "run")["true_gradient"] == "enumerated over 64 configurations"
    assert found["exact"].bias == pytest.approx(0, abs=1e-10) and found["exact"].cosine == pytest.approx(1)
    for name in ("local_expectation", "screened_expectation", "rloo", "rebar"):
        assert abs(found[name].bias) < 3 * found[name].bias_error, name


@pytest.mark.parametrize(("limit", "enumerated"), [(24, False), (63, False), (64, True)])
def test_the_limit_counts_the_padding_of_short_vocabularies(
    limit: int, enumerated: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(diagnosis, "make_problem", lambda *arguments, **options: rows())
    settings = config(tmp_path / "run", env="SlotRL/Rows-v0", limit=limit, draws=20, reference_draws=20)
    found = diagnose(settings).figures
    assert ("exact" in {one.name for one in found}) is enumerated
    assert document(tmp_path / "run")["true_gradient"].startswith("enumerated" if enumerated else "mean of 20")
