"""How columns of items and requests become numbers: kinds, flags, unseen categories, and what is refused."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from slot_rl.estimators.columns import FileColumns, check_ids
from slot_rl.estimators.table_files import TableError

PATH = Path("items.csv")
FRAME = pd.DataFrame(
    {
        "item": ["a", "b", "c"],
        "price": ["1", "3", "5"],
        "age": ["2", "", "4"],
        "kind": ["x", "y", "x"],
        "zip": [1, 2, 3],
    }
)


def columns() -> FileColumns:
    return FileColumns.of(FRAME, ("item",), PATH, categorical=("zip",))


def test_kinds_follow_from_the_cells() -> None:
    found = columns()
    assert (found.id, dict(found.means)) == ("item", {"price": 3.0, "age": 3.0})
    assert (found.flagged, dict(found.categories)) == (("age",), {"kind": ("x", "y"), "zip": ("1", "2", "3")})
    assert (found.width, found.sizes) == (3, (3, 4))


def test_rows_by_hand() -> None:
    encoded = columns().encode(FRAME, PATH)
    # Price, age with its mean where it is missing, and whether it is.
    assert encoded.numbers.tolist() == [[1, 2, 0], [3, 3, 1], [5, 4, 0]]
    assert encoded.codes.tolist() == [[1, 1], [2, 2], [1, 3]]


def test_unseen_categories_have_the_index_zero() -> None:
    new = FRAME.assign(kind=["z", "y", "X"], zip=[9, 2, 1])
    assert columns().encode(new, PATH).codes.tolist() == [[0, 0], [2, 2], [0, 1]]


def test_numbers_may_be_missing_where_the_fit_saw_it() -> None:
    missing = FRAME.assign(age=["", "", ""])
    assert columns().encode(missing, PATH).numbers[:, 1:].tolist() == [[3, 1]] * 3
    with pytest.raises(TableError, match="a number in column 'price', row 2 of items.csv, got an empty cell"):
        columns().encode(FRAME.assign(price=["1", "", "2"]), PATH)
    with pytest.raises(TableError, match="finite number in column 'price', row 3 of items.csv, got 'dear'"):
        columns().encode(FRAME.assign(price=["1", "2", "dear"]), PATH)
    with pytest.raises(TableError, match="a column 'kind' in items.csv, got 'item'"):
        columns().encode(FRAME[["item", "price", "age"]], PATH)


def test_numbers_that_rounding_would_merge_are_refused() -> None:
    seconds = FRAME.assign(age=["1700000001", "", "1700000002"])
    with pytest.raises(TableError, match="expected 'age' of items.csv to spread by .* got a spread of 0.5 around 1.7e"):
        FileColumns.of(seconds, ("item",), PATH, categorical=("zip",))


def test_what_is_stored_comes_back() -> None:
    found = columns()
    again = FileColumns.from_json(found.to_json())
    assert again == found
    assert torch.equal(again.encode(FRAME, PATH).numbers, found.encode(FRAME, PATH).numbers)


def test_ids_are_unique_and_not_empty() -> None:
    with pytest.raises(TableError, match="each 'item' of items.csv once, got 'a' in rows 1 and 3"):
        check_ids(["a", "b", "a"], "item", PATH)
    with pytest.raises(TableError, match="an id in column 'item', row 2 of items.csv"):
        check_ids(["a", ""], "item", PATH)
    with pytest.raises(TableError, match="expected a column 'item' or 'item_id' in items.csv, got name"):
        FileColumns.of(FRAME[["kind"]].rename(columns={"kind": "name"}), ("item", "item_id"), PATH)
