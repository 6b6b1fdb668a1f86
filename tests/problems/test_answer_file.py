"""Files of answers: every format holds every kind of column, and pieces that do not fit are refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slot_rl.problems.answer_file import answer_file, arrow_table, with_columns

FIRST: list[dict[str, Any]] = [
    {"id": 2**60 + 1, "name": 'a "b"', "list": [1, 2], "number": 0.5},
    {"id": 7, "name": None, "list": None, "number": float("nan")},
]


def frame(rows: list[dict[str, Any]]) -> pa.Table:
    return arrow_table(pd.DataFrame(rows, dtype=object))


def written(path: Path, *pieces: list[dict[str, Any]]) -> Path:
    with answer_file(path) as writer:
        for rows in pieces:
            writer.write(frame(rows))
    return path


def test_every_format_holds_every_kind_of_column(tmp_path: Path) -> None:
    found = pq.read_table(written(tmp_path / "o.parquet", FIRST, FIRST)).to_pylist()
    assert [row["id"] for row in found] == [2**60 + 1, 7] * 2
    assert found[0]["list"] == [1, 2] and found[1]["list"] is None and found[1]["name"] is None
    lines = [json.loads(line) for line in written(tmp_path / "o.jsonl", FIRST).read_text().splitlines()]
    assert lines == [FIRST[0], {**FIRST[1], "number": None}]  # JSON has no NaN
    cells = pd.read_csv(written(tmp_path / "o.csv", FIRST), dtype=str, keep_default_na=False)
    assert cells.iloc[0].tolist() == [str(2**60 + 1), 'a "b"', "[1, 2]", "0.5"]


def test_cells_of_several_types_become_text() -> None:
    assert frame([{"a": "9"}, {"a": 1}, {"a": None}, {"a": 0.5}])["a"].to_pylist() == ["9", "1", None, "0.5"]


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"id": "x"}, "expected int64 in column 'id' as in the first rows, got string"),
        ({"id": 1, "more": 2}, "expected no column 'more' as in the first rows, got one"),
    ],
)
def test_later_rows_that_do_not_fit_leave_no_file(later: dict[str, Any], message: str, tmp_path: Path) -> None:
    for suffix in ("csv", "parquet"):
        with pytest.raises(ValueError, match=message):
            written(tmp_path / f"o.{suffix}", [{"id": 1}], [later])
    assert not list(tmp_path.iterdir())
    lines = written(tmp_path / "o.jsonl", [{"id": 1}], [later]).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": 1}, later]


def test_a_column_that_later_rows_lack_is_empty_there(tmp_path: Path) -> None:
    found = pq.read_table(written(tmp_path / "o.parquet", [{"id": 1, "a": 0.5}], [{"id": 2}]))
    assert found.to_pylist() == [{"id": 1, "a": 0.5}, {"id": 2, "a": None}]


def test_added_columns_replace_those_of_the_same_name() -> None:
    table = with_columns(pa.table({"a": [1], "score": [2]}), {"score": pa.array([3.5])})
    assert table.to_pylist() == [{"a": 1, "score": 3.5}]
