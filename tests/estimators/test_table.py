"""Reading tables: every cell is read exactly, and every table that cannot be used is refused with a clear message.

The round trips write with Python's csv module or with pyarrow and compare cell by cell. The message of each guard must
name what was expected and what was found.
"""

import csv
import datetime
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.frames import read_frame
from slot_rl.estimators.table import LARGEST, Table, read_table, refuse_narrow, stream_table
from slot_rl.estimators.table_files import TableError, row_number_notice

SCORES = pa.array([1.5, 2.0])


def written(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def parquet(folder: Path, **columns: pa.Array) -> Path:
    path = folder / "t.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def cells(path: Path, score: str | None = "y") -> dict[str, list[str]]:
    return {name: column.tolist() for name, column in read_table(path, score).text.items()}


def test_a_csv_is_read_by_name_with_scores_as_float64(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "a,y,b\nX,1.5,7\nZ,-2e3,08\n"), "y")
    assert {name: column.tolist() for name, column in table.text.items()} == {"a": ["X", "Z"], "b": ["7", "08"]}
    assert table.score is not None
    assert table.score.dtype == np.float64
    assert table.score.tolist() == [1.5, -2000.0]
    assert len(table) == 2
    assert table.path == tmp_path / "t.csv"


def test_without_a_score_every_column_is_text(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "a,y\nX,1\nZ,high\n"), None)
    assert table.score is None
    assert table.text["y"].tolist() == ["1", "high"]


def test_contexts_come_first_and_features_in_the_order_asked(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b,c,d,y\n1,2,3,4,5\n")
    assert list(read_table(path, "y", ["c"]).text) == ["c", "a", "b", "d"]
    assert list(read_table(path, "y", ["c"], ["d", "a"]).text) == ["c", "d", "a"]


def test_the_suffix_is_read_in_any_case(tmp_path: Path) -> None:
    assert cells(written(tmp_path, "a,y\nX,1\n", "t.CSV")) == {"a": ["X"]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("a,y\nX,1\nx ,2\n x,3\n", ["X", "x ", " x"], id="case and blanks differ"),
        pytest.param("a,y\nNA,1\n,2\nnull,3\nNaN,4\n", ["NA", "", "null", "NaN"], id="nothing is null"),
        pytest.param("a,y\n1,1\n1.0,2\n01,3\n1e0,4\n", ["1", "1.0", "01", "1e0"], id="numbers are text"),
        pytest.param("a,y\ntrue,1\nTRUE,2\n2020-01-01,3\n", ["true", "TRUE", "2020-01-01"], id="no type is guessed"),
        pytest.param('a,y\n"X\nZ",1\n"X\r\nZ",2\n"X\rZ",3\n', ["X\nZ", "X\r\nZ", "X\rZ"], id="quoted newlines"),
        pytest.param('a,y\n"X,Z",1\n"say ""hi""",2\n', ["X,Z", 'say "hi"'], id="quoted commas and quotes"),
        pytest.param('a,y\nsay "hi",1\n', ['say "hi"'], id="quotes within a cell"),
        pytest.param("\ufeffa,y\nX,1\n", ["X"], id="BOM"),
        pytest.param('\ufeff"a",y\n\ufeffX,1\n', ["\ufeffX"], id="BOM before a quote, and one in a cell"),
        pytest.param("a,y\r\nX,1\r\nZ,2\r\n", ["X", "Z"], id="CRLF"),
        pytest.param("a,y\rX,1\rZ,2\r", ["X", "Z"], id="lone CR"),
        pytest.param("a,y\nX,1\nZ,2", ["X", "Z"], id="no newline at the end"),
        pytest.param("\na,y\n\nX,1\n\n\nZ,2\n\n", ["X", "Z"], id="blank lines are skipped"),
        pytest.param("a,y\né𝛼\u2028\x85,1\nX\0,2\n", ["é𝛼\u2028\x85", "X\0"], id="unicode and NUL"),
    ],
)
def test_csv_cells_are_kept_to_the_character(tmp_path: Path, content: str, expected: list[str]) -> None:
    assert cells(written(tmp_path, content)) == {"a": expected}


def test_a_column_of_one_with_an_empty_quoted_cell_keeps_it(tmp_path: Path) -> None:
    assert cells(written(tmp_path, 'a\nX\n""\n\nZ\n'), score=None) == {"a": ["X", "", "Z"]}


def test_a_quoted_newline_at_a_block_boundary_is_kept(tmp_path: Path) -> None:
    rows = 250_000  # 2.5 MB, over two of pyarrow's 1 MiB blocks
    table = read_table(written(tmp_path, "a,y\n" + '"X\n""Z",0\n' * rows), "y", (), ("a",))
    assert len(table) == rows
    assert set(table.text["a"].tolist()) == {'X\n"Z'}


def test_numbers_that_single_precision_merges_are_refused() -> None:
    numbers, path = np.array([-1.0, 0.0, 1.0]), Path("t.csv")
    for offset in (0, 1e4, -5e4):
        refuse_narrow(numbers + offset, "y", path)
    refuse_narrow(np.full(3, 1e9), "y", path)
    expected = (
        "expected 'y' of t.csv to spread by at least 1e-05 of its size, .*, got a spread of 0.816497 around 1000000; "
    )
    with pytest.raises(TableError, match=expected + "take 1e\\+06 off each$"):
        refuse_narrow(numbers + 1e6, "y", path)


@pytest.mark.parametrize("text", ["A\r\nB", "A\rB", "\r\n", "\r\r\n\r"])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("before", [1, 2, 3])
def test_line_ends_at_a_block_border_are_kept(tmp_path: Path, text: str, blocks: int, before: int) -> None:
    # The block ends after the quotation mark and some characters of the cell.
    border, head, row = blocks << 20, "c,a\n", "plain,z\n"
    start = head + row * ((border - len(head) - 300) // len(row))
    start += "f" * (border - before - len(start) - len(",z\n")) + ",z\n"
    path = written(tmp_path, f'{start}"{text}",x\n{row * 50}')
    whole = read_table(path, None, ("c",), ("a",)).text["c"].distinct
    streamed = [cell for table in stream_table(path, ["c"]) for cell in table.text["c"].distinct]
    framed = read_frame(path)["c"].unique().tolist()
    for found in (whole, streamed, framed):
        assert [cell for cell in found if cell[0] in "A\r"] == [text]


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
awkward = st.text('\r\n",x \t\0\ufeff', max_size=5)
tables = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(anything | awkward, min_size=width, max_size=width), min_size=1, max_size=5)
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@settings(max_examples=300, deadline=None)
@given(rows=tables, quote_all=st.booleans(), bom=st.booleans())
def test_what_the_csv_module_writes_comes_back_exactly(
    folder: Path, rows: list[list[str]], quote_all: bool, bom: bool
) -> None:
    path = folder / "round_trip.csv"
    names = [f"c{i}" for i in range(len(rows[0]))]
    with open(path, "w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).writerows([names, *rows])
    table = read_table(path, None, (), names)
    assert [list(row) for row in zip(*table.text.values(), strict=True)] == rows


@settings(max_examples=50, deadline=None)
@given(column=st.lists(anything | awkward, min_size=1, max_size=6), encoded=st.booleans())
def test_text_in_parquet_comes_back_exactly(folder: Path, column: list[str], encoded: bool) -> None:
    array = pa.array(column, pa.string())
    path = parquet(folder, a=array.dictionary_encode() if encoded else array)
    assert read_table(path, None, (), ["a"]).text["a"].tolist() == column


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(-LARGEST, LARGEST), min_size=1, max_size=6))
def test_scores_written_by_repr_come_back_bit_equal(folder: Path, values: list[float]) -> None:
    path = written(folder, "a,y\n" + "".join(f"X,{value!r}\n" for value in values), "scores.csv")
    score = read_table(path, "y").score
    assert score is not None
    assert score.tobytes() == np.array(values).tobytes()


def test_parquet_columns_become_their_text(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        integer=pa.array([1, -2]),
        boolean=pa.array([True, False]),
        dictionary=pa.array(["u", "v"]).dictionary_encode(),
        numbers=pa.array([10, 9]).dictionary_encode(),
        real=pa.array([2.5, -0.25]),
        large=pa.array(["X", "x "], pa.large_string()),
        y=SCORES,
    )
    assert cells(path) == {
        "integer": ["1", "-2"],
        "boolean": ["True", "False"],
        "dictionary": ["u", "v"],
        "numbers": ["10", "9"],
        "real": ["2.5", "-0.25"],
        "large": ["X", "x "],
    }


def test_a_frame_has_the_same_cells_in_both_formats(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "temp": [25.0, 60.5, 1e-7],
            "small": np.array([0.1, 25.0, 1e20], dtype=np.float32),
            "dry": [True, False, True],
            "day": pd.to_datetime(["2024-01-01", "1969-12-31", "2024-02-29"]),
            "time": pd.to_datetime(["2024-01-01 00:00:01", "2024-01-01 10:00:00", "2024-02-29 23:59:59"]),
            "count": [1, -2, 2**60],
            "text": ["1.0", " 1", "True"],
            "y": [1.0, 2.0, 3.0],
        }
    )
    frame.to_csv(tmp_path / "f.csv", index=False)
    frame.to_parquet(tmp_path / "f.parquet")
    stored, text = (cells(tmp_path / f"f.{suffix}") for suffix in ("parquet", "csv"))
    assert stored == text
    assert stored["day"] == ["2024-01-01", "1969-12-31", "2024-02-29"] and stored["temp"] == ["25.0", "60.5", "1e-07"]


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array([3, -4]), id="integers"),
        pytest.param(pa.array(["3", " -4 "]), id="text with blanks"),
        pytest.param(pa.array(["3", "-4"]).dictionary_encode(), id="dictionary"),
        pytest.param(pa.array([3.0, -4.0], pa.float32()), id="float32"),
        pytest.param(pa.array(["3\t", "\n-4"], pa.large_string()), id="large text"),
    ],
)
def test_a_parquet_score_of_any_numeric_kind_is_read(tmp_path: Path, column: pa.Array) -> None:
    score = read_table(parquet(tmp_path, a=pa.array(["X", "Z"]), y=column), "y").score
    assert score is not None
    assert score.tolist() == [3.0, -4.0]


def test_blanks_around_a_score_are_ignored(tmp_path: Path) -> None:
    score = read_table(written(tmp_path, "a,y\nX, 1 \nZ,\t+2.5\nZ,3e-1\u00a0\n"), "y").score
    assert score is not None
    assert score.tolist() == [1.0, 2.5, 0.3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            "a,b\nX,1\n",
            "expected a column 'y' in .*t.csv, got 'a', 'b'",
            id="score missing",
        ),
        pytest.param("a;b;y\nX;1;2\n", "expected commas between the columns of .*, got semicolons", id="semicolons"),
        pytest.param("a\tb\ty\nX\t1\t2\n", "expected commas between the columns of .*, got tabs", id="tabs"),
        pytest.param("a|b|y\nX|1|2\n", "expected commas between the columns of .*, got vertical bars", id="bars"),
        pytest.param("SEP=,\na,y\n", "the names of the columns in the first line of .*, got 'SEP=,'", id="SEP"),
        pytest.param("a,y\nX,1\n".encode("utf-16-le"), "in UTF-8, got UTF-16 or another", id="UTF-16 without a mark"),
        pytest.param(b"PK\3\4\0\0", "expected a CSV file in .*, got a ZIP file", id="workbook"),
        pytest.param(b"\x1f\x8b\x08\0", "expected a CSV file in .*, got a compressed file", id="gzip"),
        pytest.param('a,y\nX,"1,5"\n', "got '1,5'; decimals follow a point", id="decimal comma"),
        pytest.param("sep=;\na;y\n", "the names of the columns in the first line of .*, got 'sep=;'", id="sep"),
        pytest.param(
            "a,b,y\nX,1,1\nZ,2,high\n", "expected a number as 'y' in row 2 of .*t.csv, got 'high'", id="text score"
        ),
        pytest.param("a,b,y\nX,1,\n", "expected a number as 'y' in row 1 of .*, got ''", id="empty score"),
        pytest.param('a,y\nX,"1,000"\n', "expected a number as 'y' in row 1 of .*, got '1,000'", id="thousands"),
        pytest.param("a,y\nX,1\nX,true\n", "expected a number as 'y' in row 2 of .*, got 'true'", id="boolean score"),
        pytest.param(
            '"a","y"\n"X\nZ",1\n\nZ,high\n', "in row 2 of .*, got 'high'", id="rows are counted, not their lines"
        ),
        pytest.param("a,y\nX,1\nZ,nan\n", "expected a finite 'y' in row 2 of .*t.csv, got 'nan'", id="NaN"),
        pytest.param("a,y\nX,1\nZ,-inf\n", "expected a finite 'y' in row 2 of .*t.csv, got '-inf'", id="infinity"),
        pytest.param("a,y\nX,-2e19\n", "got '-2e19'; at most 1e.19 can be used", id="large"),
        pytest.param("a,y\nX,1e999\n", "expected a finite 'y' in row 1 of .*, got '1e999'", id="overflow"),
        pytest.param(
            "a,b,y\nX,1,1\nZ,2\n", r"expected a readable table in .*: .*Expected 3 columns, got 2: Z,2", id="too short"
        ),
        pytest.param(
            "a,b,y\nX,1,1\nZ,2,3,4\n", r"expected a readable .*: .*Expected 3 columns, got 4: Z,2,3,4", id="too long"
        ),
        pytest.param('a,y\nX,1\n"Z,2\n', "expected a readable table in .*Expected 2 columns, got 1", id="open quote"),
        pytest.param(
            "a,b,b,a,y\nX,1,1,1,1\n", "expected every column of .* once, got 'a', 'b' more than once", id="doubled"
        ),
        pytest.param("", "expected a readable table in .*, got: Empty CSV file", id="empty file"),
        pytest.param("\n\n", "expected a readable table in .*, got: .*Empty CSV file", id="blank lines alone"),
        pytest.param("a,y\n", "expected rows in .*t.csv, got a header alone", id="header alone"),
        pytest.param("a,y", "expected .* in .*t.csv, got", id="header alone without newline"),
        pytest.param("a,y\né,1\n".encode("latin-1"), "expected .* in UTF-8, got: .*UTF8", id="a cell is no UTF-8"),
        pytest.param(
            "é,y\nX,1\n".encode("latin-1"), "in UTF-8, got a header in another encoding", id="a name is no UTF-8"
        ),
        pytest.param("a,y\nX,1\n".encode("utf-16"), "expected .* in UTF-8, got UTF-16", id="UTF-16"),
    ],
)
def test_an_unusable_csv_is_refused_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(TableError, match=message) as caught:
        read_table(written(tmp_path, content), "y")
    assert "\n" not in str(caught.value)


def test_a_ragged_row_deep_in_the_file_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, "a,y\n" + "X,1\n" * 400_000 + "Z\n")
    with pytest.raises(TableError, match="Row #400002: Expected 2 columns, got 1: Z"):
        read_table(path, "y")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        pytest.param(
            pa.array(["X", None]), "expected a category in column 'a' of .*, got a null in row 2", id="null text"
        ),
        pytest.param(
            pa.array([None, 1]), "expected a category in column 'a' .*, got a null in row 1", id="null number"
        ),
        pytest.param(pa.array([None, None]), "in column 'a' of .*, got a null in row 1", id="nothing but nulls"),
        pytest.param(
            pa.array(["X", None]).dictionary_encode(), "in column 'a' .*, got a null in row 2", id="null in dictionary"
        ),
        pytest.param(
            pa.array([[1], [2]]), r"expected text in column 'a' of .*, got list<\w+: int64>", id="lists are no text"
        ),
        pytest.param(pa.array([b"\xff", b"r"]), "expected text in column 'a' of .*, got binary", id="bytes, no UTF-8"),
    ],
)
def test_an_unusable_parquet_column_is_refused(tmp_path: Path, column: pa.Array, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_table(parquet(tmp_path, a=column, y=SCORES), "y")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        pytest.param(pa.array([1.0, None]), "expected a finite 'y' in row 2 of .*, got None", id="null"),
        pytest.param(pa.array([float("nan"), 1.0]), "expected a finite 'y' in row 1 of .*, got nan", id="NaN"),
        pytest.param(pa.array(["1", "b"]), "expected a number as 'y' in row 2 of .*, got 'b'", id="text"),
        pytest.param(
            pa.array(["1", "q"]).dictionary_encode(), "expected a number as 'y' in row 2 .*, got 'q'", id="dictionary"
        ),
        pytest.param(
            pa.array([1, 2**64 - 1], pa.uint64()), f"got {2**64 - 1}; at most 1e.19 can be used", id="too big to use"
        ),
        pytest.param(
            pa.array([datetime.date(2020, 1, 1)] * 2), "expected a number as 'y' in row 1 of .*, got .*date", id="date"
        ),
    ],
)
def test_an_unusable_parquet_score_is_refused(tmp_path: Path, column: pa.Array, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_table(parquet(tmp_path, a=pa.array(["X", "Z"]), y=column), "y")


def test_large_whole_scores_are_the_same_in_both_formats(tmp_path: Path) -> None:
    values = [2**53 + 1, -(2**60), 2**63 - 1]
    stored = read_table(parquet(tmp_path, a=pa.array(["X", "Z", "X"]), y=pa.array(values)), "y").score
    text = read_table(written(tmp_path, "a,y\n" + "".join(f"X,{value}\n" for value in values)), "y").score
    assert stored is not None and text is not None
    assert stored.tolist() == text.tolist() == [float(value) for value in values]


@pytest.mark.parametrize("name", ["", " ", "Unnamed: 0", "__index_level_0__"])
def test_row_numbers_are_no_feature_unless_they_are_named(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"{name},a,y\n0,X,1\n1,Z,2\n")
    assert list(read_table(path, "y").text) == ["a"]
    assert list(read_table(path, "y", (), [name, "a"]).text) == [name, "a"]
    assert row_number_notice(path) == f"left out as row numbers: {name!r} of {path}"
    assert row_number_notice(written(tmp_path, "a,y\nX,1\n", "plain.csv")) == ""
    with pytest.raises(TableError, match="expected at least one feature column"):
        read_table(written(tmp_path, f"{name},y\n0,1\n1,2\n", "alone.csv"), "y")


def test_a_parquet_file_with_a_doubled_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    text = pa.array(["X", "Z"])
    pq.write_table(pa.Table.from_arrays([text, text, SCORES], names=["a", "a", "y"]), path)
    with pytest.raises(TableError, match="expected every column of .* once, got 'a' more than once"):
        read_table(path, "y")


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected rows in .*t.parquet, got a header alone"):
        read_table(parquet(tmp_path, a=pa.array([], pa.string()), y=pa.array([], pa.float64())), "y")
    with pytest.raises(TableError, match="expected columns in .*t.parquet, got none"):
        read_table(parquet(tmp_path), "y")


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected a readable table in .*t.parquet, got: Parquet .*5 bytes"):
        read_table(written(tmp_path, "hello", "t.parquet"), "y")


def test_a_path_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected a .csv or .parquet file, got t.xlsx"):
        read_table(written(tmp_path, "a,y\nX,1\n", "t.xlsx"), "y")
    with pytest.raises(
        TableError, match=re.escape(f"expected a CSV or Parquet file, got {tmp_path}, which is no file")
    ):
        read_table(tmp_path, "y")
    with pytest.raises(TableError, match=r"expected a CSV or Parquet file, got .*absent.csv, which is no file"):
        read_table(tmp_path / "absent.csv", "y")


@pytest.mark.parametrize(
    ("score", "contexts", "features", "message"),
    [
        pytest.param("y", (), ("a", "y"), "expected 'y' as one of score, context or feature", id="score in features"),
        pytest.param("y", ("y",), None, "expected 'y' as one of score, context or feature", id="score in context"),
        pytest.param("y", ("a",), ("a", "b"), "expected 'a' as one of .*, got it more", id="context in features"),
        pytest.param("y", (), ("a", "a"), "expected 'a' as one of .*, got it more than once", id="feature twice"),
        pytest.param("y", ("a", "a"), None, "expected 'a' as one of .*, got it more than once", id="context twice"),
        pytest.param("y", ("q",), None, "expected a column 'q' in .*, got 'a', 'b', 'y'", id="context missing"),
        pytest.param("y", (), ("A",), "expected a column 'A' in .*, got 'a', 'b', 'y'", id="feature in another case"),
        pytest.param("y", (), (), "expected at least one feature column in .*, got", id="no feature"),
        pytest.param("y", ("a", "b"), None, "expected at least one feature column in .*, got", id="contexts alone"),
        pytest.param("y", ("a",), (), "expected at least one feature column in .*, got", id="contexts, no feature"),
    ],
)
def test_contradictory_columns_are_refused(
    tmp_path: Path, score: str, contexts: tuple[str, ...], features: tuple[str, ...] | None, message: str
) -> None:
    path = written(tmp_path, "a,b,y\nX,1,1\nZ,2,3\n")
    with pytest.raises(TableError, match=message):
        read_table(path, score, contexts, features)


def identifiers(different: int, rows: int) -> str:
    return "a,y\n" + "".join(f"i{i % different},1\n" for i in range(rows))


@pytest.mark.parametrize(("different", "rows"), [(101, 101), (101, 102), (151, 300)])
def test_an_identifier_column_is_refused_unless_named(tmp_path: Path, different: int, rows: int) -> None:
    path = written(tmp_path, identifiers(different, rows))
    message = f"expected categories in column 'a' of .*, got {different} different values in {rows} rows.*--features"
    with pytest.raises(TableError, match=message):
        read_table(path, "y")
    assert len(read_table(path, "y", (), ["a"]).text["a"].distinct) == different


@pytest.mark.parametrize(("different", "rows"), [(100, 100), (150, 300), (101, 202)])
def test_many_categories_that_repeat_are_no_identifier(tmp_path: Path, different: int, rows: int) -> None:
    assert len(read_table(written(tmp_path, identifiers(different, rows)), "y")) == rows


def test_a_context_may_look_like_an_identifier(tmp_path: Path) -> None:
    path = written(tmp_path, "u,a,y\n" + "".join(f"i{i},{i % 2},1\n" for i in range(120)))
    assert len(read_table(path, "y", ["u"]).text["u"].distinct) == 120


def pieces(path: Path, columns: list[str], most: int) -> list[Table]:
    tables = list(stream_table(path, columns, most))
    assert all(1 <= len(table) <= most and table.score is None and table.path == path for table in tables)
    assert [table.first_row for table in tables] == [1 + sum(map(len, tables[:i])) for i in range(len(tables))]
    return tables


@settings(max_examples=60, deadline=None)
@given(rows=tables, most=st.integers(1, 6), suffix=st.sampled_from(["csv", "parquet"]))
def test_a_stream_holds_the_cells_of_the_whole_table(
    folder: Path, rows: list[list[str]], most: int, suffix: str
) -> None:
    names = [f"c{i}" for i in range(len(rows[0]))]
    path = folder / f"stream.{suffix}"
    if suffix == "csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *rows])
    else:
        columns = [pa.array(list(column), pa.string()) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(columns, names), path, row_group_size=2)
    asked = names[::-1][:2]
    found = pieces(path, asked, most)
    streamed = {name: [cell for table in found for cell in table.text[name].tolist()] for name in asked}
    assert streamed == {name: [row[names.index(name)] for row in rows] for name in asked}


def test_a_stream_splits_blocks_and_continues_after_them(tmp_path: Path) -> None:
    rows = 300_000  # 2.6 MB, over two of pyarrow's 1 MiB blocks
    path = written(tmp_path, "a,b\n" + "".join(f"{i:06d},x\n" for i in range(rows)))
    tables = pieces(path, ["a"], 50_000)
    assert [cell for table in tables for cell in table.text["a"].tolist()] == [f"{i:06d}" for i in range(rows)]
    assert len(tables) > 6


def test_a_stream_reads_one_piece_at_a_time(tmp_path: Path) -> None:
    # The null in the second piece is found when that piece is read.
    column = pa.array(["X"] * 10 + ["Z", None])
    stream = stream_table(parquet(tmp_path, a=column), ["a"], 5)
    assert [next(stream).first_row, next(stream).first_row] == [1, 6]
    with pytest.raises(TableError, match="expected a category in column 'a' of .*, got a null in row 12$"):
        next(stream)


def test_a_stream_names_the_row_of_a_ragged_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a,y\n" + "X,1\n" * 400_000 + "Z\n")
    stream = stream_table(path, ["a"])
    assert len(next(stream)) == 65_536
    with pytest.raises(TableError, match="expected a readable table .* Row #400002: Expected 2 columns, got 1: Z"):
        list(stream)


def test_what_a_stream_was_not_asked_for_is_ignored(tmp_path: Path) -> None:
    path = parquet(tmp_path, a=pa.array(["X", "Z"]), b=pa.array([None, 1]), c=pa.array([[1], [2]]))
    assert [table.text["a"].tolist() for table in stream_table(path, ["a"])] == [["X", "Z"]]
    csv_path = written(tmp_path, "b,a,b\nhigh,NA,\n,,1\n")
    assert [table.text["a"].tolist() for table in stream_table(csv_path, ["a"])] == [["NA", ""]]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        pytest.param("a,b\nX,1\n", ["c"], "expected a column 'c' in .*, got 'a', 'b'", id="missing"),
        pytest.param("a,a\nX,1\n", ["a"], "expected every column of .* once, got 'a' more than once", id="doubled"),
        pytest.param("a,b\nX,1\n", ["a", "a"], "expected 'a' as one of .*, got it more than once", id="asked twice"),
        pytest.param("a,b\nX,1\n", [], "expected columns and rows_per_batch >= 1, got .* and 65536", id="none"),
        pytest.param("", ["a"], "expected a readable table in .*, got: Empty CSV file", id="empty"),
    ],
)
def test_what_cannot_be_streamed_is_refused_at_once(
    tmp_path: Path, content: str, columns: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stream_table(written(tmp_path, content), columns)


def test_a_stream_refuses_no_file_no_rows_and_empty_batches(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"expected a CSV or Parquet file, got .*absent.csv, which is no file"):
        stream_table(tmp_path / "absent.csv", ["a"])
    with pytest.raises(TableError, match="expected rows in .*t.csv, got a header alone"):
        list(stream_table(written(tmp_path, "a,b\n"), ["a"]))
    with pytest.raises(TableError, match="expected rows in .*t.parquet, got a header alone"):
        list(stream_table(parquet(tmp_path, a=pa.array([], pa.string())), ["a"]))
    with pytest.raises(ValueError, match=r"expected columns and rows_per_batch >= 1, got \['a'\] and 0"):
        stream_table(written(tmp_path, "a,b\n"), ["a"], 0)


def test_distinct_texts_are_those_that_occur_each_once(tmp_path: Path) -> None:
    # A dictionary with an unused text, and chunks with separate dictionaries.
    whole = pa.DictionaryArray.from_arrays(pa.array([2, 0, 2]), pa.array(["X", "gone", "Z"]))
    path = tmp_path / "t.parquet"
    with pq.ParquetWriter(path, pa.schema([("a", whole.type)])) as writer:
        for part in (whole, whole.slice(0, 1), pa.DictionaryArray.from_arrays(pa.array([0]), pa.array(["W"]))):
            writer.write_table(pa.table({"a": part}))
    column = read_table(path, None, (), ["a"]).text["a"]
    assert (column.distinct, column.codes.tolist()) == (("Z", "X", "W"), [0, 1, 0, 0, 2])
    assert column.codes.dtype == np.int32
    assert [column[row] for row in range(5)] == ["Z", "X", "Z", "Z", "W"]


@pytest.mark.slow
def test_a_large_table_is_held_as_one_small_integer_a_cell(landscape: Callable[[str], Path]) -> None:
    path = landscape("tfbind_factors.parquet")
    table = read_table(path, "score", ["factor"])
    assert len(table) == 1_572_864
    assert sum(column.codes.nbytes for column in table.text.values()) == 9 * 4 * len(table)
    assert [len(column.distinct) for column in table.text.values()] == [24, *[4] * 8]
    encoding = TableEncoding.of(table, "score", ["factor"])
    codes = torch.cat([encoding.encode_contexts(table), encoding.encode_features(table)], dim=1)
    assert (codes.shape, codes.nbytes) == ((1_572_864, 9), 9 * 8 * len(table))
    # A plain Python encoding of every 4,099th row; this step reaches every factor and every letter.
    sample = pq.read_table(path).take(pa.array(range(0, len(table), 4099))).to_pylist()
    categories = {**encoding.contexts, **encoding.features}
    expected = [[sorted(found).index(row[name]) for name, found in categories.items()] for row in sample]
    assert codes[::4099].tolist() == expected
    assert table.score is not None and table.score[::4099].tolist() == [row["score"] for row in sample]
