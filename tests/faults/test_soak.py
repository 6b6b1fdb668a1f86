"""Long work: memory, threads and open files do not grow. SOAK_MINUTES says how long to train, 2 if it is left out."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slot_rl import run_training
from slot_rl.agents import make_agent
from slot_rl.agents.serving import Serving, serve
from slot_rl.checkpoints import CheckpointConfig
from slot_rl.evaluation import EvaluationConfig
from slot_rl.problems import make_problem
from slot_rl.seeding import generator_from
from slot_rl.training import RunConfig, train_run
from slot_rl.watching import EvaluationCallback
from tests.faults.conftest import Promise
from tests.helpers.options import options_of
from tests.helpers.small_agents import TINY

REQUESTS, BATCH = 1_000_000, 1_000
SETTLED = 0.2
"""The share of the work after which caches are full."""


def used() -> tuple[float, int, int]:
    """Returns the process's memory in MB, its threads, and its open files."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return megabytes, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def assert_no_growth(
    what: str, before: tuple[float, int, int], after: tuple[float, int, int], promise: Promise
) -> None:
    growth = after[0] / before[0] - 1
    promise(f"{what}: memory grows by less than 1 %, threads and open files not at all", f"{growth:+.2%}")
    assert growth < 0.01 and after[1:] <= before[1:], (before, after)


@pytest.mark.slow
def test_a_million_answers(promise: Promise) -> None:
    problem = make_problem("SlotRL/PickValue-v0")
    agent = make_agent("gumbel", problem, options_of("gumbel", **TINY["policy"]), seed=0)
    generator, before = generator_from(0), used()
    for batch in range(REQUESTS // BATCH):
        serve(agent, problem, problem.sample(BATCH, generator), Serving("search", 2), generator)
        if batch == SETTLED * REQUESTS // BATCH:
            before = used()
    assert_no_growth("a million answers", before, used(), promise)


@pytest.mark.slow
def test_a_long_training(tmp_path: Path, promise: Promise, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 60 * float(os.environ.get("SOAK_MINUTES", "2"))
    states: list[tuple[float, tuple[float, int, int]]] = []

    class Sampling(EvaluationCallback):
        def _on_step(self) -> bool:
            if not states or time.monotonic() - states[-1][0] > seconds / 50:
                states.append((time.monotonic(), used()))
            return super()._on_step()

    monkeypatch.setattr(run_training, "EvaluationCallback", Sampling)
    end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    timer = threading.Timer(seconds, end)
    timer.start()
    run = RunConfig(
        timesteps=100_000_000,
        out=tmp_path / "run",
        wandb="disabled",
        saving=CheckpointConfig(checkpoint_minutes=seconds / 60 / 100),
        evaluation=EvaluationConfig(eval_size=20),
    )
    try:
        summary = train_run("gumbel", run, options_of("gumbel", **TINY["policy"]))[2]
    finally:
        timer.cancel()
    assert summary["status"] == "terminated" and len(states) > 30
    what = f"{seconds / 60:g} minutes of training, a hundred checkpoints"
    assert_no_growth(what, states[int(SETTLED * len(states))][1], states[-1][1], promise)
