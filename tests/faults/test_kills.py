"""Trainings that are killed at random times and in the middle of a save, and go on from what they left."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from slot_rl.agents import make_agent
from slot_rl.checkpoints import CheckpointConfig, newest_checkpoint, write_checkpoint
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import STRAY, read_json
from slot_rl.metrics_file import read_metrics
from slot_rl.places import claimed
from slot_rl.resuming import ResumeConfig, resume_run
from slot_rl.training import RunConfig, train_run
from tests.faults.conftest import Promise
from tests.helpers.forked import Forked
from tests.helpers.logged_table import row_problem
from tests.helpers.small_agents import left_in, tiny

KILLS = 50
BATCH, BUDGET, INTERVAL = 32, 32 * 60, 250
SAVING = CheckpointConfig(checkpoint_minutes=0, checkpoint_steps=INTERVAL)
FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def train(name: str, out: Path) -> None:
    run = RunConfig(
        timesteps=BUDGET, out=out, wandb="disabled", saving=SAVING, evaluation=EvaluationConfig(eval_size=3)
    )
    train_run(name, run, tiny(name), row_problem())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gumbel", "ppo", "learned_critic", "expert_iteration"])
def test_killed_at_random_times(name: str, tmp_path: Path, promise: Promise) -> None:
    begun = time.monotonic()
    assert Forked(lambda: train(name, tmp_path / "straight"), tmp_path / "log").wait() == 0
    whole, dice = time.monotonic() - begun, Random(name)
    straight, tried, resumed, lost, wrong = left_in(tmp_path / "straight"), 0, 0, [0.0], list[str]()
    for number in range(KILLS):
        out = tmp_path / str(number)
        process = Forked(lambda out=out: train(name, out), tmp_path / "log")  # type: ignore[misc]
        time.sleep(dice.uniform(0, whole))
        process.kill()
        process.wait()
        if not (out / "config.json").exists():
            continue  # killed before anything was there: begun anew, not resumed
        tried += 1
        killed = sorted(path.name for path in out.iterdir())
        if not (out / "summary.json").exists() or read_json(out / "summary.json")["status"] != "finished":
            resumed += 1
            logged = read_metrics(out / "metrics.jsonl") if (out / "metrics.jsonl").exists() else []
            newest = newest_checkpoint(out, print)
            saved = 0 if newest is None else int(newest.folder.name.split("-")[1])
            lost.append(max((float(point["global_step"] or 0) for point in logged), default=0.0) - saved)
            process = Forked(lambda out=out: resume(out), tmp_path / "log")  # type: ignore[misc]
            assert process.wait() == 0, process.output
        left = left_in(out)
        wrong += [f"{part} of {out}, killed in {killed}" for part in straight if left[part] != straight[part]]
        assert not [*out.rglob(f".*{STRAY}")]
        if not any(str(out) in each for each in wrong):
            shutil.rmtree(out)
    what = f"{name}: killed at random times and resumed, its files are those of the straight run"
    promise(what, f"{tried - len(wrong)} of {tried}, {max(lost):,.0f} calls lost")
    assert not wrong and resumed > KILLS / 4, wrong
    assert max(lost) <= INTERVAL + 2 * BATCH


def resume(out: Path) -> None:
    resume_run(ResumeConfig(out, wandb="disabled", saving=SAVING), row_problem())


def dying_at(count: int, call: Callable[[], None]) -> Callable[[], None]:
    """Returns a call that dies before its file operation with that number, as by kill -9."""

    def dies() -> None:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in FILE_EVENTS:
                seen += 1
                if seen == count:
                    os._exit(9)

        sys.addaudithook(hook)
        call()

    return dies


def state_after(calls: int) -> dict[str, Any]:
    watch = {"calls": [], "rows": [], "next": 0.0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
    return {"watch": watch, "budget": {}, "pending": {}, "metrics_lines": calls, "skipped": 0}


def test_killed_at_every_file_operation_of_a_save(tmp_path: Path, promise: Promise) -> None:
    agent = make_agent("gumbel", row_problem(), tiny("gumbel"), seed=0)
    place, steps = tmp_path / "run", (32, 64, 96, 128)
    place.mkdir()
    for number in steps[:-1]:
        agent.num_timesteps = number
        write_checkpoint(place, agent, state_after(number))
    agent.num_timesteps = steps[-1]
    whole, operations = 0, 0
    while True:
        out = tmp_path / f"try {operations + 1}"
        shutil.copytree(place, out)
        save = dying_at(operations + 1, lambda out=out: write_checkpoint(out, agent, state_after(128)))  # type: ignore[misc]
        code = Forked(save, tmp_path / "log").wait()
        assert code in (0, 9)
        said: list[str] = []
        newest = newest_checkpoint(out, said.append)
        assert newest is not None
        whole += newest.training["metrics_lines"] in (96, 128) and not said
        with claimed(out):
            pass
        assert not [*out.rglob(f".*{STRAY}")]
        shutil.rmtree(out)
        if code == 0:
            break
        operations += 1
    promise("killed at every file operation of a save, a whole checkpoint is there", f"{whole - 1} of {operations}")
    assert whole == operations + 1 and operations > 20
