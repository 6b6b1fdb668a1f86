"""Numbers and described categories through the scripts: pretrain, train, evaluate, recommend; and their refusals."""

import csv
import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from slot_rl import Recommender
from slot_rl.estimators.net import EstimatorNet
from slot_rl.estimators.store import load_estimator
from slot_rl.problems import RowProblem, make_problem
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command
from tests.helpers.numbers import ligand_file, reactions, write

SCRIPTS = ROOT / "scripts"
FLAGS = (
    "--score yield --context acid temperature --numeric temperature equivalents --levels equivalents=1,1.5,3".split()
)
FAST = (
    "--epochs 150 --patience 150 --batch-size 16 --learning-rate 3e-3 --dim 4 --hidden 32 --swap-linearity 0.1".split()
)
BRIEF = "--env SlotRL/Rows-v0 --timesteps 4000 --batch-size 64 --eval-size 4 --wandb disabled".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reactions as CSV and as Parquet with numbers, and the ligands' descriptors."""
    folder = tmp_path_factory.mktemp("numbers")
    table = pa.csv.read_csv(reactions(folder / "t.csv"))
    floats = table.set_column(1, "temperature", table["temperature"].cast(pa.float32()))
    pa.parquet.write_table(floats, folder / "t.parquet")
    ligand_file(folder / "l.csv")
    return folder


def pretrain_flags(folder: Path, out: Path, table: str = "t.csv") -> list[Any]:
    return ["--table", folder / table, *FLAGS, "--descriptors", f"ligand={folder / 'l.csv'}", "--out", out, *FAST]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_unseen_numbers_and_categories_are_answered(script: Command, folder: Path, tmp_path: Path) -> None:
    estimator, run, asked = tmp_path / "e", tmp_path / "run", tmp_path / "asked.csv"
    assert script(SCRIPTS / "pretrain_estimator.py", *pretrain_flags(folder, estimator))[0] == 0
    truth = ["--truth", folder / "t.csv"]
    flags = ["--estimator", estimator, *truth, "--out", run]
    code, _, errors = script(SCRIPTS / "train_agent.py", "--agent", "gumbel", *BRIEF, *flags)
    assert (code, errors) == (0, "")
    assert script(SCRIPTS / "evaluate_agent.py", run)[0] == 0
    # 60 lies below and 130 above all that was seen, 105.0 is between; 80.0 was seen as 80.
    write(asked, "temperature,acid", ["60,a", "130,b", "105.0,a", "80.0,b", "60,a"])
    script(SCRIPTS / "recommend.py", run, "--contexts", asked, *truth, "--out", tmp_path / "o.csv")
    rows = read(tmp_path / "o.csv")
    assert [(row["acid"], row["temperature"]) for row in rows] == [
        ("a", "60"),
        ("b", "130"),
        ("a", "105.0"),
        ("b", "80.0"),
        ("a", "60"),
    ]
    assert rows[0] == rows[4]
    # Large ligands are good at heat, and L5, the largest, is in the descriptors alone; 3 equivalents were never seen.
    assert [row["ligand"] for row in rows] == ["L1", "L5", "L5", "L1", "L1"]
    assert {row["equivalents"] for row in rows} == {"3"}
    assert {row["true_score"] for row in rows} == {""}
    # Ligands that are new since the fit may be chosen, by the policy alone and with a search.
    new = write(tmp_path / "new.csv", "ligand,size", ["tiny,0.2", "huge,8"])
    recommend = partial(script, SCRIPTS / "recommend.py", run, "--requests", asked, "--descriptors", f"ligand={new}")
    for calls in (0, 4):
        assert recommend("--calls", calls, "--force", "--out", tmp_path / "chosen.csv")[0] == 0
        found = [row["ligand"] for row in read(tmp_path / "chosen.csv")]
        assert found == ["tiny", "huge", "huge", "tiny", "tiny"], calls
    found = Recommender.load(run)({"temperature": 130, "acid": "b"}, descriptors={"ligand": new})["ligand"]
    assert found == "huge"
    code, _, errors = recommend(*truth, "--out", tmp_path / "true.csv")
    assert code == 2 and "expected no truth with new choices" in errors


def test_a_context_of_the_descriptor_file_alone_is_answered(script: Command, tmp_path: Path) -> None:
    # Small ligands like acid a, large ones b; the table has no L5, whose size is 6.
    sizes = {"L1": 1.0, "L2": 2.0, "L3": 3.0, "L4": 4.0}
    rows = []
    for (ligand, size), acid, i in product(sizes.items(), "ab", range(9)):
        effect = (size - 2.5) * (1 if acid == "b" else -1)
        rows.append(f"{ligand},{acid},{effect + i % 3:.2f},{i % 3}")
    table = write(tmp_path / "t.csv", "ligand,acid,yield,dose", rows)
    described = ["--context", "ligand", "--descriptors", f"ligand={ligand_file(tmp_path / 'l.csv')}"]
    flags = ["--table", table, "--score", "yield", *described, "--out", tmp_path / "e", *FAST]
    assert script(SCRIPTS / "pretrain_estimator.py", *flags)[0] == 0
    run = ["--estimator", tmp_path / "e", "--out", tmp_path / "run"]
    assert script(SCRIPTS / "train_agent.py", "--agent", "gumbel", *BRIEF, *run)[0] == 0
    asked = write(tmp_path / "asked.csv", "ligand", ["L5", "L1"])
    code, _, errors = script(
        SCRIPTS / "recommend.py", tmp_path / "run", "--contexts", asked, "--out", tmp_path / "o.csv"
    )
    assert (code, errors) == (0, "")
    found = [(row["ligand"], row["acid"], row["dose"]) for row in read(tmp_path / "o.csv")]
    assert found == [("L5", "b", "2"), ("L1", "a", "2")]
    # New ligands come with a file of their own, in which known ones may stand again.
    recommend = partial(script, SCRIPTS / "recommend.py", tmp_path / "run", "--requests")
    asked = write(tmp_path / "asked.csv", "ligand", ["tiny", "L4", "huge"])
    new = write(tmp_path / "new.csv", "size,ligand", ["0.5,tiny", "5.5,huge"])
    code, _, errors = recommend(asked, "--descriptors", f"ligand={new}", "--out", tmp_path / "new.jsonl")
    assert (code, errors) == (0, "")
    answers = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    assert [(row["ligand"], row["acid"], row["dose"]) for row in answers] == [
        ("tiny", "a", "2"),
        ("L4", "b", "2"),
        ("huge", "b", "2"),
    ]
    recommender = Recommender.load(tmp_path / "run")
    assert recommender({"ligand": "huge"}, descriptors={"ligand": new})["acid"] == "b"
    with pytest.raises(ValueError, match="expected a known category of 'ligand'"):
        recommender({"ligand": "huge"})
    for flag, lines, message in (
        ("acid", ["0.5,tiny"], "expected --descriptors of a described column (ligand), got 'acid'"),
        ("ligand", ["9,L1"], "expected the numbers of 'L1' in"),
        ("ligand", ["1,other"], "expected different numbers for each context in"),
        ("ligand", ["1,x", "2,x"], "expected each category once in column 'ligand'"),
    ):
        write(new, "size,ligand", lines)
        code, _, errors = recommend(asked, "--descriptors", f"{flag}={new}", "--out", tmp_path / "none.csv")
        assert code == 2 and errors.startswith(f"error: {message}") and errors.count("\n") == 1, errors
    write(new, "length,ligand", ["1,x"])
    code, _, errors = recommend(asked, "--descriptors", f"ligand={new}", "--out", tmp_path / "none.csv")
    assert code == 2 and "expected the columns 'size'" in errors and not (tmp_path / "none.csv").exists()


def test_csv_and_parquet_give_the_same_estimator(script: Command, folder: Path, tmp_path: Path) -> None:
    stored = []
    for name in ("t.csv", "t.parquet"):
        assert script(SCRIPTS / "pretrain_estimator.py", *pretrain_flags(folder, tmp_path / name, name))[0] == 0
        stored.append(load_estimator(tmp_path / name))
    assert stored[0].sha256 == stored[1].sha256 and stored[0].encoding == stored[1].encoding
    encoding = stored[0].encoding
    assert encoding is not None
    assert encoding.features == {"ligand": ("L1", "L2", "L3", "L4", "L5"), "equivalents": ("1", "1.5", "3")}
    # Standardised by the training rows alone, which are 77 of 96.
    assert encoding.numbers["temperature"].mean != 95 and stored[0].card["train_rows"] == 77


def test_a_stored_estimator_scores_as_before(script: Command, folder: Path, tmp_path: Path) -> None:
    script(SCRIPTS / "pretrain_estimator.py", *pretrain_flags(folder, tmp_path / "e"))
    stored = load_estimator(tmp_path / "e")
    problem = make_problem("SlotRL/Rows-v0", estimator=tmp_path / "e", truth=folder / "t.csv")
    assert isinstance(problem, RowProblem) and problem.sizes == (5, 3)
    observation = problem.evaluation_observations(9, generator_from(0))
    choice = torch.tensor([[i % 5, i % 3] for i in range(8)])
    assert isinstance(stored.net, EstimatorNet)
    rows = stored.net.candidates()
    assert rows is not None and observation.context_vector is not None
    by_hand = stored.net(rows[torch.arange(2), choice], observation.context, observation.context_vector)
    assert torch.equal(problem.score(observation, choice), by_hand.detach())
    true = problem.true_scores(observation, choice)
    assert true.measured is not None
    assert true.measured.tolist() == [bool(i % 5 < 4 and i % 3 < 2) for i in range(8)]


@pytest.mark.parametrize("agent", ["expert_iteration", "reinforce", "ppo"])
def test_other_agents_learn_with_numbers_too(agent: str, script: Command, folder: Path, tmp_path: Path) -> None:
    estimator = tmp_path / "e"
    script(SCRIPTS / "pretrain_estimator.py", *pretrain_flags(folder, estimator), "--epochs", 2)
    flags = [
        "--env",
        "SlotRL/Rows-v0",
        "--timesteps",
        600,
        "--eval-size",
        4,
        "--wandb",
        "disabled",
        "--estimator",
        estimator,
        "--out",
        tmp_path / "run",
    ]
    code, _, errors = script(SCRIPTS / "train_agent.py", "--agent", agent, *flags)
    assert (code, errors) == (0, "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--numeric", "acid"], "expected a finite number in column 'acid' in row 1 of {folder}/t.csv, got 'a'"),
        (["--numeric", "heat"], "expected a context or a feature of {folder}/t.csv ('acid', 'temperature', "),
        (["--levels", "equivalents=2"], "expected at least two different numbers in --levels equivalents="),
        (["--categorical", "temperature"], "expected 'temperature' once in --numeric, --descriptors and --cate"),
        (["--descriptors", "ligand=none.csv"], "expected a CSV or Parquet file, got none.csv, which is no file"),
        (["--problem", "slots-v0"], "expected one of --problem, --table, --log"),
    ],
)
def test_refused_columns_are_one_line_and_leave_nothing(
    flags: list[str], message: str, script: Command, folder: Path, tmp_path: Path
) -> None:
    base = [
        "--table",
        folder / "t.csv",
        "--score",
        "yield",
        "--context",
        "acid",
        "temperature",
        "--out",
        tmp_path / "e",
    ]
    numeric = [] if flags[0] == "--numeric" else ["--numeric", "temperature", "equivalents"]
    code, _, errors = script(SCRIPTS / "pretrain_estimator.py", *base, *numeric, *flags)
    assert code == 2
    assert errors.startswith("error: " + message.format(folder=folder)) and errors.count("\n") == 1, errors
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("row", "skip", "message"),
    [
        ("warm,a", False, "expected a finite number in column 'temperature' in row 2 of {asked}, got 'warm'"),
        ("nan,a", True, "expected a finite number in column 'temperature' in row 2 of {asked}, got 'nan'"),
        (",a", False, "expected a finite number in column 'temperature' in row 2 of {asked}, got ''"),
        ("80,c", False, "expected a known category of 'acid' ('a', 'b') in row 2 of {asked}, got 'c'; --unknown skip"),
        ("80,c", True, None),
    ],
)
def test_requests_that_say_no_number_are_refused(
    row: str, skip: bool, message: str | None, script: Command, folder: Path, tmp_path: Path
) -> None:
    estimator, asked = tmp_path / "e", write(tmp_path / "asked.csv", "temperature,acid", ["-5,b", row])
    script(SCRIPTS / "pretrain_estimator.py", *pretrain_flags(folder, estimator), "--epochs", 2)
    flags = [*BRIEF, "--timesteps", 100, "--estimator", estimator, "--out", tmp_path / "run"]
    assert script(SCRIPTS / "train_agent.py", "--agent", "gumbel", *flags)[0] == 0
    recommend = partial(script, SCRIPTS / "recommend.py", tmp_path / "run", "--contexts", asked)
    code, _, errors = recommend("--out", tmp_path / "o.csv", "--unknown", "skip" if skip else "error")
    if message is None:
        shown = [(row["temperature"], row["not_answered"]) for row in read(tmp_path / "o.csv")]
        assert (code, shown) == (0, [("-5", ""), ("80", "expected a known acid, got 'c'")])
    else:
        assert code == 2 and errors.startswith("error: " + message.format(asked=asked)), errors
        assert not (tmp_path / "o.csv").exists()
