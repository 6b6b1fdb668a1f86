"""Files as data frames: the same text from every format, numbers with the row of a bad cell, and whole or in pieces."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slot_rl.estimators.frames import count_rows, id_texts, is_numeric, numbers, read_frame, stream_frames, texts
from slot_rl.estimators.table_files import TableError


def in_every_format(folder: Path) -> list[Path]:
    columns: dict[str, list[Any]] = {"id": [7, 8, 2**60 + 1], "a": [1.5, None, 3.0], "b": ["x", " y", ""]}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    pq.write_table(pa.table(columns), folder / "t.parquet")
    (folder / "t.csv").write_text(f"id,a,b\n7,1.5,x\n8,, y\n{2**60 + 1},3.0,\n")
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [folder / f"t.{suffix}" for suffix in ("parquet", "csv", "jsonl")]


def test_every_format_gives_the_same_text_and_numbers(tmp_path: Path) -> None:
    for path in in_every_format(tmp_path):
        frame = read_frame(path)
        assert texts(frame["id"]) == ["7", "8", str(2**60 + 1)], path  # not rounded to a float
        np.testing.assert_array_equal(numbers(frame["a"], path), [1.5, np.nan, 3.0])
        assert texts(frame["b"])[:2] == ["x", " y"]
        assert is_numeric(frame["a"]) and is_numeric(frame["id"]) and not is_numeric(frame["b"])
        assert count_rows(path) == 3


def test_pieces_join_to_the_whole_and_count_rows(tmp_path: Path) -> None:
    for path in in_every_format(tmp_path):
        pieces = list(stream_frames(path, rows=2))
        assert [list(piece.index) for piece in pieces] == [[0, 1], [2]]
        assert texts(pd.concat(pieces)["id"]) == texts(read_frame(path)["id"])


def test_booleans_and_dates_are_text_in_every_format(tmp_path: Path) -> None:
    days = [datetime.date(2024, 2, 29), None, datetime.date(1969, 1, 1)]
    times = [None if day is None else datetime.datetime.combine(day, datetime.time()) for day in days]
    new, paths = [True, None, False], [tmp_path / f"t.{suffix}" for suffix in ("parquet", "csv", "jsonl")]
    pq.write_table(pa.table({"day": days, "time": times, "new": new}), paths[0])
    paths[1].write_text("day,time,new\n2024-02-29,2024-02-29,True\n,,\n1969-01-01,1969-01-01,False\n")
    cells = [
        {"day": day and str(day), "time": day and str(day), "new": each} for day, each in zip(days, new, strict=True)
    ]
    paths[2].write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in cells))  # some programs write a mark first
    for path in paths:
        frame = read_frame(path)
        assert texts(frame["day"]) == texts(frame["time"]) == ["2024-02-29", "", "1969-01-01"]
        assert texts(frame["new"]) == ["True", "", "False"]
        assert not any(is_numeric(frame[name]) for name in frame.columns)
    # Nanoseconds and microseconds would be different numbers.
    with pytest.raises(TableError, match="expected a finite number in column 'time', row 1 of"):
        numbers(read_frame(paths[0])["time"], paths[0])


def test_categories_of_a_parquet_file_are_their_text(tmp_path: Path) -> None:
    pd.DataFrame({"a": pd.Categorical(["y", "x", "y"]), "b": [1, 2, 3]}).to_parquet(tmp_path / "t.parquet")
    frame = read_frame(tmp_path / "t.parquet")
    assert texts(frame["a"]) == ["y", "x", "y"] and texts(frame["b"]) == ["1", "2", "3"]


@pytest.mark.parametrize("cell", ["nan", "inf", "1,5", "x", "--", "1e39", "-1e39"])
def test_a_bad_number_is_named_with_its_row(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    pd.DataFrame({"a": ["1", cell]}).to_csv(path, index=False)
    with pytest.raises(TableError, match=rf"finite number in column 'a', row 2 of .*, got '{cell}'"):
        numbers(read_frame(path)["a"], path)


def test_ids_of_any_type_become_text() -> None:
    assert id_texts(np.array([3, 12])).to_pylist() == ["3", "12"]
    assert id_texts(np.array([3, "a", 4.0], dtype=object)).to_pylist() == ["3", "a", "4.0"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "which is no file"),
        ("t.txt", "a\n1\n", "expected a file ending in .csv"),
        ("t.csv", "a,b\n", "expected rows in"),
        ("t.csv", "", "expected a readable table"),
        ("t.csv", "a,a\n1,2\n", "expected every column of .* once, got 'a' more than once"),
        ("t.csv", "a\n1\n2,3,4\n", "expected a readable table"),
        ("t.csv", "a,b\n1,2,3\n4,5,6\n", "Expected 2 columns, got 3"),
        ("t.csv", "a,b,c\n1,2,3\n4,5\n", "Expected 3 columns, got 2"),
        ("t.parquet", "no parquet", "expected a readable table"),
        ("t.jsonl", "[1]\n", "expected a JSON object in line 1"),
        ("t.jsonl", '{"a": 1}\n{"a": 1\n', "expected a JSON object in line 2 of .*, got: Expecting ',' delimiter"),
    ],
)
def test_unusable_files_are_refused(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(TableError, match=message):
        read_frame(tmp_path / name)


def test_json_lines_in_another_encoding_are_named_so(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes('{"a": "é"}\n'.encode("latin-1"))
    with pytest.raises(TableError, match=r"expected .*t.jsonl in UTF-8, got: 'utf-8' codec"):
        read_frame(path)
