"""What a comparison shows and keeps: tables on screen, pictures, the numbers as CSV and JSON, and one page to open."""

import csv
import io
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from math import isinf
from pathlib import Path
from typing import Any

from slot_rl.compare import plots
from slot_rl.compare.conclusions import Conclusions
from slot_rl.compare.differences import Claim, verdict_on
from slot_rl.compare.html import Picture, Section, Table, write_html
from slot_rl.compare.outcomes import Outcome
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
        _write_csv(folder / f"{name}.csv", [table.columns, *table.rows])
    _write_csv(folder / RUNS_CSV, _long_table(found.results.outcomes))
    write_json(folder / RESULTS, {**document, "figures": _finite(_figures(found))})
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
        task: {one.agent: Interval(one.iqm.value, one.iqm.low, one.iqm.high) for one in summaries}
        for task, summaries in found.summaries.items()
    }
    chances: dict[str, dict[tuple[str, str], float]] = {task: {} for task in found.tasks}
    for pair in found.pairs:
        chances[pair.task][pair.first, pair.second] = pair.improvement.value
        chances[pair.task][pair.second, pair.first] = 1 - pair.improvement.value
    files = {name: folder / f"{name}.png" for name in CAPTIONS}
    plots.draw_interval_chart(files["intervals"], intervals, agents=agents)
    plots.draw_seed_strip(files["seeds"], results.outcomes, agents)
    plots.draw_performance_profile(files["profile"], results.outcomes, agents)
    plots.draw_improvement_matrix(files["improvement"], chances, agents)
    if results.curves:
        plots.draw_learning_curves(files["learning_calls"], results.curves, "calls", agents)
        plots.draw_learning_curves(files["learning_seconds"], results.curves, "seconds", agents)
    if results.serving:
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
        if found.at_equal_calls:
            tables[f"equal calls {task}"] = equal_calls_table(found, task)
    if found.reaches["calls"]:
        tables["speed"] = speed_table(found)
    return {"".join(c if c.isalnum() or c in "-_." else "_" for c in name): table for name, table in tables.items()}


def _print(found: Conclusions, tables: Mapping[str, Table]) -> None:
    shown = []
    for task in found.tasks:
        shown += [agents_table(found, task), pairs_table(found, task, leader_alone=True)]
        shown += [equal_calls_table(found, task)] if found.at_equal_calls else []
    for table in [*shown, *([tables["speed"]] if "speed" in tables else [])]:
        for line in _lines(table):
            say(line)
    for note in _notes(found):
        say(note)


def _lines(table: Table) -> list[str]:
    return [table.caption, "", *markdown(table.columns, table.rows), ""]


def _notes(found: Conclusions) -> list[str]:
    """Returns what a reader must know: too few seeds, and every run that failed."""
    failed = [run for run in found.results.outcomes if run.failure is not None]
    notes = [] if found.warning is None else [f"warning: {found.warning}"]
    return notes + [
        f"failed, counted as random answers: {run.task}, {run.agent}, seed {run.seed}: {run.failure}" for run in failed
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
        leader = found.summaries[task][0]
        rows = pairs_table(found, task, leader_alone=True).rows
        beaten = [row[0].partition(" - ")[2] for row in rows if row[-1] == "better"]
        open_ = [f"{row[0].partition(' - ')[2]} ({row[-1]})" for row in rows if row[-1] != "better"]
        calls = f"{leader.calls_per_context:.0f} calls for each answer"
        said = f"{task}: {leader.agent} leads, with {calls}; better than {', '.join(beaten) or 'nobody for certain'}"
        yield said + (f"; against {', '.join(open_)}." if open_ else ".")
        equal = [pair for pair in found.at_equal_calls if pair.task == task]
        if equal:
            verdicts = (f"{pair.first} against {pair.second}: {pair.verdict}" for pair in equal)
            yield f"{task}, at equal calls: {'; '.join(verdicts)}."


def _long_table(outcomes: Sequence[Outcome]) -> list[list[object]]:
    names = [field.name for field in fields(Outcome)]
    return [list(names), *([getattr(outcome, name) for name in names] for outcome in outcomes)]


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _figures(found: Conclusions) -> dict[str, Any]:
    return {
        "agents": {task: [asdict(one) for one in summaries] for task, summaries in found.summaries.items()},
        "pairs": [{**asdict(pair), "verdict": pair.verdict} for pair in found.pairs],
        "at_equal_calls": [{**asdict(pair), "verdict": pair.verdict} for pair in found.at_equal_calls],
        "speed": {along: [asdict(one) for one in reaches] for along, reaches in found.reaches.items()},
        "runs": [asdict(outcome) for outcome in found.results.outcomes],
    }


def _finite(value: Any) -> Any:
    """Returns JSON-ready values: JSON knows no infinity."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and isinf(value) else value


def _track(
    out: Path, document: Mapping[str, Any], tables: Mapping[str, Table], drawn: Sequence[Path], mode: WandbMode
) -> None:
    # What an earlier call tracked of the same folder is out of date.
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    shown = {name: SummaryTable(table.columns, table.rows) for name, table in tables.items()}
    track_comparison(out, time.strftime("%Y%m%d-%H%M%S"), document, shown, drawn, mode)
