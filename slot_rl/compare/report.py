"""What a comparison shows and keeps: tables on screen, pictures, the numbers as CSV and JSON, and one page to open."""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slot_rl.compare import plots
from slot_rl.compare.conclusions import Conclusions
from slot_rl.compare.differences import Claim, verdict_on
from slot_rl.compare.html import Picture, Section, Table, write_html
from slot_rl.compare.statistics import RUN_KEY
from slot_rl.compare.tables import agents_table, equal_calls_table, pairs_table, speed_table
from slot_rl.compare.wandb import FOLDER, SummaryTable, track_comparison
from slot_rl.console import say
from slot_rl.io import write_atomically, write_json
from slot_rl.markdown import markdown
from slot_rl.plots import Interval
from slot_rl.tracking import WandbMode

REPORT, PAGE, RESULTS, TABLE, RUNS_CSV = "report", "report.html", "results.json", "tables.md", "runs.csv"


def publish(out: Path, found: Conclusions, document: Mapping[str, Any], mode: WandbMode) -> None:
    """Prints the tables and writes everything: ``report.html`` to open first, and what it is made of in ``report/``.

    Args:
        out: The comparison's folder.
        found: What the runs come to.
        document: The command, its flags and versions.
        mode: Where the comparison itself is tracked.
    """
    folder = out / REPORT
    folder.mkdir(exist_ok=True)
    drawn = draw(folder, found)
    tables = _tables(found)
    _print(found, tables)
    lines = [line for table in tables.values() for line in _lines(table)]
    write_atomically(folder / TABLE, "\n".join(lines).encode())
    for name, table in tables.items():
        _write_csv(folder / f"{name}.csv", pd.DataFrame(list(table.rows), columns=list(table.columns)))
    _write_csv(folder / RUNS_CSV, found.results.runs)
    write_json(folder / RESULTS, {**document, "figures": _figures(found)})
    write_html(out / PAGE, "Agents compared", _sections(found, document, tables, drawn))
    _track(out, document, tables, list(drawn.values()), mode)
    say(f"report: {out / PAGE}")


def print_claims(claims: Sequence[Claim], found: Conclusions) -> bool:
    """Prints what has become of each claim; returns whether all are established."""
    verdicts = [verdict_on(claim, found.pairs) for claim in claims]
    for claim, verdict in zip(claims, verdicts, strict=True):
        word = "established" if verdict == "better" else f"not established: {verdict}"
        say(f"{claim}: {word}")
    return all(verdict == "better" for verdict in verdicts)


def draw(folder: Path, found: Conclusions) -> dict[str, Path]:
    """Draws every picture that there are figures for; returns the files by what they show."""
    results, agents = found.results, found.agents
    intervals = {
        str(task): {
            agent: Interval(*ends)
            for agent, *ends in rows[["agent", "iqm", "iqm_low", "iqm_high"]].itertuples(index=False)
        }
        for task, rows in found.summaries.groupby("task", sort=False)
    }
    chances: dict[str, dict[tuple[str, str], float]] = {task: {} for task in found.tasks}
    for pair in found.pairs.to_dict("records"):
        chances[pair["task"]][pair["first"], pair["second"]] = pair["improvement"]
        chances[pair["task"]][pair["second"], pair["first"]] = 1 - pair["improvement"]
    files = {name: folder / f"{name}.png" for name in CAPTIONS}
    plots.draw_interval_chart(files["intervals"], intervals, agents=agents)
    plots.draw_seed_strip(files["seeds"], results.runs, agents)
    plots.draw_performance_profile(files["profile"], results.runs, agents)
    plots.draw_improvement_matrix(files["improvement"], chances, agents)
    if len(results.curves):
        plots.draw_learning_curves(files["learning_calls"], results.curves, "calls", agents)
        plots.draw_learning_curves(files["learning_seconds"], results.curves, "seconds", agents)
    if len(results.serving):
        plots.draw_serving(files["serving"], results.serving, agents)
    return {name: path for name, path in files.items() if path.is_file()}


CAPTIONS = {
    "intervals": "Optimality of each agent: interquartile mean over seeds with its 95 % interval.",
    "learning_calls": "Learning over configurations scored, of runs that ended well: interquartile mean over seeds, "
    "95 % bootstrap band.",
    "learning_seconds": "The same over the processor's seconds of training, without the evaluations.",
    "serving": "What answers gain from calls of the estimator for each request: a policy's answer and guided swaps "
    "from it, and searches from random starts. Medians over seeds.",
    "seeds": "Every run: a dot each, a cross where it failed; the dotted line is the best constant answer.",
    "profile": "Share of runs that reach an optimality or more.",
    "improvement": "Probability that a run of the row's agent beats one of the column's.",
}


def _tables(found: Conclusions) -> dict[str, Table]:
    """Returns every table by its file's name."""
    tables: dict[str, Table] = {}
    for task in found.tasks:
        tables[f"agents {task}"] = agents_table(found, task)
        tables[f"pairs {task}"] = pairs_table(found, task)
        if len(found.at_equal_calls):
            tables[f"equal calls {task}"] = equal_calls_table(found, task)
    if len(found.reaches):
        tables["speed"] = speed_table(found)
    return {"".join(c if c.isalnum() or c in "-_." else "_" for c in name): table for name, table in tables.items()}


def _print(found: Conclusions, tables: Mapping[str, Table]) -> None:
    shown = []
    for task in found.tasks:
        shown += [agents_table(found, task), pairs_table(found, task, leader_alone=True)]
        shown += [equal_calls_table(found, task)] if len(found.at_equal_calls) else []
    for table in [*shown, *([tables["speed"]] if "speed" in tables else [])]:
        for line in _lines(table):
            say(line)
    for note in _notes(found):
        say(note)


def _lines(table: Table) -> list[str]:
    return [table.caption, "", *markdown(table.columns, table.rows), ""]


def _notes(found: Conclusions) -> list[str]:
    """Returns what a reader must know: too few seeds, and every run that failed."""
    runs = found.results.runs
    failed = runs[runs["failure"].notna()].sort_values(RUN_KEY).to_dict("records")
    notes = [] if found.warning is None else [f"warning: {found.warning}"]
    return notes + [
        f"failed, counted as random answers: {run['task']}, {run['agent']}, seed {run['seed']}: {run['failure']}"
        for run in failed
    ]


def _sections(
    found: Conclusions, document: Mapping[str, Any], tables: Mapping[str, Table], drawn: Mapping[str, Path]
) -> list[Section]:
    first = [*_notes(found), f"Made by: {document['command']}", *_leaders(found)]
    shown = [Picture(path, CAPTIONS[name], CAPTIONS[name]) for name, path in drawn.items()]

    def of_kind(kind: str) -> list[Table]:
        return [table for name, table in tables.items() if name.startswith(kind)]

    parts: dict[str, Sequence[str | Table | Picture]] = {
        "What can be concluded": first,
        "Agents": of_kind("agents"),
        "Pictures": shown,
        "Who is better than whom": of_kind("pairs"),
        "At equal calls": of_kind("equal"),
        "How soon": of_kind("speed"),
    }
    return [Section(heading, each) for heading, each in parts.items() if each]


def _leaders(found: Conclusions) -> Iterable[str]:
    """Says of each task who leads, whom the leader is known to beat, and what policies gain at equal calls."""
    for task in found.tasks:
        leader = found.summaries[found.summaries["task"] == task].iloc[0]
        rows = pairs_table(found, task, leader_alone=True).rows
        beaten = [row[0].partition(" - ")[2] for row in rows if row[-1] == "better"]
        open_ = [f"{row[0].partition(' - ')[2]} ({row[-1]})" for row in rows if row[-1] != "better"]
        calls = f"{leader['calls_per_context']:.0f} calls for each answer"
        said = f"{task}: {leader['agent']} leads, with {calls}; better than {', '.join(beaten) or 'nobody for certain'}"
        yield said + (f"; against {', '.join(open_)}." if open_ else ".")
        equal = found.at_equal_calls[found.at_equal_calls["task"] == task].to_dict("records")
        if equal:
            verdicts = (f"{pair['first']} against {pair['second']}: {pair['verdict']}" for pair in equal)
            yield f"{task}, at equal calls: {'; '.join(verdicts)}."


def _write_csv(path: Path, rows: pd.DataFrame) -> None:
    write_atomically(path, rows.to_csv(index=False).encode())


def _figures(found: Conclusions) -> dict[str, Any]:
    frames = {
        "agents": found.summaries,
        "pairs": found.pairs,
        "at_equal_calls": found.at_equal_calls,
        "speed": found.reaches,
        "break_evens": found.break_evens,
        "runs": found.results.runs,
    }
    # JSON has neither NaN nor infinity.
    finite = {
        name: frame.astype(object).mask(frame.isna() | frame.isin([np.inf]), None) for name, frame in frames.items()
    }
    return {name: frame.to_dict("records") for name, frame in finite.items()}


def _track(
    out: Path, document: Mapping[str, Any], tables: Mapping[str, Table], drawn: Sequence[Path], mode: WandbMode
) -> None:
    # What an earlier call tracked of the same folder is out of date.
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    shown = {name: SummaryTable(table.columns, table.rows) for name, table in tables.items()}
    track_comparison(out, time.strftime("%Y%m%d-%H%M%S"), document, shown, drawn, mode)
