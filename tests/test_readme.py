"""The README is kept true: its Python runs, its commands parse, its links and pictures exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = sorted(set(re.findall(r"python (scripts/\w+\.py[^`\n|]*)", README)))


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_loop_learns_from_the_registered_environment_alone(tmp_path: Path) -> None:
    loop = PYTHON[0]
    assert "slot_rl." not in loop.replace("slot_rl:SlotRL", "")
    assert len([line for line in loop.split("for update")[1].splitlines() if line.startswith("    ")]) <= 10
    done = run(["-c", "import torch; torch.set_num_threads(1); torch.manual_seed(0)\n" + loop], tmp_path)
    assert done.returncode == 0, done.stderr
    (reward,) = re.findall(r"mean reward (-?[\d.]+)", done.stdout)
    assert float(reward) > -0.2  # random choices get -0.333


@pytest.mark.parametrize("block", PYTHON[1:])
def test_every_other_block_runs(block: str, tmp_path: Path) -> None:
    done = run(["-W", "error::DeprecationWarning:slot_rl", "-c", block], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_script_and_flags_that_exist(command: str, tmp_path: Path) -> None:
    script, *arguments = shlex.split(command)
    flags = {argument for argument in arguments if argument.startswith("--")}
    chosen = ["--agent", arguments[arguments.index("--agent") + 1]] if "--agent" in arguments else []
    subcommand = [a for a in arguments[:1] if a in {"env"}]
    done = run([str(ROOT / script), *chosen, *subcommand, "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert flags - {"--agent"} <= set(re.findall(r"--[a-z-]+", done.stdout))


def test_links_and_pictures_exist() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing
