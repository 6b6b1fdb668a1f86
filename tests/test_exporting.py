"""A policy alone: smaller than its run, and with the same answers."""

from pathlib import Path

import pytest
import torch

import slot_rl
from slot_rl.agents import load_agent
from slot_rl.agents.base import read_agent
from slot_rl.seeding import generator_from
from tests.helpers.commands import exit_code
from tests.helpers.small_agents import tiny


def trained(folder: Path, agent: str) -> slot_rl.TrainedRun:
    options = tiny(agent)
    return slot_rl.train(
        "SlotRL/PickValue-v0", agent=agent, timesteps=64, options=options, out=folder, wandb="disabled"
    )


@pytest.mark.parametrize("agent", ["gumbel", "expert_iteration", "learned_critic", "multistart", "ppo"])
def test_a_policy_alone_answers_as_its_run_does(agent: str, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", agent)
    assert exit_code("export", tmp_path / "run", "--out", tmp_path / "policy") == 0
    requests = run.problem.sample(32, generator_from(0))
    assert torch.equal(load_agent(tmp_path / "policy").choose(requests), run.agent.choose(requests))
    sizes = [sum(file.stat().st_size for file in (tmp_path / each).iterdir()) for each in ("policy", "run/checkpoint")]
    assert sizes[0] < sizes[1]
    assert {name.split(".")[0] for name in read_agent(tmp_path / "policy")[0]} <= {"policy", "problem", "critic"}
    assert not {path.suffix for path in (tmp_path / "policy").iterdir()} - {".safetensors", ".json"}


def test_what_has_no_policy_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"timesteps": 8, "wandb": "disabled"}
    slot_rl.train("SlotRL/PickValue-v0", agent="guided_search", out=tmp_path / "run", **options)  # type: ignore[arg-type]
    assert exit_code("export", tmp_path / "run", "--out", tmp_path / "policy") == 2
    assert "'guided_search', which has no policy" in capsys.readouterr().err
    assert exit_code("export", tmp_path, "--out", tmp_path / "policy") == 2
    assert not (tmp_path / "policy").exists()


def test_a_taken_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run", "ppo")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    for force in ([], ["--force"]):
        assert exit_code("export", tmp_path / "run", "--out", tmp_path / "mine", *force) == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert exit_code("export", tmp_path / "run", "--out", tmp_path / "policy") == 0
    assert exit_code("export", tmp_path / "run", "--out", tmp_path / "policy") == 2
    assert exit_code("export", tmp_path / "run", "--out", tmp_path / "policy", "--force") == 0
