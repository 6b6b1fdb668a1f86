"""Reads run folders into the data frames of a comparison."""

import os
from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from typing import TypeVar

import pandas as pd
from typing_extensions import TypedDict

from slot_rl.compare.curves import SERVING_FIGURES
from slot_rl.compare.one_run import SERVED_BY, SERVING_FILE, TIMES_FILE
from slot_rl.compare.statistics import LABELS, RUN_KEY, Columns, Results
from slot_rl.compare.study import Run
from slot_rl.documents import as_declared
from slot_rl.io import SUMMARY, as_written, read_json
from slot_rl.metrics import METRICS
from slot_rl.metrics_file import METRICS_FILE, read_metrics

FIGURES = [metric.key for metric in METRICS.values() if metric.format]
"""The columns of figures: every metric that is a number. A metric without a number format is true or false."""

RunPart = TypeVar("RunPart")
SERVING_COLUMNS = ["calls", *SERVING_FIGURES, "call_seconds"]
CURVES = {"estimator_forwards": "calls", "cpu_seconds": "seconds", "optimality": "optimality"}
CURVE_COLUMNS = {str(METRICS[key].log_key): column for key, column in CURVES.items()}
"""Columns of learning curves by their key in ``metrics.jsonl``."""


class Times(TypedDict):
    """What a call to the estimator takes, and the answers by each way."""

    call: dict[str, float]
    ways: dict[str, list[tuple[float, float, float, float]]]


def read_results(runs: Sequence[Run], out: Path) -> Results:
    """Reads all runs of a study. They must have ended.

    Raises:
        ValueError: If a run is missing or its files are not those of a run.
    """
    missing = [run.title for run in runs if run.state(out) == "open"]
    if missing:
        raise ValueError(f"expected every run in {out} to have ended, got none of {'; '.join(missing)}")
    well = [run for run in runs if run.state(out) == "finished"]
    table = pd.DataFrame([_read(_run_row, run, out) for run in runs], columns=[*LABELS, *FIGURES])
    curves = [_read(_learning_curve, run, out) for run in well]
    serving = [_read(_serving_curve, run, out) for run in well]
    return Results(
        table.assign(**table[FIGURES].apply(pd.to_numeric)),  # A figure that no run has is NaN.
        _joined([curve for curve in curves if curve["calls"].iloc[-1] > 0], ["calls", "seconds", "optimality"]),
        _joined(serving, SERVING_COLUMNS),
    )


def _read(part: Callable[[Run, Path], RunPart], run: Run, out: Path) -> RunPart:
    with as_written(f"the run {run.folder(out)}"):
        return part(run, out)


def _labels(run: Run) -> Columns:
    return {"task": run.task.label, "agent": run.agent, "seed": run.seed}


def _run_row(run: Run, out: Path) -> Columns:
    labels = {**_labels(run), "kind": run.kind}
    if run.state(out) == "failed":
        return {**labels, "failure": run.failure(out), **{key: METRICS[key].when_failed for key in FIGURES}}
    summary = read_json(run.folder(out) / SUMMARY)
    return {
        **labels,
        "failure": None,
        "unmeasured": as_declared(str | None, summary.get("unmeasured"), "unmeasured"),
        **{name: as_declared(float | None, summary[name], name) for name in FIGURES},
    }


def _learning_curve(run: Run, out: Path) -> pd.DataFrame:
    points = pd.DataFrame(read_metrics(run.folder(out) / METRICS_FILE)).dropna(subset=METRICS["optimality"].log_key)
    return points[list(CURVE_COLUMNS)].rename(columns=CURVE_COLUMNS).assign(**_labels(run))


def _serving_curve(run: Run, out: Path) -> pd.DataFrame:
    """Returns the points of the way of answering that is shown; times are NaN in runs of earlier versions."""
    folder = run.folder(out)
    curves = as_declared(dict[str, list[tuple[float, float]]], read_json(folder / SERVING_FILE), SERVING_FILE)
    shown = next((name for name in SERVED_BY if name in curves), "")
    times: Times = {"call": {"both": nan}, "ways": {}}
    if os.path.lexists(folder / TIMES_FILE):
        times = as_declared(Times, read_json(folder / TIMES_FILE), TIMES_FILE)
    taken = {calls: figures for calls, *figures in times["ways"].get(shown, [])}
    unknown = [nan] * len(SERVING_FIGURES[1:])
    points = [(*point, *taken.get(point[0], unknown), times["call"]["both"]) for point in curves.get(shown, [])]
    return pd.DataFrame(points, columns=SERVING_COLUMNS).assign(**_labels(run))


def _joined(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Joins the frames. Empty ones are left out, because they would change the columns' types."""
    filled = [frame for frame in frames if len(frame)]
    ordered = [*RUN_KEY, *columns]
    return pd.concat(filled, ignore_index=True)[ordered] if filled else pd.DataFrame(columns=ordered)
