"""The encoding of a table: codes by hand, codes that decode to the same cells, and refusal of unknown categories."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl.estimators.described import ColumnKinds, Descriptors, NumberUnit
from slot_rl.estimators.encoding import TableEncoding, Unknown
from slot_rl.estimators.table import Table, TextColumn, read_table
from slot_rl.estimators.table_files import TableError
from tests.helpers.numbers import ligand_file, reactions


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


def numeric(folder: Path) -> tuple[Table, TableEncoding]:
    """The reactions, with temperature and equivalents as numbers and described ligands."""
    table = read_table(reactions(folder / "t.csv"), "yield", ("acid", "temperature"))
    kinds = ColumnKinds(("temperature", "equivalents"), {}, {"ligand": ligand_file(folder / "l.csv")})
    return table, TableEncoding.of(table, "yield", ("acid", "temperature"), kinds)


def test_levels_are_sorted_by_size_and_contexts_have_none(tmp_path: Path) -> None:
    _, encoding = numeric(tmp_path)
    assert encoding.features == {"ligand": ("L1", "L2", "L3", "L4", "L5"), "equivalents": ("1", "1.5", "2")}
    assert encoding.contexts == {"acid": ("a", "b"), "temperature": ()}
    assert encoding.plain_contexts == {"acid": ("a", "b")} and encoding.context_widths == (1,)
    assert encoding.numbers == {"temperature": NumberUnit(95, 125**0.5), "equivalents": NumberUnit(1.5, (1 / 6) ** 0.5)}


def test_an_encoding_with_numbers_comes_back_from_json(tmp_path: Path) -> None:
    _, encoding = numeric(tmp_path)
    assert TableEncoding.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding


def test_an_encoding_of_categories_is_stored_as_before() -> None:
    encoding = TableEncoding("y", {"a": ("p", "q")}, {"u": ("r",)})
    assert encoding.to_json() == {"score": "y", "features": {"a": ("p", "q")}, "contexts": {"u": ("r",)}}


def test_one_number_written_in_many_ways_is_one_level() -> None:
    table = table_of(t=["105", "105.0", " 1.05e2", "90"], a=["p", "q", "p", "q"])
    encoding = TableEncoding.of(table, "y", [], ColumnKinds(("t",)))
    assert encoding.features["t"] == ("90", "105")
    assert encoding.encode_features(table)[:, 0].tolist() == [1, 1, 1, 0]


def test_units_of_a_context_are_those_of_the_rows_given() -> None:
    table = table_of(t=["1", "3", "100"], a=["p", "q", "p"])
    encoding = TableEncoding.of(table, "y", ["t"], ColumnKinds(("t",)))
    encoding = encoding.in_units_of(table, torch.tensor([1, 0]))
    assert encoding.numbers == {"t": NumberUnit(2, 1)}
    codes, vectors = encoding.context_parts(encoding.encode_contexts(table))
    assert codes is None and vectors is not None and vectors.tolist() == [[-1], [1], [98]]


def test_contexts_are_indices_and_numbers_and_come_back(tmp_path: Path) -> None:
    table, encoding = numeric(tmp_path)
    contexts = encoding.encode_contexts(table)
    assert contexts.dtype == torch.float64
    assert contexts[[0, 12, 48, -1]].tolist() == [[0, 80], [0, 90], [1, 80], [1, 110]]
    codes, vectors = encoding.context_parts(contexts)
    assert codes is not None and codes.dtype == torch.long and vectors is not None
    assert codes[:, 0].tolist() == contexts[:, 0].tolist()
    torch.testing.assert_close(vectors[:, 0].double() * 125**0.5 + 95, contexts[:, 1], rtol=1e-6, atol=0)
    found = encoding.find_in_parts(codes, vectors, {"temperature": (80, 90, 110)})
    assert found[[0, 12, 24, 36, 48]].tolist() == [[0, 0], [0, 1], [0, 3], [0, 2], [1, 0]]
    assert encoding.context_names(codes[:13:12], vectors[:13:12]) == [["a", "80"], ["a", "90"]]


def test_described_contexts_are_their_numbers(tmp_path: Path) -> None:
    table = table_of(ligand=["L2", "L5"], a=["p", "q"])
    kinds = ColumnKinds(descriptors={"ligand": ligand_file(tmp_path / "l.csv")})
    encoding = TableEncoding.of(table, "y", ["ligand"], kinds)
    assert encoding.contexts == {"ligand": ("L1", "L2", "L3", "L4", "L5")}
    contexts = encoding.encode_contexts(table)
    assert contexts.dtype == torch.long and contexts.tolist() == [[1], [4]]
    codes, vectors = encoding.context_parts(contexts)
    assert codes is None and vectors is not None
    assert torch.equal(vectors, encoding.descriptors["ligand"].vectors[[1, 4]])
    assert torch.equal(encoding.find_in_parts(codes, vectors, {}), contexts)
    assert encoding.context_names(codes, vectors) == [["L2"], ["L5"]]


def test_unseen_numbers_are_found_and_other_texts_refused() -> None:
    encoding = TableEncoding.of(
        table_of(t=["1", "2"], u=["p", "q"], a=["r", "s"]), "y", ["t", "u"], ColumnKinds(("t",))
    )
    found, unknown = encoding.find_contexts(table_of(t=["-7.50", "1e9"], u=["q", "P"]))
    assert found[0].tolist() == [-7.5, 1] and found[1, 0] == 1e9 and bool(found[1, 1].isnan())
    assert unknown == [Unknown(2, "u", "P")]
    with pytest.raises(TableError, match="expected a finite number in column 't' in row 8 of t.csv, got 'warm'"):
        encoding.find_contexts(replace(table_of(t=["1", "warm"], u=["p", "p"]), first_row=7))


def test_only_some_levels_may_be_offered() -> None:
    table = table_of(t=["1", "2", "4"], a=["p", "q", "p"])
    whole = TableEncoding.of(table, "y", [], ColumnKinds(("t",), {"t": (2.0, 3.0)}))
    assert whole.features["t"] == ("1", "2", "3", "4")
    encoding = whole.with_levels({"t": (2.0, 3.0)})
    assert encoding.features == {"t": ("2", "3"), "a": ("p", "q")}
    numbers, all_numbers = encoding.item_numbers("t"), whole.item_numbers("t")
    assert numbers is not None and all_numbers is not None and torch.equal(numbers, all_numbers[1:3])
    codes, offered = encoding.encode_levels(table)
    assert offered.tolist() == [False, True, False] and codes[1].tolist() == [0, 1]
    with pytest.raises(TableError, match="expected a finite number in column 't' in row 1 of t.csv, got 'x'"):
        encoding.encode_levels(table_of(t=["x"], a=["p"]))
    with pytest.raises(TableError, match="expected a known category of 'a' .* got 'r'"):
        encoding.encode_levels(table_of(t=["2"], a=["r"]))
    with pytest.raises(TableError, match=r"expected a known category of 't' \('2', '3'\) in row 1 of t.csv, got '1'"):
        encoding.encode_features(table)


def test_equal_descriptors_have_equal_vectors() -> None:
    found = Descriptors(("n",), ((1.0,), (1.0,), (4.0,)))
    assert torch.equal(found.vectors[0], found.vectors[1]) and float(found.vectors.sum()) == pytest.approx(0, abs=1e-6)
