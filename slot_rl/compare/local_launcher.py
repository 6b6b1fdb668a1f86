"""Runs on this machine: a pool of processes with one torch thread each, of which any may be killed at any time.

Python's own pools give up as a whole when one process is killed, with all that the others were at; here only the
killed worker's run begins anew. A worker whose parent is killed ends itself, so that it never writes beside the
workers of the next call.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Any

import torch

from slot_rl.compare.board import ProgressDisplay
from slot_rl.compare.launcher import MOST_ATTEMPTS, killed_too_often
from slot_rl.compare.plan import Run
from slot_rl.compare.runs import Interrupted, complete, write_failure
from slot_rl.training import RunProgress

LEAST_STEP = 0.01
"""RunProgress of a run, as a share, below which a worker says nothing."""

_SPAWN = get_context("spawn")


@dataclass
class _Worker:
    """A process, the parent's end of its pipe, and the run that it is at."""

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


class LocalLauncher:
    """Does runs in processes of this machine."""

    def __init__(self, workers: int) -> None:
        """Takes the number of processes; raises ValueError below 1."""
        if workers < 1:
            raise ValueError(f"expected workers >= 1 for the local launcher, got {workers}")
        self._workers = workers

    def launch(self, runs: Sequence[Run], out: Path, board: ProgressDisplay) -> None:
        """Does every run; see :class:`~slot_rl.compare.launcher.Launcher`."""
        _Launch(runs, out, board).go(min(self._workers, len(runs)))


class _Launch:
    """One launch: what is to be done, how often it was begun, and who is at it."""

    def __init__(self, runs: Sequence[Run], out: Path, board: ProgressDisplay) -> None:
        self._open = deque(runs)
        self._attempts = {run.name: 0 for run in runs}
        self._out, self._board = out, board
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
        self._board.moved(worker.run, RunProgress(0, "starting"))
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
            self._board.moved(worker.run, message)
            return
        self._end(worker.run)
        self._give(worker)

    def _end(self, run: Run) -> None:
        self._board.ended(run, run.failure(self._out) if run.state(self._out) == "failed" else None)

    def _replace(self, dead: _Worker) -> None:
        """Puts a new worker in a dead one's place, and the dead one's run first in the queue, or among the failed."""
        assert dead.run is not None
        dead.pipe.close()
        dead.process.join()
        code = f"exit code {dead.process.exitcode}"
        if dead.run.state(self._out) != "open":
            self._end(dead.run)
        elif self._attempts[dead.run.name] < MOST_ATTEMPTS:
            self._board.restarted(dead.run, f"its worker was killed ({code})")
            self._open.appendleft(dead.run)
        else:
            write_failure(dead.run.folder(self._out), killed_too_often(code))
            self._end(dead.run)
        fresh = _Worker.start(self._out)
        self._workers[self._workers.index(dead)] = fresh
        self._give(fresh)


def _work(pipe: Any, out: Path) -> None:
    """A worker's life: take a run, do it, say so; end when the parent is gone or the user interrupts."""
    torch.set_num_threads(1)
    # Ctrl-C reaches every process of a terminal; the parent decides what becomes of the workers.
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
    # At once, whatever the main thread is at: an orphan must not write beside its successor.
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
                # The parent is gone, which is not the run's failure: it must not be written down as one.
                os._exit(1)
