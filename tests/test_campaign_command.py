"""The campaign's command: files go out and come in round by round, and nothing that is refused changes the folder."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command
from tests.helpers.quick_campaigns import fit_quickly

SCRIPT = ROOT / "scripts/campaign.py"
BASES, TIMES = ("KOH", "NaOH, dry", ""), ("5", "10", "20")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fit_quickly(monkeypatch)


def all_rows() -> list[dict[str, str]]:
    return [{"base": b, "time": t, "acid": a} for b in BASES for t in TIMES for a in "xyz"]


def worth(row: Mapping[str, str]) -> str:
    return str(BASES.index(row["base"]) + TIMES.index(row["time"]) / 3 + "xyz".index(row["acid"]))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def fill(path: Path, failed: Sequence[int] = ()) -> None:
    """Writes the scores into a file of proposed rows, as a person does."""
    write(path, [{**row, "y": "failed" if at in failed else worth(row)} for at, row in enumerate(read(path))])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "start.csv", [{**row, "y": worth(row)} for row in all_rows()[::2]])


@pytest.fixture
def lab(table: Path, tmp_path: Path, script: Command) -> Path:
    code, _, errors = script(SCRIPT, "--table", table, "--score", "y", "--batch", 6, "--out", tmp_path / "lab")
    assert code == 0, errors
    return tmp_path / "lab"


def test_rounds_go_out_and_come_in(lab: Path, script: Command) -> None:
    first = read(lab / "round_1.csv")
    assert list(first[0]) == ["base", "time", "acid", "y", "predicted_mean", "predicted_spread"]
    assert len(first) == 6 and {row["y"] for row in first} == {""} and float(first[0]["predicted_spread"]) >= 0
    fill(lab / "round_1.csv", failed=(2,))
    code, shown, errors = script(SCRIPT, "--out", lab, "--results", lab / "round_1.csv")
    assert code == 0, errors
    assert "added 6 rows" in shown and "round 1: 19 rows measured, 1 failed" in shown and "best so far" in shown
    second = read(lab / "round_2.csv")
    together = {(row["base"], row["time"], row["acid"]) for row in [*first, *second]}
    assert len(together) == 12 and len(read(lab / "measured_1.csv")) == 6
    fill(lab / "round_2.csv")
    code, shown, _ = script(SCRIPT, "--out", lab, "--results", lab / "round_2.csv", "--batch", 6)
    assert code == 0 and "only 1 rows are left to propose, fewer than 6" in " ".join(shown.split())
    fill(lab / "round_3.csv")
    code, _, errors = script(SCRIPT, "--out", lab, "--results", lab / "round_3.csv")
    assert code == 2 and "expected rows that were not measured yet, got none: all 27 were told" in errors
    assert (lab / "measured_3.csv").is_file()  # The results are kept.


def test_a_call_without_results_says_where_it_stands(lab: Path, script: Command) -> None:
    before = contents(lab)
    code, shown, _ = script(SCRIPT, "--out", lab)
    assert code == 0 and "round 0: 14 rows measured, 0 failed" in shown and "waiting for its scores" in shown
    assert contents(lab) == before
    (lab / "round_1.csv").unlink()
    assert script(SCRIPT, "--out", lab, "--batch", 6)[0] == 0
    assert contents(lab) == before  # The same rows again, bit for bit.


def test_a_file_of_categories_and_of_candidates(table: Path, tmp_path: Path, script: Command) -> None:
    (tmp_path / "more.csv").write_text("base,time\nCsOH,40\n,80\n", encoding="utf-8")
    flags = ["--score", "y", "--categories", tmp_path / "more.csv", "--out", tmp_path / "a"]
    assert script(SCRIPT, "--table", table, *flags, "--batch", 200)[0] == 0
    assert len(read(tmp_path / "a/round_1.csv")) == 4 * 5 * 3 - 14
    listed = write(tmp_path / "listed.csv", [{**row, "y": ""} for row in all_rows()[:7]])
    code, _, errors = script(SCRIPT, "--candidates", listed, "--score", "y", "--out", tmp_path / "b")
    assert code == 2 and "expected at least two categories of 'base', got KOH" in errors
    listed = write(tmp_path / "listed.csv", [{**row, "y": ""} for row in all_rows()[5:13]])
    code, _, errors = script(SCRIPT, "--candidates", listed, "--score", "y", "--out", tmp_path / "b", "--batch", 5)
    assert code == 0, errors
    assert len(rows := read(tmp_path / "b/round_1.csv")) == 5 and rows[0]["predicted_mean"] == ""


def test_results_that_cannot_be_used_change_nothing(lab: Path, table: Path, tmp_path: Path, script: Command) -> None:
    fill(lab / "round_1.csv")
    good = read(lab / "round_1.csv")
    bad = {
        "expected scores in column 'y'": [{**row, "y": " "} for row in good],
        "expected a known category of 'time'": [{**good[0], "time": "99"}],
        "expected a finite number, or 'failed', as 'y' in row 2": [good[0], {**good[1], "y": "1,5"}],
        "expected a column 'acid'": [{"base": "KOH", "time": "5", "y": "1"}],
    }
    before = contents(lab)
    for message, rows in bad.items():
        code, _, errors = script(SCRIPT, "--out", lab, "--results", write(tmp_path / "bad.csv", rows))
        assert code == 2 and message in errors
    code, _, errors = script(SCRIPT, "--out", lab, "--results", table)
    assert code == 2 and "expected rows that were not told before" in errors
    (lab / "round_2.csv").write_text("mine")
    code, _, errors = script(SCRIPT, "--out", lab, "--results", lab / "round_1.csv")
    assert code == 2 and "expected no file" in errors
    (lab / "round_2.csv").unlink()
    assert contents(lab) == before
    assert script(SCRIPT, "--out", lab, "--results", lab / "round_1.csv")[0] == 0
    after = contents(lab)
    code, _, errors = script(SCRIPT, "--out", lab, "--results", lab / "round_1.csv")
    assert code == 2 and "expected rows that were not told before" in errors and contents(lab) == after


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "expected --score to start a campaign, got none"),
        (("--score", "y"), "expected --table, --categories or --candidates to start a campaign, got none of them"),
        (("--score", "q", "--table", "start.csv"), "expected a column 'q' in start.csv"),
        (("--score", "y", "--table", "start.csv", "--batch", "0"), "expected --batch >= 1, got 0"),
        (("--score", "y", "--table", "no.csv"), "expected a CSV or Parquet file, got no.csv, which is no file"),
        (("--results", "start.csv"), "expected a campaign's folder with campaign.json for --results"),
    ],
)
def test_bad_flags_are_refused(
    flags: tuple[str, ...],
    message: str,
    table: Path,
    tmp_path: Path,
    script: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = script(SCRIPT, "--out", "new", *flags)
    assert code == 2 and message in errors
    assert not (tmp_path / "new").exists()


def test_a_folder_is_started_once(lab: Path, table: Path, tmp_path: Path, script: Command) -> None:
    before = contents(lab)
    code, _, errors = script(SCRIPT, "--out", lab, "--table", table, "--score", "y")
    assert code == 2 and "expected --table, --score with a new folder alone" in errors and contents(lab) == before
    code, _, errors = script(SCRIPT, "--out", tmp_path, "--table", table, "--score", "y")
    assert code == 2 and "expected a new folder for a campaign" in errors


def test_a_proposal_that_cannot_be_read_is_named_first(lab: Path, script: Command) -> None:
    results = lab.parent / "results.csv"
    results.write_text((lab / "round_1.csv").read_text())
    fill(results)
    (lab / "round_1.csv").write_text("base;time;acid\n")
    code, _, errors = script(SCRIPT, "--out", lab, "--results", results)
    assert code == 2 and "expected commas between the columns" in errors and "round_1.csv" in errors
    assert not (lab / "measured_1.csv").exists()
    assert script(SCRIPT, "--out", lab, "--results", results, "--batch", 2)[0] == 0
    assert len(read(lab / "round_2.csv")) == 2
