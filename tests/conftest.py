"""Shared by all tests: one torch thread, the real landscapes where they are, and scripts run in this process."""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slot_rl import evaluation, serving_curves

ROOT = Path(__file__).resolve().parent.parent
LANDSCAPES = ROOT.parent / "shared" / "data"

torch.set_num_threads(1)
# Commands that tests start in processes of their own share two processors with the tests.
os.environ["OMP_NUM_THREADS"] = "1"
# What is called the best need not be that good in tests, nor times that exact.
evaluation.STRONG_CALLS = 200
serving_curves.ENOUGH_SECONDS = 0.01

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in the background ignores it, and so would the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a script inside this process, ``script(path, *flags)``, and returns exit code, stdout and stderr."""
    monkeypatch.delenv("SLOT_RL_DEBUG", raising=False)

    def run(path: Path, *flags: object) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, flags)])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(path), run_name="__main__")
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def landscape() -> Callable[[str], Path]:
    """Returns a function that finds a real landscape by file name, or skips the test where it is absent."""

    def find(name: str) -> Path:
        path = LANDSCAPES / name
        if not path.is_file():
            pytest.skip(f"needs the landscape {name}")
        return path

    return find
