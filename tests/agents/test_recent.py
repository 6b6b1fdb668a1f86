"""The memory of the latest rows."""

import pytest
import torch

from slot_rl.agents.recent import Recent
from slot_rl.seeding import generator_from


def test_the_latest_rows_are_kept_with_all_their_parts() -> None:
    memory = Recent(3)
    for first in (0, 2, 4):
        rows = torch.arange(first, first + 2)
        memory.add({"a": rows, "b": rows * 10.0})
    kept = memory.rows(torch.arange(3))
    assert len(memory) == 3
    assert sorted(kept["a"].tolist()) == [3, 4, 5]
    assert torch.equal(kept["b"], kept["a"] * 10.0)


def test_more_rows_than_fit_keep_the_last() -> None:
    memory = Recent(3)
    memory.add({"a": torch.arange(10)})
    assert sorted(memory.rows(torch.arange(3))["a"].tolist()) == [7, 8, 9]


def test_drawn_rows_are_kept_rows_and_follow_the_generator() -> None:
    memory = Recent(100)
    memory.add({"a": torch.arange(5)})
    first, second = (memory.sample(50, generator_from(seed))["a"] for seed in (1, 1))
    assert torch.equal(first, second)
    assert set(first.tolist()) == set(range(5))


def test_an_empty_memory_and_one_without_room_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row, got 0"):
        Recent(0)
    with pytest.raises(ValueError, match="expected a memory with rows, got an empty one"):
        Recent(2).sample(1, generator_from(0))
