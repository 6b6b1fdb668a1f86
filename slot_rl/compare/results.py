"""Reads run folders into the data frames of a comparison."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from slot_rl.compare.plan import Run
from slot_rl.compare.runs import SERVING_FILE
from slot_rl.compare.statistics import LABELS, RUN_KEY, Columns, Results
from slot_rl.io import METRICS_FILE, SUMMARY, read_json

RUN_FIGURES = (
    "estimator_forwards",
    "estimator_backwards",
    "wall_seconds",
    "cpu_seconds",
    "optimality",
    "hit_rate",
    "true_optimality",
    "gap",
    "best_constant_optimality",
    "searched_optimality",
    "calls_per_context",
)
"""The figures of ``summary.json`` that a comparison shows."""

OF_FAILED_RUNS = ("optimality", "hit_rate", *RUN_FIGURES[:4], "calls_per_context")
"""The figures that are 0 for a run that failed; it lacks the others."""

SERVED_BY = "search"
"""The way of answering that is shown: guided swaps from a policy's answer, or a search from random starts."""

CURVE_COLUMNS = {"budget/forwards": "calls", "time/training_seconds": "seconds", "eval/optimality": "optimality"}
"""Columns of learning curves by their key in ``metrics.jsonl``."""


def read_results(runs: Sequence[Run], out: Path) -> Results:
    """Reads all runs of a study. They must have ended.

    Raises:
        ValueError: If a run is missing or its files are not those of a run.
    """
    missing = [run.title for run in runs if run.state(out) == "open"]
    if missing:
        raise ValueError(f"expected every run in {out} to have ended, got none of {'; '.join(missing)}")
    well = [run for run in runs if run.state(out) == "finished"]
    try:
        table = pd.DataFrame([_run_row(run, out) for run in runs], columns=[*LABELS, *RUN_FIGURES])
        curves = [_learning_curve(run, out) for run in well]
        serving = [_serving_curve(run, out) for run in well]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"expected whole runs in {out}, got one whose files lack {error}") from error
    return Results(
        table.assign(**table[list(RUN_FIGURES)].apply(pd.to_numeric)),  # A figure that no run has is NaN.
        _joined([curve for curve in curves if curve["calls"].iloc[-1] > 0], ["calls", "seconds", "optimality"]),
        _joined(serving, ["calls", "optimality"]),
    )


def _labels(run: Run) -> Columns:
    return {"task": run.task.label, "agent": run.agent, "seed": run.seed}


def _run_row(run: Run, out: Path) -> Columns:
    labels = {**_labels(run), "kind": run.agent}
    if run.state(out) == "failed":
        return {**labels, "failure": run.failure(out), **dict.fromkeys(OF_FAILED_RUNS, 0)}
    summary = read_json(run.folder(out) / SUMMARY)
    return {**labels, "failure": None, **{name: summary[name] for name in RUN_FIGURES}}


def _learning_curve(run: Run, out: Path) -> pd.DataFrame:
    lines = (run.folder(out) / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    points = pd.DataFrame([json.loads(line) for line in lines]).dropna(subset="eval/optimality")
    return points[list(CURVE_COLUMNS)].rename(columns=CURVE_COLUMNS).assign(**_labels(run))


def _serving_curve(run: Run, out: Path) -> pd.DataFrame:
    points = read_json(run.folder(out) / SERVING_FILE).get(SERVED_BY, [])
    return pd.DataFrame(points, columns=["calls", "optimality"]).assign(**_labels(run))


def _joined(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Returns the frames below one another; those without rows do not shape the columns' types."""
    filled = [frame for frame in frames if len(frame)]
    ordered = [*RUN_KEY, *columns]
    return pd.concat(filled, ignore_index=True)[ordered] if filled else pd.DataFrame(columns=ordered)
