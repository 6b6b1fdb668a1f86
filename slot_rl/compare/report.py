"""The report of a comparison: tables on screen, pictures, figures as CSV and JSON, and one HTML page.

The page needs nothing else: pictures and style are inside it. Jinja2 escapes everything that comes from outside, such
as an agent's label. The page's content security policy also forbids scripts and requests.
"""

import shutil
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader

from slot_rl.compare import plots
from slot_rl.compare.conclusions import Conclusions
from slot_rl.compare.differences import OVERALL, Claim, verdict_on
from slot_rl.compare.statistics import RUN_KEY
from slot_rl.compare.tables import AGENTS, GLOSSARY, ReportTable, ranking_table, report_tables
from slot_rl.compare.wandb import FOLDER, track_comparison
from slot_rl.console import print_table, say
from slot_rl.estimators.spreadsheet_cells import neutral_frame
from slot_rl.io import write_atomically, write_json
from slot_rl.tracking import WandbMode
from slot_rl.wandb_labels import NO_FLAGS, WandbFlags

REPORT, PAGE, TEMPLATE = "report", "report.html", "report.html.j2"

SHOWN, DRAWN = 90, 130
"""Pixels of the page, and of a picture's file, for each inch of a picture."""
AT_THE_TERMINAL = ("agent", "verdict", "IQM", "95 %", "+31 calls", "calls each")
"""The columns of the ranking that fit into 80 characters."""

CAPTIONS = {
    "intervals": "Distance of each agent to the best: interquartile mean over seeds with its 95 % interval.",
    "learning_calls": "Learning curves over estimator calls, of runs that ended well: interquartile mean over seeds, "
    "95 % bootstrap band.",
    "learning_seconds": "Learning curves over processor seconds of training, without the evaluations.",
    "serving": "Distance to the best against estimator calls for each request: starts and swaps of a policy, and "
    "searches from random starts. Medians over seeds.",
    "serving_seconds": "The same against the processor's microseconds for each request, the estimator's among them.",
    "seeds": "Every run is a dot, or a cross if it failed. The dotted line is the best constant answer.",
    "profile": "Share of runs that are nearer to the best than each distance.",
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

    @property
    def width(self) -> int:
        """The width at which it is shown, the same for an inch of every picture; 0 for a file without a PNG's head."""
        return int.from_bytes(self.path.read_bytes()[16:20], "big") * SHOWN // DRAWN

    @property
    def name(self) -> str:
        """What it is called where it is not shown."""
        return self.path.stem.replace("_", " ")


@dataclass(frozen=True)
class Section:
    """A section of the page: a heading, then paragraphs, tables, pictures, and remarks."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[ReportTable] = ()
    pictures: Sequence[Picture] = ()
    remarks: Sequence[str] = ()


def publish_report(
    out: Path, found: Conclusions, document: Mapping[str, Any], mode: WandbMode, flags: WandbFlags = NO_FLAGS
) -> None:
    """Prints the ranking; writes ``report.html`` and its parts in ``report/``; tracks both on W&B."""
    folder = out / REPORT
    folder.mkdir(exist_ok=True)
    pictures = draw_pictures(folder, found)
    tables = report_tables(found)
    print_ranking(found)
    write_atomically(folder / "tables.md", "\n".join(_lines(tables)).encode())
    shown = {table.key: table.frame for table in tables}
    for name, frame in {"runs": found.results.runs, **shown}.items():
        write_atomically(folder / f"{name}.csv", neutral_frame(frame).to_csv(index=False).encode())
    write_json(folder / "results.json", {**document, "figures": _figures(found)})
    write_page(out / PAGE, "Agents compared", _sections(found, document, tables, pictures))
    # An earlier call's tracked tables and pictures are out of date.
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    track_comparison(
        out, time.strftime("%Y%m%d-%H%M%S"), document, shown, [each.path for each in pictures], mode, flags
    )
    say(f"report: {out / PAGE}")


def print_ranking(found: Conclusions) -> None:
    """Prints a ranking for each task with a sentence that says which agent to use, and what a reader must know."""
    for task in found.tasks:
        table = ranking_table(found, task)
        if task != OVERALL:
            shown = table.frame[[name for name in table.frame.columns if name in AT_THE_TERMINAL]]
            brackets = "; in brackets: seeds that would tell" * any("(" in each for each in shown["verdict"])
            print_table(table.caption + brackets, list(shown.columns), shown.to_numpy().tolist())
        say(table.sentence)
    for line in _notes(found):
        say(line)


def print_claims(claims: Sequence[Claim], found: Conclusions) -> bool:
    """Prints the verdict on each claim; returns whether all are established."""
    verdicts = [verdict_on(claim, found.pairs) for claim in claims]
    for claim, verdict in zip(claims, verdicts, strict=True):
        say(f"{claim}: {'established' if verdict == 'better' else f'not established: {verdict}'}")
    return all(verdict == "better" for verdict in verdicts)


def draw_pictures(folder: Path, found: Conclusions) -> list[Picture]:
    """Draws every picture that there are figures for."""
    results, agents = found.results, found.ranked
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
    lines = []
    for section in _by_section(tables):
        lines += [f"# {section.heading}", "", *(part for note in section.paragraphs for part in (note, ""))]
        lines += [line for table in section.tables for line in table.lines()]
        lines += [*section.remarks, ""]
    return lines


def _by_section(tables: Sequence[ReportTable]) -> list[Section]:
    """Returns the tables by section, each with what its tables have in common to read before them."""
    sections = []
    for heading in dict.fromkeys(table.section for table in tables):
        those = [table for table in tables if table.section == heading]
        notes = list(dict.fromkeys(table.note for table in those))
        sections.append(Section(heading, notes, those, remarks=GLOSSARY if heading == AGENTS else ()))
    return sections


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
    ranking, *others = _by_section(tables)
    made = Section("How it was made", [f"Made by: {document['command']}"])
    return [
        replace(ranking, paragraphs=(), remarks=[*_notes(found), *ranking.paragraphs]),
        Section("Pictures", pictures=pictures),
        *others,
        made,
    ]


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
