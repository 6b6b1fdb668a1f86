"""The README and the docs are kept true: their Python runs, their commands parse, their links and pictures exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slot_rl.selectors import NAMES
from tests.conftest import ROOT, Command
from tests.helpers.commands import exit_code

SOURCES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PAGES = {page: page.read_text(encoding="utf-8") for page in SOURCES}
TEXT = "\n".join(PAGES.values())
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
WORDS = "init train compare pretrain recommend evaluate diagnose campaign dashboard resync tune export"
CALLED = rf"(?:python (scripts/\w+\.py[^`\n|#]*)|(slot-rl (?:{'|'.join(WORDS.split())})\b[^`\n|#]*))"
COMMANDS = sorted({(script or command).strip() for script, command in re.findall(CALLED, TEXT)})
LOOP = "for update in range"
MOST_WORDS = 700
SUBCOMMANDS = {
    *"aligner answers env policy selectors pick-value poly quadratics intermediate-loss landscapes slate-log".split(),
    *"campaigns ensemble gradient-advice held-out-pairs prepare-landscapes pressure table-models valid-kernels".split(),
}


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_loop_learns_from_the_registered_environment_alone(tmp_path: Path) -> None:
    (loop,) = (block for block in PYTHON if LOOP in block)
    assert "slot_rl." not in loop.replace("slot_rl:SlotRL", "")
    assert len([line for line in loop.split("for update")[1].splitlines() if line.startswith("    ")]) <= 10
    done = run(["-c", "import torch; torch.set_num_threads(1); torch.manual_seed(0)\n" + loop], tmp_path)
    assert done.returncode == 0, done.stderr
    (reward,) = re.findall(r"mean reward (-?[\d.]+)", done.stdout)
    assert float(reward) > -0.2  # random choices get -0.333


@pytest.mark.parametrize("block", [block for block in PYTHON if LOOP not in block])
def test_every_other_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        made = {"__name__": "block"}
        exec(compile(block, "block", "exec"), made)
    assert made.keys() > {"__name__", "__builtins__"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_its_flags_exist(command: str, script: Command, capsys: pytest.CaptureFixture[str]) -> None:
    name, *arguments = shlex.split(command)
    flags = {argument for argument in arguments if argument.startswith("--")}
    chosen = ["--agent", arguments[arguments.index("--agent") + 1]] if "--agent" in arguments else []
    subcommand = [argument for argument in arguments[:1] if name == "slot-rl" or argument in SUBCOMMANDS]
    if name == "slot-rl":
        code, (output, errors) = exit_code(*subcommand, *chosen, "--help"), capsys.readouterr()
    else:
        code, output, errors = script(ROOT / name, *chosen, *subcommand, "--help")
    assert code == 0, errors
    assert flags - {"--agent"} <= set(re.findall(r"--[a-z-]+", output))


def test_the_readme_is_short() -> None:
    assert len(PAGES[ROOT / "README.md"].split()) <= MOST_WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)\)", PAGES[page]) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_roster_is_described_whole() -> None:
    described = re.findall(r"^### `(\w+)`", PAGES[ROOT / "docs" / "selectors.md"], flags=re.MULTILINE)
    assert tuple(described) == NAMES
