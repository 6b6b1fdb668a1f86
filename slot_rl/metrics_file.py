"""The file of a run's log points, ``metrics.jsonl``: one JSON object a line, and each line carries its own check.

The last key of a line, ``"sha256"``, holds the first 16 hex digits of the SHA-256 of two things: these digits of the
line before it, and the line without that key. So a line that was altered, moved or taken out is noticed. Lines that are
cut off at the end are not: that is how a file looks whose process was killed. The digits also cover times, so they
differ between two runs of one command; :func:`read_metrics` leaves them out.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any

from slot_rl.console import say
from slot_rl.io import BundleError, write_atomically

METRICS_FILE = "metrics.jsonl"
_DIGITS = 16
_LINE = re.compile(rb'(.*), "sha256": "([0-9a-f]{%d})"\}' % _DIGITS)
"""A line in two parts: what it says, without the last brace, and its check."""


class MetricsFile:
    """Appends log points to a file, each on disk at once.

    A point that cannot be written (a full disk) is kept and written with the next one; the caller goes on.

    Attributes:
        lines: How many points are in the file.
    """

    def __init__(self, path: Path, lines: int = 0) -> None:
        """Begins a file, or continues one.

        Args:
            path: The file; an earlier one is replaced.
            lines: How many points of the earlier file to keep; the rest is dropped.

        Raises:
            BundleError: If the earlier file has fewer, or one of them was altered; then it is as it was.
        """
        kept = list(islice(_points(path), lines)) if lines else []
        if len(kept) < lines:
            raise BundleError(f"expected {lines} log points in {path}, got {len(kept)}")
        self.path, self.lines = path, lines
        self._check = b""
        self._waiting: list[bytes] = []
        self._said = False
        write_atomically(path, b"".join(map(self._line, kept)))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append(self, point: Mapping[str, float | int | None]) -> None:
        """Writes a log point; says once if that fails."""
        self._waiting.append(self._line(point))
        error = self._write()
        if error is not None and not self._said:
            self._said = True
            say(f"warning: {self.path} cannot be written ({error}); its log points are kept for a later try")

    def sync(self) -> None:
        """Brings what was written to the disk itself, so that it survives a power cut."""
        os.fsync(self._file)

    def close(self) -> None:
        """Closes the file; says how many log points it lacks, if any."""
        error = self._write()
        os.close(self._file)
        if error is not None:
            say(f"warning: {self.path} lacks its last {len(self._waiting)} log points ({error})")

    def _line(self, point: Mapping[str, Any]) -> bytes:
        text = json.dumps(point, allow_nan=False).encode()
        self._check = _check_of(self._check, text)
        return text[:-1] + b', "sha256": "%s"}\n' % self._check

    def _write(self) -> OSError | None:
        """Writes what is waiting; after a part of a line, the next try goes on behind it."""
        try:
            while self._waiting:
                self._waiting[0] = self._waiting[0][os.write(self._file, self._waiting[0]) :]
                if not self._waiting[0]:
                    del self._waiting[0]
                    self.lines += 1
        except OSError as error:
            return error
        return None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads log points, without their checks.

    A last line that is torn, because its process was killed, is left out. Files of earlier versions have no checks.

    Raises:
        BundleError: If a line was altered, moved or taken out; the message names the first one that does not fit.
    """
    return list(_points(path))


def _points(path: Path) -> Iterator[dict[str, Any]]:
    *lines, rest = path.read_bytes().split(b"\n")
    if _LINE.match(rest):
        lines.append(rest)  # A torn line has no whole check.
    found = [_LINE.fullmatch(line) for line in lines]
    checked, check = any(found), b""
    for number, (line, parts) in enumerate(zip(lines, found, strict=True), 1):
        text = parts[1] + b"}" if parts else line
        check = _check_of(check, text)
        if checked and (parts is None or parts[2] != check):
            raise BundleError(
                f"expected line {number} of {path} as it was written, got one that does not fit its checksum: "
                "it was altered, or a line before it was taken out"
            )
        yield _point(text, f"line {number} of {path}")


def _point(text: bytes, where: str) -> dict[str, Any]:
    try:
        point: Any = json.loads(text)
    except ValueError as error:
        raise BundleError(f"expected JSON in {where}, got: {error}") from error
    if not isinstance(point, dict) or not all(isinstance(value, (int, float, NoneType)) for value in point.values()):
        raise BundleError(f"expected a JSON object of figures in {where}, got {text.decode()[:80]}")
    return point


def _check_of(before: bytes, text: bytes) -> bytes:
    return hashlib.sha256(before + text).hexdigest()[:_DIGITS].encode()
