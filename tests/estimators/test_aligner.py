"""The aligner: figures by hand, learning compared with controls that must not learn, and refusals.

The synthetic estimator is a network of random weights on 4 features of 5 categories, all of whose 625 rows are known.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from benchmarks.reproductions import aligner_report
from benchmarks.reproductions.aligner_report import (
    DIFFERENCE,
    TABLES,
    AlignerReportConfig,
    correlate,
    disjoint,
    measure_table,
    report_aligner,
)
from benchmarks.reproductions.results import Place
from slot_rl.agents.aligned import study
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.estimators.aligner import (
    Aligner,
    AlignerConfig,
    Behaviour,
    fit_aligner,
    one_swap_pairs,
    order_loss,
)
from slot_rl.estimators.fitting import TableFit
from slot_rl.problems import Observation, RowProblem
from slot_rl.seeding import generator_from, seeded_initialisation

SHORT = AlignerConfig(dim=8, hidden=32, steps=100, batch_size=128, learning_rate=1e-2)


def synthetic_problem(contexts: tuple[int, ...] = ()) -> RowProblem:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(4, 4, (32, 32), (5, 5, 5, 5), contexts))
    return RowProblem(net, torch.arange(contexts[0]).unsqueeze(1) if contexts else None)


def all_rows() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(5)] * 4)


def behaviour_of(problem: RowProblem, choice: Tensor) -> Behaviour:
    return study(problem, Observation(context=torch.zeros(len(choice), 1, dtype=torch.long)), choice)


@pytest.fixture(scope="module")
def split() -> tuple[Tensor, Behaviour, Behaviour]:
    """Training rows, their behaviour and that of all other rows."""
    order = torch.randperm(625, generator=generator_from(1))
    seen, held = all_rows()[order[:400]], all_rows()[order[400:]]
    problem = synthetic_problem()
    return seen, behaviour_of(problem, seen), behaviour_of(problem, held)


def follows(aligner: Aligner, held: Behaviour) -> float:
    """Rank correlation of the similarity with score differences over disjoint held-out pairs: -1 is perfect."""
    first, second = torch.arange(224).view(2, -1)
    similarity = aligner.similarity(held.latents[first], held.latents[second])
    apart = (held.scores[first] - held.scores[second]).abs()
    return float(stats.spearmanr(similarity.detach().numpy(), apart.numpy()).statistic)


def test_the_similarity_is_the_cosine_of_projected_latents() -> None:
    aligner = Aligner(torch.tensor([[0.0, 10.0], [2.0, 30.0]]), AlignerConfig(dim=2, hidden=2))
    aligner.head = torch.nn.Identity()  # type: ignore[assignment]
    # Means 1 and 20, standard deviations sqrt(2) and 10 sqrt(2).
    first, second = torch.tensor([[2.0, 20.0], [2.0, 30.0]]), torch.tensor([[1.0, 50.0], [0.0, 10.0]])
    assert aligner(first).tolist()[1] == pytest.approx([0.5**0.5, 0.5**0.5])
    assert aligner.similarity(first, second).tolist() == pytest.approx([0.0, -1.0])
    assert aligner.similarity(torch.tensor([[2.0, 20.0]]), torch.tensor([[2.0, 30.0]])).item() == pytest.approx(
        0.5**0.5
    )


def test_a_unit_that_never_moves_divides_by_nothing_small() -> None:
    aligner = Aligner(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), SHORT)
    assert aligner.spread.tolist() == pytest.approx([2**0.5, 1e-3 * 0.5**0.5])
    assert Aligner(torch.ones(3, 2), SHORT).spread.tolist() == [1.0, 1.0]


def test_a_study_gives_masked_items_no_effect() -> None:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(2, 3, (8,), (2, 3)))
    problem = RowProblem(net)
    effects = study(problem, problem.sample(2, generator_from(0)), torch.tensor([[1, 0], [0, 2]])).effects
    assert effects[:, 0, 2].tolist() == [0.0, 0.0]
    assert effects[0, 0, 0] != 0 and effects[0, 1, 1] != 0 and effects[0, 0, 1] == effects[0, 1, 0] == 0


def test_a_study_predicts_swaps_for_three_calls_a_row() -> None:
    problem, choice = synthetic_problem(), all_rows()[::7]
    behaviour = behaviour_of(problem, choice)
    assert (problem.budget.forwards, problem.budget.backwards) == (2 * len(choice), len(choice))
    observation = Observation(context=torch.zeros(len(choice), 1, dtype=torch.long))
    assert torch.equal(behaviour.scores, problem.score(observation, choice))
    assert behaviour.latents.shape == (len(choice), 32)
    swapped = choice.clone()
    swapped[:, 2] = 3
    change = problem.score(observation, swapped) - behaviour.scores
    # The estimator is not linear, so the effects are right to first order only.
    assert float(torch.corrcoef(torch.stack([change, behaviour.effects[:, 2, 3]]))[0, 1]) > 0.9


def test_one_swap_pairs_are_those_of_an_enumeration() -> None:
    generator = generator_from(0)
    choice, context = (torch.randint(3, (40, width), generator=generator) for width in (3, 1))
    found = {tuple(sorted(pair)) for pair in one_swap_pairs(choice, context).tolist()}
    assert len(found) == len(one_swap_pairs(choice, context))
    expected = {
        (i, j)
        for i in range(40)
        for j in range(i + 1, 40)
        if bool((context[i] == context[j]).all()) and int((choice[i] != choice[j]).sum()) == 1
    }
    assert found == expected and expected
    assert len(one_swap_pairs(choice)) > len(expected)
    assert one_swap_pairs(torch.tensor([[0, 0], [1, 1]])).shape == (0, 2)


def test_the_loss_of_order_is_that_by_hand() -> None:
    similarity, distance = torch.tensor([0.5, 0.0]), torch.tensor([1.0, 2.0])
    other = torch.tensor([1, 0])
    # The nearer pair is the more similar one: log(1 + exp(-2 * 0.5)) for both.
    right = order_loss(similarity, distance, other, 2.0)
    assert right.item() == pytest.approx(float(np.log1p(np.exp(-1.0))))
    wrong = order_loss(similarity, distance.flip(0), other, 2.0)
    assert wrong.item() == pytest.approx(float(np.log1p(np.exp(1.0))))


def test_training_beats_an_untrained_head_and_shuffled_rows(
    split: tuple[Tensor, Behaviour, Behaviour],
) -> None:
    choice, seen, held = split
    swaps = one_swap_pairs(choice)
    aligner, losses = fit_aligner(seen, swaps, SHORT, generator_from(0))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:3])
    with seeded_initialisation(0):
        untrained = Aligner(seen.latents, SHORT)
    order = torch.randperm(400, generator=generator_from(2))
    shuffled = replace(seen, scores=seen.scores[order], effects=seen.effects[order])
    fooled, _ = fit_aligner(shuffled, swaps, SHORT, generator_from(0))
    assert follows(aligner, held) < -0.75
    assert follows(untrained, held) > -0.5 and follows(fooled, held) > -0.4


def test_without_pairs_one_swap_apart_random_pairs_do(split: tuple[Tensor, Behaviour, Behaviour]) -> None:
    _, seen, held = split
    aligner, _ = fit_aligner(seen, torch.zeros(0, 2, dtype=torch.long), SHORT, generator_from(0))
    assert follows(aligner, held) < -0.75


@pytest.mark.parametrize("effects", [0.0, 1.0])
def test_the_distance_is_of_scores_or_of_effects(effects: float, split: tuple[Tensor, Behaviour, Behaviour]) -> None:
    choice, seen, held = split
    config = replace(SHORT, effects=effects)
    blind = (
        replace(seen, effects=torch.zeros_like(seen.effects)) if effects == 0 else replace(seen, scores=seen.scores * 0)
    )
    aligner, _ = fit_aligner(seen, one_swap_pairs(choice), config, generator_from(0))
    again, _ = fit_aligner(blind, one_swap_pairs(choice), config, generator_from(0))
    assert torch.equal(aligner(held.latents), again(held.latents))


def test_neither_latents_nor_the_aligner_get_gradients(
    split: tuple[Tensor, Behaviour, Behaviour],
) -> None:
    choice, seen, _ = split
    leaves = Behaviour(*(part.clone().requires_grad_() for part in (seen.latents, seen.scores, seen.effects)))
    aligner, _ = fit_aligner(leaves, one_swap_pairs(choice), SHORT, generator_from(0))
    assert leaves.latents.grad is None and leaves.scores.grad is None and leaves.effects.grad is None
    aligner.similarity(leaves.latents[:5], seen.latents[5:10]).sum().backward()
    assert leaves.latents.grad is not None and bool((leaves.latents.grad[:5] != 0).any())
    assert all(part.grad is None for part in aligner.parameters())


def test_the_aligner_depends_on_the_seed_alone(
    split: tuple[Tensor, Behaviour, Behaviour],
) -> None:
    choice, seen, held = split
    before = torch.get_rng_state()
    first, again, other = (
        fit_aligner(seen, one_swap_pairs(choice), SHORT, generator_from(seed))[0](held.latents) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def small() -> Behaviour:
    return Behaviour(torch.eye(3), torch.arange(3.0), torch.arange(12.0).view(3, 2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.eye(4)}, r"expected latents \(rows, width\).*got \(4, 4\), \(3,\) and \(3, 2, 2\)"),
        ({"scores": torch.zeros(3, 1)}, r"got \(3, 3\), \(3, 1\) and \(3, 2, 2\)"),
        ({"effects": torch.zeros(3, 4)}, r"got \(3, 3\), \(3,\) and \(3, 4\)"),
        ({"latents": torch.full((3, 3), torch.nan)}, "expected finite latents to fit an aligner, got NaN"),
        ({"scores": torch.tensor([0.0, torch.inf, 1.0])}, "expected finite scores"),
        ({"effects": torch.full((3, 2, 2), torch.nan)}, "expected finite effects"),
        ({"scores": torch.ones(3), "effects": torch.ones(3, 2, 2)}, "rows that all behave alike"),
    ],
)
def test_behaviour_that_nothing_can_be_learned_from_is_refused(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_aligner(replace(small(), **change), torch.zeros(0, 2, dtype=torch.long), SHORT, generator_from(0))


def test_missing_rows_and_too_few_rows_are_refused() -> None:
    for pairs in (torch.tensor([[0, 3]]), torch.tensor([[-1, 0]]), torch.tensor([0, 1])):
        with pytest.raises(ValueError, match=r"expected pairs \(pairs, 2\) of row numbers below 3"):
            fit_aligner(small(), pairs, SHORT, generator_from(0))
    two = Behaviour(torch.eye(2), torch.arange(2.0), torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="at least three rows.*got 2"):
        fit_aligner(two, torch.zeros(0, 2, dtype=torch.long), SHORT, generator_from(0))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"dim": 0}, "dim, hidden and steps >= 1"),
        ({"batch_size": 1}, "batch_size >= 2"),
        ({"effects": 1.5}, "from 0 to 1, got 1.5 and 0.5"),
        ({"swaps": -0.1}, "from 0 to 1"),
        ({"sharpness": 0.0}, "sharpness and learning_rate > 0"),
    ],
)
def test_a_config_that_leads_nowhere_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignerConfig(**option)


# The report.


def test_correlations_and_intervals_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    apart = generator.integers(0, 20, 300).astype(float)
    good, bad = -apart + 4 * generator.normal(size=300), generator.normal(size=300)
    draws = generator.integers(0, 300, (200, 300))
    found = correlate({"aligner": good, "raw": bad, "overlap": np.full(300, 3.0)}, apart, draws)
    assert found["overlap"] is None
    raw, aligner, difference = found["raw"], found["aligner"], found[DIFFERENCE]
    assert raw is not None and aligner is not None and difference is not None
    assert aligner.value == pytest.approx(stats.spearmanr(good, apart).statistic)
    resampled = [stats.spearmanr(good[draw], apart[draw]).statistic for draw in draws]
    assert [aligner.low, aligner.high] == pytest.approx(np.quantile(resampled, [0.025, 0.975]).tolist())
    assert difference.value == pytest.approx(aligner.value - raw.value)
    assert raw.low < raw.value < raw.high and difference.high < -0.5


def test_disjoint_pairs_share_no_row_and_are_maximal() -> None:
    pairs = one_swap_pairs(all_rows())
    chosen = disjoint(pairs, 1_000, generator_from(0))
    taken = chosen.flatten().tolist()
    assert len(taken) == len(set(taken)) > 500
    assert all({first, second} & set(taken) for first, second in pairs.tolist())
    assert len(disjoint(pairs, 7, generator_from(0))) == 7


def test_a_folder_without_the_landscapes_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "gb1.csv").write_text("")
    with pytest.raises(ValueError, match="expected tfbind8.csv, suzuki.csv in --data FOLDER, got .* without"):
        AlignerReportConfig(tmp_path)


def test_a_report_leaves_table_figures_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = synthetic_problem()
    scores = problem.score(Observation(context=torch.zeros(625, 1, dtype=torch.long)), all_rows()).tolist()
    rows = [",".join(map(str, [*row, score])) for row, score in zip(all_rows().tolist(), scores, strict=True)]
    (tmp_path / "small.csv").write_text("\n".join(["a,b,c,d,y", *rows]))
    table = aligner_report.MeasuredTable("small.csv", "y", (), 300)
    monkeypatch.setattr(aligner_report, "TABLES", {"small": table})
    monkeypatch.setattr(aligner_report, "TableFit", partial(TableFit, epochs=3, hidden=(16,)))
    found = report_aligner(AlignerReportConfig(tmp_path, 0, 100, 100, Place(tmp_path / "out")))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "picture.png"}
    by = found["small"].correlations
    assert set(by) == {"random, measured", "random, estimated", "one swap, measured", "one swap, estimated"}
    assert all((row["overlap"] is None) == kind.startswith("one swap") for kind, row in by.items())
    assert found["small"].pairs == {"random": 100, "one swap": 100}
    assert capsys.readouterr().out.count("constant") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gb1", "tfbind8"])
def test_on_one_swap_pairs_the_aligner_beats_the_raw_latents(name: str, landscape: Callable[[str], Path]) -> None:
    folder = [landscape(one.file) for one in TABLES.values()][0].parent
    found = measure_table(TABLES[name], AlignerReportConfig(folder), lambda: None)
    for kind in ("one swap, measured", "one swap, estimated"):
        by = found.correlations[kind]
        print(name, kind, by)
        assert by["overlap"] is None
        difference = by[DIFFERENCE]
        assert difference is not None and difference.high < 0
