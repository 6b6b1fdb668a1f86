"""Numbers in cells, files that describe categories, and what is said of columns: by hand, and each refusal once."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from slot_rl.documents import as_declared
from slot_rl.estimators.described import ColumnKinds, Descriptors, NumberUnit, canonical, numbers_of, parse_number
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.table import read_table
from slot_rl.estimators.table_files import TableError
from tests.helpers.numbers import write


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("105", "105"),
        ("105.0", "105"),
        (" 1.05e2 ", "105"),
        ("+105", "105"),
        ("-0.0", "0"),
        ("0.1", "0.1"),
        ("1e-7", "1e-07"),
        ("1e18", "1e+18"),
        ("2e19", "2e19"),
        ("hot", "hot"),
        ("nan", "nan"),
        ("1_0", "1_0"),
    ],
)
def test_a_number_has_one_text(text: str, found: str) -> None:
    assert canonical(text) == found
    assert canonical(found) == found


@pytest.mark.parametrize("text", ["", " ", "nan", "inf", "-Infinity", "1_000", "1,5", "0x10", "ten"])
def test_other_texts_are_no_numbers(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize("cell", ["", "hot", "NaN", "inf"])
def test_a_cell_that_is_no_number_is_refused_with_its_place(cell: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,t,y", [f"p,{n},1" for n in (1, 2)] + [f"q,{cell},2"])
    message = rf"^expected a finite number in column 't' in row 3 of .*t.csv, got '{cell}'$"
    with pytest.raises(TableError, match=message):
        numbers_of(read_table(path, "y"), "t")


def test_a_unit_is_mean_and_spread_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,t", ["p,1", "q,3.0", "p,5", "q,7"])
    numbers = numbers_of(read_table(path, None), "t")
    assert numbers.tolist() == [1.0, 3.0, 5.0, 7.0]
    unit = NumberUnit.of(numbers)
    assert (unit.mean, unit.spread) == (4.0, 5**0.5)
    assert NumberUnit.of(numbers[:1].repeat(3)) == NumberUnit(1.0, 1.0)
    assert NumberUnit(4, 2).standardised(numbers * 1e300).tolist() == [1e6] * 4


def test_descriptors_are_sorted_and_standardised_over_their_file(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", "size,ligand,same,charge", ["3,B,7,0", "1,A,7,-1.0", "5,C,7,1"])
    found, categories = Descriptors.read(path, "ligand")
    assert categories == ("A", "B", "C")
    assert found == Descriptors(("size", "same", "charge"), ((1, 7, -1), (3, 7, 0), (5, 7, 1)))
    third = 1.5**0.5
    expected = torch.tensor([[-third, 0, -third], [0, 0, 0], [third, 0, third]])
    torch.testing.assert_close(found.vectors, expected)
    assert as_declared(Descriptors, found.to_json(), "descriptors") == found


def test_parquet_descriptors_equal_those_of_csv(tmp_path: Path) -> None:
    csv = write(tmp_path / "l.csv", "ligand,size,charge", ["B,3,0.5", "A,1,-1"])
    table = pa.table({"ligand": ["B", "A"], "size": [3, 1], "charge": pa.array([0.5, -1.0], pa.float32())})
    pa.parquet.write_table(table, tmp_path / "l.parquet")
    assert Descriptors.read(csv, "ligand") == Descriptors.read(tmp_path / "l.parquet", "ligand")


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("base,size", ["A,1"], "expected a column 'ligand' in .*l.csv, got 'base', 'size'"),
        ("ligand", ["A"], "expected columns of numbers beside 'ligand' in .*l.csv, got none"),
        (
            "ligand,size",
            ["A,1", "B,2", "A,3"],
            "expected each category once in column 'ligand' .*, got 'A' again in row 3",
        ),
        ("ligand,size", ["A,1", "B,"], "expected a finite number in column 'size' in row 2 of .*l.csv, got ''"),
        ("ligand,size", ["A,big", "B,1"], "expected a finite number in column 'size' in row 1 of .*l.csv, got 'big'"),
    ],
)
def test_a_descriptor_file_that_is_not_usable_is_refused(
    header: str, rows: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TableError, match=message):
        Descriptors.read(write(tmp_path / "l.csv", header, rows), "ligand")


def kinds(*flags: str, **more: list[str]) -> ColumnKinds:
    return ColumnKinds.parse(flags, more.get("levels", []), more.get("descriptors", []), more.get("categorical", []))


def test_flags_say_what_columns_are() -> None:
    found = kinds("t", "q", levels=["q=2,1.5"], descriptors=["l=a=b.csv"], categorical=["c"])
    assert found == ColumnKinds(("t", "q"), {"q": (1.5, 2.0)}, {"l": Path("a=b.csv")}, ("c",))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"levels": ["q"]}, "expected --levels COLUMN=NUMBER,NUMBER, got 'q'"),
        ({"levels": ["t=1"]}, "expected at least two different numbers in --levels t=NUMBER,NUMBER, got '1'"),
        ({"levels": ["t=1,1.0"]}, "expected at least two different numbers in --levels t=.*, got '1,1.0'"),
        ({"levels": ["t=1,hot"]}, "expected at least two different numbers in --levels t=.*, got '1,hot'"),
        ({"levels": ["t=1,2", "t=3,4"]}, "expected each column once in --levels, got 't' twice"),
        ({"levels": ["q=1,2"]}, "expected --levels of a column named in --numeric, got 'q'"),
        ({"descriptors": ["=x.csv"]}, "expected --descriptors COLUMN=FILE, got '=x.csv'"),
        ({"descriptors": ["t=x.csv"]}, "expected 't' once in --numeric, --descriptors and --categorical, got it twice"),
        ({"categorical": ["t"]}, "expected 't' once in --numeric, --descriptors and --categorical, got it twice"),
    ],
)
def test_flags_that_contradict_are_refused(flags: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kinds("t", **flags)


def encoded(path: Path, found: ColumnKinds | None = None, context: tuple[str, ...] = ()) -> TableEncoding:
    return TableEncoding.of(
        read_table(path, "y", context, None, () if found is None else found.known), "y", context, found
    )


@pytest.mark.parametrize("step", [0.5, 1])
@pytest.mark.parametrize("levels", [20, 21])
def test_many_measured_numbers_are_not_taken_for_categories(levels: int, step: float, tmp_path: Path) -> None:
    rows = [f"{'pq'[i % 2]},{1 + step * (i % levels)},{i}" for i in range(100)]
    path = write(tmp_path / "t.csv", "a,t,y", rows)
    if levels == 21 and step == 0.5:
        message = (
            "expected categories in column 't' .*, got 21 different numbers, not all whole; name it with --numeric"
        )
        for context in ((), ("t",)):
            with pytest.raises(TableError, match=message):
                encoded(path, context=context)
    else:
        assert len(encoded(path).features["t"]) == levels
    assert len(encoded(path, kinds(categorical=["t"])).features["t"]) == levels
    assert len(encoded(path, kinds("t")).features["t"]) == levels


def test_numbers_and_words_together_stay_categories(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,t,y", [f"{'pq'[i % 2]},{i / 2 if i else 'warm'},{i}" for i in range(40)])
    assert len(encoded(path).features["t"]) == 40


def test_a_numeric_column_may_look_like_an_identifier(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,t,y", [f"{'pq'[i % 2]},{i},{i}" for i in range(150)])
    with pytest.raises(TableError, match="name a number with --numeric"):
        encoded(path)
    assert len(encoded(path, kinds("t")).features["t"]) == 150


@pytest.mark.parametrize(
    ("found", "context", "message"),
    [
        (kinds("z"), (), r"expected a context or a feature of .*t.csv \('a', 't'\), got 'z'"),
        (kinds("y"), (), r"expected a context or a feature of .*t.csv \('a', 't'\), got 'y'"),
        (kinds("t", levels=["t=1,2"]), ("t",), "expected --levels of a feature, got 't', a context"),
        (kinds("a"), (), "expected a finite number in column 'a' in row 1 of .*t.csv, got 'p'"),
    ],
)
def test_kinds_that_do_not_fit_the_table_are_refused(
    found: ColumnKinds, context: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TableError, match=message):
        encoded(write(tmp_path / "t.csv", "a,t,y", ["p,1,1", "q,2,2"]), found, context)


def test_a_category_without_descriptors_is_refused_with_its_row(tmp_path: Path) -> None:
    described = write(tmp_path / "a.csv", "a,size", ["p,1", "r,2"])
    path = write(tmp_path / "t.csv", "a,t,y", ["p,1,1", "p,2,2", "q,2,2"])
    message = (
        r"expected a known category of 'a' \('p', 'r'\) in row 3 of .*t.csv, got 'q', which .*a.csv does not describe"
    )
    with pytest.raises(TableError, match=message):
        encoded(path, kinds(descriptors=[f"a={described}"]))


def test_contexts_that_numbers_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    described = write(tmp_path / "a.csv", "a,size", ["p,1", "q,1.0", "r,2"])
    path = write(tmp_path / "t.csv", "a,t,y", ["p,1,1", "q,2,2"])
    found = kinds(descriptors=[f"a={described}"])
    with pytest.raises(TableError, match="expected different numbers for each context .* equal ones for 'p' and 'q'"):
        encoded(path, found, ("a",))
    assert encoded(path, found).features["a"] == ("p", "q", "r")
