"""Two commands with one --out, started together: one writes it, the other is refused, and nothing is mixed."""

import csv
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slot_rl.estimators import load_estimator
from slot_rl.reevaluation import ReevaluationConfig, reevaluate
from tests.conftest import ROOT

OFFSETS = (0.0, 0.3, 1.5)
"""Seconds between two starts: imports take some seconds, so the second one comes at various stages of the first."""
TRAIN = "train_agent.py --env SlotRL/PickValue-v0 --timesteps 20000 --eval-size 20 --width 16 --wandb disabled --seed"


def together(home: Path, commands: list[str], offset: float) -> list[tuple[int, str]]:
    """Starts commands one after another; returns their exit codes and what they said."""
    processes = []
    for command in commands:
        script, *flags = command.split()
        called = [sys.executable, str(ROOT / "scripts" / script), *flags]
        processes.append(
            subprocess.Popen(called, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        time.sleep(offset)
    said = [process.communicate(timeout=300)[0] for process in processes]
    return [(process.returncode, " ".join(text.split())) for process, text in zip(processes, said, strict=True)]


def assert_one_wrote(found: list[tuple[int, str]]) -> int:
    """Checks that one command ended well and that the other one was refused; returns the first one's number."""
    assert sorted(code for code, _ in found) == [0, 2], found
    (refused,) = (text for code, text in found if code == 2)
    assert "for this command alone, got one that process" in refused or "which exists" in refused
    return [code for code, _ in found].index(0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a table."""
    with (tmp_path / "table.csv").open("w", newline="") as file:
        rows = [(*cells, sum(map(ord, cells)) % 17) for cells in itertools.product("abcd", "efgh", "ijkl")]
        csv.writer(file).writerows([("p", "q", "r", "y"), *rows])
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("force", ["", " --force"])
def test_two_trainings(home: Path, offset: float, force: str) -> None:
    found = together(home, [f"{TRAIN} {seed} --out run{force}" for seed in (1, 2)], offset)
    if force and [code for code, _ in found] == [0, 0]:
        winner = 1  # one after the other
    else:
        winner = assert_one_wrote(found)
    config = json.loads((home / "run/config.json").read_text())
    assert config["seed"] == winner + 1
    assert json.loads((home / "run/summary.json").read_text())["seed"] == winner + 1
    reevaluate(ReevaluationConfig(home / "run"))
    assert sorted(path.name for path in home.iterdir()) == ["run", "table.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("offset", OFFSETS)
def test_two_pretrainings_and_two_recommendations(home: Path, offset: float) -> None:
    fit = "pretrain_estimator.py --table table.csv --score y --out estimator --epochs 300 --seed"
    winner = assert_one_wrote(together(home, [f"{fit} {seed}" for seed in (1, 2)], offset))
    assert load_estimator(home / "estimator").card["seed"] == winner + 1
    train = f"{TRAIN} 1 --env SlotRL/Rows-v0 --estimator estimator --out run"
    assert together(home, [train], 0)[0][0] == 0
    asked = "recommend.py run --out answers.csv"
    assert_one_wrote(together(home, [asked, asked], offset))
    with (home / "answers.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("offset", OFFSETS)
def test_two_campaigns(home: Path, offset: float) -> None:
    lines = (home / "table.csv").read_text().splitlines(keepends=True)
    (home / "start.csv").write_text("".join(lines[:1] + lines[1::3]))
    start = "campaign.py --table start.csv --score y --batch 4 --out lab"
    found = together(home, [start, start], offset)
    assert sorted(code for code, _ in found) == [0, 2]
    assert "for this command alone" in found[0][1] + found[1][1] or "already begun" in found[0][1] + found[1][1]
    assert sorted(path.name for path in (home / "lab").iterdir()) == ["campaign.json", "measured_0.csv", "round_1.csv"]
