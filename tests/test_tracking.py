"""What a run tells Weights & Biases, read back from the offline file, and what it writes to metrics.jsonl."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import stable_baselines3.common.logger as sb3_logger
import wandb

from slot_rl.metrics_file import read_metrics
from slot_rl.mirror import Mirror
from slot_rl.tracking import RunIdentity, Tracker, TrackerWriter, wandb_mode
from slot_rl.wandb_labels import NO_FLAGS
from tests.conftest import ROOT
from tests.helpers.processes import descendants, runs
from tests.helpers.wandb_files import finished_records, history, labels

IDENTITY = RunIdentity("SlotRL/Slots-v0", "gumbel", 3, 1000, "20260101-000000", "0.1.0")


def test_the_offline_run_carries_labels_config_and_metrics(tmp_path: Path) -> None:
    with Tracker(tmp_path, IDENTITY.labels, {"seed": 3, "agent": "gumbel", "budget": 1000}, "offline") as tracker:
        for step in (10, 20):
            tracker.log(step, {"train/loss": 0.5 / step, "eval/optimality": float(step)})
        tracker.finish({"score": 1.5})
    records = finished_records(tmp_path)
    (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert run.project == "slot_rl"
    name = "Slots-v0__gumbel__s3__20260101-000000"
    assert labels(records) == (name, "Slots-v0@1000", "gumbel", ["gumbel", "0.1.0"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {"seed": 3, "agent": "gumbel", "budget": 1000}.items() <= config.items()

    points = read_metrics(tmp_path / "metrics.jsonl")
    logged = [{key: row[key] for key in points[0]} for row in history(records)]
    assert logged == points
    assert [next(iter(point)) for point in points] == ["global_step", "global_step"]
    metrics = [r.metric for r in records if r.WhichOneof("record_type") == "metric"]
    assert any(metric.step_metric == "global_step" for metric in metrics)
    summaries = [r.summary for r in records if r.WhichOneof("record_type") == "summary"]
    assert any(item.key == "score" and json.loads(item.value_json) == 1.5 for s in summaries for item in s.update)


def test_a_run_goes_on_behind_its_kept_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine a mirror can take longer than a run waits for; then both runs are left, as promised.
    monkeypatch.setattr(Mirror, "finish", partialmethod(Mirror.finish, patience=60.0))
    ids = set()
    for lines, steps in ((0, (10, 20, 30)), (2, (40, 50))):
        with Tracker(tmp_path, IDENTITY.labels, {}, "offline", lines=lines) as tracker:
            assert tracker.lines == lines
            for step in steps:
                tracker.log(step, {"a": step / 10})
            tracker.sync()
            assert tracker.lines == lines + len(steps)
        ids |= {path.name.rpartition("-")[2] for path in tmp_path.glob("wandb/offline-run-*")}
    points = [{"global_step": step, "a": step / 10} for step in (10, 20, 40, 50)]
    assert read_metrics(tmp_path / "metrics.jsonl") == points
    # One folder, with every point: the second mirror has replaced the first.
    assert [{key: row[key] for key in points[0]} for row in history(finished_records(tmp_path))] == points
    assert len(ids) == 1
    with pytest.raises(ValueError, match="expected 5 log points in .*, got 4"):
        Tracker(tmp_path, IDENTITY.labels, {}, "offline", lines=5)


def test_a_mirror_that_is_killed_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker(tmp_path, IDENTITY.labels, {}, "offline", home=tmp_path / "final name") as tracker:
        while not (mirrors := descendants(os.getpid())):
            time.sleep(0.01)
        os.kill(min(mirrors), signal.SIGKILL)
        for step in range(20):
            tracker.log(step, {"a": 1.0})
            time.sleep(0.02)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 20
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "(its process ended with -9)" in said
    assert f"`slot-rl resync '{tmp_path}/final name'`" in said


def test_a_mirror_ends_with_a_killed_training(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from tests.test_tracking import IDENTITY, Tracker; "
        "t = Tracker(Path(sys.argv[1]), IDENTITY.labels, {}, 'offline'); t.log(1, {'a': 1.0}); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) as training:
        for _ in range(1_000):
            below = descendants(training.pid)
            if any(name.startswith("wandb-core") for name in below.values()):
                break
            time.sleep(0.05)
        training.kill()
    assert len(below) >= 2
    for _ in range(1_000):
        if not any(map(runs, below)):
            break
        time.sleep(0.05)
    assert not any(map(runs, below))


def test_the_callers_own_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "one-for-all")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    quiet = wandb.Settings(silent=True, console="off")
    for name in "ab":
        (tmp_path / name).mkdir()
    with wandb.init(project="mine", mode="offline", dir=str(tmp_path), settings=quiet) as mine:
        for name in "ab":
            with Tracker(tmp_path / name, NO_FLAGS.with_variables().over(IDENTITY.labels), {}, "offline") as tracker:
                tracker.log(1, {"a": 1.0})
        assert wandb.run is mine
        mine.log({"still": 1})
    ids = []
    for name in "ab":
        (run,) = (r.run for r in finished_records(tmp_path / name) if r.WhichOneof("record_type") == "run")
        assert run.project == "theirs"
        ids.append(run.run_id)
    assert len({*ids, "one-for-all"}) == 3


def test_the_group_holds_the_budget() -> None:
    groups = {RunIdentity("SlotRL/Slots-v0", "gumbel", 0, budget, "t", "0.1.0").group for budget in (1000, 2000)}
    assert groups == {"Slots-v0@1000", "Slots-v0@2000"}
    assert replace(IDENTITY, task="Slots-v0").group == IDENTITY.group  # of a comparison, whose task has this label


def test_a_task_replaces_the_env_in_group_and_name() -> None:
    task = replace(IDENTITY, env="SlotRL/Rows-v0", task="suzuki/wide")
    assert (task.group, task.name) == ("suzuki/wide@1000", "wide__gumbel__s3__20260101-000000")
    assert task.labels.group != replace(task, task="suzuki/narrow").labels.group


def test_disabled_writes_metrics_and_nothing_else(tmp_path: Path) -> None:
    with Tracker(tmp_path, IDENTITY.labels, {}, "disabled") as tracker:
        tracker.log(1, {"b": 2.0, "a": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"global_step": 1, "a": None, "b": 2.0}]


def test_the_writer_hands_over_figures_and_drops_text(tmp_path: Path) -> None:
    with Tracker(tmp_path, IDENTITY.labels, {}, "disabled") as tracker:
        logger = sb3_logger.Logger(folder=None, output_formats=[TrackerWriter(tracker)])
        logger.record("train/loss", 0.25)
        logger.record("note", "12")
        logger.dump(step=7)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"global_step": 7, "train/loss": 0.25}]


def test_the_mode_is_the_flag_then_the_variable_then_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode(None) == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(None) == "disabled"
    assert wandb_mode("offline") == "offline"
    monkeypatch.setenv("WANDB_MODE", "shared")
    with pytest.raises(ValueError, match="WANDB_MODE to be one of offline, online, disabled, got 'shared'"):
        wandb_mode(None)


def test_tensorboard_gets_every_log_point(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Tracker(tmp_path, IDENTITY.labels, {}, "disabled", tensorboard=True) as tracker:
        for step in (10, 20):
            tracker.log(step, {"train/loss": 0.5 * step, "eval/optimality": 1.0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["eval/optimality", "train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 5.0), (20, 10.0)]


def test_tensorboard_drops_points_that_are_not_kept(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for lines, steps in ((0, (10, 20, 30)), (2, (25, 40))):
        with Tracker(tmp_path, IDENTITY.labels, {}, "disabled", tensorboard=True, lines=lines) as tracker:
            for step in steps:
                tracker.log(step, {"a": float(step)})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("a")] == [10, 20, 25, 40]


def test_a_missing_tensorboard_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"expected the extra \[tensorboard\] .*got: .*tensorboard"):
        Tracker(tmp_path, IDENTITY.labels, {}, "offline", tensorboard=True)
    assert list(tmp_path.iterdir()) == []
