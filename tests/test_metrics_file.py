"""The file of log points: each line carries its check, a file goes on behind a line, and a full disk ends nothing."""

import hashlib
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slot_rl.io import BundleError
from slot_rl.metrics_file import MetricsFile, read_metrics

Point = dict[str, float | int | None]
POINTS: list[Point] = [{"global_step": 10 * step, "eval/score": -0.1 * step, "train/loss": None} for step in range(5)]


def write(path: Path, points: list[Point], lines: int = 0) -> bytes:
    file = MetricsFile(path, lines)
    for point in points:
        file.append(point)
    assert file.lines == lines + len(points)
    file.close()
    return path.read_bytes()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Stops every file of this process from growing beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_ends_with_the_hash_of_the_last_and_its_own(tmp_path: Path) -> None:
    first, second = write(tmp_path / "metrics.jsonl", [{"global_step": 1, "a": None}, {"global_step": 2}]).splitlines()
    check = hashlib.sha256(b'{"global_step": 1, "a": null}').hexdigest()[:16]
    assert first.decode() == f'{{"global_step": 1, "a": null, "sha256": "{check}"}}'
    assert json.loads(second)["sha256"] == hashlib.sha256(check.encode() + b'{"global_step": 2}').hexdigest()[:16]
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"global_step": 1, "a": None}, {"global_step": 2}]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[1:], 1),
        (lambda lines: lines[:2] + lines[3:], 3),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines[:4], lines[3], lines[4]], 5),
        (lambda lines: [*lines[:4], b'{"global_step": 40}\n'], 5),
    ],
)
def test_lines_taken_out_moved_or_added_are_named(
    change: Callable[[list[bytes]], list[bytes]], line: int, tmp_path: Path
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(change(write(path, POINTS).splitlines(keepends=True))))
    with pytest.raises(BundleError, match=rf"expected line {line} of .*metrics.jsonl as it was written"):
        read_metrics(path)


def test_a_torn_last_line_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    data = write(path, POINTS)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        # A line is whole without the end of the line, too.
        assert read_metrics(path) == POINTS[: (data[:size] + b"\n").count(b'"}\n')]


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(point) + "\n" for point in POINTS) + '{"global')
    assert read_metrics(path) == POINTS
    assert write(path, POINTS[2:], lines=2) == write(tmp_path / "straight", POINTS)
    for text, message in (
        ("{]\n", "expected JSON in line 1"),
        ("[1]\n", "a JSON object of figures in line 1 of .*, got "),
        ('{"a": 1}\n{"a": "1"}\n', "a JSON object of figures in line 2 of"),
        ("\xff\n", "expected JSON in line 1"),
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(BundleError, match=message):
            read_metrics(path)


def test_a_file_goes_on_behind_a_line(tmp_path: Path) -> None:
    straight = write(tmp_path / "straight", POINTS)
    path = tmp_path / "metrics.jsonl"
    later: list[Point] = [{"global_step": 99}]
    path.write_bytes(write(path, POINTS[:3] + later) + b"torn")
    assert write(path, POINTS[3:], lines=3) == straight
    before = path.read_bytes()
    with pytest.raises(BundleError, match=r"expected 6 log points in .*metrics.jsonl, got 5"):
        MetricsFile(path, 6)
    path.write_bytes(altered := before.replace(b"-0.2,", b"-0.3,"))
    with pytest.raises(BundleError, match="expected line 3"):
        MetricsFile(path, 3)
    assert path.read_bytes() == altered
    assert write(path, POINTS[2:], lines=2) == straight


def test_points_wait_until_the_disk_has_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    straight = write(tmp_path / "straight", POINTS)
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.append(POINTS[0])
    with largest_file(len(straight) // 2 - 20):
        for point in POINTS[1:4]:
            file.append(point)
        assert file.lines == 2 and read_metrics(path) == POINTS[:2]
    said = capsys.readouterr().out
    assert said.startswith(f"warning: {path} cannot be written (") and said.count("\n") == 1
    file.append(POINTS[4])
    file.close()
    assert path.read_bytes() == straight and capsys.readouterr().out == ""


def test_what_a_file_lacks_in_the_end_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    with largest_file(0):
        for point in POINTS:
            file.append(point)
        file.close()
    assert read_metrics(path) == [] and file.lines == 0
    first, last = capsys.readouterr().out.splitlines()
    assert "cannot be written" in first and last.startswith(f"warning: {path} lacks its last 5 log points (")
