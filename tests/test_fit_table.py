"""``slot_rl.fit_table``: a table from Python to answers, with the files of the command."""

from pathlib import Path

import pytest

import slot_rl
from slot_rl.estimators.store import load_estimator
from tests.helpers.commands import exit_code
from tests.helpers.factorial import write_factorial


def test_a_table_from_python_to_answers(tmp_path: Path) -> None:
    table = write_factorial(tmp_path / "table.csv")
    estimator = slot_rl.fit_table(table, "y", out=tmp_path / "estimator", context=["u"], model="gp")
    run = slot_rl.train(
        "SlotRL/Rows-v0",
        agent="expert_iteration",
        estimator=estimator,
        truth=table,
        timesteps=2_000,
        out=tmp_path / "run",
        wandb="disabled",
    )
    assert run.summary["true_optimality"] > 0.99
    answer = slot_rl.Recommender.load(run.folder)({"u": "cold"})
    assert [answer[name] for name in "abc"] == ["0", "3", "0"]


def test_it_writes_what_the_command_writes(tmp_path: Path) -> None:
    table = write_factorial(tmp_path / "table.csv")
    slot_rl.fit_table(str(table), "y", out=str(tmp_path / "python"), context=("u",), model="gp", seed=3)
    words = ["--table", table, "--score", "y", "--context", "u", "--model", "gp", "--seed", 3]
    assert exit_code("pretrain", *words, "--out", tmp_path / "command") == 0
    assert len({load_estimator(tmp_path / each).sha256 for each in ("python", "command")}) == 1


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    table = write_factorial(tmp_path / "table.csv")
    with pytest.raises(ValueError, match="expected a column 'yy' in .*; did you mean 'y'?"):
        slot_rl.fit_table(table, "yy", out=tmp_path / "estimator")
    with pytest.raises(TypeError, match="modle"):
        slot_rl.fit_table(table, "y", out=tmp_path / "estimator", modle="gp")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
