"""The tables that come with the package: whole, with a card, and found by their names at every door."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import slot_rl
from slot_rl.example_tables import FOLDER, with_examples
from tests.helpers.commands import exit_code


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_the_table_is_that_of_its_source(landscape: Callable[[str], Path]) -> None:
    table, source = read(slot_rl.example("suzuki")), read(landscape("suzuki.csv"))
    card = (FOLDER / "suzuki.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| (\w+) \| ([^|]+) \| `([^`]+)` \|$", card, flags=re.MULTILINE)
    assert len(named) == 4 + 3 + 11 + 7 + 4
    for column in source.columns[:-1]:
        smiles = {name: text for where, name, text in named if where == column}
        assert table[column].map(smiles).tolist() == source[column].tolist()
    assert table["yield"].astype(float).tolist() == source["yield"].astype(float).tolist()


def test_the_requests_are_the_contexts_of_the_table() -> None:
    table, requests = read(slot_rl.example("suzuki")), read(slot_rl.example("suzuki-requests"))
    columns = ["electrophile", "nucleophile"]
    assert len(table) == 3_696 and len(requests) == requests["request"].nunique() == 12
    assert set(map(tuple, requests[columns].values)) == set(map(tuple, table[columns].values))


def test_every_table_has_a_card_with_source_and_licence() -> None:
    for path in FOLDER.glob("*.csv"):
        card = (FOLDER / f"{path.stem.split('-')[0]}.md").read_text(encoding="utf-8")
        assert "https://" in card and "MIT License" in card and "commit" in card


def test_a_word_of_the_command_line_names_a_table() -> None:
    path = str(slot_rl.example("suzuki"))
    assert with_examples("example:suzuki") == path
    assert with_examples("--table=example:suzuki") == f"--table={path}"
    given = "SlotRL/Rows-v0,estimator=e,truth=example:suzuki,name=x"
    assert with_examples(given) == f"SlotRL/Rows-v0,estimator=e,truth={path},name=x"
    assert with_examples("my-example:suzuki") == "my-example:suzuki"


def test_an_unknown_table_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert exit_code("pretrain", "--table", "example:suzki", "--out", tmp_path / "estimator") == 2
    said = "error: expected an example table, one of suzuki-requests, suzuki, got 'suzki'; did you mean 'suzuki'?\n"
    assert capsys.readouterr().err == said
    assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match="expected an example table"):
        slot_rl.example("../suzuki")
