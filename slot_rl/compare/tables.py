"""The tables of a comparison: frames of display strings, the same on screen, in files, on the page and on W&B."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isinf, isnan, nan

import numpy as np
import pandas as pd

from slot_rl.compare.conclusions import TARGET, Conclusions
from slot_rl.compare.curves import call_break_evens
from slot_rl.compare.differences import OVERALL, TURNED
from slot_rl.console import markdown
from slot_rl.metrics import GUIDED_CALLS, METRICS, NOT_MEASURED, Metric, truth_mark
from slot_rl.serving_curves import BREAK_EVEN_TITLE, LARGE_BATCH, microseconds

MEASURED = METRICS["measured_share"]
OVER_SEEDS = [metric for metric in METRICS.values() if metric.over_seeds]
GLOSSARY = [f"{metric.label}: {metric.meaning}." for metric in OVER_SEEDS]
"""What the columns of :func:`agents_table` are that hold means over seeds."""


@dataclass(frozen=True)
class ReportTable:
    """A table of the report: its name in files and on W&B, its section's heading, a caption, and the cells as shown."""

    key: str
    section: str
    caption: str
    frame: pd.DataFrame

    def __post_init__(self) -> None:
        """Refuses a frame without columns, or with two columns of one name."""
        if self.frame.columns.empty or not self.frame.columns.is_unique:
            raise ValueError(f"expected columns with names of their own, got {list(self.frame.columns)}")

    def lines(self) -> list[str]:
        """Returns the caption and the table in Markdown."""
        return [self.caption, "", *markdown(list(self.frame.columns), self.frame.to_numpy().tolist()), ""]


def report_tables(found: Conclusions, leader_alone: bool = False) -> list[ReportTable]:
    """Returns every table that has a row; ``leader_alone`` leaves out pairs without the agent with the highest IQM."""
    by_task = [
        table
        for task in found.tasks
        for table in (agents_table(found, task), pairs_table(found, task, leader_alone), equal_calls_table(found, task))
    ]
    tables = [*by_task, speed_table(found), break_even_table(found), *call_cost_tables(found)]
    return [table for table in tables if len(table.frame)]


def agents_table(found: Conclusions, task: str) -> ReportTable:
    """Returns each agent's figures on a task, the highest IQM first; the measured share only if some is missing."""
    rows = found.summaries[found.summaries["task"] == task]
    if task == OVERALL:  # Each task has scores of its own. Their mean over tasks has no unit.
        rows = rows.assign(gap=nan)
    mark = _truth_mark(found, task)
    shown = [metric for metric in OVER_SEEDS if metric is not MEASURED or (rows[MEASURED.key] < 1).any()]
    frame = pd.DataFrame(
        {
            "agent": rows["agent"],
            "IQM": rows["iqm"].map(share),
            "IQM, 95 %": _intervals(rows, "iqm", share),
            "mean": rows["mean"].map(share),
            "mean, 95 %": _intervals(rows, "mean", share),
            "worst": rows["worst"].map(share),
            "failed": rows["failure_rate"].map("{:.0%}".format),
            "gap to 1": rows["optimality_gap"].map(share),
            **{metric.label + mark * metric.of_truth: _means(rows, metric) for metric in shown},
        }
    )
    return ReportTable(_key("agents", task), "Agents", _agents_caption(found, task, rows), frame)


def pairs_table(found: Conclusions, task: str, leader_alone: bool = False) -> ReportTable:
    """Returns which agent of each pair is better on a task; arguments as in :func:`report_tables`."""
    pairs = ranked_pairs(found, task)
    if leader_alone:
        pairs = pairs[pairs["first"].isin(pairs["first"].head(1))]
    caption = (
        f"{task}: paired differences of optimality on the same seeds, with t intervals. P(improvement): probability "
        "that a run of the first agent beats a run of the second. p is adjusted by Holm's procedure over every pair "
        "and task of this report. Agents may differ in estimator calls for an answer: see the table at equal calls."
    )
    return ReportTable(_key("pairs", task), "Which agent is better", caption, _pairs_frame(pairs))


def equal_calls_table(found: Conclusions, task: str) -> ReportTable:
    """Returns how each policy's starts and swaps compare with searches of as many calls."""
    pairs = found.at_equal_calls[found.at_equal_calls["task"] == task]
    caption = (
        f"{task}, at {GUIDED_CALLS} estimator calls each: a policy's starts and swaps of the best one against searches "
        "from random starts."
    )
    return ReportTable(_key("equal_calls", task), "At equal calls", caption, _pairs_frame(pairs))


def speed_table(found: Conclusions) -> ReportTable:
    """Returns how soon each agent is first as good as PPO at its end."""
    reaches = found.reaches.sort_values("task", key=lambda tasks: tasks.map(found.tasks.index), kind="stable")
    calls = reaches[reaches["along"] == "calls"].set_index(["task", "agent"])
    seconds = reaches[reaches["along"] == "seconds"].set_index(["task", "agent"]).reindex(calls.index)
    frame = pd.DataFrame(
        {
            "agent": [f"{task}: {agent}" for task, agent in calls.index],
            "calls": calls["ratio"].map(_ratio).to_numpy(),
            "calls, 95 %": _intervals(calls, "", _ratio),
            "seconds": seconds["ratio"].map(_ratio).to_numpy(),
            "seconds, 95 %": _intervals(seconds, "", _ratio),
            "never": [f"{never} of {seeds}" for never, seeds in zip(calls["never"], calls["seeds"], strict=True)],
        }
    )
    caption = (
        f"Estimator calls and seconds of training after which an agent was first as good as {TARGET} at its end, "
        f"divided by what {TARGET} took: medians over seeds, 95 % bootstrap intervals. Above 1, the agent took more. "
        "The agent may get worse again later. A failed run never reaches the goal. "
        f"Seeds on which {TARGET} failed are left out."
    )
    return ReportTable("speed", "How soon", caption, frame)


def break_even_table(found: Conclusions) -> ReportTable:
    """Returns from how many contexts on a policy costs fewer estimator calls than the best search."""
    rows = found.break_evens
    measured, ever = (~np.isinf(rows[name].astype(float)) for name in ("search_calls", "contexts"))
    contexts = rows["contexts"].map("{:,.0f}".format)
    frame = pd.DataFrame(
        {
            "agent": rows["task"] + ": " + rows["agent"],
            "calls": rows["calls"].map("{:.0f}".format),
            "optimality": rows["optimality"].map(share),
            "the best search's calls": rows["search_calls"].map("{:.1f}".format).where(measured, "more than measured"),
            "contexts": contexts.where(measured, "at most " + contexts).where(ever, "never"),
        }
    )
    caption = (
        "Number of contexts from which on a policy, with its training, costs fewer estimator calls than the best "
        "search with answers as good. Calls: of the policy for each answer. Medians over the seeds that ended well."
    )
    return ReportTable("break_evens", "When training pays", caption, frame)


def call_cost_tables(found: Conclusions) -> list[ReportTable]:
    """Returns for each task at which cost of an estimator call policies' answers are cheaper than searches'."""
    tables = []
    for task, rows in call_break_evens(found.results).groupby("task", sort=False):
        cells = rows.assign(
            answer=rows["agent"] + rows["calls"].map(", {:.0f} calls".format),
            optimality=rows["optimality"].map(share),
            us=rows["seconds"].map(microseconds),
            cell=[each.cell() for each in rows["break_even"]],
        )
        frame = cells.pivot(index=["answer", "optimality", "us"], columns="search", values="cell")
        frame = frame.loc[pd.MultiIndex.from_frame(cells[["answer", "optimality", "us"]].drop_duplicates())]
        measured = found.results.serving.query("task == @task")["call_seconds"].median()
        caption = (
            f"{task}: {BREAK_EVEN_TITLE}; us: processor microseconds of the answer, the estimator's among them, in a "
            f"batch of {LARGE_BATCH}. Here a call with its backward costs {microseconds(measured)} us. Medians over "
            "the seeds that ended well. Training is not counted."
        )
        tables.append(
            ReportTable(_key("call_cost", str(task)), "Where an answer is cheaper", caption, frame.reset_index())
        )
    return tables


def ranked_pairs(found: Conclusions, task: str) -> pd.DataFrame:
    """Returns the pairs on a task, each from the side of the agent with the higher IQM, the best agents first."""
    order = found.summaries.loc[found.summaries["task"] == task, "agent"].tolist()
    pairs = found.pairs[found.pairs["task"] == task]
    behind = pairs["first"].map(order.index) > pairs["second"].map(order.index)
    turned = pairs.assign(
        first=pairs["second"],
        second=pairs["first"],
        difference=-pairs["difference"],
        difference_low=-pairs["difference_high"],
        difference_high=-pairs["difference_low"],
        improvement=1 - pairs["improvement"],
        improvement_low=1 - pairs["improvement_high"],
        improvement_high=1 - pairs["improvement_low"],
        verdict=pairs["verdict"].replace(TURNED),
    )
    return pairs.where(~behind, turned).sort_values(["first", "second"], key=lambda names: names.map(order.index))


def share(value: float) -> str:
    """Returns a share with three decimals, without the zero before the point; nothing for NaN."""
    if isnan(value):
        return ""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _agents_caption(found: Conclusions, task: str, rows: pd.DataFrame) -> str:
    methods = "; ".join(pd.unique(rows[["iqm_method", "mean_method"]].to_numpy().ravel()))
    runs = " to ".join(map(str, sorted(rows["runs"].unique())))
    references = {
        "best_constant_optimality": "The best constant answer has {}.",
        "best_seen_true_optimality": "The best measured rows have a true optimality of {}.",
    }
    known = {text: share(rows.get(key, pd.Series([nan])).iloc[0]) for key, text in references.items()}
    reachable = "".join(" " + text.format(value) for text, value in known.items() if value)
    return (
        f"{task}: optimality of the estimated score (0 random, 1 best), {runs} runs each. Intervals: {methods}. "
        f"failed: share of runs that failed or stayed below the failure threshold {share(found.threshold)}. "
        f"gap to 1: mean shortfall. The other columns are means over seeds.{reachable}"
    )


def _truth_mark(found: Conclusions, task: str) -> str:
    """Returns what follows the labels of true figures if unmeasured answers count as the worst."""
    runs = found.results.runs
    if "unmeasured" not in runs:
        return ""
    modes = set(runs.loc[(runs["task"] == task) | (task == OVERALL), "unmeasured"].dropna())
    return truth_mark("worst" if "worst" in modes else None) + (" in some tasks" if len(modes) > 1 else "")


def _means(rows: pd.DataFrame, metric: Metric) -> list[str]:
    """Returns each agent's mean over seeds; a true figure of which no run has an answer is not measured."""
    unmeasured = metric.of_truth & (rows[MEASURED.key] == 0) & rows[metric.key].isna()
    texts = [_mean(value, metric) for value in rows[metric.key]]
    return [NOT_MEASURED if none else text for none, text in zip(unmeasured, texts, strict=True)]


def _mean(value: float, metric: Metric) -> str:
    """Returns a metric's mean over seeds; shares have three decimals, because the fourth is noise."""
    if metric.format == ".4f":
        return share(value)
    return "" if isnan(value) else format(value, metric.format)


def _pairs_frame(pairs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "pair": pairs["first"] + " - " + pairs["second"],
            "difference": pairs["difference"].map(_small),
            "difference, 95 %": _intervals(pairs, "difference", _small),
            "P(improvement)": pairs["improvement"].map("{:.2f}".format),
            "P, 95 %": _intervals(pairs, "improvement", "{:.2f}".format),
            "p (Holm)": pairs["adjusted_p"].map("{:.2g}".format),
            "verdict": pairs["verdict"],
        }
    )


def _intervals(rows: pd.DataFrame, name: str, display: Callable[[float], str]) -> list[str]:
    low, high = (f"{name}_low", f"{name}_high") if name else ("low", "high")
    return [f"{display(a)} to {display(b)}" for a, b in zip(rows[low], rows[high], strict=True)]


def _small(value: float) -> str:
    """Returns a difference; a very small one is not shown as zero."""
    return f"{value:.0e}" if 0 < abs(value) < 0.0005 else share(value)


def _ratio(value: float) -> str:
    return "never" if isinf(value) else f"{value:.2f}"


def _key(kind: str, task: str) -> str:
    """Returns a file name; a task's label may hold any sign."""
    return "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in f"{kind}_{task}")
