"""Recommending: exact text in and out, one answer a context, counted calls, and no file that is half or lost."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slot_rl import recommending
from slot_rl.agents import GumbelAgent
from slot_rl.agents.base import changed
from slot_rl.agents.searches import GuidedSearchOptions
from slot_rl.estimators.fitting import TableFit
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import read_config
from slot_rl.networks import PointerSize
from slot_rl.pretraining import PretrainConfig, pretrain
from slot_rl.problems import Observation, RowProblem, context_rows, make_problem
from slot_rl.problems.answer_file import AnswerWriter
from slot_rl.problems.distinct_contexts import ContextRows
from slot_rl.problems.truths import pick_value
from slot_rl.recommending import Recommender
from slot_rl.reevaluation import problem_of_run
from slot_rl.seeding import generator_from
from slot_rl.training import RunConfig, train_run
from tests.conftest import ROOT, Command

SCRIPT = ROOT / "scripts" / "recommend.py"
FAST = TableFit(epochs=15, patience=15, batch_size=32, learning_rate=1e-2, dim=4, hidden=(32,))
OPTIONS = changed(GumbelAgent.default_options, {"batch_size": 64, "policy": PointerSize(width=16, hidden=32)})
HEAT, SOLVENT = ("hot", 'cold, "dry"', ""), ("NA", "p ", "1.0")
BASE, LIGAND = ("α", 'q"uote', "line\nbreak"), ("", "1", "1.0", "b ")
COLUMNS = ["heat", "solvent", "base", "ligand"]
NEVER_TOGETHER = ("", "p ")
Cells = tuple[str, ...]


def measured() -> dict[Cells, float]:
    """A landscape with gaps, and one pair of contexts of which nothing is known."""
    scores: dict[Cells, float] = {}
    for cells in product(HEAT, SOLVENT, BASE, LIGAND):
        heat, solvent, base, ligand = (f.index(c) for f, c in zip((HEAT, SOLVENT, BASE, LIGAND), cells, strict=True))
        if cells[:2] != NEVER_TOGETHER and (heat + 2 * solvent + base + 3 * ligand) % 7:
            effect = (base - 1) * (heat - 1) + 0.3 * ((ligand + solvent) % 4) - 0.07 * base * ligand
            scores[cells] = round(0.1 + effect, 3)
    return scores


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def quick(out: Path, **settings: Any) -> RunConfig:
    return RunConfig(out=out, timesteps=320, wandb="disabled", evaluation=EvaluationConfig(eval_size=4), **settings)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the landscape, runs on it with and without context, a run of a search, and a run on slots."""
    home = tmp_path_factory.mktemp("home")
    table = write_csv(home / "table.csv", [*COLUMNS, "y"], [[*cells, score] for cells, score in measured().items()])
    out = home / "estimator"
    # Called censored, so that answers are the agent's own: the best measured rows have tests of their own.
    contexts = ("heat", "solvent")
    pretrain(PretrainConfig(table=table, score="y", context=contexts, out=out, fit=FAST, censored=True))
    train_run("gumbel", quick(home / "run", env="SlotRL/Rows-v0", estimator=str(out), truth=table), OPTIONS)
    plain = home / "estimator without context"
    pretrain(PretrainConfig(table=table, score="y", features=("base", "ligand"), out=plain, fit=FAST, censored=True))
    train_run("gumbel", quick(home / "plain", env="SlotRL/Rows-v0", estimator=str(plain)), OPTIONS)
    train_run("gumbel", quick(home / "slots", env="SlotRL/PickValue-v0"), OPTIONS)
    return home


@pytest.fixture
def recommend(script: Command, home: Path, tmp_path: Path) -> Command:
    """Runs ``recommend.py RUN --contexts tmp_path/asked.csv`` in this process, with further flags."""
    return partial(script, SCRIPT, home / "run", "--contexts", tmp_path / "asked.csv")


@pytest.fixture
def asked(tmp_path: Path) -> list[Cells]:
    """The contexts in asked.csv: repeated, in no order, with a pair that was never measured, among other columns."""
    pairs: list[Cells] = [*product(HEAT, SOLVENT)]
    rows = [pairs[(4 * i + i // 9) % 9] for i in range(40)] + [NEVER_TOGETHER]
    write_csv(tmp_path / "asked.csv", ["id", "solvent", "heat"], [[i, s, h] for i, (h, s) in enumerate(rows)])
    return rows


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pa.parquet.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def others(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"asked.csv"}


def problem_with_truth(home: Path) -> RowProblem:
    problem = problem_of_run(read_config(home / "run"), None, home / "table.csv")
    assert isinstance(problem, RowProblem)
    return problem


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_come_out_in_order_with_exact_text(
    suffix: str, recommend: Command, asked: list[Cells], home: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"out{suffix}"
    code, shown, errors = recommend("--out", out, "--truth", home / "table.csv")
    assert (code, errors) == (0, "")
    assert f"written: {out}" in shown
    rows = read(out)
    assert list(rows[0]) == ["id", "solvent", "heat", "base", "ligand", "estimated_score", "true_score"]
    assert [(str(row["id"]), row["heat"], row["solvent"]) for row in rows] == [
        (str(i), *a) for i, a in enumerate(asked)
    ]
    problem, table = problem_with_truth(home), measured()
    assert problem.encoding is not None
    for row in rows:
        cells = tuple(row[name] for name in COLUMNS)
        context = [found.index(cell) for found, cell in zip(problem.encoding.contexts.values(), cells, strict=False)]
        choice = [found.index(cell) for found, cell in zip(problem.encoding.features.values(), cells[2:], strict=True)]
        estimated = problem.score(Observation(context=torch.tensor([context])), torch.tensor([choice]))
        assert float(row["estimated_score"]) == pytest.approx(float(estimated), abs=1e-5)
        if cells in table:
            assert float(row["true_score"]) == pytest.approx(table[cells], rel=1e-6)
        else:
            assert row["true_score"] == ("" if suffix == ".csv" else None)
    assert {row["true_score"] in ("", None) for row in rows} == {True, False}
    assert len({tuple(row[name] for name in COLUMNS) for row in rows}) == len(set(asked)) == 9


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_all_formats_have_the_same_answers(
    suffix: str, recommend: Command, script: Command, asked: list[Cells], home: Path, tmp_path: Path
) -> None:
    rows = [{"id": str(i), "solvent": solvent, "heat": heat} for i, (heat, solvent) in enumerate(asked)]
    if suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "asked.parquet")
    if suffix == ".jsonl":
        (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert recommend("--out", tmp_path / "from_csv.csv")[0] == 0
    out = tmp_path / f"out{suffix}"
    done = script(SCRIPT, home / "run", "--requests", tmp_path / f"asked{suffix}", "--out", out)
    assert (done[0], done[2]) == (0, "")
    expected = read(tmp_path / "from_csv.csv")
    assert [{**row, "estimated_score": 0} for row in read(out)] == [{**row, "estimated_score": 0} for row in expected]
    for row, other in zip(read(out), expected, strict=True):
        assert float(row["estimated_score"]) == pytest.approx(float(other["estimated_score"]), abs=1e-6)


def test_an_unknown_context_in_json_lines_names_its_row(script: Command, home: Path, tmp_path: Path) -> None:
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    rows = [{"heat": "hot", "solvent": "NA"}, {"heat": "hot", "solvent": "?"}]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, errors = script(SCRIPT, home / "run", "--requests", asked, "--out", out)
    assert code == 2 and f"in row 2 of {asked}, got '?'" in errors
    asked.write_text(json.dumps({"heat": "hot"}))
    code, _, errors = script(SCRIPT, home / "run", "--requests", asked, "--out", out)
    assert (code, errors) == (2, f"error: expected a column 'solvent' in {asked}, got 'heat'\n")
    assert not out.exists()


@pytest.mark.parametrize("worst", [False, True])
def test_the_table_at_the_end_is_right(
    worst: bool, recommend: Command, asked: list[Cells], home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    shown = recommend("--out", out, "--truth", home / "table.csv", *(["--unmeasured", "worst"] if worst else []))[1]
    rows, table = read(out), measured()
    true, shares, gaps, known = [], [], [], []
    for row in rows:
        cells = tuple(row[name] for name in COLUMNS)
        scores = [score for other, score in table.items() if other[:2] == cells[:2]] or list(table.values())
        known.append(cells in table)
        if cells in table or worst:
            true.append(table.get(cells, min(scores)))
            shares.append((table[cells] - min(scores)) / (max(scores) - min(scores)) if cells in table else 0.0)
            gaps.append(row["estimated_score"] - true[-1])
    assert 0 < sum(known) < 41 and len(true) == (41 if worst else sum(known))
    mark = ", unmeasured = worst" if worst else ""
    estimated = [row["estimated_score"] for row in rows]
    expected = {
        "rows": "41",
        "distinct contexts": "9",
        "score": f"{sum(estimated) / 41:.4f}",
        f"true score{mark}": f"{sum(true) / len(true):.4f}",
        f"true normalised{mark}": f"{sum(shares) / len(true):.4f}",
        f"true worst{mark}": f"{min(shares):.4f}",
        f"gap{mark}": f"{sum(gaps) / len(true):.4f}",
        "measured share": f"{sum(known) / 41:.4f}",
        "calls per context": "4 estimator calls, 4 backward passes",
    }
    for name, value in expected.items():
        assert any(name in line and f" {value} " in line for line in shown.splitlines()), (name, value, shown)


@pytest.mark.parametrize(
    ("flags", "calls"),
    [
        ("--calls 0", "0 estimator calls, 0 backward passes"),
        ("--calls 9", "9 estimator calls, 9 backward passes"),
        ("--mode draws --calls 6", "6 estimator calls, 0 backward passes"),
        ("--mode draws", "4 estimator calls, 0 backward passes"),
    ],
)
def test_the_calls_are_those_that_were_asked_for(
    flags: str, calls: str, recommend: Command, asked: list[Cells], tmp_path: Path
) -> None:
    code, shown, _ = recommend("--out", tmp_path / "out.csv", *flags.split())
    assert code == 0 and calls in shown
    assert ("to report its score" in shown) is (flags == "--calls 0")


def test_more_calls_never_lower_a_context(recommend: Command, asked: list[Cells], tmp_path: Path) -> None:
    def scores(name: str, *flags: object) -> list[float]:
        assert recommend("--out", tmp_path / name, *flags)[0] == 0
        return [float(row["estimated_score"]) for row in read(tmp_path / name)]

    bare = scores("pass.csv", "--calls", 0)
    for name, flags in {"search.csv": ["--calls", 12], "draws.csv": ["--mode", "draws", "--calls", 12]}.items():
        served = scores(name, *flags)
        assert all(after >= before - 1e-5 for before, after in zip(bare, served, strict=True))
        assert sum(served) > sum(bare)
        scores(f"again {name}", *flags)
        assert (tmp_path / name).read_bytes() == (tmp_path / f"again {name}").read_bytes()
    one = scores("one.csv", "--mode", "draws", "--calls", 2, "--seed", 1)
    assert any(scores(f"{seed}.csv", "--mode", "draws", "--calls", 2, "--seed", seed) != one for seed in (2, 3, 4))


@pytest.mark.parametrize("mode", ["draws", "search"])
def test_where_pieces_end_changes_nothing(
    mode: str, recommend: Command, asked: list[Cells], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recommend("--out", tmp_path / "whole.csv", "--mode", mode)[0] == 0
    for read_rows, write_rows in ((1, 1), (3, 7), (40, 41)):
        monkeypatch.setattr(context_rows, "READ_ROWS", read_rows)
        monkeypatch.setattr(context_rows, "WRITE_ROWS", write_rows)
        assert recommend("--out", tmp_path / "pieces.csv", "--force", "--mode", mode)[0] == 0
        assert (tmp_path / "pieces.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_context_has_one_answer_everywhere(recommend: Command, asked: list[Cells], tmp_path: Path) -> None:
    assert recommend("--out", tmp_path / "first.csv", "--mode", "draws")[0] == 0
    answers: dict[Cells, dict[str, Any]] = {(row["heat"], row["solvent"]): row for row in read(tmp_path / "first.csv")}
    backwards = sorted(set(asked), reverse=True)
    write_csv(tmp_path / "asked.csv", ["heat", "solvent"], [list(pair) for pair in backwards])
    assert recommend("--out", tmp_path / "second.csv", "--mode", "draws")[0] == 0
    assert read(tmp_path / "second.csv") == [
        {name: cell for name, cell in answers[pair].items() if name != "id"} for pair in backwards
    ]


def test_an_unknown_context_names_row_column_and_value(
    recommend: Command, asked: list[Cells], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["hot", "NA"]] * 5 + [["hot", "na"], ["HOT", "NA"]]
    write_csv(tmp_path / "asked.csv", ["heat", "solvent"], rows)
    monkeypatch.setattr(context_rows, "READ_ROWS", 4)
    code, shown, errors = recommend("--out", tmp_path / "out.csv")
    assert code == 2
    assert errors == (
        f"error: expected a known category of 'solvent' ('1.0', 'NA', 'p ') in row 6 of {tmp_path / 'asked.csv'}, "
        "got 'na'; --unknown skip gives such rows an empty answer\n"
    )
    assert others(tmp_path) == set()


@pytest.mark.parametrize("top", [1, 2])
def test_unknown_contexts_have_an_empty_answer_with_the_reason(
    top: int, recommend: Command, asked: list[Cells], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["hot", "NA"], ["hot", "na"], ["", "1.0"], ["HOT", "?"], ["hot", "1.0"]]
    write_csv(tmp_path / "asked.csv", ["heat", "solvent"], rows)
    monkeypatch.setattr(context_rows, "WRITE_ROWS", 2)
    code, shown, _ = recommend("--out", tmp_path / "out.csv", "--unknown", "skip", "--top", top)
    assert code == 0
    found = read(tmp_path / "out.csv")
    assert [[row["heat"], row["solvent"]] for row in found] == [
        row for i, row in enumerate(rows) for _ in range(1 if i in (1, 3) else top)
    ]
    answered = [row for row in found if row["estimated_score"]]
    assert {row["not_answered"] for row in answered} == {""} and len(answered) == 3 * top
    assert [row["not_answered"] for row in found if row not in answered] == [
        "expected a known solvent, got 'na'",
        "expected a known heat, got 'HOT'",
    ]
    assert all(row["ligand"] == row["base"] == "" for row in found if row not in answered)
    assert any("not answered" in line and " 2 " in line for line in shown.splitlines())
    write_csv(tmp_path / "asked.csv", ["heat", "solvent"], rows[1:2])
    code, _, errors = recommend("--out", tmp_path / "none.csv", "--unknown", "skip")
    assert (code, errors) == (2, "error: expected at least one row with a known context, got none\n")
    assert others(tmp_path) == {"out.csv"}


def test_the_best_answers_are_distinct_and_sorted(recommend: Command, asked: list[Cells], tmp_path: Path) -> None:
    assert recommend("--out", tmp_path / "one.csv", "--calls", 0)[0] == 0
    assert recommend("--out", tmp_path / "top.csv", "--calls", 0, "--top", 5)[0] == 0
    one, top = read(tmp_path / "one.csv"), read(tmp_path / "top.csv")
    assert [row["id"] for row in top] == [row["id"] for row in one for _ in range(5)]
    for i, best in enumerate(one):
        five = top[5 * i : 5 * i + 5]
        assert [row["rank"] for row in five] == ["1", "2", "3", "4", "5"]
        assert len({(row["base"], row["ligand"]) for row in five}) == 5
        scores = [float(row["estimated_score"]) for row in five]
        assert scores == sorted(scores, reverse=True) and scores[0] >= float(best["estimated_score"])
    # There are three times four answers, of which one change of the best reaches 1 + 2 + 3.
    assert recommend("--out", tmp_path / "all.csv", "--calls", 0, "--top", 50)[0] == 0
    assert len(read(tmp_path / "all.csv")) == 6 * len(asked)


def test_excluded_categories_are_in_no_answer(recommend: Command, asked: list[Cells], tmp_path: Path) -> None:
    exclude = write_csv(tmp_path / "out_of_stock.csv", ["ligand", "heat"], [["1", "hot"], ["b ", "hot"], ["1.0", ""]])
    for number, flags in enumerate(("--calls 0", "--calls 9", "--mode draws", "--top 4")):
        out = tmp_path / f"{number}.csv"
        assert recommend("--out", out, "--exclude", exclude, *flags.split())[0] == 0
        rows = read(out)
        assert all(row["ligand"] == "" for row in rows if row["heat"] == "hot")
        # A row without a context concerns every context.
        assert all(row["ligand"] != "1.0" for row in rows)
    exclude.unlink()


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["metal"], [["Pd"]], "expected a column of base, ligand in {path}, got metal"),
        (["ligand"], [["Pd"]], "expected a known category of 'ligand' ("),
        (["ligand", "base"], [["1", "α"]], "expected a category of one feature in row 1 of {path}, got 2"),
        (["base"], [["α"], ['q"uote'], ["line\nbreak"]], "expected {path} to leave a category of 'base' for every"),
    ],
)
def test_exclusions_that_cannot_be_are_refused(
    header: list[str], rows: list[list[str]], message: str, recommend: Command, asked: list[Cells], tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "exclude.csv", header, rows)
    code, _, errors = recommend("--out", tmp_path / "out.csv", "--exclude", path)
    assert code == 2 and errors.startswith(f"error: {message.format(path=path)}") and len(errors.splitlines()) == 1
    assert others(tmp_path) == {path.name}


def test_in_python_a_row_of_contexts_is_a_dictionary(home: Path, recommend: Command, tmp_path: Path) -> None:
    recommender = Recommender.load(home / "run")
    write_csv(tmp_path / "asked.csv", ["heat", "solvent", "id"], [["hot", "NA", 7], ["", "p ", 8]])
    assert recommend("--out", tmp_path / "out.jsonl", "--calls", 3)[0] == 0
    expected = [{**row, "id": int(row["id"])} for row in read(tmp_path / "out.jsonl")]
    rows = [{"heat": "hot", "solvent": "NA", "id": 7}, {"heat": "", "solvent": "p ", "id": 8}]
    found = recommender(rows, calls=3)
    assert [{**row, "estimated_score": 0} for row in found] == [{**row, "estimated_score": 0} for row in expected]
    alone = recommender(rows[0], calls=3)
    assert alone.pop("estimated_score") == pytest.approx(found[0].pop("estimated_score"), abs=1e-6)
    assert alone == found[0]
    top = recommender(rows[0], top=3)
    assert [row["rank"] for row in top] == [1, 2, 3] and {row["id"] for row in top} == {7}
    judged = Recommender.load(home / "run", truth=home / "table.csv")(rows[0])
    assert judged["true_score"] == pytest.approx(measured()[tuple(judged[name] for name in COLUMNS)])
    with pytest.raises(ValueError, match=r"expected a known category of 'heat' .* in row 2 of the requests, got 'HOT'"):
        recommender([rows[0], {"heat": "HOT", "solvent": "NA"}])
    for wrong in ("hot", 3, None, [["hot", "NA"]]):
        with pytest.raises(TypeError, match="expected a dict, several, or a data frame as requests, got"):
            recommender(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected at least 1 call for mode starts, got 2.5"):
        recommender(rows, calls=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a column 'solvent' in the requests, got 'heat'"):
        recommender({"heat": "hot"})
    with pytest.raises(ValueError, match="expected"):
        recommender(rows, items=tmp_path / "items.csv")
    assert Recommender.load(home / "plain")({})["base"] in BASE


def test_an_earlier_file_stays_unless_it_may_be_replaced(
    recommend: Command, asked: list[Cells], tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("precious")
    code, _, errors = recommend("--out", out)
    assert (code, errors) == (
        2,
        f"error: expected a new file for --out, got {out}, which exists (--force replaces it)\n",
    )
    assert out.read_text() == "precious"
    assert recommend("--out", out, "--force")[0] == 0
    assert len(read(out)) == len(asked)
    before = (tmp_path / "asked.csv").read_bytes()
    code, _, errors = recommend("--out", tmp_path / "asked.csv", "--force")
    assert code == 2 and "expected --out to be no file that is read" in errors
    assert (tmp_path / "asked.csv").read_bytes() == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError("no space left")])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_interrupted_write_leaves_the_earlier_file(
    suffix: str,
    failure: BaseException,
    recommend: Command,
    asked: list[Cells],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / f"out{suffix}"
    out.write_text("precious")
    write, written = AnswerWriter.write, []

    def stopping(self: AnswerWriter, table: pa.Table) -> None:
        written.append(table)
        if len(written) > 2:
            assert len(others(tmp_path)) == 3  # the half file and the claim lie beside the earlier one
            raise failure
        write(self, table)

    monkeypatch.setattr(AnswerWriter, "write", stopping)
    monkeypatch.setattr(context_rows, "WRITE_ROWS", 10)
    code, _, errors = recommend("--out", out, "--force")
    assert code == (130 if isinstance(failure, KeyboardInterrupt) else 2) and errors
    assert out.read_text() == "precious"
    assert others(tmp_path) == {out.name}


def test_a_broken_last_row_is_found_before_anything_is_answered(
    recommend: Command, asked: list[Cells], tmp_path: Path
) -> None:
    with (tmp_path / "asked.csv").open("a") as file:
        file.write("1,2,3,4\n")
    code, _, errors = recommend("--out", tmp_path / "out.csv")
    assert code == 2 and "expected a readable table" in errors and len(errors.splitlines()) == 1
    assert others(tmp_path) == set()


def flag_sets(home: Path, tmp_path: Path) -> Iterator[tuple[list[object], str]]:
    run, contexts, out = home / "run", ["--contexts", tmp_path / "asked.csv"], ["--out", tmp_path / "out.csv"]
    yield [run, *out], "expected --requests FILE with 'heat', 'solvent', which the run's estimator asks for, got none"
    yield (
        [run, *contexts, "--out", tmp_path / "out.txt"],
        "expected --out to end in .csv or .parquet or .jsonl, got out.txt",
    )
    yield (
        [run, *contexts, "--out", tmp_path / "no" / "out.csv"],
        f"expected an existing folder for --out, got {tmp_path}",
    )
    yield [home, *contexts, *out], "expected a run folder with config.json"
    yield [run, "--contexts", home / "none.csv", *out], "expected a CSV or Parquet file, got"
    yield [run, *contexts, *out, "--calls", -1], "expected at least 1 call for mode starts, got -1"
    yield [run, *contexts, *out, "--truth", tmp_path / "asked.csv"], "expected a column 'base' in"
    yield [home / "plain", *contexts, *out], "expected no --requests for an estimator without context columns, got"
    yield [home / "slots", *contexts, *out], "expected --out to end in .safetensors, got out.csv"


def test_bad_input_is_one_line_and_leaves_the_disk_as_it_was(
    script: Command, asked: list[Cells], home: Path, tmp_path: Path
) -> None:
    for flags, message in flag_sets(home, tmp_path):
        code, _, errors = script(SCRIPT, *flags)
        assert code == 2 and errors.startswith(f"error: {message}") and len(errors.splitlines()) == 1, (flags, errors)
        assert others(tmp_path) == set()


def test_the_trainings_truth_may_be_gone_and_is_not_used_unasked(
    recommend: Command, asked: list[Cells], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = read_config(home / "run")
    assert document["truth"] is not None
    monkeypatch.setattr(recommending, "read_config", lambda run: {**document, "truth": "/gone.csv"})
    assert recommend("--out", tmp_path / "out.csv")[0] == 0
    assert list(read(tmp_path / "out.csv")[0]) == ["id", "solvent", "heat", "base", "ligand", "estimated_score"]


def test_answers_replace_columns_of_the_same_name(recommend: Command, asked: list[Cells], tmp_path: Path) -> None:
    assert recommend("--out", tmp_path / "first.csv")[0] == 0
    (tmp_path / "asked.csv").write_bytes((tmp_path / "first.csv").read_bytes())
    assert recommend("--out", tmp_path / "second.csv")[0] == 0
    assert (tmp_path / "second.csv").read_bytes() == (tmp_path / "first.csv").read_bytes()


def test_without_contexts_one_row_is_written(script: Command, home: Path, tmp_path: Path) -> None:
    code, shown, _ = script(SCRIPT, home / "plain", "--out", tmp_path / "out.csv")
    assert code == 0
    (row,) = read(tmp_path / "out.csv")
    assert list(row) == ["base", "ligand", "estimated_score"]
    assert row["base"] in BASE and row["ligand"] in LIGAND


def test_a_search_is_served_with_its_own_calls(script: Command, home: Path, asked: list[Cells], tmp_path: Path) -> None:
    run = quick(tmp_path / "searched", env="SlotRL/Rows-v0", estimator=str(home / "estimator"))
    train_run("guided_search", run, GuidedSearchOptions(calls_per_context=11))
    flags = [tmp_path / "searched", "--contexts", tmp_path / "asked.csv"]
    code, shown, errors = script(SCRIPT, *flags, "--out", tmp_path / "out.csv")
    assert code == 0 and "11 estimator calls, 11 backward passes" in shown and "to report its score" in shown
    code, shown, errors = script(SCRIPT, *flags, "--out", tmp_path / "more.csv", "--calls", 5)
    assert code == 0 and "16 estimator calls, 16 backward passes" in shown
    code, shown, errors = script(SCRIPT, *flags, "--out", tmp_path / "draws.csv", "--mode", "draws")
    assert code == 2 and "expected an agent with a policy" in errors


def test_requests_with_candidates_come_and_go_as_tensors(script: Command, home: Path, tmp_path: Path) -> None:
    observation = make_problem("SlotRL/PickValue-v0", fewest_items=3).sample(1_500, generator_from(5))
    safetensors.torch.save_file(observation.tensors(), tmp_path / "requests.safetensors")
    flags = ["--contexts", tmp_path / "requests.safetensors", "--out", tmp_path / "out.safetensors"]
    code, shown, errors = script(SCRIPT, home / "slots", *flags)
    assert (code, errors) == (0, "") and "4 estimator calls, 4 backward passes" in shown
    found = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert {name: tuple(part.shape) for name, part in found.items()} == {
        "choice": (1_500, 4),
        "score": (1_500,),
        "true_score": (1_500,),
    }
    tensors = observation.tensors()
    assert bool(tensors["mask"].gather(-1, found["choice"].unsqueeze(-1)).all())
    chosen = tensors["candidates"].gather(1, found["choice"].unsqueeze(-1))
    assert torch.allclose(found["score"], pick_value(chosen), atol=1e-6)
    assert torch.allclose(found["true_score"], pick_value(chosen), atol=1e-6)
    assert script(SCRIPT, home / "slots", *flags)[0] == 2


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mask": torch.ones(2, 4, 8, dtype=torch.bool)}, "expected candidates and perhaps mask in"),
        ({"candidates": torch.zeros(2, 7, 2)}, "expected float32 candidates (requests, items, 1) in"),
        (
            {"candidates": torch.zeros(2, 8, 1, dtype=torch.float64)},
            "expected float32 candidates (requests, items, 1) in",
        ),
        ({"candidates": torch.zeros(0, 8, 1)}, "expected float32 candidates (requests, items, 1) in"),
        ({"candidates": torch.full((2, 8, 1), torch.nan)}, "expected finite candidates in"),
        ({"candidates": torch.zeros(2, 8, 1), "mask": torch.ones(2, 4, 8)}, "expected a boolean mask (2, 4, 8) in"),
        (
            {"candidates": torch.zeros(2, 8, 1), "mask": torch.zeros(2, 4, 8, dtype=torch.bool)},
            "expected an allowed item in every slot, got none in request 0, slot 0 of",
        ),
    ],
)
def test_requests_that_are_not_the_problems_are_refused(
    tensors: dict[str, torch.Tensor], message: str, script: Command, home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "requests.safetensors"
    safetensors.torch.save_file(tensors, path)
    out = tmp_path / "out.safetensors"
    code, _, errors = script(SCRIPT, home / "slots", "--contexts", path, "--out", out)
    assert code == 2 and errors.startswith(f"error: {message}") and not out.exists()
    path.write_text(json.dumps({}))
    code, _, errors = script(SCRIPT, home / "slots", "--contexts", path, "--out", out)
    assert code == 2 and errors.startswith("error: expected safetensors in") and not out.exists()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 2**30), st.integers(-1, 2)), max_size=40),
    st.lists(st.integers(1, 9), max_size=8),
    st.integers(1, 9),
)
def test_distinct_contexts_and_the_rows_that_mean_them(
    rows: list[tuple[int, int, int]], cuts: list[int], most: int
) -> None:
    known = [row for row in rows if min(row) >= 0]
    pieces: list[torch.Tensor] = []
    rest = torch.tensor(rows, dtype=torch.long).view(-1, 3)
    for cut in cuts:
        pieces, rest = [*pieces, rest[:cut]], rest[cut:]
    if not known:
        with pytest.raises(ValueError, match="expected at least one row with a known context, got none"):
            ContextRows([*pieces, rest], Path())
        return
    with ContextRows([*pieces, rest], Path()) as found:
        distinct = [tuple(row) for row in found.distinct.tolist()]
        assert distinct == sorted(set(known))
        assert found.counts.tolist() == [Counter(known)[row] for row in distinct]
        assert (len(found), found.skipped) == (len(rows), len(rows) - len(known))
        for _ in range(2):
            found.rewind()
            parts = [found.places(most).tolist() for _ in range(0, len(rows), most)]
            meant = [distinct[place] if place >= 0 else None for part in parts for place in part]
            assert meant == [row if row in known else None for row in rows]
            assert all(len(part) == most for part in parts[:-1])
