"""The report of a comparison: tables on screen, pictures, figures as CSV and JSON, and one HTML page.

The page needs nothing else: pictures and style are inside it. Jinja2 escapes everything that comes from outside, such
as an agent's label. The page's content security policy also forbids scripts and requests.
"""

import shutil
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader

from slot_rl.compare import plots
from slot_rl.compare.conclusions import Conclusions
from slot_rl.compare.differences import Claim, verdict_on
from slot_rl.compare.statistics import RUN_KEY
from slot_rl.compare.tables import GLOSSARY, ReportTable, ranked_pairs, report_tables
from slot_rl.compare.wandb import FOLDER, track_comparison
from slot_rl.console import say
from slot_rl.estimators.spreadsheet_cells import neutral_frame
from slot_rl.io import write_atomically, write_json
from slot_rl.tracking import WandbMode

REPORT, PAGE, TEMPLATE = "report", "report.html", "report.html.j2"

CAPTIONS = {
    "intervals": "Optimality of each agent: interquartile mean over seeds with its 95 % interval.",
    "learning_calls": "Learning curves over estimator calls, of runs that ended well: interquartile mean over seeds, "
    "95 % bootstrap band.",
    "learning_seconds": "Learning curves over processor seconds of training, without the evaluations.",
    "serving": "Optimality against estimator calls for each request: starts and swaps of a policy, and searches from "
    "random starts. Medians over seeds.",
    "serving_seconds": "The same against the processor's microseconds for each request, the estimator's among them.",
    "seeds": "Every run is a dot, or a cross if it failed. The dotted line is the best constant answer.",
    "profile": "Share of runs above each optimality.",
    "improvement": "Probability that a run of the row's agent beats a run of the column's agent.",
}
"""The captions of the pictures, by file name without suffix."""


@dataclass(frozen=True)
class Picture:
    """A picture of the page: a PNG file, and a caption that is clear without the picture."""

    path: Path
    caption: str

    @property
    def content(self) -> str:
        """The file in base64."""
        return b64encode(self.path.read_bytes()).decode("ascii")


@dataclass(frozen=True)
class Section:
    """A section of the page: a heading, then paragraphs, then tables, then pictures."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[ReportTable] = ()
    pictures: Sequence[Picture] = ()


def publish_report(out: Path, found: Conclusions, document: Mapping[str, Any], mode: WandbMode) -> None:
    """Prints the tables; writes ``report.html`` and its parts in ``report/``; tracks both on W&B."""
    folder = out / REPORT
    folder.mkdir(exist_ok=True)
    pictures = draw_pictures(folder, found)
    tables = report_tables(found)
    for line in [*_lines(report_tables(found, leader_alone=True)), *GLOSSARY, *_notes(found)]:
        say(line)
    write_atomically(folder / "tables.md", "\n".join([*_lines(tables), *GLOSSARY, ""]).encode())
    shown = {table.key: table.frame for table in tables}
    for name, frame in {"runs": found.results.runs, **shown}.items():
        write_atomically(folder / f"{name}.csv", neutral_frame(frame).to_csv(index=False).encode())
    write_json(folder / "results.json", {**document, "figures": _figures(found)})
    write_page(out / PAGE, "Agents compared", _sections(found, document, tables, pictures))
    # An earlier call's tracked tables and pictures are out of date.
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    track_comparison(out, time.strftime("%Y%m%d-%H%M%S"), document, shown, [each.path for each in pictures], mode)
    say(f"report: {out / PAGE}")


def print_claims(claims: Sequence[Claim], found: Conclusions) -> bool:
    """Prints the verdict on each claim; returns whether all are established."""
    verdicts = [verdict_on(claim, found.pairs) for claim in claims]
    for claim, verdict in zip(claims, verdicts, strict=True):
        say(f"{claim}: {'established' if verdict == 'better' else f'not established: {verdict}'}")
    return all(verdict == "better" for verdict in verdicts)


def draw_pictures(folder: Path, found: Conclusions) -> list[Picture]:
    """Draws every picture that there are figures for."""
    results, agents = found.results, found.agents
    pictures = {name: Picture(folder / f"{name}.png", caption) for name, caption in CAPTIONS.items()}
    files = {name: picture.path for name, picture in pictures.items()}
    plots.draw_interval_chart(files["intervals"], found.summaries, agents)
    plots.draw_seed_strip(files["seeds"], results.runs, agents)
    plots.draw_performance_profile(files["profile"], results.runs, agents)
    if len(found.pairs):
        in_order = pd.concat([found.pairs[found.pairs["task"] == task] for task in found.tasks])
        plots.draw_improvement_matrix(files["improvement"], in_order, agents)
    if len(results.curves):
        plots.draw_learning_curves(files["learning_calls"], results.curves, "calls", agents)
        plots.draw_learning_curves(files["learning_seconds"], results.curves, "seconds", agents)
    if len(results.serving):
        plots.draw_serving(files["serving"], results.serving, agents)
        if results.serving["seconds"].notna().any():
            plots.draw_serving(files["serving_seconds"], results.serving, agents, "seconds")
    return [picture for picture in pictures.values() if picture.path.is_file()]


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes a report as one HTML file, which needs no server."""
    loader = PackageLoader("slot_rl.compare", ".")
    template = Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(TEMPLATE)
    write_atomically(path, template.render(title=title, sections=sections).encode())


def _lines(tables: Sequence[ReportTable]) -> list[str]:
    return [line for table in tables for line in table.lines()]


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
    found: Conclusions, document: Mapping[str, Any], tables: Sequence[ReportTable], pictures: Sequence[Picture]
) -> list[Section]:
    first = [*_notes(found), f"Made by: {document['command']}", *_leaders(found)]
    agents, *others = (
        Section(heading, tables=[table for table in tables if table.section == heading])
        for heading in dict.fromkeys(table.section for table in tables)
    )
    return [
        Section("What can be concluded", paragraphs=first),
        replace(agents, paragraphs=GLOSSARY),
        Section("Pictures", pictures=pictures),
        *others,
    ]


def _leaders(found: Conclusions) -> Iterator[str]:
    """Says for each task which agent leads, which agents it beats, and what policies gain at equal calls."""
    for task in found.tasks if len(found.agents) > 1 else ():
        leader = found.summaries[found.summaries["task"] == task].iloc[0]
        pairs = ranked_pairs(found, task).query("first == @leader.agent")
        beaten = ", ".join(pairs.loc[pairs["verdict"] == "better", "second"])
        unsure = pairs[pairs["verdict"] != "better"]
        others = ", ".join(unsure["second"] + " (" + unsure["verdict"] + ")")
        yield (
            f"{task}: {leader['agent']} leads, with {leader['calls_per_context']:.0f} estimator calls for each answer. "
            f"It is better than {beaten or 'no agent for certain'}{f'; against {others}' if others else ''}."
        )
        equal = found.at_equal_calls[found.at_equal_calls["task"] == task]
        if len(equal):
            verdicts = equal["first"] + " against " + equal["second"] + ": " + equal["verdict"]
            yield f"{task}, at equal calls: {'; '.join(verdicts)}."


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
    return {
        name: frame.astype(object).mask(frame.isna() | frame.isin([np.inf]), None).to_dict("records")
        for name, frame in frames.items()
    }
