"""Launchers: bit-equal for any number of workers, and nothing is lost or doubled when workers are killed."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slot_rl.checkpoints import CheckpointConfig
from slot_rl.compare.one_run import complete
from slot_rl.compare.runner import COMPARISON, MOST_ATTEMPTS, LocalLauncher, ProgressDisplay, make_launcher, opened
from slot_rl.compare.study import Run, Tracking
from slot_rl.compare.task import parse_task
from slot_rl.watching import RunProgress
from tests.helpers.small import all_contents, contents, run

RUNS = [run(agent, seed) for seed in (0, 1) for agent in ("gumbel", "ppo", "guided_search")]


class Recorder(ProgressDisplay):
    """A display that remembers what it was told."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.ends: list[tuple[str, str | None]] = []
        self.restarts: list[str] = []

    def restarted(self, run: Run, why: str) -> None:
        self.restarts.append(why)
        super().restarted(run, why)

    def ended(self, run: Run, failure: str | None) -> None:
        self.ends.append((run.name, failure))
        super().ended(run, failure)


def launch(runs: list[Run], out: Path, workers: int, name: Any = "local") -> Recorder:
    display = Recorder(len(runs))
    with display:
        make_launcher(name, workers).launch(runs, out, display)
    return display


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns what the runs find one after the other in this process."""
    out = tmp_path_factory.mktemp("serial")
    for each in RUNS:
        complete(each, out, lambda progress: None)
    return all_contents(out)


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_results_are_those_of_a_serial_run(workers: int, serial: dict[str, Any], tmp_path: Path) -> None:
    display = launch(RUNS, tmp_path, workers)
    assert all_contents(tmp_path) == serial
    assert sorted(display.ends) == sorted((each.name, None) for each in RUNS)


class Killer(threading.Thread):
    """Kills a process as soon as there is one to kill.

    Attributes:
        killed: Which process it killed; None so far.
    """

    def __init__(self, condition: Callable[[], bool], find: Callable[[], int | None]) -> None:
        super().__init__()
        self.killed: int | None = None
        self._condition, self._find = condition, find
        self.start()

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            pid = self._find() if self._condition() else None
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self.killed = pid
                return
            time.sleep(0.02)


def a_worker() -> int | None:
    children = multiprocessing.active_children()
    return children[0].pid if children else None


@pytest.mark.slow
def test_a_killed_workers_run_begins_again(serial: dict[str, Any], tmp_path: Path) -> None:
    killer = Killer(lambda: any((tmp_path / "runs").glob(".*/metrics.jsonl")), a_worker)
    display = launch(RUNS, tmp_path, 2)
    killer.join()
    assert display.restarts and all("exit code -9" in why for why in display.restarts)
    assert {folder.name for folder in (tmp_path / "runs").iterdir() if not folder.name.startswith(".")} == set(serial)
    assert {each.name: contents(each.folder(tmp_path)) for each in RUNS} == serial


class Killed(BaseException):
    """Ends a run as a kill does: nothing is written any more."""


@pytest.mark.parametrize("agent", ["gumbel", "ppo"])
def test_a_killed_run_goes_on_from_its_checkpoint(agent: str, serial: dict[str, Any], tmp_path: Path) -> None:
    saved = Tracking("disabled", saving=CheckpointConfig(checkpoint_minutes=0, checkpoint_steps=500))
    each = replace(run(agent), tracking=saved)
    told: list[float] = []

    def killing(progress: RunProgress) -> None:
        if progress.calls > 1_500:
            raise Killed

    with opened(tmp_path), pytest.raises(Killed):
        (tmp_path / COMPARISON).write_text("{}")
        complete(each, tmp_path, killing)
    assert each.state(tmp_path) == "open"
    with opened(tmp_path):  # what can go on is not cleared
        complete(each, tmp_path, lambda progress: told.append(progress.calls))
    assert min(calls for calls in told if calls) > 1_000
    assert contents(each.folder(tmp_path)) == serial[each.name]
    assert not list(each.folder(tmp_path).glob("checkpoint-*"))


@pytest.mark.slow
def test_a_run_that_kills_every_worker_has_failed(tmp_path: Path) -> None:
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        "import os, signal, torch\n"
        "class Deadly(torch.nn.Module):\n"
        "    def forward(self, rows):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "def build():\n"
        "    return Deadly()\n"
    )
    task = parse_task(f"SlotRL/PickValue-v0,estimator={deadly}:build", trust=True)
    bad, good = run(task=task), run()
    display = launch([bad, good], tmp_path, 1)
    assert len(display.restarts) == MOST_ATTEMPTS - 1
    assert (bad.state(tmp_path), good.state(tmp_path)) == ("failed", "finished")
    assert "its worker was killed 3 times, the last time with exit code -9" in bad.failure(tmp_path)
    assert dict(display.ends)[bad.name] == bad.failure(tmp_path)


def test_a_run_that_raises_has_failed_in_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import torch\n"
        "class Broken(torch.nn.Module):\n"
        "    def forward(self, rows):\n"
        "        return torch.where(rows.flatten(1).sum(1) > 1.9, torch.nan, rows.flatten(1).sum(1))\n"
        "def build():\n"
        "    return Broken()\n"
    )
    each = run(task=parse_task(f"SlotRL/PickValue-v0,estimator={broken}:build", trust=True))
    complete(each, tmp_path, lambda progress: None)
    assert each.state(tmp_path) == "failed"
    assert each.failure(tmp_path).startswith(("NonFiniteScore: ", "ValueError: "))
    assert not list((tmp_path / "runs").glob(".*"))


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers: int) -> None:
    with pytest.raises(ValueError, match="expected workers >= 1"):
        LocalLauncher(workers)


@pytest.mark.slow
def test_ray_gives_the_same_also_when_a_worker_is_killed(serial: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    killer = Killer(lambda: True, busy_ray_worker)
    display = launch(RUNS, tmp_path, 2, "ray")
    killer.join()
    assert killer.killed is not None
    assert all_contents(tmp_path) == serial
    assert sorted(display.ends) == sorted((each.name, None) for each in RUNS)


def busy_ray_worker() -> int | None:
    """Finds a process of this machine that Ray named after the function that it is at."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"ray::_files_of"):
                return int(entry.name)
        except OSError:
            continue
    return None
