"""What a user says of a run on Weights & Biases: flags before variables, kept by resume and resync, read back."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import read_config, write_json
from slot_rl.mirror_process import _settings
from slot_rl.provenance import git_state
from slot_rl.resuming import ResumeConfig, resume_run
from slot_rl.resyncing import ResyncConfig, resync
from slot_rl.training import RunConfig, train_run
from slot_rl.wandb_labels import NO_FLAGS, WandbFlags, WandbLabels, labels_of_run
from tests.conftest import ROOT, Command
from tests.helpers.options import options_of
from tests.helpers.wandb_files import finished_records, labels

OWN = WandbLabels("own", "env@10", "gumbel", ("gumbel", "0.1.0"))
VARIABLES = {
    "WANDB_PROJECT": "variable",
    "WANDB_ENTITY": "them",
    "WANDB_NAME": "called",
    "WANDB_TAGS": "x, y,",
    "WANDB_RUN_GROUP": "together",
}
FLAGS = WandbFlags("flag", "us", "mine", ("a", "b"), "group")
TINY = EvaluationConfig(eval_size=4)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def run_record(folder: Path) -> Any:
    (run,) = (record.run for record in finished_records(folder) if record.WhichOneof("record_type") == "run")
    return run


def trained(out: Path, flags: WandbFlags = NO_FLAGS, **changes: Any) -> Path:
    config = RunConfig("SlotRL/PickValue-v0", timesteps=64, out=out, evaluation=TINY, labels=flags)
    return train_run("random", replace(config, **{"wandb": "offline", **changes}), options_of("random"))[0]


def test_flags_beat_variables_which_beat_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NO_FLAGS.with_variables().over(OWN) == OWN
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    said = NO_FLAGS.with_variables().over(OWN)
    assert said == WandbLabels("called", "together", "gumbel", ("gumbel", "0.1.0", "x", "y"), "variable", "them")
    assert FLAGS.with_variables() == FLAGS
    assert WandbFlags(wandb_tags=("gumbel", "a")).over(OWN).tags == ("gumbel", "0.1.0", "a")
    assert FLAGS.over(OWN) == WandbLabels("mine", "group", "gumbel", ("gumbel", "0.1.0", "a", "b"), "flag", "us")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"wandb_project": "a/b"}, "expected a project without .* got 'a/b'"),
        ({"wandb_group": "a=b"}, "expected a group without = < >, got 'a=b'"),
        ({"wandb_tags": ("",)}, "expected tags of 1 to 64 characters, got ''"),
        ({"wandb_tags": ("x" * 65,)}, "expected tags of 1 to 64 characters"),
    ],
)
def test_what_would_be_refused_later_is_refused_now(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WandbFlags(**flags)


def test_bad_variables_are_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "a:b")
    with pytest.raises(ValueError, match="expected a project without"):
        trained(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_training_says_it_all(tmp_path: Path, script: Command) -> None:
    flags = "--wandb-project p --wandb-entity e --wandb-name n --wandb-tags a b --wandb-group g --wandb offline"
    common = ["--agent", "random", "--env", "SlotRL/PickValue-v0", "--timesteps", 64, "--eval-size", 4]
    out = tmp_path / "run"
    assert script(ROOT / "scripts/train_agent.py", *common, *flags.split(), "--out", out)[0] == 0
    run = run_record(out)
    assert (run.project, run.entity) == ("p", "e")
    version = read_config(out)["labels"]["tags"][1]
    assert labels(finished_records(out)) == ("n", "g", "random", ["random", version, "a", "b"])
    code, _, errors = script(ROOT / "scripts/train_agent.py", *common, "--wandb-group", "a=b", "--out", tmp_path / "no")
    assert code == 2 and "expected a group without" in errors and not (tmp_path / "no").exists()


def test_variables_reach_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    run = run_record(trained(tmp_path / "run"))
    found = (run.project, run.entity, run.display_name, run.run_group, list(run.tags)[2:])
    assert found == ("variable", "them", "called", "together", ["x", "y"])


def test_the_commit_is_recorded(tmp_path: Path) -> None:
    out = trained(tmp_path / "run")
    known = git_state()
    run = run_record(out)
    assert read_config(out)["git"] == known
    assert run.git.commit == ("" if known is None else known["commit"])
    sent = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert sent["git"] == known and not list(out.glob("wandb/*/files/diff*.patch"))


def test_the_state_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        own = ["git", "-c", "user.name=n", "-c", "user.email=e@e", *words]
        return subprocess.run(own, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_state() is None  # no repository
    git("init", "--quiet")
    assert git_state() is None  # no commit
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "--message", "first")
    (tmp_path / "untracked").write_text("a run's folder")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("two")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "changed": True}
    monkeypatch.setenv("PATH", "")
    assert git_state() is None  # no git


def test_system_metrics_are_measured_online_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _settings("offline", None)["x_disable_stats"] is True
    online = _settings("online", "abc")
    assert "x_disable_stats" not in online and online["git_commit"] == "abc"
    monkeypatch.setenv("WANDB_GIT_COMMIT", "theirs")
    assert "git_commit" not in _settings("online", "abc")


def test_resync_keeps_what_a_run_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = trained(tmp_path / "run", FLAGS, wandb="disabled")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    resync(ResyncConfig((out,), "offline"))
    run = run_record(out)
    assert (run.project, run.entity, run.display_name, run.run_group) == ("flag", "us", "mine", "group")
    assert list(run.tags)[2:] == ["a", "b"]
    assert run.git.commit == (read_config(out)["git"] or {"commit": ""})["commit"]
    resync(ResyncConfig((out,), "offline", WandbFlags(wandb_project="other")))
    assert (run_record(out).project, run_record(out).display_name) == ("other", "mine")


def test_a_config_of_an_earlier_version_takes_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "variable")
    earlier = {"name": "n", "group": "g", "job_type": "gumbel", "tags": ["gumbel"]}
    assert labels_of_run({"labels": earlier}, "run") == WandbLabels("n", "g", "gumbel", ("gumbel",), "variable")
    with pytest.raises(ValueError, match="expected the config of a run in run with labels"):
        labels_of_run({}, "run")


def test_a_resumed_run_keeps_its_labels_and_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = RunConfig("SlotRL/PickValue-v0", timesteps=600, out=tmp_path / "run", evaluation=TINY, labels=FLAGS)
    out, _, summary = train_run("gumbel", replace(config, wandb="disabled", tensorboard=True), options_of("gumbel"))
    events = accumulator.EventAccumulator(str(out / "tensorboard")).Reload()
    assert events.Scalars("eval/optimality")[-1].value == pytest.approx(summary["optimality"])
    write_json(out / "summary.json", {**summary, "status": "interrupted"})
    monkeypatch.setenv("WANDB_PROJECT", "variable")
    resume_run(ResumeConfig(resume=out, wandb="offline", labels=WandbFlags(wandb_name="again")))
    run = run_record(out)
    assert (run.project, run.display_name, run.run_group) == ("flag", "again", "group")
    assert read_config(out)["labels"]["name"] == "again"
    assert len(list((out / "tensorboard").iterdir())) == 2
