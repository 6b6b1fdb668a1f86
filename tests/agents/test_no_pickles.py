"""A pickle that is planted where Stable-Baselines3 would read one is not executed."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel

from slot_rl.agents import make_agent
from slot_rl.agents.maskable_policy import SequentialPolicy, SequentialPPO
from slot_rl.agents.policy import SlotPolicy
from slot_rl.agents.sb3 import LearningAgent
from slot_rl.problems import make_problem


class Bomb:
    """Makes a folder when it is read back."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A file that is a pickle for torch, and a folder's neighbour that is a zip of Stable-Baselines3."""
    torch.save({"data": Bomb(tmp_path / "executed"), "state_dict": {}}, tmp_path / "planted.pt")
    with zipfile.ZipFile(tmp_path / "planted.zip", "w") as archive:
        weights = io.BytesIO()
        torch.save({"policy": Bomb(tmp_path / "executed")}, weights)
        archive.writestr("policy.pth", weights.getvalue())
        archive.writestr("data", pickle.dumps(Bomb(tmp_path / "executed")))
    return tmp_path


@pytest.mark.parametrize("kind", [SlotPolicy, SequentialPolicy])
def test_policies_read_and_write_no_pickle(kind: type[BaseModel], planted: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"expected agent\.save\(folder\).* would execute a pickle"):
        kind.load(str(planted / "planted.pt"))
    with pytest.raises(NotImplementedError, match=rf"got {kind.__name__}\.save"):
        kind.save(object.__new__(kind), str(planted / "new.pt"))
    assert not (planted / "executed").exists() and not (planted / "new.pt").exists()


def test_the_planted_file_would_be_executed_otherwise(planted: Path) -> None:
    with pytest.raises(Exception, match=".*"):
        BaseModel.load.__func__(SlotPolicy, str(planted / "planted.pt"))  # type: ignore[attr-defined]
    assert (planted / "executed").exists()


@pytest.mark.parametrize("name", ["gumbel", "reinforce", "ppo", "a2c", "expert_iteration", "multistart"])
def test_agents_take_parameters_from_no_file(name: str, planted: Path) -> None:
    agent = make_agent(name, make_problem("SlotRL/PickValue-v0"))
    assert isinstance(agent, LearningAgent)
    for path in (str(planted / "planted.zip"), planted / "planted.zip"):
        with pytest.raises(NotImplementedError, match=r"got set_parameters\('.*planted\.zip'\)"):
            agent.set_parameters(path)
        with pytest.raises(ValueError, match="expected a folder with agent weights"):
            type(agent).load(path, agent.env)
    agent.set_parameters(agent.get_parameters())
    assert not (planted / "executed").exists()


def test_the_algorithm_inside_an_agent_reads_no_pickle(planted: Path) -> None:
    with pytest.raises(NotImplementedError, match="would execute a pickle"):
        SequentialPPO.load(planted / "planted.zip")
    with pytest.raises(NotImplementedError, match=r"got SequentialPPO\.save"):
        SequentialPPO.save(object.__new__(SequentialPPO), planted / "new.zip")
    assert issubclass(SequentialPPO, BaseAlgorithm) and not (planted / "executed").exists()
