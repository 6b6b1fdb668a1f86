"""A whole comparison: what it leaves, that it goes on where it was killed, and that it refuses bad input early."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from slot_rl.compare import command
from slot_rl.compare.runner import InProcessLauncher
from tests.conftest import ROOT, Command
from tests.helpers.wandb_files import finished_records, history, labels

SCRIPT = ROOT / "scripts" / "compare_agents.py"
PRESETS = """format: slot_rl presets 1
env: SlotRL/PickValue-v0
version: 1
tuning: {command: by hand, tasks: [SlotRL/PickValue-v0], seeds: [0, 1], timesteps: 100}
agents:
  gumbel: [{options: {batch_size: 64, policy: {width: 16, hidden: 32}}}]
  ppo: [{options: {batch_size: 128, minibatch_size: 64, policy: {width: 16, hidden: 32}}}]
"""
AGENTS = ["gumbel", "guided_search", "random"]


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "PickValue-v0.yaml").write_text(PRESETS)
    return [
        *["--agents", *AGENTS, "--env", "SlotRL/PickValue-v0", "--presets", str(folder)],
        *["--timesteps", "1500", "--seeds", "3", "--eval-size", "40", "--out", str(tmp_path / "out")],
    ]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has runs done in this process, where a test is not about workers."""
    monkeypatch.setattr(command, "make_launcher", lambda name, workers: InProcessLauncher())


def long_table(out: Path) -> list[dict[str, str]]:
    """Returns the rows of every run, without the time it took."""
    with open(out / "report" / "runs.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in rows]


def pairs(out: Path) -> Any:
    return json.loads((out / "report" / "results.json").read_text())["figures"]["pairs"]


@pytest.mark.usefixtures("in_process")
def test_a_comparison_leaves_a_report_and_a_dashboard(flags: list[str], tmp_path: Path, script: Command) -> None:
    compare = partial(script, SCRIPT, *flags, "--wandb", "offline")
    code, output, _ = compare("--assert", "guided_search>random")
    assert code == 0 and "guided_search>random@PickValue-v0: established" in output
    assert "warning: only 3 seeds" in output
    out = tmp_path / "out"
    rows = long_table(out)
    assert [(row["agent"], row["seed"]) for row in rows] == [(a, s) for s in ("100", "101", "102") for a in AGENTS]
    assert {row["estimator_forwards"] for row in rows if row["agent"] == "gumbel"} == {"1536"}
    page = (out / "report.html").read_text()
    assert page.count("<img") == len(list((out / "report").glob("*.png"))) == 8
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/summary.json")}
    code, again, _ = compare("--assert", "random>guided_search")
    assert code == 1 and "random>guided_search@PickValue-v0: not established: worse" in again
    assert "9 of 9 runs are there already" in again
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/summary.json")} == before
    assert len(tables(output)) == 1 + len(AGENTS) and tables(again) == tables(output)
    (advised,) = [line for line in output.splitlines() if line.startswith("PickValue-v0: use ")]
    assert advised.startswith("PickValue-v0: use guided_search") and advised in page.replace("&gt;", ">")
    check_dashboards(out)


def tables(output: str) -> list[str]:
    """Returns the rows of the one ranking."""
    return [line for line in output.splitlines() if line.startswith(("│", "┃")) and line.strip("│┃ ")[0].isalpha()]


def check_dashboards(out: Path) -> None:
    """One group holds every agent and seed, over one x axis; the comparison's own run has tables and pictures."""
    found = set()
    for folder in (out / "runs").iterdir():
        records = finished_records(folder)
        name, group, job_type, _ = labels(records)
        config = json.loads((folder / "config.json").read_text())
        found.add((group, job_type, config["seed"]))
        assert job_type == config["agent"] and f"__s{config['seed']}__" in name
        metrics = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
        assert [(metric.glob_name, metric.step_metric) for metric in metrics] == [("*", "global_step")]
        assert all("global_step" in row for row in history(records))
    assert found == {("PickValue-v0@1500", agent, seed) for agent in AGENTS for seed in (100, 101, 102)}
    _, group, job_type, _ = labels(finished_records(out / "comparison"))
    assert (group, job_type) == ("comparison__out", "comparison")


@pytest.mark.usefixtures("in_process")
def test_a_comparison_says_it_all_to_wandb(tmp_path: Path, script: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    study, out = tmp_path / "study.yaml", tmp_path / "out"
    env = "env: SlotRL/PickValue-v0"
    tasks = f"[{{{env}, name: a}}, {{{env}, name: b, timesteps: 120}}]"
    study.write_text(f"agents: {{random: }}\ntasks: {tasks}\ntimesteps: 100\nseeds: 3\n")
    monkeypatch.setenv("WANDB_RUN_GROUP", "variable")
    monkeypatch.setenv("WANDB_ENTITY", "them")
    flags = [
        "--wandb",
        "offline",
        "--wandb-project",
        "p",
        "--wandb-name",
        "mine",
        "--wandb-tags",
        "x",
        "--wandb-group",
        "g",
    ]
    code, _, errors = script(SCRIPT, "--study", study, "--eval-size", 4, "--out", out, *flags)
    assert code == 0, errors
    document = json.loads((out / "comparison.json").read_text())
    assert (document["wandb_project"], document["wandb_entity"]) == ("p", "them")
    assert [task["group"] for task in document["tasks"]] == ["g__a", "g__b"]
    found = {}
    for folder in [*(out / "runs").iterdir(), out / "comparison"]:
        records = finished_records(folder)
        (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
        assert (run.project, run.entity, run.tags[-1]) == ("p", "them", "x")
        assert run.git.commit == (document["git"] or {"commit": ""})["commit"]
        found[run.display_name] = run.run_group
    assert len(found) == 7 and found["mine"] == "g" and sorted(found.values()) == ["g", *["g__a"] * 3, *["g__b"] * 3]


def start(flags: list[str], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *flags, "--wandb", "disabled"],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )


def workers(pid: int) -> list[int]:
    """Returns the processes that a command has started to do runs; none while one of them is going away."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    with suppress(FileNotFoundError):
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return []


def kill_a_worker(process: subprocess.Popen[bytes], dice: random.Random) -> None:
    """Kills a worker as soon as there is one, unless the command ends before."""
    while process.poll() is None:
        found = workers(process.pid)
        if found:
            os.kill(dice.choice(found), signal.SIGKILL)
            return
        time.sleep(0.05)


def kill_at_random(process: subprocess.Popen[bytes], seconds: float, dice: random.Random, with_worker: bool) -> bool:
    """Kills a worker, if asked to, and then the command; returns whether the command was still at work."""
    time.sleep(seconds * dice.uniform(0.2, 0.6))
    if with_worker:
        kill_a_worker(process, dice)
        time.sleep(seconds * dice.uniform(0.1, 0.2))
    at_work = process.poll() is None
    process.kill()
    process.wait()
    return at_work


@pytest.mark.slow
def test_kills_at_random_times_change_nothing(flags: list[str], tmp_path: Path) -> None:
    log, begun = tmp_path / "log.txt", time.monotonic()
    longer = [*flags, "--timesteps", "20000"]
    assert start([*longer, "--out", str(tmp_path / "undisturbed")], log).wait(300) == 0, log.read_text()
    seconds, dice = time.monotonic() - begun, random.Random(0)
    kills = [kill_at_random(start(longer, log), seconds, dice, with_worker) for with_worker in (True, False, True)]
    assert kills[0]
    assert start(longer, log).wait(300) == 0, log.read_text()
    assert long_table(tmp_path / "out") == long_table(tmp_path / "undisturbed")
    assert pairs(tmp_path / "out") == pairs(tmp_path / "undisturbed")
    assert not list((tmp_path / "out" / "runs").glob(".*"))


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_says_so(flags: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    process = start([*flags, "--timesteps", "300000"], log)
    while not list((tmp_path / "out" / "runs").glob(".*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, log.read_text()
    assert "interrupted" in log.read_text() and "Traceback" not in log.read_text()
    assert not list((tmp_path / "out" / "runs").glob(".*"))


@pytest.mark.usefixtures("in_process")
def test_a_study_of_one_agent_has_a_report(tmp_path: Path, script: Command) -> None:
    study, out = tmp_path / "study.yaml", tmp_path / "out"
    study.write_text(
        "agents: {random: , few: {agent: guided_search, options: {calls_per_context: 2}}}\n"
        "tasks: [{env: SlotRL/PickValue-v0}]\ntimesteps: 100\nseeds: 3\n"
    )
    flags = ("--study", study, "--eval-size", 20, "--wandb", "disabled", "--workers", 1, "--out", out)
    code, shown, errors = script(SCRIPT, *flags, "--agents", "few")
    assert code == 0, errors
    assert (out / "report.html").is_file() and "PickValue-v0: use few, because no other agent was compared." in shown
    assert {row["agent"] for row in long_table(out)} == {"few"}
    code, _, errors = script(SCRIPT, *flags, "--agents", "nobody")
    assert code == 2 and "expected --agents to be of random, few, got 'nobody'" in errors
    code, _, errors = script(SCRIPT, *flags, "--set", "data")
    assert code == 2 and "expected --set NAME=VALUE, got data" in errors


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--seeds", "2"], "expected --seeds of at least 3 to conclude anything, got 2"),
        (["--first-seed", "0"], r"not tuned on, got \[0, 1\]"),
        (["--agents", "gumbel", "nobody"], "expected --agents to name some of .*got nobody"),
        (["--agents", "gumbel"], "two or more"),
        (["--env", "SlotRL/Nowhere-v0"], "expected one of SlotRL/Slots-v0"),
        (["--env", "SlotRL/Rows-v0"], "expected estimator=FOLDER"),
        (["--assert", "gumbel>nobody"], "expected a claim about agents of"),
        (["--assert", "gumbel"], "expected a claim such as"),
        (["--workers", "0"], "expected workers >= 1"),
        (["--study", "nowhere.yaml"], "expected no --presets and --problem with --study"),
        (["--timesteps", "0"], "expected timesteps >= 1"),
        (["--presets", "nowhere"], "expected a folder of presets"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    changes: list[str], message: str, flags: list[str], tmp_path: Path, script: Command
) -> None:
    code, output, error = script(SCRIPT, *flags, "--wandb", "disabled", *changes)
    assert code == 2 and re.search(message, " ".join(error.split())), error
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_stays_as_it_is(flags: list[str], tmp_path: Path, script: Command) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    code, _, error = script(SCRIPT, *flags, "--wandb", "disabled")
    assert code == 2 and "expected a new folder for --out" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("in_process")
def test_a_failed_run_is_named_and_counts_as_random(flags: list[str], tmp_path: Path, script: Command) -> None:
    compare = partial(script, SCRIPT, *flags, "--wandb", "disabled", "--agents", "guided_search", "random")
    assert compare()[0] == 0
    out = tmp_path / "out"
    (broken,) = out.glob("runs/*__guided_search__s101__*")
    (broken / "failure.json").write_text('{"error": "NonFiniteScore: made up"}')
    code, output, _ = compare()
    assert code == 0
    assert "failed, counted as random answers: PickValue-v0, guided_search, seed 101: NonFiniteScore: made up" in output
    (row,) = (row for row in long_table(out) if (row["agent"], row["seed"]) == ("guided_search", "101"))
    assert (row["optimality"], row["failure"]) == ("0.0", "NonFiniteScore: made up")
    compare("--retry-failed")
    assert not any(row["failure"] for row in long_table(out))
