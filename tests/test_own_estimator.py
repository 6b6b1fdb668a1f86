"""Somebody's own module from the command line to the optimum: trained, judged again, and refused where it must be."""

import hashlib
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from torch import Tensor, nn

import slot_rl  # noqa: F401  registers the environments
from slot_rl.agents import GumbelAgent
from slot_rl.agents.base import changed
from slot_rl.envs import SlotVecEnv
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.io import read_json
from slot_rl.networks import PointerSize
from slot_rl.problems import RowProblem
from slot_rl.seeding import seeded_initialisation
from tests.conftest import ROOT, Command

TRAIN, EVALUATE, DIAGNOSE = (
    ROOT / "scripts" / f"{name}.py" for name in ("train_agent", "evaluate_agent", "diagnose_gradients")
)
ROWS = "SlotRL/Rows-v0"
FILE = """
import torch
from torch import nn
from slot_rl.estimators import RowEstimator
from slot_rl.estimators.encoding import TableEncoding


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Embedding(2, 4), nn.Embedding(3, 4), nn.Linear(8, 1)

    def forward(self, features):
        return self.head(torch.cat([self.a(features[:, 0]), self.b(features[:, 1])], dim=1))


def build():
    return RowEstimator(Mine(), TableEncoding("y", {"a": ("u", "v"), "b": ("p", "q", "r")}, {}))


def broken():
    raise RuntimeError("no weights")


class Arithmetic(Mine):
    def forward(self, features):
        return super().forward(features % 2)


def arithmetic():
    return RowEstimator(Arithmetic(), build().encoding)
"""
TABLE = "a,b,y\nu,p,1\nu,q,2\nu,r,3\nv,p,4\nv,q,5\nv,r,6\n"
SHORT = ["--timesteps", 512, "--batch-size", 64, "--wandb", "disabled", "--eval-size", 2]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the file, to which the working directory is set."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FILE, encoding="utf-8")
    Path("table.csv").write_text(TABLE, encoding="utf-8")
    return tmp_path


def test_a_run_with_a_trusted_file_is_judged_again(
    mine: Path, script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--env", ROWS, "--estimator", "mine.py:build", "--trust", "--truth", "table.csv", "--out", "run", *SHORT]
    code, _, errors = script(TRAIN, *flags)
    assert (code, errors) == (0, "")
    config = read_json(Path("run/config.json"))
    assert config["estimator"] == f"{mine / 'mine.py'}:build"
    assert config["estimator_sha256"] == hashlib.sha256(FILE.encode()).hexdigest()
    summary = read_json(Path("run/summary.json"))
    assert 1 <= summary["true_score"] <= 6
    monkeypatch.chdir("/")
    code, shown, errors = script(EVALUATE, mine / "run", "--trust")
    assert (code, errors) == (0, "") and "policy, one pass" in shown
    code, _, errors = script(EVALUATE, mine / "run")
    assert code == 2
    assert (
        errors == f"error: expected --trust (trust=True) with {mine}/mine.py:build, which would be executed, got none\n"
    )
    (mine / "mine.py").write_text(FILE + "\n", encoding="utf-8")
    code, _, errors = script(EVALUATE, mine / "run", "--trust")
    assert code == 2 and errors.count("\n") == 1
    found = hashlib.sha256(FILE.encode() + b"\n").hexdigest()[:12]
    start = (
        f"error: expected the estimator {config['estimator_sha256'][:12]} that the run was trained with, got {found}"
    )
    assert errors.startswith(start)


def test_a_file_that_has_moved_is_named_anew(mine: Path, script: Command) -> None:
    assert script(TRAIN, "--env", ROWS, "--estimator", "mine.py:build", "--trust", "--out", "run", *SHORT)[0] == 0
    (mine / "mine.py").rename(mine / "moved.py")
    code, _, errors = script(EVALUATE, "run", "--trust")
    assert code == 2 and "which is no file" in errors
    assert script(EVALUATE, "run", "--estimator", "moved.py:build", "--trust")[0] == 0


def test_gradients_of_a_trusted_file_are_diagnosed(mine: Path, script: Command) -> None:
    flags = ["--estimator", "mine.py:build", "--requests", 2, "--draws", 20, "--race-calls", 500, "--out", "figures"]
    code, _, errors = script(DIAGNOSE, *flags)
    assert code == 2 and "expected --trust" in errors and not Path("figures").exists()
    code, shown, errors = script(DIAGNOSE, *flags, "--trust")
    assert (code, errors) == (0, "") and "recommended: " in shown
    assert read_json(Path("figures/diagnosis.json"))["config"]["estimator"] == "mine.py:build"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--estimator", "mine.py:build"], "expected --trust (trust=True) with mine.py:build, which would be executed"),
        (["--estimator", "mine.py", "--trust"], "expected path.py:function, as in mine.py:build, got 'mine.py'"),
        (["--estimator", "gone.py:build", "--trust"], "expected a Python file with build(), got gone.py, which is no"),
        (["--estimator", "mine.py:nothing", "--trust"], "expected a function nothing in mine.py, got no such name"),
        (
            ["--estimator", "mine.py:broken", "--trust"],
            "expected mine.py:broken, line 22, to build an estimator, got Ru",
        ),
        (["--estimator", "mine.py:Mine", "--trust"], "expected mine.py:Mine to return a RowEstimator, got Mine"),
        (
            ["--estimator", "mine.py:arithmetic", "--trust"],
            "expected the features to go into nn.Embedding as they come",
        ),
        (["--estimator", "folder", "--trust"], "expected a folder with estimator weights and card.json, got folder"),
    ],
)
def test_bad_files_end_in_one_line_and_exit_code_2_and_no_run(
    flags: list[str], message: str, mine: Path, script: Command
) -> None:
    code, _, errors = script(TRAIN, "--env", ROWS, *flags, "--out", "run", *SHORT)
    assert code == 2
    assert errors.startswith(f"error: {message}") and errors.count("\n") == 1
    assert not Path("run").exists()


def test_gymnasium_passes_the_file_and_the_trust(mine: Path) -> None:
    env = gym.make(ROWS, estimator="mine.py:build", trust=True)
    env.reset(seed=0)
    _, reward, terminated, _, _ = env.step(torch.tensor([1, 2]).numpy())
    assert isinstance(reward, float) and terminated
    with pytest.raises(ValueError, match="expected --trust"):
        gym.make(ROWS, estimator="mine.py:build")
    batched = gym.make_vec(
        ROWS, num_envs=3, estimator="mine.py:build", trust=True, vectorization_mode="vector_entry_point"
    )
    assert batched.reset(seed=0)[0]["context"].shape == (3, 1)


class Interacting(nn.Module):
    """Three features in six contexts, all in one nonlinear head."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 3) for size in (3, 5, 4, 2, 3))
        self.head = nn.Sequential(nn.Linear(15, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, features: Tensor, context: Tensor) -> Tensor:
        index = torch.cat([features, context], dim=1).unbind(dim=1)
        score: Tensor = self.head(torch.cat([table(i) for table, i in zip(self.tables, index, strict=True)], dim=1))
        return score


@pytest.mark.slow
def test_an_agent_learns_through_a_softened_module() -> None:
    with seeded_initialisation(0):
        module = Interacting()
    contexts = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    problem = RowProblem(module, contexts, sizes=(3, 5, 4))
    evaluation = Evaluation(problem, EvaluationConfig())
    options = changed(GumbelAgent.default_options, {"batch_size": 64, "policy": PointerSize(width=16, hidden=32)})
    agent = GumbelAgent(SlotVecEnv(problem, 64, seed=0), options, seed=0)
    assert evaluation.judge(agent.choose).figure("hit_rate") <= 0.2
    agent.learn(30_000)
    assert evaluation.judge(agent.choose).figure("hit_rate") == 1.0
