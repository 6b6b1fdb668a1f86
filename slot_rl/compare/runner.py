"""The runner: does the runs of a study that are not done yet, in processes of this machine or on a Ray cluster.

A run's folder gets its name only when the run has ended, so a killed process leaves nothing that looks like a run. Each
run is one process with one thread and its own generators: neither the number of workers nor the order of the runs
changes a figure. Python's own process pools give up as a whole when one process is killed; here only the killed
worker's run begins again, from its newest checkpoint. A worker whose parent is killed ends itself, so it never writes
beside the workers of the next call.
"""

import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.process import parent_process
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import torch
from rich.progress import TaskID

from slot_rl.checkpoints import newest_checkpoint
from slot_rl.compare.one_run import Interrupted, complete, write_failure
from slot_rl.compare.study import PARTIAL, RUNS, Run
from slot_rl.console import progress_bar, say
from slot_rl.places import check_continued, claimed
from slot_rl.watching import RunProgress

COMPARISON = "comparison.json"
"""What a comparison was asked for; marks its folder."""
MOST_ATTEMPTS = 3
"""How often a run is begun whose worker is killed; then it has failed."""
LEAST_STEP = 0.01
"""Progress of a run, as a share, below which a worker sends nothing."""
WIDEST_TITLE = 34

LauncherName = Literal["local", "ray"]
_SPAWN = get_context("spawn")


class ProgressDisplay:
    """A progress bar for all runs, and one for each run that is active."""

    def __init__(self, total: int) -> None:
        """Takes the number of runs to do."""
        self._failed = 0
        self._progress = progress_bar()
        self._all = self._progress.add_task("runs", total=total, note="")
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> "ProgressDisplay":
        """Starts to show."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends with only the bar of all runs."""
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._progress.stop()

    def moved(self, run: Run, progress: RunProgress) -> None:
        """Shows a run's progress; a new run appears."""
        if run.name not in self._bars:
            title = run.title if len(run.title) <= WIDEST_TITLE else f"{run.title[: WIDEST_TITLE - 1]}…"
            self._bars[run.name] = self._progress.add_task(title, total=run.timesteps, note="")
        optimality = "" if progress.row is None else f"optimality {progress.row.figures['optimality']:.3f}"
        note = progress.phase or optimality
        self._progress.update(self._bars[run.name], completed=progress.calls, note=note)

    def restarted(self, run: Run, why: str) -> None:
        """Says that a run begins again, from its newest checkpoint if it has one."""
        say(f"{run.title}: {why}; it begins again")
        self._remove(run)

    def ended(self, run: Run, failure: str | None) -> None:
        """Counts a run that has ended; a failure is printed at once."""
        self._remove(run)
        if failure is not None:
            self._failed += 1
            say(f"{run.title} failed: {failure}")
        self._progress.update(self._all, advance=1, note=f"{self._failed} failed" if self._failed else "")

    def _remove(self, run: Run) -> None:
        bar = self._bars.pop(run.name, None)
        if bar is not None:
            self._progress.remove_task(bar)


class Launcher(Protocol):
    """Does runs, here or elsewhere."""

    def launch(self, runs: Sequence[Run], out: Path, display: ProgressDisplay) -> None:
        """Does every run; a run whose worker is killed begins again, at most three times in all.

        Args:
            runs: The runs.
            out: The comparison's folder; each run's folder appears in it when the run has ended.
            display: Is told about everything.
        """
        ...


@contextmanager
def opened(out: Path) -> Iterator[None]:
    """Holds a comparison's folder, made if missing, so that no other process writes to it.

    Raises:
        ValueError: If the folder holds something else, or another process has it.
    """
    with claimed(out):
        check_continued(out, COMPARISON)
        (out / RUNS).mkdir(parents=True, exist_ok=True)
        _clear_partial(out)
        try:
            yield
        finally:
            _clear_partial(out)


def do_runs(runs: Sequence[Run], out: Path, launcher: Launcher, retry_failed: bool = False) -> None:
    """Does the runs that are not done yet; a failed run counts as done, unless failed ones are repeated."""
    if retry_failed:
        for run in runs:
            if run.state(out) == "failed":
                shutil.rmtree(run.folder(out))
    todo = [run for run in runs if run.state(out) == "open"]
    if len(todo) < len(runs):
        say(f"{len(runs) - len(todo):,} of {len(runs):,} runs are there already")
    if todo:
        with ProgressDisplay(len(todo)) as display:
            launcher.launch(todo, out, display)


def make_launcher(name: LauncherName, workers: int) -> Launcher:
    """Returns a launcher.

    Args:
        name: "local" for processes of this machine, "ray" for those of a Ray cluster.
        workers: Runs at the same time; for Ray, 0 leaves it to the cluster.

    Raises:
        ValueError: If the extra that it needs is not installed, or there are no workers.
    """
    if name == "ray":
        from slot_rl.compare.ray_runner import RayLauncher

        return RayLauncher(workers)
    return LocalLauncher(workers)


def killed_too_often(code: object) -> str:
    """Returns the failure of a run whose workers were all killed; ``code`` says how the last one ended."""
    return f"its worker was killed {MOST_ATTEMPTS} times, the last time with {code}"


def _clear_partial(out: Path) -> None:
    """Removes what killed runs left, unless they can go on from there."""
    for left in (out / RUNS).glob(f".*{PARTIAL}"):
        if newest_checkpoint(left, say) is None:
            shutil.rmtree(left, ignore_errors=True)


@dataclass
class _Worker:
    """A process, the parent's end of its pipe, and its current run."""

    process: SpawnProcess
    pipe: Connection
    run: Run | None = None

    @classmethod
    def start(cls, out: Path) -> "_Worker":
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(theirs, out), daemon=True)
        process.start()
        # The parent's copy of the worker's end must go, or the worker's death would not close the pipe.
        theirs.close()
        return cls(process, ours)


class InProcessLauncher:
    """Does runs one after the other in this process, for problems that exist only here."""

    def launch(self, runs: Sequence[Run], out: Path, display: ProgressDisplay) -> None:
        """Does every run; see :class:`Launcher`."""
        for run in runs:
            complete(run, out, partial(display.moved, run))
            display.ended(run, run.failure(out) if run.state(out) == "failed" else None)


class LocalLauncher:
    """Does runs in processes of this machine with one torch thread each, of which any may be killed at any time."""

    def __init__(self, workers: int) -> None:
        """Takes the number of processes; raises ValueError below 1."""
        if workers < 1:
            raise ValueError(f"expected workers >= 1 for the local launcher, got {workers}")
        self._count = workers

    def launch(self, runs: Sequence[Run], out: Path, display: ProgressDisplay) -> None:
        """Does every run; see :class:`Launcher`."""
        _Launch(runs, out, display).go(min(self._count, len(runs)))


class _Launch:
    """One launch: the open runs, how often each was begun, and the workers."""

    def __init__(self, runs: Sequence[Run], out: Path, display: ProgressDisplay) -> None:
        self._open = deque(runs)
        self._attempts = {run.name: 0 for run in runs}
        self._out, self._display = out, display
        self._workers: list[_Worker] = []

    def go(self, workers: int) -> None:
        try:
            self._workers = [_Worker.start(self._out) for _ in range(workers)]
            for worker in self._workers:
                self._give(worker)
            while any(worker.run for worker in self._workers):
                pipes = {worker.pipe: worker for worker in self._workers if worker.run is not None}
                for pipe in wait(list(pipes)):
                    self._hear(pipes[pipe])  # type: ignore[index]  # wait returns what it was given
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()

    def _give(self, worker: _Worker) -> None:
        worker.run = self._open.popleft() if self._open else None
        if worker.run is None:
            return
        self._attempts[worker.run.name] += 1
        self._display.moved(worker.run, RunProgress(0, "starting"))
        try:
            worker.pipe.send(worker.run)
        except OSError:
            self._replace(worker)

    def _hear(self, worker: _Worker) -> None:
        assert worker.run is not None
        try:
            message: RunProgress | None = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        if message is not None:
            self._display.moved(worker.run, message)
            return
        self._end(worker.run)
        self._give(worker)

    def _end(self, run: Run) -> None:
        self._display.ended(run, run.failure(self._out) if run.state(self._out) == "failed" else None)

    def _replace(self, dead: _Worker) -> None:
        """Replaces a dead worker by a new one; its run goes first in the queue, or among the failed."""
        assert dead.run is not None
        dead.pipe.close()
        dead.process.join()
        code = f"exit code {dead.process.exitcode}"
        if dead.run.state(self._out) != "open":
            self._end(dead.run)
        elif self._attempts[dead.run.name] < MOST_ATTEMPTS:
            self._display.restarted(dead.run, f"its worker was killed ({code})")
            self._open.appendleft(dead.run)
        else:
            write_failure(dead.run.folder(self._out), killed_too_often(code))
            self._end(dead.run)
        fresh = _Worker.start(self._out)
        self._workers[self._workers.index(dead)] = fresh
        self._give(fresh)


def _work(pipe: Any, out: Path) -> None:
    """Takes runs and does them, until the parent is gone or the user interrupts."""
    torch.set_num_threads(1)
    # Ctrl-C reaches every process of a terminal; the parent ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            run: Run = pipe.recv()
            complete(run, out, _Reporter(pipe, run.timesteps))
            pipe.send(None)
        except (EOFError, OSError, Interrupted):
            return


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    # At once, whatever the main thread does: an orphan must not write beside its successor.
    os._exit(1)


class _Reporter:
    """Sends progress, but not every update: a pipe message costs more than a small update."""

    def __init__(self, pipe: Any, total: int) -> None:
        self._pipe, self._step, self._next = pipe, LEAST_STEP * total, 0.0

    def __call__(self, progress: RunProgress) -> None:
        if progress.calls >= self._next or progress.phase:
            self._next = progress.calls + self._step
            try:
                self._pipe.send(progress)
            except OSError:
                # The parent is gone, which is not the run's failure: it must not be written as one.
                os._exit(1)
