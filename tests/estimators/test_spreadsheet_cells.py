"""What a spreadsheet would execute goes out with an apostrophe and comes back as it was."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slot_rl.estimators.spreadsheet_cells import neutral, neutral_frame, neutral_table, original, original_table
from slot_rl.estimators.table import read_table, stream_table
from slot_rl.estimators.table_files import column_names

FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-OH", "@SUM(1)", "\tx", "\rx", "'=O", "＝x", "-1-1", "+49 1", "=O")
HARMLESS = ("", "-", "+", "=", "-1.5", "+3", "-1e-3", ".5", "C=O", "a-b", "'", "'a", " =x", "1-2", "µ")


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_get_an_apostrophe(text: str) -> None:
    assert neutral(text) == f"'{text}" and original(neutral(text)) == text


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_and_numbers_stay(text: str) -> None:
    assert neutral(text) == text == original(text)


@given(st.text(st.sampled_from("'=+-@\t1.e a＝"), max_size=6))
def test_whatever_goes_out_comes_back(text: str) -> None:
    written = neutral(text)
    assert original(written) == text and neutral(original(text)) in (text, f"'{text}")
    assert written[:1] not in tuple("=+-@\t＝") or written == text


def test_tables_of_every_kind_of_text_come_back() -> None:
    texts = [*FORMULAS, *HARMLESS, None]
    table = pa.table(
        {
            "=a": pa.chunked_array([pa.array(texts[:7]), pa.array(texts[7:])]),
            "b": pa.chunked_array([pa.array(texts).dictionary_encode()]),
            "large": pa.array(texts, pa.large_string()),
            "number": pa.array(range(len(texts))),
        }
    )
    written = neutral_table(table)
    assert written.column_names == ["'=a", "b", "large", "number"]
    assert written["b"].to_pylist()[:2] == ["'=1+1", "'+cmd|' /C calc'!A0"] == written["large"].to_pylist()[:2]
    assert original_table(written).to_pydict() == table.to_pydict()
    assert original_table(written)["b"].type == table["b"].type


def test_csv_files_are_read_as_they_were_meant(tmp_path: Path) -> None:
    frame = pd.DataFrame({"=kind": ["-OH", "=O", "-", "-OH"], "n": ["-1", "2", "+3", "-4"], "y": [1.0, -2.0, 3.0, 4.0]})
    neutral_frame(frame).to_csv(tmp_path / "a.csv", index=False)
    assert (tmp_path / "a.csv").read_text().splitlines()[:3] == ["'=kind,n,y", "'-OH,-1,1.0", "'=O,2,-2.0"]
    assert column_names(tmp_path / "a.csv") == ["=kind", "n", "y"]
    table = read_table(tmp_path / "a.csv", "y", features=("=kind", "n"))
    assert table.text["=kind"].tolist() == frame["=kind"].tolist() and table.text["n"].tolist() == frame["n"].tolist()
    (piece, *_) = stream_table(tmp_path / "a.csv", ("=kind",), 2)
    assert piece.text["=kind"].tolist() == ["-OH", "=O"]
