"""Requests from a file: what is to be answered, and how the answers are written back."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from slot_rl.problems.observation import Observation

ESTIMATED, TRUE = "estimated_score", "true_score"
"""Names of the scores in a file of answers."""


@dataclass(frozen=True)
class Answers:
    """Answers to distinct requests, with their scores.

    Attributes:
        choice: Long tensor of shape ``(requests, slots)``.
        estimated: Estimated scores, ``(requests,)``.
        true: True scores, ``(requests,)``; None without a ground truth.
        measured: Whether the ground truth has measured each answer; None where it is not a table.
    """

    choice: Tensor
    estimated: Tensor
    true: Tensor | None = None
    measured: Tensor | None = None


class Requests(ABC):
    """Requests of a file; a context manager, since a reader may hold a temporary file.

    Attributes:
        observation: The distinct requests; each is answered once.
        counts: How many rows of the file ask for each request, ``(requests,)``; None where each row is a request.
        unit: What one request is called.
    """

    observation: Observation
    counts: Tensor | None = None
    unit: str = "request"

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of rows in the file that are answered."""

    @abstractmethod
    def figures(self) -> dict[str, str]:
        """Returns the counts to print: rows, distinct requests, and what was left out."""

    @abstractmethod
    def write(self, out: Path, answers: "Answers", report: Callable[[int], None]) -> None:
        """Writes one answer for each row of the file, whole or not at all.

        Args:
            out: The file to write.
            answers: The answers to the distinct requests.
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
