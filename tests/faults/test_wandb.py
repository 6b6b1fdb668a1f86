"""Weights & Biases is a mirror: whatever becomes of it costs a warning and at most ten seconds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slot_rl.io import read_json
from slot_rl.metrics_file import read_metrics
from slot_rl.tracking import RunIdentity, Tracker
from tests.conftest import ROOT
from tests.faults.conftest import Promise
from tests.helpers.processes import descendants

IDENTITY = RunIdentity("SlotRL/Slots-v0", "gumbel", 3, 1000, "20260101-000000", "0.1.0")
MOST_SECONDS = 10.0
MOMENTS = (1, 20, 40, 60)
"""Log points before W&B's service is hit, of about a hundred."""
FLAGS = "--agent gumbel --env SlotRL/PickValue-v0 --timesteps 12000 --batch-size 64 --eval-size 10 --out"
STUB = """
import time

def fault(place):
    if place == {place!r}:
        {fault}

class Run:
    dir = "files"
    summary = property(lambda self: self)
    def define_metric(self, *args, **kwargs): fault("define_metric")
    def log(self, point): fault("log")
    def update(self, summary): fault("summary")
    def finish(self, exit_code): fault("finish")

def init(**kwargs):
    fault("init")
    return Run()

def teardown(): fault("teardown")
def Settings(**kwargs): pass
class Error(Exception): pass
fault("import")
"""
PLACES = ("import", "init", "define_metric", "log", "summary", "finish", "teardown")


def tracked(folder: Path, place: str, fault: str, patch: pytest.MonkeyPatch) -> float:
    """Tracks a run with a stand-in for wandb that fails in one place; returns the seconds that it took."""
    package = folder / "stub" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STUB.format(place=place, fault=fault))
    patch.syspath_prepend(package.parent)
    began = time.monotonic()
    with Tracker(folder, IDENTITY.labels, {}, "offline") as tracker:
        for step in range(5):
            tracker.log(step, {"a": 1.0})
        tracker.finish({"score": 1.0})
    seconds = time.monotonic() - began
    assert len(read_metrics(folder / "metrics.jsonl")) == 5
    return seconds


def test_a_refusal_anywhere_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], promise: Promise
) -> None:
    held = 0
    for place in PLACES:
        folder = tmp_path / place
        folder.mkdir()
        with monkeypatch.context() as patch:
            seconds = tracked(folder, place, 'raise Error("not\\n today")', patch)
        warning = (
            f"warning: the run is not mirrored on Weights & Biases (Error: not today); "
            f"`slot-rl resync {folder}` makes up for it\n"
        )
        held += capsys.readouterr().out == warning and seconds < MOST_SECONDS
    promise("W&B refuses: one warning, metrics complete", f"{held} of {len(PLACES)}")
    assert held == len(PLACES)


@pytest.mark.slow
def test_a_hang_anywhere_costs_ten_seconds_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], promise: Promise
) -> None:
    taken = []
    for place in PLACES:
        folder = tmp_path / place
        folder.mkdir()
        with monkeypatch.context() as patch:
            taken.append(tracked(folder, place, "time.sleep(1000)", patch))
        assert capsys.readouterr().out.count("(no answer within 7 seconds)") == 1
    held = sum(seconds < MOST_SECONDS for seconds in taken)
    promise("W&B hangs: one warning, at most ten seconds", f"{held} of {len(PLACES)}, {max(taken):.1f} s")
    assert held == len(PLACES)


def wait_for_service(process: subprocess.Popen[str], metrics: Path, points: int) -> int:
    """Returns the number of W&B's service process, once it is there and the training has logged some points."""
    for _ in range(1_000):
        assert process.poll() is None, process.communicate()
        services = [number for number, name in descendants(process.pid).items() if name.startswith("wandb-core")]
        if services and metrics.is_file() and metrics.read_bytes().count(b"\n") >= points:
            return services[0]
        time.sleep(0.05)
    raise AssertionError("no W&B service process")


def train(out: Path, sent: signal.Signals | None = None, points: int = 0) -> tuple[float, str]:
    """Trains, with a signal to W&B's service or without W&B.

    Returns:
        The seconds between the last log point and the end, and the output.
    """
    command = [sys.executable, str(ROOT / "scripts" / "train_agent.py"), *FLAGS.split(), str(out), "--wandb"]
    command.append("offline" if sent else "disabled")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    service = wait_for_service(process, out / "metrics.jsonl", points) if sent else None
    try:
        if sent and service:
            os.kill(service, sent)
        output = process.communicate(timeout=120)[0]
        ended = time.time()
    finally:
        process.kill()
        if sent == signal.SIGSTOP and service:
            os.kill(service, signal.SIGKILL)
    assert process.returncode == 0 and "Traceback" not in output, output
    assert read_json(out / "summary.json")["status"] == "finished"
    assert (out / "checkpoint" / "manifest.json").is_file()
    assert len(read_metrics(out / "metrics.jsonl")) > max(MOMENTS)
    return ended - (out / "metrics.jsonl").stat().st_mtime, output


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "what"), [(signal.SIGKILL, "killed"), (signal.SIGSTOP, "stopped")])
def test_a_training_outlives_the_service(sent: signal.Signals, what: str, tmp_path: Path, promise: Promise) -> None:
    straight, output = train(tmp_path / "straight")
    assert "Weights & Biases" not in output
    runs = [train(tmp_path / str(points), sent, points) for points in MOMENTS]
    warned = sum(output.count("is not mirrored on Weights & Biases") == 1 for _, output in runs)
    cost = max(seconds for seconds, _ in runs) - straight
    promise(f"W&B's service {what}: a training ends well, one warning", f"{warned} of {len(MOMENTS)}, {cost:.1f} s")
    assert warned == len(MOMENTS) and cost < MOST_SECONDS
