"""From run folders to the long table: one outcome a run, and the curves that the runs left."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from slot_rl.compare.outcomes import LearningCurve, Outcome, Results, ServingCurve
from slot_rl.compare.plan import Run
from slot_rl.compare.runs import SERVING_FILE
from slot_rl.io import read_json
from slot_rl.run_folder import METRICS, SUMMARY
from slot_rl.watch import TRAINING_SECONDS

SERVED_BY = "search"
"""The way of answering that is drawn: guided swaps from a policy's answer, or a search from random starts."""


def read_results(runs: Sequence[Run], out: Path) -> Results:
    """Reads every run of a plan, all of which have ended.

    Raises:
        ValueError: If a run is missing or its files are not those of a run.
    """
    missing = [run.title for run in runs if run.state(out) == "open"]
    if missing:
        raise ValueError(f"expected every run in {out} to have ended, got none of {'; '.join(missing)}")
    well = [run for run in runs if run.state(out) == "finished"]
    try:
        curves = [_learning_curve(run, out) for run in well]
        serving = [curve for run in well for curve in _serving_curves(run, out)]
        return Results(
            [_outcome(run, out) for run in runs], [curve for curve in curves if curve.calls[-1] > 0], serving
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"expected whole runs in {out}, got one whose files lack {error}") from error


def _outcome(run: Run, out: Path) -> Outcome:
    who: dict[str, Any] = {"task": run.task.label, "agent": run.agent, "seed": run.seed}
    if run.state(out) == "failed":
        return Outcome(**who, failure=run.failure(out), optimality=0.0, hit_rate=0.0)
    summary = read_json(run.folder(out) / SUMMARY)
    return Outcome(
        **who,
        failure=None,
        optimality=summary["optimality"],
        hit_rate=summary["hit_rate"],
        searched_optimality=summary["searched_optimality"],
        true_optimality=summary["true_optimality"],
        gap=summary["gap"],
        best_constant=summary["best_constant_optimality"],
        calls_per_context=summary["calls_per_context"],
        forwards=summary["estimator_forwards"],
        backwards=summary["estimator_backwards"],
        wall_seconds=summary["wall_seconds"],
        cpu_seconds=summary["cpu_seconds"],
    )


def _learning_curve(run: Run, out: Path) -> LearningCurve:
    points = [point for point in _metrics(run.folder(out) / METRICS) if "eval/optimality" in point]
    # What was scored when it was evaluated, not when the logger wrote it down.
    rows = [(point["budget/forwards"], point[TRAINING_SECONDS], point["eval/optimality"]) for point in points]
    calls, seconds, optimality = zip(*rows, strict=True)
    return LearningCurve(run.task.label, run.agent, run.seed, calls, seconds, optimality)


def _serving_curves(run: Run, out: Path) -> Iterable[ServingCurve]:
    curve = read_json(run.folder(out) / SERVING_FILE).get(SERVED_BY)
    if curve:
        calls, optimality = zip(*curve, strict=True)
        yield ServingCurve(run.task.label, run.agent, run.seed, calls, optimality)


def _metrics(path: Path) -> Iterable[dict[str, Any]]:
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
