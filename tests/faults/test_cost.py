"""What a durable checkpoint costs."""

import time
from pathlib import Path
from statistics import median

import pytest

from slot_rl.agents import LearningAgent, make_agent
from slot_rl.checkpoints import CheckpointConfig, write_checkpoint
from slot_rl.problems import make_problem
from tests.faults.conftest import Promise
from tests.helpers.options import options_of

MINUTE = 60.0


@pytest.mark.slow
@pytest.mark.parametrize(("width", "hidden", "megabytes"), [(16, 48, 0.3), (192, 576, 24)])
def test_a_checkpoint_takes_less_than_a_hundredth(
    width: int, hidden: int, megabytes: float, tmp_path: Path, promise: Promise
) -> None:
    options = options_of("gumbel", batch_size=32, width=width, hidden=hidden)
    agent = make_agent("gumbel", make_problem("SlotRL/Slots-v0"), options, seed=0)
    assert isinstance(agent, LearningAgent)
    agent.learn(64)
    taken = []
    for number in range(9):
        agent.num_timesteps = number
        begun = time.perf_counter()
        write_checkpoint(tmp_path, agent, {"number": number})
        taken.append(time.perf_counter() - begun)
    size = sum(path.stat().st_size for path in tmp_path.glob("checkpoint-*8/*")) / 1e6
    share = median(taken) / (CheckpointConfig().checkpoint_minutes * MINUTE)
    promise(
        f"a durable checkpoint of {size:.1f} MB takes less than 1 % of a training",
        f"{1e3 * median(taken):.0f} ms, {share:.2%}",
    )
    assert share < 0.01 and megabytes / 2 < size < 2 * megabytes
