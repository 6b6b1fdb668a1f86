"""The units that a Gaussian process of a table is fitted in: by hand, there and back, and what they are good for."""

from math import log, sqrt
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor

from slot_rl.estimators import product_gp, score_units
from slot_rl.estimators.blend import Blend
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableRows
from slot_rl.estimators.kinds import model_of, shape_of
from slot_rl.estimators.net import EstimatorNet, EstimatorShape
from slot_rl.estimators.net_ensemble import EnsembleFit, NetEnsemble, NetEnsembleShape
from slot_rl.estimators.product_gp import ProductGP, ProductKernel, fit_gp
from slot_rl.estimators.row_scorer import RowScorer
from slot_rl.estimators.score_units import InScoreUnits, ScoreUnits
from slot_rl.estimators.store import load_estimator, save_estimator
from slot_rl.estimators.table_models import fit_row_model
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot

L = log(19)
"""The logit of .95: that of the highest score, and minus that of the lowest one."""
SIZES, CONTEXTS = (5, 5, 4), 6
CHOICES = torch.cartesian_prod(*map(torch.arange, SIZES))


class Product(RowScorer):
    """The product over features of what their categories are worth."""

    def __init__(self, *worth: list[float]) -> None:
        super().__init__()
        self.worth = torch.tensor(worth, dtype=torch.float64)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        worth = self.worth.to(features)
        found: Tensor = (features * worth).sum(dim=-1).prod(dim=-1)
        return found


def three_rows() -> TableRows:
    """Two rows of the first context and one of the second; the logits of their scores are -L, 0 and L."""
    return TableRows(torch.tensor([[0], [1], [0]]), torch.tensor([[0], [0], [1]]), torch.tensor([0.0, 5.0, 10.0]))


def encoding(contexts: int = CONTEXTS) -> TableEncoding:
    names = [tuple(map(str, range(size))) for size in (*SIZES, contexts)]
    return TableEncoding("y", dict(zip("abc", names, strict=False)), {"u": names[3]} if contexts else {})


def fitted(rows: TableRows) -> InScoreUnits:
    table = encoding(0 if rows.contexts is None else CONTEXTS)
    found = fit_row_model("gp", rows, table, EnsembleFit(), generator_from(1))
    assert isinstance(found, InScoreUnits)
    return found


def truth(seed: int) -> Tensor:
    """Scores ``(contexts, choices)`` from 0 to 100: contexts share what is good, but not their level and spread."""
    generator = generator_from(seed)
    worth = [torch.randn(1 + CONTEXTS, size, generator=generator)[:, CHOICES[:, k]] for k, size in enumerate(SIZES)]
    shared, own = torch.stack(worth).sum(dim=0).split([1, CONTEXTS])
    level = torch.arange(-2.0, CONTEXTS - 2).unsqueeze(1)
    spread = torch.tensor([0.05, 0.05, 0.1, 0.1, 0.2, 1.0]).unsqueeze(1)
    return 100 * torch.sigmoid(level + spread * (shared + own / 2))


def some_rows(scores: Tensor, of_each: int, seed: int) -> TableRows:
    """So many random rows of each context."""
    generator = generator_from(seed)
    picks = torch.stack([torch.randperm(len(CHOICES), generator=generator)[:of_each] for _ in scores])
    contexts = torch.arange(len(scores)).repeat_interleave(of_each)
    return TableRows(CHOICES[picks.flatten()], contexts.unsqueeze(1), scores.gather(1, picks).flatten())


def worth_of_choices(model: RowScorer, scores: Tensor) -> float:
    """The mean over contexts of the true score of the model's best row; 0 is a context's worst row and 1 its best."""
    with torch.no_grad():
        chosen = [int(model(CHOICES, torch.full((len(CHOICES), 1), each)).argmax()) for each in range(len(scores))]
    low, high = scores.aminmax(dim=1)
    return float(((scores[torch.arange(len(scores)), chosen] - low) / (high - low)).mean())


def test_units_by_hand() -> None:
    units = ScoreUnits.of(three_rows(), (3,))
    assert (float(units.low), float(units.high)) == pytest.approx((-0.05 * 10 / 0.9, 10 + 0.05 * 10 / 0.9))
    # All logits have mean 0 and variance 2 L^2 / 3; each context has five further rows of these.
    assert units.offset.tolist() == pytest.approx([-L / 7, L / 6, 0])
    first, second = (36 + 1) / 49 + 5 * 2 / 3, (5 / 6) ** 2 + 5 * 2 / 3
    assert units.spread.tolist() == pytest.approx([L * sqrt(first / 7), L * sqrt(second / 6), L * sqrt(2 / 3)])
    numbers = [-6 / 7 / sqrt(first / 7), 1 / 7 / sqrt(first / 7), 5 / 6 / sqrt(second / 6)]
    assert units.numbers_of(three_rows()).tolist() == pytest.approx(numbers)
    assert units(torch.tensor(numbers), three_rows().contexts).tolist() == pytest.approx([0, 5, 10], abs=1e-5)
    # A context that was not seen is that of all rows: one standard deviation is worth L (2 / 3)^.5.
    above = 1 / (1 + 19 ** -sqrt(2 / 3))
    assert units(torch.ones(1).double(), torch.tensor([[2]])).tolist() == pytest.approx([(above - 0.05) / 0.9 * 10])


def test_units_without_contexts_are_those_of_all_rows() -> None:
    rows = TableRows(torch.tensor([[0], [1], [2]]), None, torch.tensor([0.0, 5.0, 10.0]))
    units = ScoreUnits.of(rows, ())
    assert units.offset.tolist() == pytest.approx([0]) and units.spread.tolist() == pytest.approx([L * sqrt(2 / 3)])
    assert units.numbers_of(rows).tolist() == pytest.approx([-sqrt(1.5), 0, sqrt(1.5)])
    assert torch.allclose(units(units.numbers_of(rows)), rows.score.double())


def test_many_combinations_of_contexts_share_their_units() -> None:
    sizes = (1_000, 1_001)
    contexts = torch.tensor([[0, 0], [999, 1_000], [999, 1_000]])
    rows = TableRows(torch.tensor([[0], [1], [2]]), contexts, torch.tensor([0.0, 5.0, 10.0]))
    units = ScoreUnits.of(rows, sizes)
    assert units.offset.shape == units.spread.shape == (1,) and ScoreUnits((1_000, 1_000)).offset.numel() == 1_000_000
    assert units.numbers_of(rows).tolist() == pytest.approx([-sqrt(1.5), 0, sqrt(1.5)])
    assert torch.allclose(units(units.numbers_of(rows), contexts), rows.score.double())


@pytest.mark.parametrize("score", [0.0, -3.0, 1e6, 1e-20])
def test_scores_that_are_all_equal_come_back(score: float) -> None:
    rows = some_rows(torch.full((CONTEXTS, len(CHOICES)), score), 9, 0)
    model = fitted(rows)
    assert torch.allclose(model(CHOICES, torch.zeros(len(CHOICES), 1).long()), torch.tensor(score), atol=1e-12)
    # Scores that differ by little of their size are no reason for numbers that are not finite.
    rows.score[0] += 1e-7 * abs(score)
    assert bool(ScoreUnits.of(rows, (CONTEXTS,)).numbers_of(rows).isfinite().all())


def test_no_number_leads_out_of_the_range() -> None:
    units = ScoreUnits.of(three_rows(), (2,))
    extreme = torch.tensor([-1e30, -50.0, -3.0, 3.0, 50.0, 1e30])
    found = units(extreme, torch.zeros(6, 1).long())
    assert bool((found.diff() >= 0).all())
    assert (float(found[0]), float(found[-1])) == pytest.approx((float(units.low), float(units.high)))
    assert bool((found[2:4] > units.low).all()) and bool((found[2:4] < units.high).all())


def test_a_process_without_noise_gives_back_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    one, columns = torch.ones((), dtype=torch.float64), torch.full((4,), 0.3, dtype=torch.float64)
    monkeypatch.setattr(product_gp, "_fit_kernel", lambda *_: ProductKernel(one, one, columns, columns, 1e-9 * one))
    rows = some_rows(truth(0), 12, 0)
    model = fitted(rows)
    assert torch.allclose(model(rows.features, rows.contexts), rows.score, atol=1e-2)


def test_one_hot_rows_and_indices_score_the_same() -> None:
    model, rows = fitted(some_rows(truth(0), 12, 0)), some_rows(truth(0), 4, 1)
    scores = model(rows.features, rows.contexts)
    soft = one_hot(rows.features, max(SIZES), torch.float32)
    assert scores.dtype == torch.float32 and scores.shape == (4 * CONTEXTS,)
    assert torch.allclose(model(soft, rows.contexts), scores, atol=1e-4)
    # Leading dimensions have the same contexts.
    features = torch.stack([rows.features, CHOICES[: len(scores)]])
    found = model(features.unsqueeze(0), rows.contexts)
    assert found.shape == (1, 2, len(scores)) and torch.equal(found[0, 0], scores)
    assert torch.equal(found[0, 1], model(features[1], rows.contexts))
    mixed = torch.softmax(torch.randn(2, 3, len(scores), 3, 5, generator=generator_from(0)), dim=-1)
    assert torch.allclose(model(mixed, rows.contexts)[1, 2], model(mixed[1, 2], rows.contexts))


def test_the_slope_is_that_of_finite_differences() -> None:
    model = InScoreUnits(Product([0.3, -1.0], [0.5, 2.0]), ScoreUnits.of(three_rows(), (2,)))
    mixed = torch.softmax(torch.randn(2, 3, 2, 2, generator=generator_from(0)).double(), dim=-1).requires_grad_()
    context = torch.tensor([[0], [1], [1]])
    assert model(mixed, context).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda rows: model(rows, context), mixed)


def test_slopes_rank_all_swaps_as_their_effects_do() -> None:
    model, context = fitted(some_rows(truth(0), 12, 0)), torch.tensor([[5]])
    row = one_hot(CHOICES[7:8], max(SIZES), torch.float32).requires_grad_()
    (slope,) = torch.autograd.grad(model(row, context).sum(), row)
    slopes, effects = [], []
    for slot, size in enumerate(SIZES):
        swapped = CHOICES[7].repeat(size, 1)
        swapped[:, slot] = torch.arange(size)
        slopes.append(slope[0, slot, :size] - slope[0, slot, CHOICES[7, slot]])
        effects.append(model(swapped, context.expand(size, -1)) - model(CHOICES[7:8], context))
    order = torch.cat(effects).argsort()
    assert bool((torch.cat(slopes)[order].diff() > -1e-4).all())
    # The rank is exact, the size is not.
    assert float((torch.cat(slopes) - torch.cat(effects)).abs().max()) > 1


@pytest.mark.parametrize("kind", ["gp", "score_units", "blend", "blend of gp"])
def test_it_comes_back_from_disk(kind: str, tmp_path: Path) -> None:
    """A process in the units of the score, alone or in a blend, is what earlier versions stored."""
    rows = some_rows(truth(0), 12, 0)
    columns = torch.cat([torch.as_tensor(rows.contexts), rows.features], dim=1)
    plain, nets = (
        fit_gp(columns, rows.score, SIZES, (CONTEXTS,), generator_from(1)),
        NetEnsemble(NetEnsembleShape(SIZES, (CONTEXTS,))),
    )
    model = {
        "gp": plain,
        "score_units": (ours := fitted(rows)),
        "blend": Blend([ours, nets]),
        "blend of gp": Blend([plain, nets]),
    }[kind]
    save_estimator(tmp_path / "e", model, {})
    stored = load_estimator(tmp_path / "e").net
    assert shape_of(stored) == shape_of(model) and shape_of(stored)["kind"] == kind.split()[0]
    with torch.no_grad():
        assert torch.equal(stored(rows.features, rows.contexts), model(rows.features, rows.contexts))


def test_a_model_that_scores_no_rows_is_refused() -> None:
    net = shape_of(EstimatorNet(EstimatorShape(2, 3, (8,))))
    with pytest.raises(TypeError, match="a model in score units that is a EstimatorNet"):
        model_of({"kind": "score_units", "context_sizes": [], "model": net})


def test_contexts_of_other_levels_and_spreads_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty rows of each. Without units of their own, the context of the widest scores counts for most."""
    found: dict[str, list[float]] = {"plain": [], "shared": [], "own": []}
    for seed in range(12):
        scores = truth(seed)
        rows = some_rows(scores, 30, seed)
        columns = torch.cat([torch.as_tensor(rows.contexts), rows.features], dim=1)
        plain: ProductGP = fit_gp(columns, rows.score, SIZES, (CONTEXTS,), generator_from(1))
        found["plain"].append(worth_of_choices(plain, scores))
        found["own"].append(worth_of_choices(fitted(rows), scores))
        with monkeypatch.context() as patch:
            patch.setattr(score_units, "MOST_UNIT_CONTEXTS", 0)
            found["shared"].append(worth_of_choices(fitted(rows), scores))
    worth = {name: fmean(each) for name, each in found.items()}
    assert worth["own"] > 0.99 and worth["plain"] < 0.98 and worth["shared"] < 0.98  # measured: .998, .961, .963
