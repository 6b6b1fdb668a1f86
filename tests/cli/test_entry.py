"""``slot-rl``: its help, its commands and their scripts, and names that are not known."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from slot_rl.agents import AGENTS
from slot_rl.cli.commands import COMMANDS
from slot_rl.cli.entry import FIRST_TRY
from slot_rl.cli.guide import GUIDE, guide
from tests.conftest import ROOT, Command
from tests.helpers.commands import exit_code

SCRIPTS = {
    "train_agent.py": "train",
    "compare_agents.py": "compare",
    "pretrain_estimator.py": "pretrain",
    "recommend.py": "recommend",
    "evaluate_agent.py": "evaluate",
    "diagnose_gradients.py": "diagnose",
    "campaign.py": "campaign",
    "publish_dashboard.py": "dashboard",
    "resync.py": "resync",
    "tune_presets.py": "tune",
}


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert exit_code(*words) == 0
        shown = capsys.readouterr().out
        assert re.findall(r"^  (\w+)  ", shown, flags=re.MULTILINE) == list(COMMANDS)
        assert all(f"slot-rl {line}" in shown for line in FIRST_TRY)


def test_the_help_needs_no_torch() -> None:
    code = (
        "import sys; from slot_rl.cli.entry import slot_rl_command as c; c(['-h']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_an_embedded_python_has_no_arguments() -> None:
    code = "import sys; sys.argv = []; import slot_rl"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_command_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("trian") == 2
    assert capsys.readouterr().err.endswith("got 'trian'; did you mean 'train'?\n")
    assert exit_code("xyz") == 2
    assert capsys.readouterr().err.endswith("got 'xyz'\n")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_its_command(name: str, script: Command, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, errors = script(ROOT / "scripts" / name, "--help")
    assert (code, errors) == (0, "")
    assert shown.startswith(f"usage: {name} ")
    assert exit_code(SCRIPTS[name], "--help") == 0
    found = capsys.readouterr().out
    assert found.startswith(f"usage: slot-rl {SCRIPTS[name]} ")
    assert shown.split("\n\n", 1)[1] == found.split("\n\n", 1)[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_a_flag_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["run"] if name in ("recommend", "evaluate", "export", "dashboard", "resync") else []
    assert exit_code(name, *place, "--no-such-flag") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: expected flags of slot-rl ") and said.err.count("\n") == 1
    assert "got --no-such-flag" in said.err


def test_a_missing_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("recommend") == 2
    assert capsys.readouterr().err == "error: expected PATH, --out PATH for slot-rl recommend, got none\n"


def test_every_agent_is_advised_on_once() -> None:
    named = [name for names in GUIDE.values() for name in names]
    assert len(named) == len(set(named)) and set(named) <= set(AGENTS)
    text = guide()
    assert all(len(re.findall(rf"(?<!\w){name}(?!\w)", text)) == 1 for name in AGENTS)


def test_the_module_is_the_command(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "slot_rl", "--version"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "0.1.0\n")
