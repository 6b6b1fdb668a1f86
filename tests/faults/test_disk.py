"""Disks that are full or forbidden, for a user who is not root: a clear error, and what was there before stays."""

import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slot_rl.agents.base import read_agent
from slot_rl.campaign import Campaign
from slot_rl.estimators import load_estimator
from slot_rl.io import read_json, write_json
from tests.faults.conftest import Promise
from tests.helpers.forked import Forked, command

NOBODY = 65_534
SLOW = pytest.mark.slow
FIT = ("--table", "table.csv", "--score", "y", "--context", "user", "--model", "gp")
TRAIN = "--env SlotRL/PickValue-v0 --eval-size 3 --width 16 --hidden 64 --wandb disabled".split()
COMMANDS = {
    "train": command("train_agent.py", *TRAIN, "--timesteps", 600, "--out", "run", "--force"),
    "pretrain": command("pretrain_estimator.py", *FIT, "--out", "estimator", "--force"),
    "recommend": command("recommend.py", "served", *"--requests asked.csv --calls 0 --out answers.csv --force".split()),
    "campaign": command("campaign.py", "--out", "lab", "--results", "lab/round_1.csv"),
}
"""Each replaces or continues what is there already."""


def do(call: Callable[[], None], place: Path) -> None:
    """Runs a command in this process, so that processes of others need not import what they may not read."""
    before = Path.cwd(), sys.argv
    os.chdir(place)
    try:
        with pytest.raises(SystemExit) as end:
            call()
        assert end.value.code == 0
    finally:
        os.chdir(before[0])
        sys.argv = before[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, an estimator, answers and a campaign whose scores are filled in."""
    place = tmp_path_factory.mktemp("disk")
    users = [(p, q, user) for p in "abcd" for q in "efg" for user in "wx"]
    with (place / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("p", "q", "user", "y"), *((*each, sum(map(ord, each)) % 17) for each in users)])
    lines = (place / "table.csv").read_text().splitlines(True)
    (place / "start.csv").write_text("".join(line for i, line in enumerate(lines) if i % 3 != 1))
    (place / "asked.csv").write_text("user\nw\nx\n")
    serve = "--env SlotRL/Rows-v0 --estimator estimator --timesteps 64 --eval-size 2 --wandb disabled --out served"
    for call in (
        COMMANDS["train"],
        COMMANDS["pretrain"],
        command("train_agent.py", *serve.split(), *"--batch-size 32 --width 8 --hidden 16".split()),
        COMMANDS["recommend"],
        command("campaign.py", *"--out lab --table start.csv --score y --batch 4".split()),
    ):
        do(call, place)
    asked = place / "lab" / "round_1.csv"
    asked.write_text(asked.read_text().replace(",,", ",3,"))
    return place


@pytest.fixture
def home(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in the hands of a user who is not root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    place = Path(tempfile.mkdtemp(prefix="disk-"))
    shutil.copytree(made, place, dirs_exist_ok=True)
    config = place / "served" / "config.json"
    write_json(config, {**read_json(config), "estimator": str(place / "estimator")})
    (place / "fonts").mkdir()
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("MPLCONFIGDIR", str(place / "fonts"))
    monkeypatch.delenv("SLOT_RL_DEBUG", raising=False)
    owned(place)
    yield place
    for folder in (place, *place.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)
    shutil.rmtree(place)


def owned(place: Path) -> None:
    place.chmod(0o755)
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


class Nobody(Forked):
    """A call of somebody who is not root, perhaps with a limit on the size of each file; prints to a pipe."""

    def __init__(self, call: Callable[[], None], place: Path, file_bytes: int | None = None) -> None:
        self._pipe, self._text = os.pipe(), ""

        def limited() -> None:
            for stream in (1, 2):
                os.dup2(self._pipe[1], stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            tempfile.tempdir = str(place)
            call()

        super().__init__(limited, Path(os.devnull), place)
        os.close(self._pipe[1])

    def wait(self) -> int:
        # Until the process closes its end.
        with os.fdopen(self._pipe[0], errors="replace") as pipe:
            self._text = pipe.read()
        return super().wait()

    @property
    def output(self) -> str:
        return self._text


def contents(place: Path) -> dict[str, bytes]:
    skipped = ("log", ".lock", ".png")
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        # Scores that campaign.json does not name yet count for nothing.
        if path.is_file()
        and path.name != "measured_1.csv"
        and not path.name.endswith(skipped)
        and "fonts" not in path.parts
        and path.suffix != ".tmp"
    }


def assert_clear(process: Forked, code: int) -> str:
    """Asserts exit code 2 with one line, and nothing that claims to be done; returns the line."""
    text = process.output
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1, (code, text)
    assert (
        "Traceback" not in text and "run: " not in text and "written: " not in text and "rows to measure:" not in text
    )
    return errors[0]


def assert_whole(place: Path) -> None:
    """Asserts that what can be read can still be read."""
    read_agent(place / "run" / "checkpoint")
    assert read_json(place / "run" / "summary.json")["status"] == "finished"
    load_estimator(place / "estimator")
    Campaign.load(place / "lab")


@SLOW
@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_does_not_fit(name: str, home: Path, promise: Promise) -> None:
    before, clear, tries = contents(home), 0, (0, 20, 60, 100, 300, 1_000, 6_000)
    for limit in tries:
        process = Nobody(COMMANDS[name], home, limit)
        code = process.wait()
        if code == 0:
            break  # all fits, and so it does with larger limits
        line = assert_clear(process, code)
        assert "too large" in line or "File" in line or "Errno" in line, line
        # A training that had begun leaves what it has.
        left = {name: data for name, data in contents(home).items() if not name.startswith("run.failed")}
        assert left == before, limit
        clear += 1
    assert_whole(home)
    promise(
        f"{name}: files that do not fit (RLIMIT_FSIZE): one line, all as before", f"{clear} limits; larger ones fit"
    )
    assert clear >= 2


@SLOW
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_read_only(name: str, home: Path, promise: Promise) -> None:
    before, clear = contents(home), 0
    own = {"train": ["run"], "pretrain": ["estimator"], "recommend": [], "campaign": ["lab"]}
    targets = [home, *(home / each for each in own[name])]
    for target in targets:
        target.chmod(0o555)
        process = Nobody(COMMANDS[name], home)
        code = process.wait()
        target.chmod(0o755)
        if code == 0 and target != home:
            continue  # a folder in a writable one may be replaced
        line = assert_clear(process, code)
        assert "Permission denied" in line or "read-only" in line
        assert contents(home) == before
        clear += 1
    assert_whole(home)
    promise("commands in a read-only folder: one line, all as before", f"{clear} of {len(targets)}")
    assert clear


LONG = command("train_agent.py", *TRAIN, "--batch-size", 32, "--timesteps", 60_000, "--out", "long")


def in_mid_run(home: Path, act: Callable[[Path], None]) -> tuple[Forked, int]:
    """Trains, does something to the folder once the training is under way, and waits for the end."""
    process = Nobody(LONG, home)
    metrics, begun = home / "long" / "metrics.jsonl", time.monotonic()
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() - begun < 60:
        time.sleep(0.02)
    act(home / "long")
    return process, process.wait()


def named_place(line: str) -> Path:
    return Path(line.split("the trained weights are in ")[1])


@SLOW
def test_permission_that_is_lost_in_mid_run(home: Path, promise: Promise) -> None:
    process, code = in_mid_run(home, lambda folder: folder.chmod(0o555))
    line = assert_clear(process, code)
    place = named_place(line)
    tensors, document = read_agent(place)
    held = "Permission denied" in line and not (home / "long" / "summary.json").exists()
    calls = document["num_timesteps"]
    promise("permission lost in mid-run: one line, trained weights in a second place", f"{calls:,} of 60,000 calls")
    assert held and calls >= 60_000 and tensors
    assert (place.parent / "config.json").is_file()


@SLOW
def test_a_folder_that_is_removed_in_mid_run(home: Path, promise: Promise) -> None:
    process, code = in_mid_run(home, shutil.rmtree)
    line = assert_clear(process, code)
    kept = home / "long" / "checkpoint"
    found = kept if kept.is_dir() else named_place(line)
    calls = read_agent(found)[1]["num_timesteps"]
    promise("folder removed in mid-run: exit code 2, trained weights are there", f"{calls:,} of 60,000 calls")
    assert calls >= 60_000


@SLOW
def test_a_disk_that_is_full(home: Path, promise: Promise) -> None:
    mount = home / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", mount], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        train = command("train_agent.py", *TRAIN, "--timesteps", 600, "--out", "small/run")
        process = Nobody(train, home)
        line = assert_clear(process, process.wait())
        calls = read_agent(named_place(line))[1]["num_timesteps"]
        assert "No space left" in line and not (mount / "run" / "checkpoint" / "manifest.json").exists()
        (mount / "filler").write_bytes(b"x" * (os.statvfs(mount).f_bavail * os.statvfs(mount).f_bsize))
        clear = 0
        for name, flags in {
            "pretrain_estimator.py": (*FIT, "--out", "small/estimator"),
            "recommend.py": ("served", *"--requests asked.csv --calls 0 --out small/answers.csv".split()),
            "campaign.py": ("--out", "small/lab", "--table", "start.csv", "--score", "y", "--batch", 4),
        }.items():
            process = Nobody(command(name, *flags), home)
            assert "No space left" in assert_clear(process, process.wait())
            clear += 1
        assert not [path for path in mount.rglob("*.csv") if path.stat().st_size == 0]
        promise("full disk (tmpfs): one line, trained weights in a second place", f"{calls} of 600 calls, {clear} of 3")
        assert calls >= 600
    finally:
        subprocess.run(["umount", mount], check=True)
