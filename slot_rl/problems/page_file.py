"""Requests for pages as a file, which is read and answered piece by piece."""

from collections.abc import Callable
from pathlib import Path

from slot_rl.estimators.frames import FRAME_ROWS, count_rows, stream_frames
from slot_rl.estimators.table_files import TableError
from slot_rl.problems.answer_file import answer_file
from slot_rl.problems.observation import Observation
from slot_rl.problems.pages import PageDesk, PageNames
from slot_rl.problems.requests import Answer, RequestFiles, Requests


class PageRequests(Requests):
    """The rows of a file."""

    def __init__(
        self,
        names: PageNames,
        asked: RequestFiles,
        report: Callable[[int], None],
        impossible: Callable[[Observation], dict[int, str]],
    ) -> None:
        """Reads the items and counts the requests.

        Args:
            names: What files call things.
            asked: The files; with ``skip_unknown``, a request that cannot be answered gets the reason instead.
            report: Called with the rows counted.
            impossible: As of :class:`PageDesk`.

        Raises:
            TableError: If a file is not as expected.
        """
        if asked.requests is None:
            raise TableError("expected --requests FILE for slots, got none")
        self._path, self._shows_unanswered = asked.requests, asked.skip_unknown
        self._desk = PageDesk(names, asked.items, asked.exclude, asked.skip_unknown, impossible)
        self._rows = self.distinct = count_rows(self._path)
        report(self._rows)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self._rows

    def figures(self) -> dict[str, str]:
        """Returns the numbers of requests, of items, and of requests without an answer."""
        figures = {"requests": f"{self._rows:,}", "items": f"{len(self._desk.ids):,}"}
        return figures | ({"not answered": f"{self._desk.unanswered:,}"} if self._shows_unanswered else {})

    def write(self, out: Path, answer: Answer, report: Callable[[int], None]) -> None:
        """Writes the file's columns, an item's id for each slot, and the scores."""
        with answer_file(out, self.raw_cells) as writer:
            for frame in stream_frames(self._path, FRAME_ROWS):
                writer.write(self._desk.answered(frame, answer, self._path))
                report(len(frame))
