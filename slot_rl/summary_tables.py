"""The printed tables of one run: the agent beside its competitors, against the truth, and context by context."""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from slot_rl.console import print_figures, print_table
from slot_rl.evaluation import Choose, Evaluation, Row
from slot_rl.metrics import METRICS, NOT_MEASURED, OF_ANSWERS, truth_mark

MOST_CONTEXTS = 24


def print_judgement(summary: dict[str, Any], rows: Sequence[Row]) -> None:
    """Prints the agent beside its competitors, and the run's figures."""
    title = f"{summary['agent']} on {summary['env']}, seed {summary['seed']}"
    costs = [["" if cost is None else str(cost) for cost in (row.calls, row.backwards)] for row in rows]
    _print_rows(title, rows, "competitors", ["calls", "backwards"], costs)
    mode = summary["unmeasured"]
    _print_rows(f"against the truth{truth_mark(mode)}", rows, "truth", [], [[] for _ in rows])
    printed = {key: metric for key, metric in METRICS.items() if metric.printed}
    figures = {metric.marked(metric.name, mode): metric.text(summary[key]) for key, metric in printed.items()}
    if not summary["best_is_exact"]:
        figures = {("best known score" if name == "best score" else name): text for name, text in figures.items()}
    if summary["measured_share"] is None:
        del figures[METRICS["measured_share"].name]
    print_figures("run", {**figures, "status": summary["status"]})


def print_contexts(evaluation: Evaluation, choose: Choose) -> None:
    """Prints an agent's answers context by context, the worst by the ground truth first, unmeasured ones last.

    Nothing is printed without a ground truth, or where requests have no names.

    Args:
        evaluation: The requests.
        choose: The agent's answers.
    """
    named = evaluation.problem.request_names(evaluation.observation)
    if evaluation.true_bests is None or named is None:
        return
    scores = evaluation.scores(choose(evaluation.observation))
    assert scores.true is not None
    quality = scores.true if scores.normalised is None else scores.normalised
    worst = torch.argsort(quality.nan_to_num(nan=inf), stable=True)[:MOST_CONTEXTS].tolist()
    mark = truth_mark(evaluation.problem.unmeasured)
    columns = {"estimated": scores.estimated, f"true{mark}": scores.true, "best true": evaluation.true_bests}
    if scores.normalised is not None:
        columns["normalised"] = scores.normalised
    count = len(named.names)
    title = f"the worst {len(worst)} of {count} contexts" if len(worst) < count else "contexts, the worst first"
    cells = [[named.names[row], *(_cell(column[row]) for column in columns.values())] for row in worst]
    print_table(title + mark, [named.title, *columns], cells)


def _cell(score: Tensor) -> str:
    return NOT_MEASURED if score.isnan() else f"{float(score):.4f}"


def _print_rows(
    title: str, rows: Sequence[Row], table: str, columns: list[str], cells: Sequence[Sequence[str]]
) -> None:
    """Prints the metrics of one table that any row has; nothing if there are none."""
    known = [
        metric
        for key, metric in OF_ANSWERS.items()
        if metric.table == table and any(row.figures[key] is not None for row in rows)
    ]
    if known:
        lines = [
            [row.name, *first, *(metric.text(row.figures[metric.key]) for metric in known)]
            for row, first in zip(rows, cells, strict=True)
        ]
        print_table(title, ["", *columns, *(metric.label for metric in known)], lines)
