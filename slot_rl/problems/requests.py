"""Requests from a file: what is to be answered, and how the answers are written back."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd
import pyarrow as pa
from torch import Tensor

from slot_rl.problems.observation import Observation

ESTIMATED, MEASURED, TRUE = "estimated_score", "measured_score", "true_score"
PROPENSITY, RANK, REASON = "propensity", "rank", "not_answered"
"""Names of the columns that a file of answers adds."""


@dataclass(frozen=True)
class RequestFiles:
    """The files that ask.

    Attributes:
        requests: The requests; None where the kind of problem needs none.
        folder: Where temporary files may lie.
        skip_unknown: Whether requests that cannot be answered are let pass instead of refused.
        items: New items; None for those of the training.
        exclude: Pairs of a request and an item that must not be in its answer.
    """

    requests: Path | None
    folder: Path
    skip_unknown: bool = False
    items: Path | None = None
    exclude: Path | None = None

    def refuse_items(self, problem: str) -> None:
        """Raises ValueError if there is a file that only problems with items in files can use."""
        for flag, path in (("--items", self.items), ("--exclude", self.exclude)):
            if path is not None:
                raise ValueError(f"expected no {flag} for {problem}, whose items are in no file, got {path}")


@dataclass(frozen=True)
class Answers:
    """Answers to requests, the best first; one that does not exist, where there are too few, has the score -inf.

    Attributes:
        choice: Long tensor of shape ``(requests, top, slots)``.
        estimated: Estimated scores, ``(requests, top)``.
        true: True scores, ``(requests, top)``; None without a ground truth.
        measured: Whether the ground truth has measured each answer; None where it is not a table.
        propensity: Probability with which each answer was drawn; None unless answers are draws.
        seen: Measured scores of the answers that were given because they are the best measured rows, NaN for others;
            None where measured rows do not compete.
    """

    choice: Tensor
    estimated: Tensor
    true: Tensor | None = None
    measured: Tensor | None = None
    propensity: Tensor | None = None
    seen: Tensor | None = None


class Answer(Protocol):
    """Answers requests and keeps their scores for the figures that are printed."""

    def __call__(self, observation: Observation, weights: Tensor | None = None) -> Answers:
        """Answers requests; ``weights`` says how often each is made, once if None."""
        ...


class Desk(Protocol):
    """Answers rows of requests that are given in Python."""

    def answered(self, frame: pd.DataFrame, answer: Answer, path: Path) -> pa.Table:
        """Returns the rows with their columns, and columns for the answer's slots and scores.

        Args:
            frame: The requests.
            answer: Answers them.
            path: What messages call the rows' source.

        Raises:
            ValueError: If a row is not as expected.
        """
        ...


class Requests(ABC):
    """Requests of a file; a context manager, since a reader may hold a temporary file.

    Attributes:
        unit: What one request is called.
        distinct: How many different requests there are; each is answered once.
        raw_cells: Whether CSV is written with texts as they are that a spreadsheet would execute.
    """

    unit: str = "request"
    distinct: int
    raw_cells: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of rows in the file."""

    @abstractmethod
    def figures(self) -> dict[str, str]:
        """Returns the counts to print: rows, distinct requests, and what was not answered."""

    @abstractmethod
    def write(self, out: Path, answer: Answer, report: Callable[[int], None]) -> None:
        """Writes the answers for each row of the file, whole or not at all.

        Args:
            out: The file to write.
            answer: Answers requests.
            report: Called with the rows written since the last call.
        """

    def close(self) -> None:  # noqa: B027 (a reader that holds nothing needs none)
        """Removes what the reader holds; nothing unless overridden."""

    def __enter__(self) -> "Requests":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the reader."""
        self.close()
