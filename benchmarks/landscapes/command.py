"""The command: fit what is not fitted, run what was not run, report everything that was asked for.

Every run is a process's own affair with one thread and its own generators, so that neither the number of workers nor an
earlier interruption changes a figure.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.landscapes.contestants import CONTESTANTS
from benchmarks.landscapes.grounds import Ground, prepare
from benchmarks.landscapes.medians import SearchResult, medians_of
from benchmarks.landscapes.report import publish
from benchmarks.landscapes.runs import Task, do
from benchmarks.landscapes.tables import LANDSCAPES
from benchmarks.reproductions.results import refuse_missing
from slot_rl.console import progress_bar
from slot_rl.io import check_continued, read_json, write_json
from slot_rl.provenance import provenance

MARK = "landscapes.json"
Job = TypeVar("Job", Ground, Task)


@dataclass(frozen=True)
class LandscapesConfig:
    """Every agent and reference on measured landscapes at equal budget; takes hours, and continues where it stopped.

    Attributes:
        data: Folder with the measured landscapes.
        landscapes: The landscapes by name; all if left out.
        agents: The agents and references by name; all if left out.
        seeds: Runs of each, seeds 0 and up.
        workers: Processes that run at the same time.
        out: Where results go; runs/reproduce-landscapes if left out. Runs that are there already are not repeated.
        force: Repeat runs that are there already.
    """

    data: Path
    landscapes: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    seeds: int = 3
    workers: int = 2
    out: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Refuses unknown names, missing files, and nothing to do."""
        _refuse_unknown("--landscapes", self.landscapes, LANDSCAPES)
        _refuse_unknown("--agents", self.agents, CONTESTANTS)
        if self.seeds < 1 or self.workers < 1:
            raise ValueError(f"expected seeds >= 1 and workers >= 1, got {self.seeds} and {self.workers}")
        refuse_missing(self.data, [LANDSCAPES[name].file for name in self.landscapes or LANDSCAPES])

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.out or Path("runs", "reproduce-landscapes")

    def grounds(self) -> list[Ground]:
        """Returns the landscapes, in the order of their list."""
        names = [name for name in LANDSCAPES if name in (self.landscapes or LANDSCAPES)]
        return [Ground(LANDSCAPES[name], self.data, self.folder) for name in names]

    def tasks(self, ground: Ground) -> dict[str, list[Task]]:
        """Returns a landscape's runs, by contestant."""
        chosen = [one for name, one in CONTESTANTS.items() if name in (self.agents or CONTESTANTS)]
        # What no seed touches runs once.
        return {
            one.name: [Task(ground, one, seed) for seed in range(1 if one.agent is None else self.seeds)]
            for one in chosen
        }


def reproduce_landscapes(config: LandscapesConfig) -> SearchResult:
    """Does what is not done yet, prints the tables, draws the curves, and says which bars are met.

    Returns:
        The medians by landscape and contestant.

    Raises:
        ValueError: If the folder of results holds something else, or a landscape is not as expected.
    """
    _open(config)
    grounds = config.grounds()
    _work(prepare, grounds, "estimators", config.workers)
    by_ground = {ground.landscape.name: config.tasks(ground) for ground in grounds}
    tasks = [task for by in by_ground.values() for seeds in by.values() for task in seeds]
    _work(do, [task for task in tasks if config.force or not task.is_done()], "runs", config.workers)
    runs = {
        name: {one: [read_json(task.path) for task in seeds] for one, seeds in by.items()}
        for name, by in by_ground.items()
    }
    found = {name: {one: medians_of(each) for one, each in by.items()} for name, by in runs.items()}
    publish(config.folder, config, grounds, found, runs)
    return found


def _open(config: LandscapesConfig) -> None:
    """Makes the folder of results, or accepts one that an earlier call made."""
    check_continued(config.folder, MARK)
    config.folder.mkdir(parents=True, exist_ok=True)
    write_json(config.folder / MARK, provenance(config))


def _work(job: Callable[[Job], None], items: Sequence[Job], what: str, workers: int) -> None:
    """Does a job for every item, several at a time, with a progress bar."""
    with progress_bar() as progress:
        task = progress.add_task(what, total=len(items), note="")
        for item in _done(job, items, workers):
            progress.update(task, advance=1, note=item.title)


def _done(job: Callable[[Job], None], items: Sequence[Job], workers: int) -> Iterable[Job]:
    """Yields each item when its job is done."""
    if min(workers, len(items)) <= 1:
        for item in items:
            job(item)
            yield item
        return
    pool = ProcessPoolExecutor(min(workers, len(items)), get_context("spawn"), torch.set_num_threads, (1,))
    try:
        futures = {pool.submit(job, item): item for item in items}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        # After an error, what was not begun is left for the next call.
        pool.shutdown(cancel_futures=True)


def _refuse_unknown(flag: str, names: Sequence[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"expected {flag} to be of {', '.join(known)}, got {name!r}")
