"""Signals at random times, in every command: its exit code, one line, no traceback, and soon."""

import csv
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.conftest import ROOT
from tests.faults.conftest import Promise
from tests.helpers.forked import Forked, command

TRIES = 6
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SLOWEST = 5.0
"""Seconds from a signal to the end: an update, the final save and judging, on a busy machine."""
FIT = ["--table", "table.csv", "--score", "y"]
COMMANDS: dict[str, Callable[[], None]] = {
    "train": command("train_agent.py", *"--env SlotRL/PickValue-v0 --timesteps 6000 --width 16".split(), "--out", "r"),
    "ppo": command(
        "train_agent.py", *"--agent ppo --env SlotRL/PickValue-v0 --timesteps 20000 --width 16 --out r".split()
    ),
    "fit": command("pretrain_estimator.py", *FIT, *"--model net --epochs 300 --patience 300 --out e".split()),
    "gp": command("pretrain_estimator.py", *FIT, *"--model gp --out e".split()),
    "compare": command(
        "compare_agents.py",
        *"--agents gumbel random --env SlotRL/PickValue-v0 --timesteps 2000 --seeds 3 --eval-size 20 --out c".split(),
    ),
    "recommend": command("recommend.py", "run", *"--requests asked.csv --calls 31 --out answers.csv".split()),
    "evaluate": command("evaluate_agent.py", "run", "--serving"),
    "campaign": command("campaign.py", "--out", "k", "--table", "begun.csv", "--score", "y", "--batch", 8),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a table, an estimator of it, a run, and requests."""
    with (tmp_path / "table.csv").open("w+", newline="") as file:
        rows = [(*cells, sum(map(ord, cells)) % 17) for cells in itertools.product("abcd", "efgh", "ijkl", "wxyz")]
        csv.writer(file).writerows([("p", "q", "r", "user", "y"), *rows])
        file.seek(0)
        (tmp_path / "begun.csv").write_text("".join(file.readlines()[::3]))
    (tmp_path / "asked.csv").write_text("user\n" + "w\nx\ny\nz\n" * 500_000)
    fit = command("pretrain_estimator.py", *FIT, *"--context user --model net --epochs 2 --out est".split())
    small = "--timesteps 500 --eval-size 3 --width 8 --out run --wandb disabled".split()
    train = command("train_agent.py", *"--env SlotRL/Rows-v0 --estimator est".split(), *small)
    for call in (fit, train):
        process = Forked(call, tmp_path / "log", tmp_path)
        assert process.wait() == 0, process.output
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_signals_at_random_times(name: str, home: Path, promise: Promise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.monotonic()
    process = Forked(COMMANDS[name], home / "log", home)
    assert process.wait() == 0, process.output
    whole, dice, ends = time.monotonic() - begun, Random(name), list[tuple[int, bool, float]]()
    for number, sent in itertools.product(range(TRIES), CODES):
        (place := home / f"{name} {number} {sent}").mkdir()
        for given in ("table.csv", "begun.csv", "asked.csv", "est", "run"):
            (place / given).symlink_to(home / given)
        process = Forked(COMMANDS[name], home / "log", place)
        time.sleep(dice.uniform(0.3, max(0.4, whole)))
        process.kill(sent)
        at = time.monotonic()
        code, output = process.wait(), process.output
        said = "Traceback" in output
        assert not said, output
        ends.append((code, code in (0, CODES[sent]), time.monotonic() - at))
    stopped = [end for end in ends if end[0] != 0]
    slowest = max(seconds for _, _, seconds in ends)
    right = sum(fits for _, fits, _ in ends)
    promise(f"{name}: signals end it with 130 or 143, without a traceback", f"{right} of {len(ends)}, {slowest:.1f} s")
    assert right == len(ends) and len(stopped) > len(ends) / 3 and slowest < SLOWEST, ends


@pytest.mark.slow
def test_ctrl_c_while_python_imports(promise: Promise) -> None:
    quiet, dice = 0, Random(0)
    script = [sys.executable, str(ROOT / "scripts" / "recommend.py"), "--help"]
    for _ in range(20):
        process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(dice.uniform(0.15, 3))
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
        quiet += "Traceback" not in errors and process.returncode in (0, 130, -signal.SIGINT)
    promise("Ctrl-C while Python imports: no traceback", f"{quiet} of 20")
    assert quiet == 20
