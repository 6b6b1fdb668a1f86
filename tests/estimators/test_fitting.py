"""Fitting: splits that are partitions, early stopping that keeps the best epoch, and fits that find the true effects.

Each success has a control: shuffled scores and missing contexts must not be explained.
"""

from dataclasses import dataclass, field, replace
from itertools import product
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl.estimators import fitting
from slot_rl.estimators.described import Descriptors, NumberUnit
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import (
    TableFit,
    TableRows,
    TruthFit,
    fit_on_table,
    fit_on_truth,
    network_for,
    predict_rows,
    r_squared,
    read_rows,
    with_categories,
)
from slot_rl.estimators.net import EstimatorNet, EstimatorShape
from slot_rl.estimators.table_files import TableError
from slot_rl.seeding import generator_from, seeded_initialisation
from tests.helpers.splits import split_rows

FAST = TableFit(epochs=60, patience=20, batch_size=128, learning_rate=3e-3, dim=8, hidden=(64,))


def network(
    vocabulary: tuple[int, ...], contexts: tuple[int, ...] = (), hidden: tuple[int, ...] = (64,)
) -> EstimatorNet:
    with seeded_initialisation(0):
        return EstimatorNet(EstimatorShape(len(vocabulary), 8, hidden, vocabulary, contexts))


def numbered(count: int) -> TableRows:
    """Rows that contain their own number in the features, in the context and as the score."""
    numbers = torch.arange(count)
    return TableRows(torch.stack([numbers, -numbers], dim=1), numbers.unsqueeze(1) * 10, numbers.float())


def quiet(step: int, figure: float | None) -> None:
    """Reports nothing."""


@dataclass
class Recorded:
    """The reports of a fit: the steps of all reports, and the steps and figures of those with a figure."""

    every: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    figures: list[float] = field(default_factory=list)

    def __call__(self, step: int, figure: float | None) -> None:
        self.every.append(step)
        if figure is not None:
            self.steps.append(step)
            self.figures.append(figure)


def additive(generator: torch.Generator) -> TableRows:
    """Returns a full factorial of 4 features with 5 categories, the score a sum of one effect per category."""
    features = torch.tensor(list(product(range(5), repeat=4)))
    effects = torch.randn(4, 5, generator=generator)
    return TableRows(features, None, 50 + 7 * effects[torch.arange(4), features].sum(dim=1))


@pytest.mark.parametrize("count", [19, 100, 101, 1037])
def test_split_is_a_partition_that_keeps_rows_together(count: int) -> None:
    rows = numbered(count)
    parts = split_rows(rows, TableFit(), generator_from(1))
    assert sorted(torch.cat([part.score for part in parts]).tolist()) == list(range(count))
    for part in parts:
        assert part.contexts is not None
        assert torch.equal(part.features[:, 0], part.score.long())
        assert torch.equal(part.features[:, 1], -part.score.long())
        assert torch.equal(part.contexts[:, 0], part.score.long() * 10)


def test_split_has_the_shares_that_were_asked_for() -> None:
    assert [len(part) for part in split_rows(numbered(100), TableFit(), generator_from(0))] == [80, 10, 10]
    fit = TableFit(train=0.5, validation=0.3)
    assert [len(part) for part in split_rows(numbered(1000), fit, generator_from(0))] == [500, 300, 200]


def test_split_is_random_and_repeats_under_its_seed() -> None:
    first, again, other = (
        [part.score.tolist() for part in split_rows(numbered(200), TableFit(), generator_from(seed))]
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    assert first[0] != sorted(first[0])


@pytest.mark.parametrize(("count", "parts"), [(14, "11 + 2 + 1"), (8, "6 + 1 + 1"), (0, "0 + 0 + 0")])
def test_too_few_rows_are_refused(count: int, parts: str) -> None:
    message = rf"expected enough rows for two in each .*, got {count} rows, split into {parts.replace('+', '[+]')}$"
    with pytest.raises(ValueError, match=message):
        split_rows(numbered(count), TableFit(), generator_from(0))


@pytest.mark.parametrize(
    ("train", "validation"),
    [(0.0, 0.1), (1.0, 0.1), (-0.1, 0.5), (0.8, 0.0), (0.8, 1.0), (0.9, 0.1), (0.7, 0.5), (float("nan"), 0.1)],
)
def test_shares_that_leave_a_part_empty_are_refused(train: float, validation: float) -> None:
    message = rf"expected train > 0, validation > 0 and train \+ validation < 1, got train {train} and .* {validation}"
    with pytest.raises(ValueError, match=message):
        TableFit(train=train, validation=validation)


@pytest.mark.parametrize(
    ("field", "fit"),
    [
        ("epochs=0", {"epochs": 0}),
        ("patience=0", {"patience": 0}),
        ("batch_size=-1", {"batch_size": -1}),
        ("dim=0", {"dim": 0}),
        (r"hidden=\(64, 0\)", {"hidden": (64, 0)}),
        (r"hidden=\(\)", {"hidden": ()}),
    ],
)
def test_sizes_below_one_are_refused(field: str, fit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"expected epochs, patience, batch_size, dim and hidden.*got .*{field}"):
        TableFit(**fit)


def test_r_squared_by_hand() -> None:
    target = torch.tensor([1.0, 2.0, 3.0])
    assert r_squared(target, target) == 1
    assert r_squared(torch.full((3,), 2.0), target) == 0
    # Residual 0 + 0 + 4, variance 1 + 0 + 1.
    assert r_squared(torch.tensor([1.0, 2.0, 5.0]), target) == -1
    # Residual 3 * 0.25, variance 2.
    assert r_squared(target + 0.5, target) == pytest.approx(1 - 0.75 / 2)


def test_predictions_in_parts_equal_predictions_at_once() -> None:
    net = network((5, 5), contexts=(3,))
    generator = generator_from(0)
    features = torch.randint(5, (16_384 + 1000, 2), generator=generator)
    contexts = torch.randint(3, (16_384 + 1000, 1), generator=generator)
    predicted = predict_rows(net, TableRows(features, contexts, torch.zeros(16_384 + 1000)))
    assert net.catalogue is not None
    vectors = torch.stack([net.catalogue[0][features[:, 0]], net.catalogue[1][features[:, 1]]], dim=1)
    assert not predicted.requires_grad
    torch.testing.assert_close(predicted, net(vectors, contexts).detach())


def fitted(rows: TableRows, fit: TableFit, net: EstimatorNet) -> tuple[float, int, list[float]]:
    """Fits on a split of the rows; returns test R2, the epoch kept and all validation errors."""
    generator = generator_from(0)
    train, validation, test = split_rows(rows, fit, generator)
    reports = Recorded()
    epoch = fit_on_table(net, train, validation, fit, generator, reports)
    return r_squared(predict_rows(net, test), test.score), epoch, reports.figures


def test_an_additive_table_is_recovered_unless_shuffled() -> None:
    rows = additive(generator_from(0))
    r2, _, _ = fitted(rows, FAST, network((5,) * 4))
    assert r2 > 0.95
    shuffled = rows.score[torch.randperm(len(rows), generator=generator_from(1))]
    control, _, _ = fitted(TableRows(rows.features, None, shuffled), FAST, network((5,) * 4))
    assert -0.3 < control < 0.1


def test_an_offset_of_the_scores_does_not_change_the_fit() -> None:
    rows = additive(generator_from(0))
    rows = replace(rows, score=rows.score / rows.score.std())
    r2, shifted = (fitted(replace(rows, score=rows.score + by), FAST, network((5,) * 4))[0] for by in (0.0, 5e4))
    assert shifted == pytest.approx(r2, abs=0.01)


def test_scores_that_rounding_would_merge_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{'uv'[i % 2]},{1e7 + i / 2}\n" for i in range(4)), encoding="utf-8")
    with pytest.raises(
        TableError, match="expected 'y' of .*t.csv to spread by .*, got a spread of .* around 10000000.8; "
    ):
        read_rows(path, "y", ())


def test_a_context_explains_what_the_features_alone_cannot() -> None:
    features = torch.tensor(list(product(range(5), repeat=3))).repeat(4, 1)
    contexts = torch.arange(4).repeat_interleave(125).unsqueeze(1)
    # The first feature has a positive effect in contexts 0 and 2, a negative one in 1 and 3, and none on average.
    score = (features[:, 0] - 2.0) * (1 - 2 * (contexts[:, 0] % 2))
    given, _, _ = fitted(TableRows(features, contexts, score), FAST, network((5,) * 3, contexts=(4,)))
    assert given > 0.9
    withheld, _, _ = fitted(TableRows(features, None, score), FAST, network((5,) * 3))
    assert withheld < 0.2


def test_early_stopping_keeps_the_best_validation_error() -> None:
    # Few rows with much noise and a wide network: it learns the signal first and the noise afterwards.
    generator = generator_from(0)
    rows = additive(generator)
    rows = TableRows(rows.features, None, rows.score + 10 * torch.randn(len(rows), generator=generator))
    train, validation = rows[torch.arange(0, 625, 4)], rows[torch.arange(1, 625, 4)]
    fit = TableFit(epochs=200, patience=7, batch_size=32, learning_rate=3e-3, dim=8, hidden=(128,))
    net = network((5,) * 4, hidden=(128,))
    reports = Recorded()
    epoch = fit_on_table(net, train, validation, fit, generator, reports)
    errors = reports.figures
    assert reports.steps == [5 * epoch for epoch in range(1, len(errors) + 1)]  # 157 rows, 32 a step
    assert errors.index(min(errors)) + 1 == epoch
    assert 1 < epoch
    assert len(errors) == epoch + fit.patience < fit.epochs
    kept = (predict_rows(net, validation) - validation.score).square().mean().sqrt()
    assert float(kept) == min(errors) < errors[-1]


def test_contradicting_validation_stops_after_one_epoch() -> None:
    rows = additive(generator_from(0))
    mean = rows.score.mean()
    opposite = TableRows(rows.features, None, 2 * mean - rows.score)
    fit = TableFit(epochs=50, patience=3, learning_rate=3e-3)
    net, reports = network((5,) * 4), Recorded()
    epoch, errors = fit_on_table(net, rows, opposite, fit, generator_from(0), reports), reports.figures
    assert epoch == 1
    assert len(errors) == 1 + fit.patience
    assert errors == sorted(errors)


def test_a_fit_that_still_improves_ends_with_its_last_epoch() -> None:
    rows = additive(generator_from(0))
    reports = Recorded()
    fit = TableFit(epochs=4, patience=1, batch_size=64)
    epoch = fit_on_table(network((5,) * 4), rows, rows, fit, generator_from(0), reports)
    assert epoch == len(reports.figures) == 4
    assert reports.figures == sorted(reports.figures, reverse=True)


def test_a_long_epoch_reports_between_its_ends() -> None:
    rows = additive(generator_from(0))  # 625 rows, 10 a step: 63 steps an epoch
    reports = Recorded()
    fit = TableFit(epochs=3, patience=3, batch_size=10, dim=8, hidden=(64,))
    fit_on_table(network((5,) * 4), rows, rows, fit, generator_from(0), reports)
    assert fit.steps_per_epoch(625) == 63
    assert reports.every == [50, 63, 100, 126, 150, 189]
    assert reports.steps == [63, 126, 189]


@pytest.mark.parametrize(
    ("rows", "batch_size", "steps"),
    [(1, 256, 1), (256, 256, 1), (257, 256, 2), (131_073, 256, 512), (10**7, 100, 1311)],
)
def test_steps_of_an_epoch_by_hand(rows: int, batch_size: int, steps: int) -> None:
    assert TableFit(batch_size=batch_size).steps_per_epoch(rows) == steps


def test_passes_over_a_large_table_visit_different_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting.EPOCH_ROWS == 131_072
    visited: list[list[int]] = []
    measured: list[list[int]] = []
    take = TableRows.__getitem__

    def watched(rows: TableRows, part: Tensor) -> TableRows:
        (visited if rows is train else measured).append(part.tolist())
        return take(rows, part)

    train, validation = numbered(100), additive(generator_from(0))
    train = TableRows(train.features[:, :1].repeat(1, 4) % 5, None, train.score)
    monkeypatch.setattr(TableRows, "__getitem__", watched)
    monkeypatch.setattr(fitting, "EPOCH_ROWS", 30)
    reports = Recorded()
    fit_on_table(network((5,) * 4), train, validation, TableFit(epochs=3, batch_size=8), generator_from(0), reports)
    assert reports.steps == [4, 8, 12]
    passes = [sum(visited[4 * i : 4 * i + 4], []) for i in range(3)]
    assert [len(rows) for rows in passes] == [len(set(rows)) for rows in passes] == [30, 30, 30]
    assert len({row for rows in passes for row in rows}) > 40  # not the same 30 rows again; expected 66 of 100
    assert measured[0] == list(range(30)) and all(len(rows) <= 30 for rows in measured)


def test_a_fit_standardises_by_its_training_rows() -> None:
    rows = TableRows(torch.tensor([[0], [1], [0], [1]]), None, torch.tensor([1.0, 3.0, 5.0, 7.0]))
    net = network((2,))
    fit_on_table(net, rows, rows, TableFit(epochs=1, patience=1), generator_from(0), quiet)
    assert float(net.offset) == 4
    # Deviations -3, -1, 1, 3: variance 20 / (4 - 1).
    assert float(net.scale) == pytest.approx(sqrt(20 / 3))


def test_a_fit_repeats_bit_for_bit_under_its_seeds() -> None:
    rows = additive(generator_from(0))
    fit = TableFit(epochs=3, patience=3, batch_size=64)
    states = []
    for seed in (5, 5, 6):
        net = network((5,) * 4)
        fit_on_table(net, rows, rows, fit, generator_from(seed), quiet)
        states.append(torch.cat([value.flatten() for value in net.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_truth_is_recovered_from_fresh_samples() -> None:
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, -1.0])
    generator = generator_from(0)
    sizes: list[int] = []
    first: list[Tensor] = []

    def draw(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        vectors = torch.randn(batch, 3, 2, generator=generator)
        score = 100 * torch.tanh(vectors.flatten(1) @ weights / 4)
        sizes.append(batch)
        first.append(score)
        return vectors, score

    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 2, (32, 32)))
    reports = Recorded()
    fit_on_truth(net, draw, TruthFit(300, 128, 1e-2), generator, reports)
    assert sizes == [16_384] + [128] * 300
    assert torch.equal(net.scale, first[0].std())
    assert reports.steps == list(range(1, 301))
    assert reports.figures[0] > 0.5 > 0.05 > reports.figures[-1]
    vectors, score = draw(4096, generator)
    with torch.no_grad():
        assert r_squared(net(vectors), score) > 0.97
        # The control: the same network on vectors that are unrelated to these scores.
        assert r_squared(net(vectors.roll(1, dims=0)), score) < 0


def test_fitting_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    rows = additive(generator_from(0))
    fitted(rows, TableFit(epochs=1, patience=1), network((5,) * 4))
    assert torch.equal(torch.get_rng_state(), before)


def swap_error(net: EstimatorNet, rows: TableRows) -> float:
    """Returns the error of the gradient's prediction of single swaps, as a share of the spread of the swaps."""
    assert net.catalogue is not None
    selection = torch.nn.functional.one_hot(rows.features, 5).float().requires_grad_()
    scores = net(torch.einsum("bsn,snd->bsd", selection, net.catalogue))
    (gradient,) = torch.autograd.grad(scores.sum(), selection)
    foretold = gradient - gradient.gather(-1, rows.features.unsqueeze(-1))
    actual = torch.empty_like(foretold)
    for slot, item in product(range(4), range(5)):
        swapped = rows.features.clone()
        swapped[:, slot] = item
        actual[:, slot, item] = predict_rows(net, TableRows(swapped, None, rows.score)) - scores.detach()
    return float((foretold - actual).square().mean() / actual.square().mean())


def test_swap_linearity_makes_the_gradient_foretell_swaps() -> None:
    generator = generator_from(5)
    rows = additive(generator)
    spread = (rows.score - rows.score.mean()) / rows.score.std()
    bent = TableRows(rows.features, None, torch.tanh(3 * spread))  # not a sum of effects
    errors = []
    for weight in (0.0, 10.0):
        net = network((5,) * 4)
        train, validation, _ = split_rows(bent, FAST, generator_from(0))
        fit = TableFit(
            epochs=200, patience=200, batch_size=128, learning_rate=3e-3, dim=8, hidden=(64,), swap_linearity=weight
        )
        fit_on_table(net, train, validation, fit, generator_from(0), quiet)
        errors.append(swap_error(net, bent))
    assert errors[1] < 0.5 * errors[0]


def test_a_negative_swap_linearity_is_refused() -> None:
    with pytest.raises(ValueError, match="swap_linearity >= 0, got -1"):
        TableFit(swap_linearity=-1.0)


def linear_in(number: Tensor, encoding: TableEncoding) -> tuple[EstimatorNet, TableRows]:
    """Rows of a context number ``(contexts,)`` and a feature of 5, the score a linear function of both, and a fit."""
    contexts, features = number.repeat_interleave(5), torch.arange(5).repeat(len(number))
    codes, vectors = encoding.context_parts(contexts.double().unsqueeze(1))
    rows = TableRows(features.unsqueeze(1), codes, 3 * contexts.float() + features, vectors)
    fit = TableFit(epochs=150, patience=150, batch_size=8, learning_rate=3e-3, dim=4, hidden=(32,), swap_linearity=0)
    net = network_for(encoding, fit, 0)
    known = rows[(contexts != 3).nonzero().squeeze(1)]
    fit_on_table(net, known, known, fit, generator_from(0), quiet)
    return net, rows[(contexts == 3).nonzero().squeeze(1)]


def test_a_numeric_context_is_interpolated_to_an_unseen_one() -> None:
    feature, number = {"a": tuple("vwxyz")}, torch.tensor([0, 1, 2, 3, 4, 5, 6])
    errors, described = [], Descriptors(("n",), tuple((float(n),) for n in number))
    for encoding in (
        TableEncoding("y", feature, {"t": ()}, {"t": NumberUnit(3, 2)}),
        TableEncoding("y", feature, {"t": tuple("0123456")}, {}, {"t": described}),
        TableEncoding("y", feature, {"t": tuple("0123456")}),
    ):
        net, unseen = linear_in(number, encoding)
        errors.append(float((predict_rows(net, unseen) - unseen.score).abs().mean()))
    # The spread of the scores is 6; an embedding that was never fitted is noise.
    assert errors[0] < 0.7 and errors[1] < 0.7
    assert errors[2] > 2


def test_an_unseen_described_category_is_foretold() -> None:
    descriptors = Descriptors(("n",), tuple((float(n),) for n in range(7)))
    features = torch.cartesian_prod(torch.arange(7), torch.arange(4))
    rows = TableRows(features, None, 3 * features[:, 0].float() + features[:, 1])
    seen, unseen = rows[(features[:, 0] != 5).nonzero().squeeze(1)], rows[(features[:, 0] == 5).nonzero().squeeze(1)]
    fit = TableFit(epochs=150, patience=150, batch_size=8, learning_rate=3e-3, dim=4, hidden=(32,), swap_linearity=0)
    errors = []
    for described in ({"a": descriptors}, {}):
        encoding = TableEncoding("y", {"a": tuple("0123456"), "b": tuple("0123")}, {}, {}, described)
        net = network_for(encoding, fit, 0)
        fit_on_table(net, seen, seen, fit, generator_from(0), quiet)
        errors.append(float((predict_rows(net, unseen) - unseen.score).abs().mean()))
    assert errors[0] < 1 < 2 < errors[1]


def test_other_levels_score_as_those_of_the_fit() -> None:
    unit = NumberUnit(3, 2)
    whole = TableEncoding("y", {"t": tuple("12345"), "a": ("p", "q", "r")}, {}, {"t": unit})
    fit = TableFit(dim=4, hidden=(8,))
    net = network_for(whole, fit, 1)
    for levels in ((2.0, 4.0), (1.0, 2.0, 3.0, 3.5, 4.0, 5.0, 6.0)):
        encoding = whole.with_levels({"t": levels})
        other = with_categories(net, encoding)
        assert other.shape.vocabulary == (len(levels), 3)
        place = encoding.features["t"].index("4")
        for a in range(3):
            one, two = (TableRows(torch.tensor([[t, a]]), None, torch.zeros(1)) for t in (3, place))
            assert torch.equal(predict_rows(net, one), predict_rows(other, two))
