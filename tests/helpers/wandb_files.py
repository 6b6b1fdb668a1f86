"""Reads back what Weights & Biases left on disk: wandb ships no reader for its offline files."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32 * 1024, 7


def wandb_records(folder: Path) -> Iterator[Any]:
    """Reads the one offline file: LevelDB log blocks after a header of seven bytes, each record a protobuf."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # its classes are made at run time

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, at, pending = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        pending += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield messages.Record.FromString(pending)
            pending = b""


def finished_records(folder: Path) -> list[Any]:
    """Waits for the last record: on a busy machine wandb's own process writes on after the run has ended."""
    for _ in range(300):
        records = list(wandb_records(folder))
        if records and records[-1].WhichOneof("record_type") == "exit":
            break
        time.sleep(0.1)
    return records


def history(records: list[Any]) -> list[dict[str, Any]]:
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items})
    return rows


def labels(records: list[Any]) -> tuple[str, str, str, list[str]]:
    """Returns the run's name, group, job type and tags."""
    (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    return run.display_name, run.run_group, run.job_type, list(run.tags)
