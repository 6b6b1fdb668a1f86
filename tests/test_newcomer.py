"""A newcomer's first minutes: the built wheel in a fresh virtual environment and an empty folder, no repository.

``pytest -s tests/test_newcomer.py`` prints the time of each command.
"""

import csv
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_packaging import SKIPPED, built

ROWS = "--env SlotRL/Rows-v0 --estimator estimator --truth example:suzuki"
COMMANDS = f"""\
slot-rl pretrain --table example:suzuki --score yield --context electrophile nucleophile --out estimator
slot-rl train --agent expert_iteration {ROWS} --timesteps 20000 --out run
slot-rl recommend run --requests example:suzuki-requests --out answers.csv
slot-rl evaluate run
slot-rl export run --out policy
slot-rl init mine
slot-rl train --problem mine/problem.py:build --trust --agent multistart --timesteps 20000 --out own
slot-rl recommend own --trust --requests users.csv --out pages.csv --top 2
slot-rl compare --study mine/study.yaml --trust --seeds 3 --timesteps 2000 --eval-size 64 --out comparison
"""


def timed(command: str, folder: Path, environment: dict[str, str]) -> None:
    begun = time.monotonic()
    call = subprocess.run(
        shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert call.returncode == 0, (command, call.stdout[-2_000:], call.stderr[-2_000:])
    print(f"{time.monotonic() - begun:6.1f} s  {command}")


@pytest.mark.slow
def test_ten_minutes_without_the_repository(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=shutil.ignore_patterns(*SKIPPED))
    wheel, _ = built(tmp_path / "source", tmp_path / "dist")
    folder = tmp_path / "empty"
    folder.mkdir()
    python = tmp_path / "venv/bin"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WANDB", "PIP_C"))
    }
    environment["PATH"] = f"{python}{os.pathsep}{environment['PATH']}"
    timed(f"{sys.executable} -m venv {python.parent}", folder, environment)
    timed(f"pip install -q --constraint {ROOT / 'constraints.txt'} {wheel}", folder, environment)
    users = "request,age,visits,hour\nu1,0.3,-1.2,0.8\nu2,-1,0,2\n"
    (folder / "users.csv").write_text(users)
    for command in COMMANDS.splitlines():
        timed(command, folder, environment)
    answers = list(csv.DictReader((folder / "answers.csv").read_text().splitlines()))
    assert [row["request"] for row in answers] == [f"r{number + 1}" for number in range(12)]
    assert all(row["ligand"] and row["base"] and row["solvent"] for row in answers)
    pages = list(csv.DictReader((folder / "pages.csv").read_text().splitlines()))
    assert [row["request"] for row in pages] == ["u1", "u1", "u2", "u2"]
    assert all(row[f"slot_{number}"].startswith("creative-") for row in pages for number in range(1, 5))
    assert (folder / "comparison/report.html").is_file()
