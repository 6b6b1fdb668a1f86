"""Where runs are done: one small interface, so that a comparison does not know whether it has one machine or many.

Whatever a launcher does, every run is a process's own affair with one thread and its own generators: neither the
number of workers nor the order of the runs changes a figure.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from slot_rl.compare.board import ProgressDisplay
from slot_rl.compare.plan import Run

MOST_ATTEMPTS = 3
"""How often a run is begun whose worker is killed; then it has failed."""


class Launcher(Protocol):
    """Does runs."""

    def launch(self, runs: Sequence[Run], out: Path, board: ProgressDisplay) -> None:
        """Does every run; a run whose worker is killed begins anew, at most three times in all.

        Args:
            runs: The runs.
            out: The comparison's folder; each run's folder appears in it when the run has ended.
            board: Is told about everything.
        """
        ...


def killed_too_often(code: object) -> str:
    """Returns the failure of a run whose workers were all killed; ``code`` says how the last one ended."""
    return f"its worker was killed {MOST_ATTEMPTS} times, the last time with {code}"
