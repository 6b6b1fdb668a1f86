"""A newcomer's own problem, as docs/your_problem.md shows it: every command and every Python line of the page runs."""

import re
import shlex
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd
import pytest
import torch

import slot_rl
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import read_json
from slot_rl.problems import Problem, SlotProblem
from slot_rl.problems.named import OWN
from tests.conftest import ROOT, Command
from tests.helpers.commands import exit_code

PAGE = (ROOT / "docs" / "your_problem.md").read_text(encoding="utf-8").split("## Logged pages")[0]
NETWORK, MINE, PYTHON = re.findall(r"```py\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [shlex.split(line) for line in re.findall(r"^slot-rl .*", PAGE, flags=re.MULTILINE)]
(BENCHMARK,) = re.findall(r"^python (scripts/.*)", PAGE, flags=re.MULTILINE)
SHORT = {
    "train": ["--timesteps", "600", "--batch-size", "64", "--eval-size", "6", "--wandb", "disabled"],
    "compare": ["--timesteps", "600", "--eval-size", "6", "--wandb", "disabled", "--workers", "1"],
    "diagnose": ["--requests", "2", "--draws", "4", "--reference-draws", "4", "--race-calls", "0"],
}
USERS = [
    {"request": f"u{i}", **{f"context_{j + 1}": (i - j) / 8 for j in range(16)}, "country": "FR"} for i in range(5)
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files and some users."""
    home = tmp_path_factory.mktemp("own")
    (home / "network.py").write_text(NETWORK, encoding="utf-8")
    (home / "mine.py").write_text(MINE, encoding="utf-8")
    pd.DataFrame(USERS).to_csv(home / "users.csv", index=False)
    return home


@pytest.fixture(autouse=True)
def inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def trained() -> None:
    if not Path("run/summary.json").is_file():
        assert exit_code(*COMMANDS[0][1:], *SHORT["train"]) == 0


def test_the_users_file_has_at_most_twelve_lines() -> None:
    assert len([line for line in MINE.splitlines() if line.strip()]) <= 12


def a_command(command: list[str]) -> Any:
    """The page's Python compares the same agents through the same code, so the command's comparison is a slow test."""
    return pytest.param(command, id=command[1], marks=[pytest.mark.slow] if command[1] == "compare" else [])


@pytest.mark.parametrize("command", list(map(a_command, COMMANDS)))
def test_every_command_of_the_page_runs(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    _, name, *flags = command
    again = ["--force"] if name in ("train", "recommend") else []
    capsys.readouterr()
    code = exit_code(name, *flags, *SHORT.get(name, []), *again)
    shown, errors = capsys.readouterr()
    assert (code, errors) == (0, ""), errors
    assert shown


def test_the_benchmark_of_the_page_runs(script: Command) -> None:
    path, *flags = shlex.split(BENCHMARK)
    code, shown, errors = script(ROOT / path, *flags, *"--batch 64 --repeats 1 --seconds 0.01".split())
    assert (code, errors) == (0, ""), errors
    assert shown


def test_answers_keep_the_columns_and_name_creatives() -> None:
    trained()
    flags = ["run", "--trust", "--requests", "users.csv", "--out", "named.csv", "--force", "--top", "3"]
    assert exit_code("recommend", *flags) == 0
    found = pd.read_csv("named.csv")
    slots = [f"slot_{i + 1}" for i in range(6)]
    assert list(found.columns) == [*USERS[0], *slots, "estimated_score", "rank"]
    assert list(found["request"]) == [f"u{i}" for i in range(5) for _ in range(3)]
    assert found["rank"].tolist() == [1, 2, 3] * 5
    assert found[slots].map(lambda name: re.fullmatch(r"ad-\d+", name) is not None).all(axis=None)
    assert not found.duplicated(["request", *slots]).any()
    assert (found.groupby("request")["estimated_score"].diff().dropna() <= 0).all()


def test_the_run_remembers_file_function_and_hash(script: Command, home: Path) -> None:
    trained()
    config = read_json(Path("run/config.json"))
    assert (config["env"], config["problem"]) == (OWN, f"{home / 'mine.py'}:build")
    assert len(config["problem_sha256"]) == 64
    Path("other.py").write_text(MINE + "\n# changed\n", encoding="utf-8")
    code, _, errors = script(ROOT / "scripts" / "evaluate_agent.py", "run", "--trust", "--problem", "other.py:build")
    assert code == 2 and errors.startswith("error: expected the problem") and len(errors.splitlines()) == 1
    code, _, errors = script(ROOT / "scripts" / "evaluate_agent.py", "run")
    assert code == 2 and "expected --trust" in errors


@pytest.mark.slow  # seven trainings, each with a search for the best that is known
def test_the_python_of_the_page_runs(script: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    short: dict[str, Any] = {"timesteps": 600, "force": True, "wandb": "disabled", "batch_size": 64}
    real = slot_rl.train
    monkeypatch.setattr(slot_rl, "train", lambda *args, **given: real(*args, **{**given, **short}), raising=False)
    code = PYTHON.replace("seeds=3,", "seeds=3, timesteps=600, workers=1, wandb='disabled', evaluation=few,")
    few = EvaluationConfig(eval_size=4)
    short["evaluation"] = few
    names: dict[str, object] = {"gymnasium": gym, "few": few}
    exec(code.replace('out="comparison"', 'out="in-python"'), names)
    run, answer, env = names["run"], names["answer"], names["env"]
    assert isinstance(run, slot_rl.TrainedRun) and run.summary["env"] == OWN
    assert isinstance(answer, dict) and set(answer) >= {"context_1", "slot_6", "estimated_score"}
    assert isinstance(env, gym.Env)
    observation, _ = env.reset(seed=0)
    assert {name: part.shape for name, part in observation.items()} == {
        "candidates": (200, 32),
        "context_vector": (16,),
    }


def page_value(items: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """How far the first slot's number is from the context's, and how large the second slot's is."""
    return -(items[..., 0, 0] - context[..., 0]).abs() + items[..., 1, 0]


def built(**changes: Any) -> SlotProblem:
    settings: dict[str, Any] = {"pool": torch.linspace(-1, 1, 9).unsqueeze(1), "context_dim": 1}
    return SlotProblem(page_value, 2, **(settings | changes))


def test_a_problem_built_in_python_is_trained_and_loaded(tmp_path: Path) -> None:
    problem = built()
    run = slot_rl.train(problem, timesteps=1_000, out=tmp_path / "r", wandb="disabled", batch_size=64)
    again = slot_rl.load(tmp_path / "r", problem)
    observation = problem.sample(20, torch.Generator().manual_seed(0))
    assert torch.equal(run.agent.choose(observation), again.agent.choose(observation))
    with pytest.raises(ValueError, match="expected --problem"):
        slot_rl.load(tmp_path / "r")


@pytest.mark.parametrize("problem", [None, 3, torch.nn.Linear(1, 1)])
def test_what_is_no_problem_is_refused(problem: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a problem, an id, or path.py:function, got"):
        slot_rl.train(problem, out=tmp_path / "run")
    compare: Any = slot_rl.compare
    with pytest.raises(TypeError, match="expected a problem, a task, or several, got"):
        compare(problem, ["gumbel", "random"], out=tmp_path / "compared")
    assert not list(tmp_path.iterdir())


def test_built_problems_are_compared_in_this_process(tmp_path: Path) -> None:
    problems: dict[str, Problem | str] = {"near": built(), "far": built(pool=torch.linspace(-3, 3, 9).unsqueeze(1))}
    settings: dict[str, Any] = {"out": tmp_path / "c", "seeds": 3, "timesteps": 256, "wandb": "disabled"}
    compare: object = slot_rl.compare
    assert callable(compare)
    found = compare(problems, ["random", "guided_search"], **settings)
    assert set(found.summaries["task"]) == {"near", "far", "all"}
    best = found.summaries.groupby("task")["iqm"].idxmax()
    assert set(found.summaries.loc[best, "agent"]) == {"guided_search"}


@pytest.mark.slow
def test_a_policy_uses_its_context_and_a_blind_one_cannot(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"timesteps": 60_000, "wandb": "disabled", "learning_rate": 3e-3}
    seeing = slot_rl.train(built(), out=tmp_path / "seeing", **settings).summary
    blind = slot_rl.train(built(), out=tmp_path / "blind", context=False, **settings).summary
    assert seeing["optimality"] > 0.9 and blind["optimality"] < 0.8


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine.py", "expected path.py:function"),
        ("absent.py:build", "expected a Python file with build()"),
        ("mine.py:absent", "expected a function absent"),
        ("network.py:Ranker", "expected network.py:Ranker to return a Problem, got Ranker"),
    ],
)
def test_a_wrong_reference_is_one_line(reference: str, message: str, script: Command) -> None:
    flags = ["--problem", reference, "--trust", "--out", "wrong"]
    code, _, errors = script(ROOT / "scripts" / "train_agent.py", *flags)
    assert code == 2 and message in errors and len(errors.splitlines()) == 1
    assert not Path("wrong").exists()


def test_problem_and_env_exclude_each_other(script: Command) -> None:
    flags = ["--problem", "mine.py:build", "--trust", "--env", "SlotRL/PickValue-v0"]
    code, _, errors = script(ROOT / "scripts" / "train_agent.py", *flags)
    assert code == 2 and "expected either --env or --problem" in errors
    with pytest.raises(ValueError, match="expected no problem for SlotRL/PickValue-v0"):
        slot_rl.make_problem("SlotRL/PickValue-v0", problem="mine.py:build")
