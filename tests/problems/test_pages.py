"""Rows of requests become observations with every part, and what cannot be is refused with its row and column."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from slot_rl.estimators.frames import read_frame
from slot_rl.estimators.table_files import TableError
from slot_rl.problems import Observation, SlotProblem
from slot_rl.problems.pages import PageDesk
from slot_rl.problems.requests import Answers

WORDS = {"country": ("de", "fr", "it"), "device": ("phone", "desk")}
ROW: dict[str, Any] = {"context_1": 0.5, "country": "fr", "device": "desk", "slot_features": [[1.0, 2.0], [3.0, 4.0]]}


def shop(**changes: Any) -> SlotProblem:
    """Two slots, four items of three numbers, a context of a number and two categories, and features of the slots."""
    requests = Observation(
        context=torch.tensor([[0, 1], [1, 0]]), context_vector=torch.rand(2, 1), slot_features=torch.rand(2, 2, 2)
    )
    settings: dict[str, Any] = {"requests": requests, "context_categories": WORDS, "item_ids": list("abcd")} | changes
    return SlotProblem(lambda items, *given: items.sum(dim=(-1, -2)), 2, pool=torch.rand(4, 3), **settings)


class Recorder:
    """Answers with the last candidate in every slot, and keeps what it was asked."""

    def __call__(self, observation: Observation, weights: Tensor | None = None) -> Answers:
        self.asked = observation
        assert observation.candidates is not None
        batch, items = observation.candidates.shape[:2]
        return Answers(torch.full((batch, 1, 2), items - 1), torch.zeros(batch, 1))


def desk(problem: SlotProblem, **settings: Any) -> PageDesk:
    assert problem.names is not None
    return PageDesk(problem.names, **settings)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_categories_numbers_and_features_reach_the_observation(suffix: str, tmp_path: Path) -> None:
    problem, path, seen = shop(), tmp_path / f"asked.{suffix}", Recorder()
    rows = pd.DataFrame([ROW, {**ROW, "country": "it", "context_1": 2, "slot_features": [[0.0, 0.0], [0.0, 9.0]]}])
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pandas(rows), path)
    else:
        rows.to_json(path, orient="records", lines=True)
    answers = desk(problem).answered(read_frame(path), seen, path)
    assert seen.asked.context is not None and seen.asked.context.tolist() == [[1, 1], [2, 1]]
    assert seen.asked.context_vector is not None and seen.asked.context_vector.tolist() == [[0.5], [2.0]]
    features = seen.asked.slot_features
    assert features is not None and features.tolist() == [[[1, 2], [3, 4]], [[0, 0], [0, 9]]]
    assert answers.column_names == [*ROW, "slot_1", "slot_2", "estimated_score"]
    assert answers["slot_1"].to_pylist() == ["d", "d"]


def test_without_names_categories_are_numbers() -> None:
    problem = SlotProblem(lambda items, c: items.sum(dim=(-1, -2)), 2, pool=torch.rand(4, 3), context_sizes=(3, 2))
    seen = Recorder()
    desk(problem).answered(pd.DataFrame({"category_1": [2, 0], "category_2": ["1", "0"]}), seen, Path("q"))
    assert seen.asked.context is not None and seen.asked.context.tolist() == [[2, 1], [0, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"country": "es"}, r"expected a known category of 'country' \('de', 'fr', 'it'\), got 'es' in row 2 of q"),
        ({"device": None}, r"expected a known category of 'device' .*, got '' in row 2 of q"),
        ({"context_1": "x"}, "expected a finite number in column 'context_1', row 2 of q, got 'x'"),
        ({"slot_features": [[1.0, 2.0]]}, "expected 2 lists of 2 finite numbers in column 'slot_features', row 2 of q"),
        ({"slot_features": [[1.0, 2.0], [1.0]]}, "expected 2 lists of 2 finite numbers"),
        ({"slot_features": [[1.0, 2.0], ["x", 1.0]]}, "expected 2 lists of 2 finite numbers"),
        ({"slot_features": [[1.0, 2.0], [np.nan, 1.0]]}, "expected 2 lists of 2 finite numbers"),
        ({"slot_features": None}, "expected 2 lists of 2 finite numbers"),
    ],
)
def test_wrong_parts_are_named_with_row_and_column(change: dict[str, Any], message: str) -> None:
    rows = pd.DataFrame([ROW, {**ROW, **change}], dtype=object)
    with pytest.raises(TableError, match=message):
        desk(shop()).answered(rows, Recorder(), Path("q"))


def test_an_unknown_category_has_an_empty_answer_where_it_may() -> None:
    rows = pd.DataFrame([{**ROW, "country": "es"}, ROW], dtype=object)
    answers = desk(shop(), forgive=True).answered(rows, Recorder(), Path("q"))
    assert answers["slot_1"].to_pylist() == [None, "d"]
    assert answers["not_answered"].to_pylist()[0].startswith("expected a known category of 'country'")


def test_a_missing_column_is_named() -> None:
    for name in ROW:
        rows = pd.DataFrame([ROW], dtype=object).drop(columns=name)
        with pytest.raises(TableError, match=f"expected a column '{name}' in q"):
            desk(shop()).answered(rows, Recorder(), Path("q"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_categories": {"country": ("de", "fr", "it")}}, "expected context_categories with"),
        ({"context_categories": {"country": ("de",), "device": ("a", "b")}}, "expected context_categories with"),
        ({"context_categories": {"a": "xx", "b": "yz"}}, "expected 2 different categories of 'a', got 2, of which 1"),
        (
            {"context_categories": {"a": "xy", "context_1": "yz"}},
            "expected 3 different context_columns, got 3",
        ),
        ({"item_ids": list("abca")}, "expected 4 different item_ids, got 4, of which 3"),
        ({"item_ids": list("abcde")}, "expected 4 different item_ids, got 5, of which 5"),
        ({"context_columns": ["a", "b"]}, "expected 3 different context_columns, got 4"),
    ],
)
def test_names_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shop(**changes)


def test_names_without_a_pool_are_refused() -> None:
    for names in ({"item_ids": ["a"]}, {"context_columns": ["a"]}, {"context_categories": {"a": ["b"]}}):
        settings: dict[str, Any] = {"context_dim": 1} if "context_columns" in names else {"context_sizes": (1,)}
        with pytest.raises(ValueError, match="expected item_ids, context_columns and context_categories with a pool"):
            SlotProblem(lambda items, c: items.sum(dim=(-1, -2)), 2, 3, 2, **settings, **names)


def test_named_categories_may_exceed_those_of_the_known_requests() -> None:
    assert shop().context_sizes == (3, 2)
    assert shop(context_categories=None).context_sizes == (2, 2)
