"""The encoding of a table: codes by hand, codes that decode to the same cells, and refusal of unknown categories."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl.estimators.encoding import TableEncoding, Unknown
from slot_rl.estimators.table import Table, TableError, TextColumn, read_table


def table_of(**columns: list[str]) -> Table:
    text = {name: TextColumn.of(pa.chunked_array([cells], pa.string())) for name, cells in columns.items()}
    return Table(Path("t.csv"), text, None)


def test_categories_are_sorted_as_text_and_codes_are_indices() -> None:
    table = table_of(u=["q", "p", "q"], a=["9", "10", "b"], b=["x ", "X", "x "])
    encoding = TableEncoding.of(table, "y", ["u"])
    assert encoding == TableEncoding("y", {"a": ("10", "9", "b"), "b": ("X", "x ")}, {"u": ("p", "q")})
    assert encoding.encode_features(table).tolist() == [[1, 1], [0, 0], [2, 1]]
    assert encoding.encode_contexts(table).tolist() == [[1], [0], [1]]
    assert encoding.encode_features(table).dtype == torch.long


def test_na_and_an_empty_cell_are_categories_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\nNA,1\n,2\nNaN,3\nna,4\n")
    table = read_table(path, "y")
    encoding = TableEncoding.of(table, "y", [])
    assert encoding.features == {"a": ("", "NA", "NaN", "na")}
    assert encoding.encode_features(table).flatten().tolist() == [1, 0, 2, 3]


def test_without_contexts_their_codes_have_no_columns() -> None:
    table = table_of(a=["p", "q", "p"])
    assert TableEncoding.of(table, "y", []).encode_contexts(table).shape == (3, 0)


def test_columns_are_found_by_name_not_by_place() -> None:
    encoding = TableEncoding.of(table_of(a=["p", "q"], b=["r", "s"]), "y", [])
    assert encoding.encode_features(table_of(b=["s", "r"], a=["p", "p"])).tolist() == [[0, 1], [0, 0]]


cell = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(cell, cell, cell), min_size=2, max_size=20).filter(
        lambda rows: len({row[0] for row in rows}) > 1 and len({row[1] for row in rows}) > 1
    )
)
def test_codes_decode_to_the_same_cells_after_json(rows: list[tuple[str, str, str]]) -> None:
    a, b, u = (list(column) for column in zip(*rows, strict=True))
    table = table_of(u=u, a=a, b=b)
    original = TableEncoding.of(table, "y", ["u"])
    encoding = TableEncoding.from_json(json.loads(json.dumps(original.to_json())))
    assert encoding == original
    features, contexts = encoding.encode_features(table), encoding.encode_contexts(table)
    assert [encoding.features["a"][code] for code in features[:, 0].tolist()] == a
    assert [encoding.features["b"][code] for code in features[:, 1].tolist()] == b
    assert [encoding.contexts["u"][code] for code in contexts[:, 0].tolist()] == u


def test_an_unknown_category_is_refused_with_its_cell() -> None:
    encoding = TableEncoding.of(table_of(a=["p", "q"], b=["r", "s"]), "y", [])
    message = r"expected a known category of 'b' \('r', 's'\) in row 3 of t.csv, got 'S'"
    with pytest.raises(TableError, match=message):
        encoding.encode_features(table_of(a=["p", "q", "p"], b=["r", "s", "S"]))


def test_an_unknown_context_is_refused_with_some_known_ones() -> None:
    encoding = TableEncoding.of(table_of(u=list("abcdefg"), a=list("ppppppq")), "y", ["u"])
    message = r"expected a known category of 'u' \('a', 'b', 'c', 'd', 'e', \.\.\.\) in row 2 of t.csv, got 'a '"
    with pytest.raises(TableError, match=message):
        encoding.encode_contexts(table_of(u=["a", "a "], a=["p", "p"]))


def test_a_feature_with_one_category_is_refused() -> None:
    table = table_of(a=["p", "p"], b=["r", "s"])
    with pytest.raises(TableError, match=r"expected at least two categories in feature 'a' of t.csv, got only 'p'"):
        TableEncoding.of(table, "y", [])
    assert TableEncoding.of(table, "y", ["a"]).contexts == {"a": ("p",)}


def test_contexts_are_found_with_their_unknown_cells() -> None:
    encoding = TableEncoding.of(table_of(u=["p", "q"], v=["r", "s"], a=["1", "2"]), "y", ["u", "v"])
    asked = replace(table_of(v=["s", "S", "r", ""], u=["q", "p ", "p", "q"]), first_row=1001)
    indices, unknown = encoding.find_contexts(asked)
    assert indices.tolist() == [[1, 1], [-1, -1], [0, 0], [1, -1]]
    assert indices.dtype == torch.long
    assert unknown == [Unknown(1002, "u", "p "), Unknown(1002, "v", "S"), Unknown(1004, "v", "")]


def test_known_contexts_are_found_as_they_are_encoded() -> None:
    table = table_of(u=["q", "p", "q"], a=["1", "2", "2"])
    encoding = TableEncoding.of(table, "y", ["u"])
    indices, unknown = encoding.find_contexts(table)
    assert torch.equal(indices, encoding.encode_contexts(table)) and unknown == []


def test_an_unknown_category_is_named_by_its_row_in_the_file() -> None:
    encoding = TableEncoding.of(table_of(a=["p", "q"]), "y", [])
    with pytest.raises(TableError, match="expected a known category of 'a' .* in row 502 of t.csv, got 'Q'"):
        encoding.encode_features(replace(table_of(a=["p", "Q", "q", "R"]), first_row=501))
