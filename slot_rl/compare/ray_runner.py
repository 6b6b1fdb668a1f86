"""Runs on a Ray cluster, on as many machines as it has.

Machines need not share a disk: a run's folder comes back as the contents of its files. What a task reads, an
estimator's folder or a table, must be at the same path on every machine. Ray itself repeats a killed worker's run. With
RAY_ADDRESS set, that cluster is used; otherwise one is started on this machine.
"""

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slot_rl.compare.one_run import complete, settle, write_failure
from slot_rl.compare.runner import MOST_ATTEMPTS, ProgressDisplay, killed_too_often
from slot_rl.compare.study import Run
from slot_rl.watching import RunProgress

try:
    import ray
    from ray.util.queue import Empty, Queue
except ModuleNotFoundError as error:
    raise ValueError(
        f'expected the extra [ray] (pip install "slot_rl[ray]") for the ray launcher, got no module {error.name}'
    ) from error

REPORT_SECONDS = 0.5

Files = dict[str, bytes]


class RayLauncher:
    """Does runs as Ray tasks, one processor each."""

    def __init__(self, workers: int) -> None:
        """Takes the most runs at the same time, 0 for as many as the cluster has processors."""
        if workers < 0:
            raise ValueError(f"expected workers >= 0 for the ray launcher, got {workers}")
        self._workers = workers

    def launch(self, runs: Sequence[Run], out: Path, display: ProgressDisplay) -> None:
        """Does every run; see :class:`~slot_rl.compare.runner.Launcher`."""
        started = not ray.is_initialized()
        if started:
            # A cluster knows its own processors.
            processors = None if "RAY_ADDRESS" in os.environ else self._workers or None
            ray.init(num_cpus=processors, include_dashboard=False, log_to_driver=False, configure_logging=False)
        try:
            _launch(runs, out, display, self._workers or len(runs))
        finally:
            if started:
                ray.shutdown()


def _launch(runs: Sequence[Run], out: Path, display: ProgressDisplay, most: int) -> None:
    mailbox = Queue(actor_options={"num_cpus": 0})
    remote = ray.remote(num_cpus=1, max_retries=MOST_ATTEMPTS - 1)(_files_of)
    by_name, waiting, under_way = {run.name: run for run in runs}, deque(runs), dict[Any, Run]()
    while waiting or under_way:
        while waiting and len(under_way) < most:
            run = waiting.popleft()
            under_way[remote.remote(run, mailbox)] = run
        done, _ = ray.wait(list(under_way), timeout=REPORT_SECONDS)
        _show(mailbox, by_name, display)
        for reference in done:
            run = under_way.pop(reference)
            _take(reference, run, out)
            display.ended(run, run.failure(out) if run.state(out) == "failed" else None)


def _show(mailbox: Queue, by_name: dict[str, Run], display: ProgressDisplay) -> None:
    """Shows the workers' latest progress."""
    while True:
        try:
            name, progress = mailbox.get_nowait()
        except Empty:
            return
        display.moved(by_name[name], progress)


def _take(reference: Any, run: Run, out: Path) -> None:
    """Writes a run's folder as it came back, or the failure of killed workers."""
    try:
        files: Files = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        write_failure(run.folder(out), killed_too_often(type(error).__name__))
        return
    partial = run.partial_folder(out)
    shutil.rmtree(partial, ignore_errors=True)
    for name, content in files.items():
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    settle(partial, run.folder(out))


def _files_of(run: Run, mailbox: Queue) -> Files:
    """Does a run in a temporary folder and returns the content of its files by their relative paths."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        complete(run, Path(temporary), _Reporter(run.name, mailbox))
        folder = run.folder(Path(temporary))
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class _Reporter:
    """Sends progress now and then, without waiting for an answer."""

    def __init__(self, name: str, mailbox: Queue) -> None:
        self._name, self._mailbox, self._next = name, mailbox, 0.0

    def __call__(self, progress: RunProgress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REPORT_SECONDS
            self._mailbox.put_nowait((self._name, progress))
