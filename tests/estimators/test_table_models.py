"""Fitting a Gaussian process, networks or both by the command: what is written, that it serves, and refusals."""

from functools import partial
from pathlib import Path

import pytest
import torch

from slot_rl import pretraining
from slot_rl.estimators import load_estimator
from slot_rl.estimators.net_ensemble import EnsembleFit
from slot_rl.problems import make_problem
from slot_rl.search import enumerate_landscape
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command
from tests.helpers.factorial import write_factorial

SCRIPT = ROOT / "scripts/pretrain_estimator.py"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_factorial(tmp_path / "small.csv")


@pytest.mark.parametrize("model", ["gp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nets", "blend"))])
def test_a_model_is_fitted_and_serves(
    model: str, script: Command, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "EnsembleFit", partial(EnsembleFit, steps=150, learning_rate=1e-2))
    flags = ["--table", table, "--score", "y", "--context", "u", "--model", model]
    code, shown, error = script(SCRIPT, *flags, "--out", tmp_path / "e")
    assert code == 0 and "written: " in shown and "300/300" in shown, error
    stored = load_estimator(tmp_path / "e")
    assert stored.card["model"] == model and stored.card["rows"] == 160
    assert stored.card["test"]["r2"] > 0.9  # additive but for the context's sign; measured: .98 to 1
    problem = make_problem("SlotRL/Rows-v0", estimator=tmp_path / "e", truth=table)
    observation = problem.evaluation_observations(9, generator_from(0))
    landscape = enumerate_landscape(problem, observation, problem.score)
    # Hot wants a 3, cold a 0; both want b 3 and c 0.
    assert sorted(landscape.choice.tolist()) == [[0, 3, 0], [3, 3, 0]]
    assert torch.equal(problem.true_score(observation, landscape.choice).double(), torch.tensor([12.0, 12.0]).double())
    again = script(SCRIPT, *flags, "--out", tmp_path / "again")
    assert again[0] == 0 and load_estimator(tmp_path / "again").sha256 == stored.sha256


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "gp", "--numeric", "c"], "expected columns of categories alone for --model gp, got numbers for c"),
        (["--model", "blend", "--epochs", 3], "expected no settings of a network's fit with --model blend"),
        (["--model", "nets", "--hidden", 8], "expected no settings of a network's fit with --model nets"),
        (["--model", "forest"], "forest"),
    ],
)
def test_what_a_model_cannot_use_is_refused(
    flags: list[object], message: str, script: Command, table: Path, tmp_path: Path
) -> None:
    code, _, error = script(SCRIPT, "--table", table, "--score", "y", "--out", tmp_path / "e", *flags)
    assert code == 2 and message in error
    assert not (tmp_path / "e").exists()


def test_a_model_of_a_table_is_none_of_vectors(script: Command, table: Path, tmp_path: Path) -> None:
    code, _, error = script(SCRIPT, "--problem", "slots-v0", "--model", "gp", "--out", tmp_path / "e")
    assert code == 2 and "expected no --model with --problem, got gp" in error
    flags = ["--table", table, "--score", "y", "--features", "a", "b", "--model", "gp", "--out", tmp_path / "e"]
    assert script(SCRIPT, *flags)[0] == 0
    with pytest.raises(ValueError, match="expected an estimator of vectors for SlotRL/Slots-v0, got InScoreUnits"):
        make_problem("SlotRL/Slots-v0", estimator=tmp_path / "e")
