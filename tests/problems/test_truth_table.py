"""Measured landscapes as ground truth: look-ups against dictionaries, duplicates, gaps, limits, and real files."""

import csv
from collections.abc import Callable
from math import isnan, nan, prod
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slot_rl.problems.truth_table as module
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.table import read_table
from slot_rl.estimators.table_files import TableError
from slot_rl.problems import Unmeasured
from slot_rl.problems.truth_table import TruthTable
from slot_rl.seeding import generator_from


def no_contexts(rows: int) -> torch.Tensor:
    return torch.zeros(rows, 0, dtype=torch.long)


def test_scores_by_hand_with_a_duplicate_and_a_gap() -> None:
    features = torch.tensor([[0, 0], [1, 2], [1, 2], [0, 1]])
    score, asked = torch.tensor([5.0, 1.0, 4.0, 2.0]), torch.tensor([[0, 0], [1, 2], [0, 1], [1, 0]])
    table = TruthTable(features, no_contexts(4), score, (2, 3))
    assert table(asked, None).tolist() == pytest.approx([5.0, 2.5, 2.0, nan], nan_ok=True)
    assert table.measured(asked, None).tolist() == [True, True, True, False]
    assert (table.minimum, table.maximum, table.unmeasured) == (2.0, 5.0, "omit")
    assert TruthTable(features, no_contexts(4), score, (2, 3), "worst")(asked, None).tolist() == [5.0, 2.5, 2.0, 2.0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.lists(st.integers(1, 4), max_size=2),
    st.integers(1, 40),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_every_combination_is_looked_up_as_a_dictionary_would(
    features: list[int], contexts: list[int], rows: int, seed: int, worst: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = [*contexts, *features]
    cells = torch.stack([torch.randint(size, (rows,), generator=generator) for size in sizes], dim=-1)
    score = torch.randn(rows, dtype=torch.float64, generator=generator)
    columns = len(contexts)
    table = TruthTable(cells[:, columns:], cells[:, :columns], score, sizes, "worst" if worst else "omit")
    measured: dict[tuple[int, ...], list[float]] = {}
    for cell, value in zip(cells.tolist(), score.tolist(), strict=True):
        measured.setdefault(tuple(cell), []).append(value)
    means = {cell: sum(values) / len(values) for cell, values in measured.items()}
    every = torch.cartesian_prod(*[torch.arange(size) for size in sizes]).view(-1, len(sizes))
    context = every[:, :columns] if columns else None
    found, known = table(every[:, columns:], context), table.measured(every[:, columns:], context)
    assert table.minimum == pytest.approx(min(means.values())) and table.maximum == pytest.approx(max(means.values()))
    shares = table.normalised(every[:, columns:], context)
    for cell, value, is_known, share in zip(map(tuple, every.tolist()), found, known, shares, strict=True):
        beside = [mean for other, mean in means.items() if other[:columns] == cell[:columns]]
        low, high = min(beside or means.values()), max(beside or means.values())
        assert bool(is_known) is (cell in means)
        if not worst and cell not in means:
            assert isnan(value) and isnan(share)
            continue
        assert float(value) == pytest.approx(means.get(cell, low), rel=1e-6, abs=1e-6)
        lone = float(cell in means)
        expected = (means.get(cell, low) - low) / (high - low) if len(set(beside)) > 1 else lone
        assert float(share) == pytest.approx(expected, abs=1e-5)
    random, batch = table.random(context, len(every)), prod(features)
    for found_mean, looked_up in ((random.true, found), (random.normalised, shares), (random.measured, known)):
        assert found_mean is not None
        expected_mean = looked_up.double().view(-1, batch).nanmean(dim=1).repeat_interleave(batch)
        torch.testing.assert_close(found_mean.double(), expected_mean, equal_nan=True, rtol=1e-5, atol=1e-5)


def gapped(unmeasured: Unmeasured) -> TruthTable:
    """Four contexts with three combinations each: one whole, one with a gap, one constant with a gap, one empty."""
    rows = [(0, 0, 10.0), (0, 1, 30.0), (0, 2, 15.0), (1, 0, -4.0), (1, 2, -2.0), (2, 1, 7.0), (2, 2, 7.0)]
    context, feature, score = zip(*rows, strict=True)
    columns = torch.tensor(feature).unsqueeze(1), torch.tensor(context).unsqueeze(1)
    return TruthTable(*columns, torch.tensor(score), (4, 3), unmeasured)


EVERY = torch.arange(3).view(3, 1, 1).expand(3, 4, 1), torch.arange(4).unsqueeze(1)


def rows_of(scores: torch.Tensor) -> list[list[float | None]]:
    """Returns the scores context by context, None for NaN."""
    return [[None if isnan(score) else score for score in row] for row in scores.T.tolist()]


def test_a_gap_has_no_score() -> None:
    table = gapped("omit")
    assert rows_of(table(*EVERY)) == [[10, 30, 15], [-4, None, -2], [None, 7, 7], [None, None, None]]
    assert rows_of(table.normalised(*EVERY)) == [[0, 1, 0.25], [0, None, 1], [None, 1, 1], [None, None, None]]
    assert (table.minimum, table.maximum) == (-4.0, 30.0)
    assert table.best(EVERY[1], 4).tolist() == pytest.approx([30, -2, 7, nan], nan_ok=True)


def test_random_choices_by_hand() -> None:
    random = gapped("omit").random(EVERY[1], 4)
    assert random.true.tolist() == pytest.approx([55 / 3, -3, 7, nan], nan_ok=True)
    assert random.normalised is not None and random.measured is not None
    assert random.normalised.tolist() == pytest.approx([1.25 / 3, 0.5, 1, nan], nan_ok=True)
    assert random.measured.tolist() == pytest.approx([1, 2 / 3, 2 / 3, 0])
    random = gapped("worst").random(EVERY[1], 4)
    assert random.true.tolist() == pytest.approx([55 / 3, -10 / 3, 7, -4])
    assert random.normalised is not None
    assert random.normalised.tolist() == pytest.approx([1.25 / 3, 1 / 3, 2 / 3, 0])


def test_at_worst_a_gap_scores_its_contexts_minimum() -> None:
    table = gapped("worst")
    assert table(*EVERY).T.tolist() == [[10, 30, 15], [-4, -4, -2], [7, 7, 7], [-4, -4, -4]]
    assert (table.minimum, table.maximum) == (-4.0, 30.0)
    assert table.best(EVERY[1], 4).tolist() == [30, -2, 7, -4]


def test_at_worst_normalised_scores_by_hand() -> None:
    # (10, 30, 15) over 20; (-4, gap, -2) over 2; a constant context's measured choices are all the best; no evidence.
    expected = [[0, 1, 0.25], [0, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert gapped("worst").normalised(*EVERY).T.tolist() == expected
    assert gapped("worst").normalised(torch.tensor([[2], [0]]), torch.tensor([[0], [1]])).tolist() == [0.25, 0]


def test_duplicates_are_averaged_before_scores_are_normalised() -> None:
    features = torch.tensor([[0], [0], [1], [2]])
    table = TruthTable(features, no_contexts(4), torch.tensor([0.0, 4.0, 1.0, 6.0]), (3,))
    assert table.normalised(torch.tensor([[0], [1], [2]]), None).tolist() == pytest.approx([0.2, 0.0, 1.0])


def test_opposite_extremes_are_normalised_without_overflow() -> None:
    table = TruthTable(torch.tensor([[0], [1], [2]]), no_contexts(3), torch.tensor([-3e38, 0.0, 3e38]), (3,))
    assert table.normalised(torch.tensor([[0], [1], [2]]), None).tolist() == [0.0, 0.5, 1.0]


def test_choices_may_have_leading_dimensions() -> None:
    features, contexts = torch.tensor([[0], [1], [0], [1]]), torch.tensor([[0], [0], [1], [1]])
    table = TruthTable(features, contexts, torch.tensor([1.0, 2.0, 3.0, 4.0]), (2, 2))
    choice = torch.tensor([[[0], [0]], [[1], [0]], [[1], [1]]])
    context = torch.tensor([[0], [1]])
    assert table(choice, context).tolist() == [[1.0, 3.0], [2.0, 3.0], [2.0, 4.0]]
    assert table.measured(choice, context).all()


def test_a_problem_without_contexts_ignores_them() -> None:
    table = TruthTable(torch.tensor([[0], [1]]), no_contexts(2), torch.tensor([1.0, 2.0]), (2,))
    assert table(torch.tensor([[1]]), torch.tensor([[0]])).tolist() == [2.0]


def test_too_many_combinations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MOST_CELLS == 100_000_000
    monkeypatch.setattr(module, "MOST_CELLS", 1200)
    features, score = torch.tensor([[0, 0]]), torch.tensor([1.0])
    TruthTable(features, no_contexts(1), score, (30, 40))
    with pytest.raises(ValueError, match="expected at most 1,200 combinations in a ground truth, got 1,240"):
        TruthTable(features, no_contexts(1), score, (31, 40))


def encoding_of(path: Path, score: str, contexts: tuple[str, ...]) -> TableEncoding:
    return TableEncoding.of(read_table(path, score, contexts), score, contexts)


def test_a_real_landscape_with_contexts_is_looked_up_row_for_row(landscape: Callable[[str], Path]) -> None:
    path = landscape("suzuki.csv")
    contexts, features = ("electrophile", "nucleophile"), ("ligand", "base", "solvent")
    encoding = encoding_of(path, "yield", contexts)
    table = TruthTable.read(path, encoding)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3696
    choice = torch.tensor([[encoding.features[name].index(row[name]) for name in features] for row in rows])
    context = torch.tensor([[encoding.contexts[name].index(row[name]) for name in contexts] for row in rows])
    expected = torch.tensor([float(row["yield"]) for row in rows])
    assert torch.equal(table(choice, context), expected)
    assert bool(table.measured(choice, context).all())
    assert table.minimum == min(float(row["yield"]) for row in rows)
    assert table.maximum == max(float(row["yield"]) for row in rows)


def test_a_real_landscape_with_gaps_scores_its_minimum_there(landscape: Callable[[str], Path]) -> None:
    path = landscape("gb1.csv")
    encoding = encoding_of(path, "fitness", ())
    table = TruthTable.read(path, encoding, "worst")
    every = torch.cartesian_prod(*[torch.arange(20)] * 4)
    known, scores = table.measured(every, None), table(every, None)
    assert int(known.sum()) == 149_361
    assert bool((scores[~known] == torch.tensor(table.minimum)).all())
    best = every[scores.argmax()].tolist()
    names = [encoding.features[f"pos{slot + 1}"][item] for slot, item in enumerate(best)]
    assert "".join(names) == "FWAA" and float(scores.max()) == pytest.approx(8.762, abs=5e-4)


@pytest.mark.slow
def test_every_factor_is_normalised_by_its_own_scores(landscape: Callable[[str], Path]) -> None:
    path = landscape("tfbind_factors.parquet")
    encoding = encoding_of(path, "score", ("factor",))
    table = TruthTable.read(path, encoding)
    for factor in (0, 7, 23):
        own = pq.read_table(path, filters=[("factor", "=", encoding.contexts["factor"][factor])])
        scores = own["score"].to_numpy().astype(np.float64)
        cells = {name: own[name].to_pylist()[::97] for name in encoding.features}
        choice = torch.tensor(
            [[encoding.features[name].index(cell) for cell in found] for name, found in cells.items()]
        )
        expected = (scores - scores.min()) / (scores.max() - scores.min())
        found = table.normalised(choice.T, torch.full((choice.shape[1], 1), factor))
        assert found.numpy() == pytest.approx(expected[::97], abs=1e-6)
        assert float(table.best(torch.tensor([[factor]]), 1)) == scores.max()


def test_a_table_with_an_unknown_category_is_refused(tmp_path: Path) -> None:
    known = tmp_path / "known.csv"
    known.write_text("a,b,y\nu,p,1\nv,q,2\n", encoding="utf-8")
    encoding = encoding_of(known, "y", ())
    other = tmp_path / "other.csv"
    other.write_text("a,b,y\nu,p,1\nw,q,2\n", encoding="utf-8")
    with pytest.raises(TableError, match="expected a known category of 'a' .* in row 2 of .*, got 'w'"):
        TruthTable.read(other, encoding)


def test_a_table_whose_scores_rounding_merges_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\nu,p,1e8\nv,q,100000001\n", encoding="utf-8")
    with pytest.raises(TableError, match="expected 'y' of .*t.csv to spread by at least 1e-05 of its size"):
        TruthTable.read(path, encoding_of(path, "y", ()))


def test_a_table_without_one_of_the_columns_is_refused(tmp_path: Path) -> None:
    known = tmp_path / "known.csv"
    known.write_text("a,b,y\nu,p,1\nv,q,2\n", encoding="utf-8")
    encoding = encoding_of(known, "y", ())
    other = tmp_path / "other.csv"
    other.write_text("a,y\nu,1\nv,2\n", encoding="utf-8")
    with pytest.raises(TableError, match="expected a column 'b' in .*, got 'a', 'y'"):
        TruthTable.read(other, encoding)


@pytest.mark.parametrize("contexts", [0, 1, 2])
def test_best_is_the_highest_score_of_each_context(contexts: int) -> None:
    generator = generator_from(contexts)
    sizes = (2, 3)[:contexts]
    rows = torch.cartesian_prod(*[torch.arange(n) for n in (*sizes, 3, 2)])
    score = torch.randn(len(rows), generator=generator)
    table = TruthTable(rows[:, contexts:], rows[:, :contexts], score, [*sizes, 3, 2])
    asked = torch.unique(rows[:, :contexts], dim=0) if contexts else torch.zeros(1, 0, dtype=torch.long)
    brute = [float(score[(rows[:, :contexts] == one).all(dim=1)].max()) for one in asked]
    found = table.best(asked if contexts else None, len(asked))
    assert found.tolist() == pytest.approx(brute)
