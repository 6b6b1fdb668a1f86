"""A run folder's Weights & Biases run is rebuilt from its own files, and takes the place of an earlier one."""

import json
import os
from pathlib import Path

import pytest

from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import read_config, read_json, write_json
from slot_rl.metrics_file import read_metrics
from slot_rl.places import claimed
from slot_rl.resyncing import ResyncConfig, resync
from slot_rl.training import RunConfig, train_run
from tests.conftest import ROOT, Command
from tests.helpers.options import options_of
from tests.helpers.wandb_files import finished_records, history, labels

SCRIPT = ROOT / "scripts" / "resync.py"
REFUSING = 'class Error(Exception): pass\ndef init(**kwargs): raise Error("no login")\ndef Settings(**kwargs): pass\n'


def trained(folder: Path) -> Path:
    evaluation = EvaluationConfig(eval_size=4)
    config = RunConfig("SlotRL/PickValue-v0", timesteps=64, out=folder, wandb="disabled", evaluation=evaluation)
    return train_run("random", config, options_of("random"))[0]


def test_a_run_is_rebuilt_from_its_folder(tmp_path: Path, script: Command) -> None:
    run = trained(tmp_path / "run")
    assert not (run / "wandb").exists()
    names = []
    for _ in range(2):
        code, output, errors = script(SCRIPT, run, "--wandb", "offline")
        assert code == 0, errors
        assert output == f"{run}: 1 log points on Weights & Biases, offline\n"
        records = finished_records(run)
        config, points = read_config(run), read_metrics(run / "metrics.jsonl")
        found = dict(zip(("name", "group", "job_type", "tags"), labels(records), strict=True))
        assert {**found, "project": "slot_rl", "entity": None} == config["labels"]
        assert [{key: row[key] for key in points[0]} for row in history(records)] == points
        (started,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
        sent = {item.key: json.loads(item.value_json) for item in started.config.update}
        assert config.items() <= sent.items()
        updates = [record.summary.update for record in records if record.WhichOneof("record_type") == "summary"]
        summary = {item.key: json.loads(item.value_json) for update in updates for item in update}
        assert read_json(run / "summary.json").items() <= summary.items()
        assert records[-1].exit.exit_code == 0
        names += [path.name for path in run.glob("wandb/offline-run-*")]
    first, second = names
    assert first != second and first.rpartition("-")[2] == second.rpartition("-")[2]


def test_a_killed_run_counts_as_failed(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    (run / "summary.json").unlink()
    resync(ResyncConfig((run,), "offline"))
    assert finished_records(run)[-1].exit.exit_code == 1


def test_bad_input_is_refused(tmp_path: Path, script: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path / "run")

    def refused(message: str, *flags: object) -> None:
        code, _, errors = script(SCRIPT, *flags)
        assert code == 2 and message in errors and "Traceback" not in errors, errors

    refused("expected folders of runs, got none")
    refused(f"expected a run folder with config.json, got {tmp_path} without one", tmp_path)
    refused("expected the mode offline or online, got disabled", run, "--wandb", "disabled")
    monkeypatch.setenv("WANDB_MODE", "shared")
    refused("expected WANDB_MODE to be one of offline, online, disabled, got 'shared'", run)
    monkeypatch.delenv("WANDB_MODE")
    with claimed(run):
        refused(f"that process {os.getpid()} on", run)
    with monkeypatch.context() as patch:
        stub = tmp_path / "stub"
        stub.mkdir()
        (stub / "wandb.py").write_text(REFUSING)
        patch.syspath_prepend(stub)
        refused(f"expected Weights & Biases to take {run}, got: Error: no login", run)
    data = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(data.replace(b'{"global_step": ', b'{"global_step": 1'))
    refused("expected line 1 of", run)
    (run / "metrics.jsonl").unlink()
    refused(f"expected log points in {run}, got no metrics.jsonl", run)
    config = read_config(run)
    del config["labels"]
    write_json(run / "config.json", config)
    refused("with labels, got one of an earlier version", run)
    assert not (run / "wandb").exists()
