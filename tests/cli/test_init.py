"""``slot-rl init``: files that run as they are, and no folder that holds something is touched."""

from pathlib import Path

import pytest
import torch

from slot_rl.cli.init import InitConfig, init
from slot_rl.compare.study import read_study
from slot_rl.problems import make_problem
from slot_rl.search import random_choice
from slot_rl.seeding import generator_from
from tests.helpers.commands import exit_code


def test_the_files_describe_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    init(InitConfig())
    assert {path.name for path in tmp_path.iterdir()} == {"problem.py", "study.yaml"}
    state = torch.random.get_rng_state()
    problem = make_problem("problem.py:build", trust=True)
    torch.random.set_rng_state(state)
    generator = generator_from(0)
    observation = problem.sample(5, generator)
    assert problem.score(observation, random_choice(problem, observation, generator)).isfinite().all()
    found = read_study(Path("study.yaml"), {}, trust=True)
    assert [task.problem for task in found["tasks"]] == [f"{tmp_path / 'problem.py'}:build"]


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken, file = tmp_path / "taken", tmp_path / "file"
    taken.mkdir()
    (taken / "problem.py").write_text("mine")
    file.write_text("mine")
    for place in (taken, file):
        assert exit_code("init", place) == 2
        assert "expected an empty folder, or none yet, got " in capsys.readouterr().err
    assert (taken / "problem.py").read_text() == file.read_text() == "mine"
    assert len(list(taken.iterdir())) == 1


@pytest.mark.slow
def test_what_init_says_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("init", "mine") == 0
    common = ["--trust", "--wandb", "disabled", "--eval-size", 8, "--timesteps", 512]
    assert exit_code("train", "--problem", "mine/problem.py:build", *common, "--out", "run") == 0
    assert exit_code("compare", "--study", "mine/study.yaml", *common, "--seeds", 3, "--out", "comparison") == 0
    assert (tmp_path / "comparison/report.html").is_file()
