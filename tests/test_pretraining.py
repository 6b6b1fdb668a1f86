"""The pretraining command: what it prints and writes, that it repeats bit for bit, and how it refuses.

The script runs as a process of its own where that is the point, and inside this one elsewhere, since loading torch
takes seconds. Every refusal must leave the disk as it was.
"""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from slot_rl import console, pretraining
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableFit, TableRows, TruthFit, predict_rows, r_squared
from slot_rl.estimators.net import EstimatorNet
from slot_rl.estimators.store import SHIPPED, StoredEstimator, load_estimator, load_shipped
from slot_rl.estimators.table import read_table
from slot_rl.io import read_json
from slot_rl.pretraining import PretrainConfig, pretrain
from slot_rl.problems import NonFiniteScore, Observation
from slot_rl.problems.named import SYNTHETIC
from slot_rl.seeding import generator_from
from tests.conftest import Command
from tests.helpers.factorial import write_factorial
from tests.helpers.splits import split_rows

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "pretrain_estimator.py"
FAST = TableFit(epochs=15, patience=15, batch_size=32, learning_rate=1e-2, dim=4, hidden=(32,))
FAST_FLAGS = "--epochs 15 --patience 15 --batch-size 32 --learning-rate 1e-2 --dim 4 --hidden 32".split()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_factorial(tmp_path / "small.csv")


@pytest.fixture
def command(script: Command) -> Command:
    """The script, inside this process."""
    return partial(script, SCRIPT)


def as_process(*flags: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SLOT_RL_DEBUG"}
    call = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=120, check=False)


def figure(name: str, shown: str) -> float:
    found = re.search(rf"{name} +│ +(-?[\d.]+)", shown)
    assert found, f"no {name} in {shown}"
    return float(found[1])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_fits_reports_and_writes(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "estimator"
    done = as_process("--table", table, "--score", "y", "--context", "u", "--out", out, *FAST_FLAGS)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"written: {out}" in done.stdout

    stored = load_estimator(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "card.json",
        "fit.png",
        f"weights-{stored.sha256[:12]}.safetensors",
    ]
    assert (out / "fit.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    card = stored.card
    assert card["table"] == "small.csv"
    assert (card["seed"], card["train_rows"], card["validation_rows"], card["test_rows"]) == (0, 128, 16, 16)
    assert str(SCRIPT) in card["command"] and "--context u" in card["command"]
    assert card["versions"]["torch"] == version("torch")
    # The figures on the screen are those of the card, and the fit is a good one.
    assert figure("R2", done.stdout) == pytest.approx(card["test"]["r2"], abs=1e-4)
    assert figure("RMSE", done.stdout) == pytest.approx(card["test"]["rmse"], abs=1e-4)
    assert figure("Spearman", done.stdout) == pytest.approx(card["test"]["spearman"], abs=1e-4)
    assert figure("test rows", done.stdout) == 16
    assert stored.sha256[:12] in done.stdout
    assert card["test"]["r2"] > 0.9
    assert card["test"]["spearman"] > 0.9

    assert stored.encoding == TableEncoding(
        "y",
        {"a": ("0", "1", "2", "3"), "b": ("0", "1", "2", "3"), "c": ("0", "1", "2", "3", "4")},
        {"u": ("cold", "hot")},
    )
    assert stored.contexts is not None
    assert stored.contexts.tolist() == [[0], [1]]


def test_bad_input_is_one_line_and_exit_code_2(table: Path, tmp_path: Path) -> None:
    table.write_text(table.read_text() + "hot,0,0,0,high\n")
    out = tmp_path / "estimator"
    done = as_process("--table", table, "--score", "y", "--out", out)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: expected a number as 'y' in row 161 of {table}, got 'high'\n"
    assert not out.exists()


def test_the_same_seed_gives_the_same_weights(table: Path, tmp_path: Path) -> None:
    hashes = []
    for name, seed in [("first", 7), ("second", 7), ("third", 8)]:
        config = PretrainConfig(
            table=table, score="y", context=("u",), out=tmp_path / name, seed=seed, fit=replace(FAST, epochs=2)
        )
        pretrain(config)
        hashes.append(load_estimator(tmp_path / name).sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_terminal_shows_the_reading_and_every_step_of_the_fit(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, highlight=False)
    monkeypatch.setattr(console, "console", terminal)
    monkeypatch.setattr(pretraining, "console", terminal)
    fit = replace(FAST, epochs=2, batch_size=2)  # 128 training rows: 64 steps an epoch
    pretrain(PretrainConfig(table=table, score="y", context=("u",), out=tmp_path / "o", fit=fit))
    assert "reading" in screen.getvalue()
    assert "128/128" in screen.getvalue()


def test_progress_between_epochs_keeps_the_last_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, object]] = []
    with console.fit_progress(200, "validation RMSE") as report, monkeypatch.context() as patch:
        patch.setattr(Progress, "update", lambda self, task, **fields: seen.append(fields))
        report(50, None)
        report(100, 0.25)
        report(150, None)
    assert seen == [{"completed": 50}, {"completed": 100, "note": "validation RMSE 0.25"}, {"completed": 150}]


def network(stored: StoredEstimator) -> EstimatorNet:
    assert isinstance(stored.net, EstimatorNet)
    return stored.net


def test_figures_by_hand() -> None:
    predicted, true = torch.tensor([1.0, 2.0, 5.0, 4.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    fit = pretraining.Fit(network(load_shipped("slots-v0")), predicted, true, {})
    # Residual 4 of variance 5; one of four pairs of neighbouring ranks swapped: 1 - 6 * 2 / (4 * 15).
    assert fit.figures() == pytest.approx({"r2": 0.2, "rmse": 1.0, "spearman": 0.8})


def test_the_cards_figures_are_those_of_the_test_split(table: Path, tmp_path: Path) -> None:
    pretrain(PretrainConfig(table=table, score="y", context=("u",), out=tmp_path / "o", seed=3, fit=FAST))
    stored = load_estimator(tmp_path / "o")
    assert stored.encoding is not None
    read = read_table(table, "y", ["u"])
    assert read.score is not None
    features, contexts = stored.encoding.encode_features(read), stored.encoding.encode_contexts(read)
    rows = TableRows(features, contexts, torch.tensor(read.score, dtype=torch.float32))
    train, _, test = split_rows(rows, FAST, generator_from(3))
    assert stored.card["test"]["r2"] == pytest.approx(
        r_squared(predict_rows(network(stored), test), test.score), abs=1e-6
    )
    assert stored.card["test"]["r2"] < r_squared(predict_rows(network(stored), train), train.score)


def test_named_features_are_the_only_slots(table: Path, tmp_path: Path) -> None:
    pretrain(PretrainConfig(table=table, score="y", features=("c", "a"), out=tmp_path / "o", fit=FAST))
    stored = load_estimator(tmp_path / "o")
    assert stored.encoding is not None
    assert list(stored.encoding.features) == ["c", "a"]
    assert network(stored).shape.vocabulary == (5, 4)
    assert stored.contexts is None


def test_only_contexts_that_occur_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    pairs = [("p", "1"), ("p", "2"), ("q", "2")]
    path.write_text("u,v,a,y\n" + "".join(f"{u},{v},{a},{a}\n" for u, v in pairs for a in range(9)))
    pretrain(PretrainConfig(table=path, score="y", context=("u", "v"), out=tmp_path / "o", fit=FAST))
    contexts = load_estimator(tmp_path / "o").contexts
    assert contexts is not None
    assert contexts.tolist() == [[0, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--score", "z"], "expected a column 'z' in .*small.csv, got 'u', 'a', 'b', 'c', 'y'", id="score"),
        pytest.param([], "expected --score COLUMN with --table, got none", id="no score"),
        pytest.param(["--score", "u", "--features", "a"], "expected a number as 'u' in row 1 .*'hot'", id="text score"),
        pytest.param(["--score", "y", "--context", "q"], "expected a column 'q' in .*", id="no such context"),
        pytest.param(["--score", "y", "--features", "a", "y"], "expected 'y' as one of score, context", id="twice"),
        pytest.param(
            ["--score", "y", "--context", "u", "a", "b", "c"], "expected at least one feature column", id="no feature"
        ),
        pytest.param(["--score", "y", "--learning-rate", "-1"], ".*learning.rate.*-1", id="learning rate"),
        pytest.param(["--score", "y", "--problem", "slots-v0"], "expected one of --problem, --table, --log", id="both"),
    ],
)
def test_a_refused_table_is_one_line_and_leaves_nothing(
    command: Command, table: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    before = files(tmp_path)
    code, _, err = command("--table", table, "--out", tmp_path / "o", *flags)
    assert code == 2
    assert re.fullmatch(f"error: {message}.*\n", err), err
    assert files(tmp_path) == before
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param([], "expected one of --problem, --table, --log, got none", id="neither"),
        pytest.param(
            ["--problem", "nope"],
            "expected --problem to be one of slots-v0, slots-large-v0, slate-v0, got 'nope'",
            id="unknown",
        ),
        *(
            pytest.param(
                [*source.split(), *flags.split()], f"expected no {flag} with {source.split()[0]}, got", id=flag
            )
            for source, flags, flag in (
                ("--problem slots-v0", "--score y", "--score"),
                ("--problem slots-v0", "--features a", "--features"),
                ("--problem slots-v0", "--context u", "--context"),
                ("--problem slots-v0", "--numeric t", "--numeric"),
                ("--problem slots-v0", "--epochs 3", "--epochs"),
                ("--problem slate-v0", "--epochs 3", "--epochs"),
                ("--problem slate-v0", "--items i.csv", "--items"),
                ("--table t.csv", "--items i.csv", "--items"),
                ("--table t.csv", "--slots a", "--slots"),
                ("--table t.csv", "--passes 3", "--passes"),
                ("--table t.csv", "--inverse-propensity", "--inverse-propensity"),
                ("--log l.csv", "--context u", "--context"),
                ("--log l.csv", "--levels t=1", "--levels"),
                ("--log l.csv", "--batch-size 3", "--batch-size"),
            )
        ),
        pytest.param(
            ["--table", "absent.csv", "--score", "y"], "expected a CSV or Parquet file, got absent.csv", id="-"
        ),
    ],
)
def test_refused_sources_are_one_line_and_leave_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command("--out", "o", *flags)
    assert (code, out) == (2, "")
    assert re.fullmatch(f"error: {message}.*\n", err), err
    assert list(tmp_path.iterdir()) == []


def test_a_table_needs_a_folder_to_write_to(command: Command, table: Path) -> None:
    code, _, err = command("--table", table, "--score", "y")
    assert (code, err) == (2, "error: expected --out FOLDER for the estimator, got none\n")


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--bogus", "1"], ["--bogus"]),
        (["--seed", "one"], ["--seed", "one", "int"]),
        (["--batch-size", "0"], ["expected", "batch_size", "batch_size=0"]),
        (["--train", "0.9"], ["expected", "train", "0.9 and", "validation 0.1"]),
    ],
)
def test_a_wrong_flag_is_exit_code_2_and_no_traceback(
    command: Command, table: Path, tmp_path: Path, flags: list[str], names: list[str]
) -> None:
    code, _, err = command("--table", table, "--score", "y", "--out", tmp_path / "o", *flags)
    assert code == 2
    shown = " ".join(err.replace("│", " ").split())
    assert all(name in shown for name in names), shown
    assert "Traceback" not in err
    assert not (tmp_path / "o").exists()


def test_no_hidden_layer_is_refused(command: Command, table: Path, tmp_path: Path) -> None:
    code, _, err = command("--table", table, "--score", "y", "--out", tmp_path / "o", "--hidden")
    assert code == 2
    assert "expected" in err and "hidden" in err
    assert not (tmp_path / "o").exists()


def test_only_force_replaces_an_estimator(command: Command, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    flags = ["--table", table, "--score", "y", "--out", out, *FAST_FLAGS]
    assert command(*flags)[0] == 0
    before = files(out)
    code, _, err = command(*flags, "--seed", 1)
    assert (code, err) == (
        2,
        f"error: expected a new folder for --out, got {out}, which exists (--force replaces it)\n",
    )
    assert files(out) == before
    assert command(*flags, "--seed", 1, "--force")[0] == 0
    after = files(out)
    assert after["card.json"] != before["card.json"]
    assert len(after) == 3  # one card, one picture and only the new weights
    assert load_estimator(out).card["seed"] == 1


def test_a_bad_table_with_force_leaves_the_old_estimator_whole(command: Command, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    pretrain(PretrainConfig(table=table, score="y", out=out, fit=FAST))
    before = files(out)
    assert command("--table", table, "--score", "z", "--out", out, "--force")[0] == 2
    assert files(out) == before


def test_a_foreign_folder_is_never_touched(command: Command, table: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    (foreign / "chapters").mkdir(parents=True)
    (foreign / "chapters" / "one.tex").write_text("years of work")
    before = files(tmp_path)
    code, _, err = command("--table", table, "--score", "y", "--out", foreign, "--force")
    message = f"expected --force to replace a folder with card.json, got {foreign} without one; nothing deleted"
    assert (code, err) == (2, f"error: {message}\n")
    assert command("--table", table, "--score", "y", "--out", foreign)[0] == 2
    assert files(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_no_folder_to_write_to(table: Path, tmp_path: Path, force: bool) -> None:
    before = files(tmp_path)
    message = f"expected .*, got {re.escape(str(table))}"
    with pytest.raises(ValueError, match=message):
        pretrain(PretrainConfig(table=table, score="y", out=table, force=force, fit=FAST))
    assert files(tmp_path) == before


def test_an_empty_folder_may_be_written_to(table: Path, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    pretrain(PretrainConfig(table=table, score="y", out=tmp_path / "o", fit=FAST))
    assert load_estimator(tmp_path / "o").card["table"] == "small.csv"


def test_a_path_is_printed_as_it_is(command: Command, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "[bold]o :smile:"
    code, shown, _ = command("--table", table, "--score", "y", "--out", out, *FAST_FLAGS)
    assert code == 0
    assert f"written: {out}\n" in shown
    code, _, err = command("--table", table, "--score", "y", "--out", out, *FAST_FLAGS)
    assert (code, f"got {out}, which exists" in err) == (2, True)


def test_a_constant_score_is_refused_and_leaves_nothing(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "constant.csv"
    path.write_text("a,b,y\n" + "".join(f"{i % 3},{i % 5},5\n" for i in range(60)))
    code, _, err = command("--table", path, "--score", "y", "--out", tmp_path / "o", *FAST_FLAGS)
    assert code == 2
    assert re.fullmatch("error: expected .*'y'.*, got .*5.*\n", err), err
    assert not (tmp_path / "o").exists()


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_constant_test_rows_leave_a_whole_estimator_or_none(tmp_path: Path) -> None:
    # One score in 60 differs; under seed 0 it is not among the 6 test rows, whose R2 is then 0 divided by 0.
    path = tmp_path / "nearly.csv"
    path.write_text("a,b,y\n" + "".join(f"{i % 3},{i % 5},{int(i == 7)}\n" for i in range(60)))
    out = tmp_path / "o"
    order = torch.randperm(60, generator=generator_from(0)).tolist()
    assert 7 not in order[54:]
    try:
        pretrain(PretrainConfig(table=path, score="y", out=out, fit=FAST))
    except ValueError as error:
        assert "expected" in str(error)
        assert not out.exists()
    else:
        assert load_estimator(out).card["test_rows"] == 6


def test_a_fit_that_diverges_leaves_nothing(table: Path, tmp_path: Path) -> None:
    fit = replace(FAST, learning_rate=1e30)
    with pytest.raises(ValueError, match="expected a finite validation error after one of the epochs, got none"):
        pretrain(PretrainConfig(table=table, score="y", out=tmp_path / "o", fit=fit))
    assert not (tmp_path / "o").exists()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the synthetic fits short."""
    env_id = "SlotRL/Slots-v0"
    monkeypatch.setitem(SYNTHETIC, env_id, replace(SYNTHETIC[env_id], fit=TruthFit(40, 256, 1e-2)))
    monkeypatch.setattr(pretraining, "TEST_SAMPLES", 2000)


@pytest.mark.usefixtures("short")
def test_a_synthetic_problem_is_fitted_into_its_default_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hashes = []
    for flags in ([], ["--force"], ["--force", "--seed", 1]):
        code, shown, err = command("--problem", "slots-v0", *flags)
        assert (code, err) == (0, "")
        assert "written: runs/estimators/slots-v0\n" in shown
        assert re.search("equal to the shipped ones +│ +no", shown)
        stored = load_estimator(tmp_path / "runs" / "estimators" / "slots-v0")
        assert stored.card["test_rows"] == 2000
        assert 0.05 < stored.card["test"]["r2"] < 0.95
        hashes.append(stored.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.usefixtures("short")
def test_equality_with_the_shipped_weights_is_said(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("--problem", "slots-v0", "--out", tmp_path / "o")[0] == 0
    monkeypatch.setattr(pretraining, "load_shipped", lambda name: load_estimator(tmp_path / "o"))
    _, shown, _ = command("--problem", "slots-v0", "--out", tmp_path / "again")
    assert re.search("equal to the shipped ones +│ +yes", shown)


@pytest.mark.parametrize("env_id", sorted(SYNTHETIC))
def test_a_shipped_card_tells_the_truth(env_id: str) -> None:
    synthetic = SYNTHETIC[env_id]
    stored = load_shipped(synthetic.shipped)
    vectors = torch.randn(20_000, synthetic.shape.slots, synthetic.shape.dim, generator=generator_from(99))
    with torch.no_grad():
        measured = r_squared(stored.net(vectors), synthetic.truth()(vectors))
    assert measured == pytest.approx(stored.card["test"]["r2"], abs=0.01)
    assert measured > 0.9
    assert read_json(SHIPPED / synthetic.shipped / "card.json")["card"]["fit"]["steps"] == (synthetic.fit.steps)


def test_ctrl_c_is_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert console.run(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_score_that_is_not_finite_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLOT_RL_DEBUG", raising=False)

    def failing() -> None:
        raise NonFiniteScore("scores", 2, Observation(), torch.zeros(3, 1), torch.zeros(3))

    assert console.run(failing) == 2
    message = "expected finite scores from the estimator, got 2 of 3 NaN or infinite"
    assert capsys.readouterr().err == f"error: {message}\n"


def test_long_messages_stay_on_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLOT_RL_DEBUG", raising=False)

    def failing() -> None:
        raise ValueError("expected [red]less[/red], got " + "more " * 100 + "[1/2]")

    assert console.run(failing) == 2
    assert capsys.readouterr().err == "error: expected [red]less[/red], got " + "more " * 100 + "[1/2]\n"


def test_mistakes_of_the_program_itself_are_not_hidden() -> None:
    def broken() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        console.run(broken)


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        raise ValueError("expected this, got that")

    monkeypatch.setenv("SLOT_RL_DEBUG", "1")
    with pytest.raises(ValueError, match="expected this, got that"):
        console.run(failing)


def test_an_exit_code_passes_through() -> None:
    assert console.run(lambda: 3) == 3
    assert console.run(lambda: None) == 0


@pytest.mark.slow
def test_suzuki_couplings_are_predicted(landscape: Callable[[str], Path], tmp_path: Path) -> None:
    config = PretrainConfig(
        table=landscape("suzuki.csv"), score="yield", context=("electrophile", "nucleophile"), out=tmp_path / "o"
    )
    pretrain(config)
    stored = load_estimator(tmp_path / "o")
    assert stored.card["test"]["r2"] > 0.85
    assert network(stored).shape.vocabulary == (11, 7, 4)
    assert stored.contexts is not None
    assert len(stored.contexts) == 12
