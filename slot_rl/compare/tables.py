"""The tables of a comparison: frames of display strings, the same on screen, in files, on the page and on W&B."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isinf, isnan, nan

import numpy as np
import pandas as pd

from slot_rl.compare.advice import STANDINGS, advice, ranked_pairs, standings
from slot_rl.compare.conclusions import TARGET, Conclusions
from slot_rl.compare.curves import call_break_evens
from slot_rl.compare.differences import OVERALL
from slot_rl.console import markdown, share
from slot_rl.looks import looks_of
from slot_rl.metrics import GUIDED_CALLS, METRICS, NOT_MEASURED, Metric, truth_mark
from slot_rl.serving_curves import BREAK_EVEN_TITLE, LARGE_BATCH, microseconds

MEASURED = METRICS["measured_share"]
OVER_SEEDS = [metric for metric in METRICS.values() if metric.over_seeds]
RANKING, AGENTS = "Which agent to use", "Agents"
"""The headings of the first section, and of that whose columns the glossary explains."""
GLOSSARY = [f"{metric.label}: {metric.meaning}." for metric in OVER_SEEDS]
"""What the columns of :func:`agents_table` are that hold means over seeds."""


@dataclass(frozen=True)
class Mark:
    """How the page marks a row: the agent's colour, and what the verdict amounts to, in one word."""

    colour: str
    tone: str


@dataclass(frozen=True)
class ReportTable:
    """A table of the report.

    Attributes:
        key: Its name in files and on W&B.
        section: The heading of its section.
        caption: What it is about, in a few words.
        frame: The cells as shown.
        note: How to read all tables of the section; stands there once.
        marks: A mark for each row; none if empty.
        sentence: What follows from it.
    """

    key: str
    section: str
    caption: str
    frame: pd.DataFrame
    note: str = ""
    marks: Sequence[Mark] = ()
    sentence: str = ""

    def __post_init__(self) -> None:
        """Refuses a frame without columns, or with two columns of one name."""
        if self.frame.columns.empty or not self.frame.columns.is_unique:
            raise ValueError(f"expected columns with names of their own, got {list(self.frame.columns)}")

    @property
    def rows(self) -> list[list[str]]:
        """The cells row by row."""
        return [list(map(str, row)) for row in self.frame.to_numpy()]

    def lines(self) -> list[str]:
        """Returns the caption, the table in Markdown, and the sentence."""
        sentence = [self.sentence, ""] if self.sentence else []
        return [self.caption, "", *markdown(list(self.frame.columns), self.rows), "", *sentence]


def report_tables(found: Conclusions) -> list[ReportTable]:
    """Returns every table that has a row, section by section."""
    kinds = (ranking_table, agents_table, pairs_table, equal_calls_table)
    by_task = [kind(found, task) for kind in kinds for task in found.tasks]
    tables = [*by_task, speed_table(found), break_even_table(found), *call_cost_tables(found)]
    return [table for table in tables if len(table.frame)]


def ranking_table(found: Conclusions, task: str) -> ReportTable:
    """Returns the agents of a task, the highest IQM first, with a verdict on each and what it costs."""
    rows = found.summaries[found.summaries["task"] == task]
    verdicts, looks = standings(found, task), looks_of(found.ranked)
    shown = [METRICS[key] for key in ("searched_optimality", "calls_per_context", "hit_rate", "true_optimality")]
    mark = _truth_mark(found, task)
    figures = {metric.label + mark * metric.of_truth: _means(rows, metric) for metric in shown}
    frame = pd.DataFrame(
        {
            "agent": rows["agent"],
            "verdict": verdicts,
            "IQM": rows["iqm"].map(share),
            "95 %": _intervals(rows, "iqm", share),
            **{label: cells for label, cells in figures.items() if any(cells)},
            "seconds": rows["cpu_seconds"].map("{:,.1f}".format),
        }
    )
    marks = [
        Mark(looks[agent].colour, verdict.partition(" ")[0])
        for agent, verdict in zip(rows["agent"], verdicts, strict=True)
    ]
    note = f"IQM: the interquartile mean over seeds of the optimality (0 random, 1 best). {STANDINGS}."
    return ReportTable(
        _key("ranking", task), RANKING, f"{task}: {_runs(rows)}", frame, note, marks, advice(found, task)
    )


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
    note = (
        "Optimality of the estimated score (0 random, 1 best). failed: share of runs that failed or stayed below the "
        f"failure threshold {share(found.threshold)}. gap to 1: mean shortfall. The other columns are means over seeds."
    )
    return ReportTable(_key("agents", task), AGENTS, _agents_caption(task, rows), frame, note)


def pairs_table(found: Conclusions, task: str) -> ReportTable:
    """Returns which agent of each pair is better on a task."""
    note = (
        "Paired differences of optimality on the same seeds, with t intervals. P(improvement): probability "
        "that a run of the first agent beats a run of the second. p is adjusted by Holm's procedure over every pair "
        "and task of this report. Agents may differ in estimator calls for an answer: see the tables at equal calls."
    )
    frame = _pairs_frame(ranked_pairs(found, task))
    return ReportTable(_key("pairs", task), "Which agent is better", task, frame, note)


def equal_calls_table(found: Conclusions, task: str) -> ReportTable:
    """Returns how each policy's starts and swaps compare with searches of as many calls."""
    pairs = found.at_equal_calls[found.at_equal_calls["task"] == task]
    note = (
        f"{GUIDED_CALLS} estimator calls for each answer: a policy's starts and swaps of the best one against searches "
        "from random starts. The columns are those of the section before."
    )
    return ReportTable(_key("equal_calls", task), "At equal calls", task, _pairs_frame(pairs), note)


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
    note = (
        f"Estimator calls and seconds of training after which an agent was first as good as {TARGET} at its end, "
        f"divided by what {TARGET} took: medians over seeds, 95 % bootstrap intervals. Above 1, the agent took more. "
        "The agent may get worse again later. A failed run never reaches the goal. "
        f"Seeds on which {TARGET} failed are left out."
    )
    return ReportTable("speed", "How soon", f"divided by what {TARGET} took", frame, note)


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
    note = (
        "Number of contexts from which on a policy, with its training, costs fewer estimator calls than the best "
        "search with answers as good. Calls: of the policy for each answer. Medians over the seeds that ended well."
    )
    return ReportTable("break_evens", "When training pays", "contexts from which on a policy is cheaper", frame, note)


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
        note = (
            f"{BREAK_EVEN_TITLE.capitalize()}. us: processor microseconds of the answer, the estimator's among them, "
            f"in a batch of {LARGE_BATCH}. Medians over the seeds that ended well. Training is not counted."
        )
        caption = f"{task}: here a call with its backward costs {microseconds(measured)} us"
        key = _key("call_cost", str(task))
        tables.append(ReportTable(key, "Where an answer is cheaper", caption, frame.reset_index(), note))
    return tables


def _agents_caption(task: str, rows: pd.DataFrame) -> str:
    methods = "; ".join(pd.unique(rows[["iqm_method", "mean_method"]].to_numpy().ravel()))
    references = {
        "best_constant_optimality": "The best constant answer has {}.",
        "best_seen_true_optimality": "The best measured rows have a true optimality of {}.",
    }
    known = {text: share(rows.get(key, pd.Series([nan])).iloc[0]) for key, text in references.items()}
    reachable = "".join(" " + text.format(value) for text, value in known.items() if value)
    return f"{task}: {_runs(rows)}. Intervals: {methods}.{reachable}"


def _runs(rows: pd.DataFrame) -> str:
    return f"{' to '.join(map(str, sorted(rows['runs'].unique())))} runs each"


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
            "verdict": pairs["verdict"],
            "difference": pairs["difference"].map(_small),
            "difference, 95 %": _intervals(pairs, "difference", _small),
            "P(improvement)": pairs["improvement"].map("{:.2f}".format),
            "P, 95 %": _intervals(pairs, "improvement", "{:.2f}".format),
            "p (Holm)": pairs["adjusted_p"].map("{:.2g}".format),
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
