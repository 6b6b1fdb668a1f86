"""Damages of metrics.jsonl: none is read wrong."""

from pathlib import Path

from slot_rl.io import BundleError
from slot_rl.metrics_file import read_metrics
from tests.faults.conftest import Promise
from tests.test_metrics_file import POINTS, write


def refused(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        read_metrics(path)
    except BundleError:
        return True
    return False


def test_every_flipped_bit_is_noticed(tmp_path: Path, promise: Promise) -> None:
    path, held, tried = tmp_path / "metrics.jsonl", 0, 0
    for points in (POINTS[:1], POINTS[:3]):
        data = write(path, points)
        assert not refused(path, data)
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            held += refused(path, bytes(flipped))
            tried += 1
    promise("a flipped bit of metrics.jsonl is noticed", f"{held:,} of {tried:,}")
    assert held == tried > 2_000
