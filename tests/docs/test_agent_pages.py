"""The page of each agent: it exists, has the parts that every page has, and names what the agent logs."""

import re
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.logger import KVWriter, Logger

from slot_rl.agents import AGENTS
from slot_rl.agents.sb3 import LearningAgent
from tests.conftest import ROOT
from tests.helpers.logged_table import row_problem, write_log
from tests.helpers.small_agents import tiny

PAGES = ROOT / "docs" / "agents"
TRAINED = [name for name, kind in AGENTS.items() if issubclass(kind.build, LearningAgent)]
PARTS = ["When it wins", "Options", "Logged metrics", "Results"]


class Keys(KVWriter):
    """Remembers the names of what is logged."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.names |= {name for name in key_values if not name.startswith("time/")}

    def close(self) -> None:
        """Nothing is open."""


def parts_of(name: str) -> dict[str, str]:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    title, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    assert title.startswith(f"# `{name}`\n")
    return {part.splitlines()[0]: part.partition("\n")[2] for part in parts}


def test_there_is_a_page_for_every_agent_and_no_other() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == sorted(AGENTS)


@pytest.mark.parametrize("name", AGENTS)
def test_a_page_has_all_parts(name: str) -> None:
    parts = parts_of(name)
    assert list(parts) == ["Update rule" if name in TRAINED else "How it answers", *PARTS]
    assert parts["Options"].strip() == f"<!-- options: {name} -->"
    assert all(len(text.split()) >= 3 for text in parts.values())


@pytest.mark.parametrize("name", TRAINED)
def test_a_page_names_what_its_agent_logs(name: str, tmp_path: Path) -> None:
    if name == "maskable_ppo":
        pytest.importorskip("sb3_contrib")
    logged = {"logged": write_log(tmp_path / "log.csv")} if name in ("reproduction", "aligned") else {}
    keys = Keys()
    agent: Any = AGENTS[name](row_problem(), tiny(name, **logged))
    agent.set_logger(Logger(None, [keys]))
    agent.learn(350, log_interval=1)
    assert set(re.findall(r"`(\w+/\w+)`", parts_of(name)["Logged metrics"])) == keys.names


def test_a_search_logs_nothing() -> None:
    assert len(TRAINED) == 21
    for name in AGENTS.keys() - set(TRAINED):
        assert "/" not in re.sub(r"\(.*?\)", "", parts_of(name)["Logged metrics"])
