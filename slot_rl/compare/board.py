"""All runs in one view: how many are done, and what each worker is at."""

from types import TracebackType

from rich.progress import Progress, TaskID

from slot_rl.compare.plan import Run
from slot_rl.console import progress_bar, say
from slot_rl.training import RunProgress

WIDEST = 34


class ProgressDisplay:
    """A bar for all runs, and one for each run that is under way."""

    def __init__(self, total: int) -> None:
        """Takes the number of runs to do."""
        self._total, self._failed = total, 0
        self._progress: Progress = progress_bar()
        self._all: TaskID = self._progress.add_task("runs", total=total, note="")
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> "ProgressDisplay":
        """Starts to show."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends with the bar of all runs alone."""
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._progress.stop()

    def moved(self, run: Run, progress: RunProgress) -> None:
        """Shows a run's progress; a run that was not shown appears."""
        if run.name not in self._bars:
            title = run.title if len(run.title) <= WIDEST else f"{run.title[: WIDEST - 1]}…"
            self._bars[run.name] = self._progress.add_task(title, total=run.timesteps, note="")
        self._progress.update(self._bars[run.name], completed=progress.calls, note=_note(progress))

    def restarted(self, run: Run, why: str) -> None:
        """Says that a run begins anew."""
        say(f"{run.title}: {why}; it begins anew")
        self._remove(run)

    def ended(self, run: Run, failure: str | None) -> None:
        """Counts a run that has ended; a failure is said at once."""
        self._remove(run)
        if failure is not None:
            self._failed += 1
            say(f"{run.title} failed: {failure}")
        note = f"{self._failed} failed" if self._failed else ""
        self._progress.update(self._all, advance=1, note=note)

    def _remove(self, run: Run) -> None:
        bar = self._bars.pop(run.name, None)
        if bar is not None:
            self._progress.remove_task(bar)


def _note(progress: RunProgress) -> str:
    if progress.phase or progress.row is None:
        return progress.phase
    return f"optimality {progress.row.figures['optimality']:.3f}"
