"""Run folders become frames: figures, curves, and the zeros of a run that failed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from slot_rl.compare.results import FIGURES, read_results
from slot_rl.compare.statistics import LABELS
from slot_rl.metrics import METRICS
from tests.helpers.made_up import records

POINT = {"budget/forwards": 5, "time/training_seconds": 0.5, "eval/optimality": 0.25}


def run_folder(out: Path, agent: str, **files: Any) -> Any:
    """Returns a run with these files in its folder."""
    folder = out / agent
    folder.mkdir()
    for name, content in files.items():
        lines = [json.dumps(line) for line in (content if name == "metrics" else [content])]
        (folder / f"{name}.json{'l' if name == 'metrics' else ''}").write_text("".join(f"{line}\n" for line in lines))
    state = "finished" if "summary" in files else "failed" if "failure" in files else "open"
    return SimpleNamespace(
        task=SimpleNamespace(label="task"),
        agent=agent,
        kind=agent,
        seed=7,
        title=f"task, {agent}",
        folder=lambda out: folder,
        state=lambda out: state,
        failure=lambda out: files["failure"],
    )


def whole_run(out: Path, agent: str, **figures: Any) -> Any:
    summary = {name: 1 for name in FIGURES} | {"agent": agent} | figures
    points = [{"global_step": 0}, POINT, {"train/loss": 1.0}, POINT | {"budget/forwards": 10, "eval/optimality": 0.5}]
    return run_folder(
        out, agent, summary=summary, metrics=points, serving={"draws": [], "search": [[0, 0.5], [2, 0.75]]}
    )


def test_folders_become_frames(tmp_path: Path) -> None:
    untrained = {"summary": dict.fromkeys(FIGURES, 2), "metrics": [POINT | {"budget/forwards": 0}], "serving": {}}
    runs = [
        whole_run(tmp_path, "gumbel", searched_optimality=0.9, gap=None),
        run_folder(tmp_path, "random", **untrained),
        run_folder(tmp_path, "broken", failure="out of memory"),
    ]
    found = read_results(runs, tmp_path)
    good, random, broken = records(found.runs)
    assert {key for key, metric in METRICS.items() if metric.format} == set(found.runs.columns) - set(LABELS)
    assert (good.task, good.agent, good.kind, good.seed) == ("task", "gumbel", "gumbel", 7)
    assert list(found.runs["failure"].isna()) == [True, True, False]
    assert (good.estimator_forwards, good.searched_optimality, random.gap) == (1, 0.9, 2)
    assert np.isnan([good.gap, broken.gap, broken.searched_optimality]).all()
    assert (broken.failure, broken.optimality, broken.hit_rate, broken.calls_per_context) == ("out of memory", 0, 0, 0)
    # An agent without training has no learning curve.
    assert records(found.curves) == [("task", "gumbel", 7, 5, 0.5, 0.25), ("task", "gumbel", 7, 10, 0.5, 0.5)]
    assert records(found.serving[["agent", "calls", "optimality"]]) == [("gumbel", 0, 0.5), ("gumbel", 2, 0.75)]
    assert found.serving["seconds"].isna().all()


def test_times_stand_beside_the_calls(tmp_path: Path) -> None:
    run = whole_run(tmp_path, "gumbel")
    (run.folder(tmp_path) / "serving.json").write_text('{"search": [[2, 0.1]], "starts": [[0, 0.5], [2, 0.75]]}')
    times = {"call": {"forward": 1e-6, "both": 3e-6}, "ways": {"starts": [[0, 0.5, 0.5, 0.0], [2, 0.75, 0.7, 2.0]]}}
    (run.folder(tmp_path) / "serving_times.json").write_text(json.dumps(times))
    assert records(read_results([run], tmp_path).serving) == [
        ("task", "gumbel", 7, 0, 0.5, 0.5, 0.5, 0.0, 3e-6),
        ("task", "gumbel", 7, 2, 0.75, 0.75, 0.7, 2.0, 3e-6),
    ]


def test_runs_must_be_there_and_whole(tmp_path: Path) -> None:
    good, missing = whole_run(tmp_path, "gumbel"), run_folder(tmp_path, "ppo")
    with pytest.raises(ValueError, match="expected every run in .* to have ended, got none of task, ppo"):
        read_results([good, missing], tmp_path)
    torn = run_folder(tmp_path, "torn", summary={"agent": "torn"}, metrics=[POINT], serving={})
    with pytest.raises(ValueError, match="expected the run .*torn as it was written, got: no 'timesteps'"):
        read_results([good, torn], tmp_path)
