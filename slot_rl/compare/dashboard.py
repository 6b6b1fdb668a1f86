"""A dashboard of a comparison on Weights & Biases: a saved workspace for each task, and one report on all of them.

Within a task the runs are grouped by agent, which is their job type, and averaged over seeds. A workspace filters its
runs as a whole and its sections cannot, so each task has a workspace of its own; in the report each task has a section.
All of it is built by wandb-workspaces without a network: what a dry run writes is what would be uploaded.
"""

import json
import unicodedata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slot_rl.compare.plan import COMPARISON
from slot_rl.compare.wandb import Published, read_published
from slot_rl.io import read_json

GROUPED_BY = "JobType"
COLUMNS, WIDTH, HEIGHT = 3, 8, 6
AXES = {"global_step": "configurations scored", "time/training_seconds": "seconds of training"}
CURVES = {"eval/optimality": "optimality", "eval/hit_rate": "hit rate", "eval/true_score": "true score, where known"}
BARS = {
    "optimality": "optimality",
    "hit_rate": "hit rate",
    "true_optimality": "true optimality, where known",
    "searched_optimality": "optimality after guided search",
}
COSTS = {"wall_seconds": "seconds of training on the clock", "estimator_forwards": "configurations scored"}


@dataclass(frozen=True)
class ComparedTask:
    """A task of a comparison.

    Attributes:
        label: What it is called.
        group: The group of its runs on Weights & Biases.
        timesteps: The budget of each run.
    """

    label: str
    group: str
    timesteps: int


@dataclass(frozen=True)
class ComparisonDocument:
    """What a dashboard needs to know of a comparison.

    Attributes:
        tasks: Its tasks.
        agents: The agents' names.
        seeds: The seeds of each agent on each task.
        project: The project that its runs belong to.
        command: How it was made.
        published: What the run of the whole comparison logged; None if there is no such run.
    """

    tasks: tuple[ComparedTask, ...]
    agents: tuple[str, ...]
    seeds: tuple[int, ...]
    project: str
    command: str
    published: Published | None

    @property
    def runs_per_task(self) -> int:
        """Runs that a panel must hold at once."""
        return len(self.agents) * len(self.seeds)


def read_comparison(folder: Path) -> ComparisonDocument:
    """Reads what a dashboard needs from a comparison's folder.

    Raises:
        ValueError: If the folder holds no comparison, or one without tasks, agents or seeds.
    """
    if not (folder / COMPARISON).is_file():
        raise ValueError(f"expected the folder of a comparison with {COMPARISON}, got {folder} without one")
    document = read_json(folder / COMPARISON)
    published = read_published(folder)
    try:
        found = ComparisonDocument(
            tuple(ComparedTask(task["label"], task["group"], int(task["timesteps"])) for task in document["tasks"]),
            tuple(document["agents"]),
            tuple(document["seeds"]),
            document["wandb_project"],
            document["command"],
            published,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a comparison in {folder / COMPARISON}, got one that lacks {error}") from error
    if not found.tasks or not found.runs_per_task:
        raise ValueError(f"expected tasks, agents and seeds in {folder / COMPARISON}, got one of them empty")
    return found


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that has been built and not been sent.

    Attributes:
        workspaces: A ``wandb_workspaces`` workspace for each task.
        report: The ``wandb_workspaces`` report.
    """

    workspaces: list[Any]
    report: Any

    def specification(self) -> dict[str, Any]:
        """Returns what saving uploads, as the library itself writes it."""
        return {
            "workspaces": [_uploaded(workspace) for workspace in self.workspaces],
            "report": _uploaded(self.report),
        }


def build_dashboard(comparison: ComparisonDocument, entity: str, project: str) -> Dashboard:
    """Builds a comparison's dashboard; needs no network and no login.

    Args:
        comparison: The comparison.
        entity: Who the project belongs to; may be empty for a dashboard that is never sent.
        project: The project.

    Raises:
        ValueError: If wandb-workspaces is missing, or a group's name cannot be filtered by.
    """
    library = _Library.load()
    place = {"entity": entity, "project": project}
    workspaces = [_workspace(library, task, comparison.runs_per_task, place) for task in comparison.tasks]
    return Dashboard(workspaces, _report(library, comparison, place))


@dataclass(frozen=True)
class _Library:
    """The modules of wandb-workspaces, which is optional."""

    workspaces: Any
    reports: Any

    @classmethod
    def load(cls) -> "_Library":
        try:
            with warnings.catch_warnings():
                # The library's validators are of pydantic's old kind, which nobody who reads this can change.
                warnings.simplefilter("ignore", DeprecationWarning)
                import wandb_workspaces.reports.v2 as reports
                import wandb_workspaces.workspaces as workspaces
        except ModuleNotFoundError as error:
            raise ValueError(
                f'expected the extra [dashboard] (pip install "slot_rl[dashboard]"), got no module {error.name}'
            ) from error
        return cls(workspaces, reports)


def _workspace(library: _Library, task: ComparedTask, runs: int, place: Mapping[str, str]) -> Any:
    ws = library.workspaces
    sections = [
        ws.Section(name=f"{task.label}: {name}", panels=panels, is_open=True)
        for name, panels in _panels(library, runs).items()
    ]
    return ws.Workspace(
        **place,
        name=_displayable(f"{task.label}, {task.timesteps:,} configurations"),
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="global_step", max_runs=runs),
        runset_settings=ws.RunsetSettings(filters=_only("Group", task.group), groupby=[ws.Metric(GROUPED_BY)]),
    )


def _report(library: _Library, comparison: ComparisonDocument, place: Mapping[str, str]) -> Any:
    wr = library.reports
    blocks = [wr.MarkdownBlock(_introduction(comparison)), wr.TableOfContents()]
    for task in comparison.tasks:
        panels = [panel for group in _panels(library, comparison.runs_per_task).values() for panel in group]
        runs = wr.Runset(name=task.label, filters=_only("Group", task.group), groupby=[GROUPED_BY])
        blocks += [
            wr.H2(text=task.label),
            wr.P(text=f"Runs of {task.timesteps:,} configurations each."),
            wr.PanelGrid(runsets=[runs], panels=_placed(library, panels)),
        ]
    if comparison.published is not None:
        blocks += _published(library, comparison.published)
    title = f"Comparison of {len(comparison.agents)} agents on {len(comparison.tasks)} tasks"
    return wr.Report(**place, title=title, description=comparison.command, blocks=blocks, width="fluid")


def _panels(library: _Library, runs: int) -> dict[str, list[Any]]:
    """Returns fresh panels by section; a panel must not stand in two places."""
    wr = library.reports
    panels = {
        f"over {axis}": [_curve(library, key, title, x, axis, runs) for key, title in CURVES.items()]
        for x, axis in AXES.items()
    }
    bars = [
        wr.BarPlot(title=title, metrics=[key], groupby=GROUPED_BY, groupby_aggfunc="mean", max_runs_to_show=runs)
        for key, title in BARS.items()
    ]
    scatter = [
        wr.ScatterPlot(
            title=f"optimality over {title}", x=wr.SummaryMetric(key), y=wr.SummaryMetric("optimality"), log_x=True
        )
        for key, title in COSTS.items()
    ]
    return {**panels, "at the end": [*bars, *scatter]}


def _curve(library: _Library, key: str, title: str, x: str, axis: str, runs: int) -> Any:
    return library.reports.LinePlot(
        title=f"{title} over {axis}",
        x=x,
        y=[key],
        title_x=axis,
        groupby=GROUPED_BY,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
        smoothing_type="none",
        max_runs_to_show=runs,
    )


def _published(library: _Library, published: Published) -> list[Any]:
    wr = library.reports
    panels = [wr.WeavePanelSummaryTable(table_name=key) for key in published.tables]
    if published.pictures:
        panels.append(wr.MediaBrowser(title="pictures", media_keys=list(published.pictures), num_columns=2))
    for i, panel in enumerate(panels):
        panel.layout = wr.Layout(x=0, y=i * 2 * HEIGHT, w=COLUMNS * WIDTH, h=2 * HEIGHT)
    runs = wr.Runset(name="comparison", filters=_only("Name", published.name))
    return [wr.H2(text="Tables and pictures"), wr.PanelGrid(runsets=[runs], panels=panels)]


def _placed(library: _Library, panels: list[Any]) -> list[Any]:
    for i, panel in enumerate(panels):
        row, column = divmod(i, COLUMNS)
        panel.layout = library.reports.Layout(x=column * WIDTH, y=row * HEIGHT, w=WIDTH, h=HEIGHT)
    return panels


def _introduction(comparison: ComparisonDocument) -> str:
    agents = ", ".join(f"`{agent}`" for agent in comparison.agents)
    return (
        f"{len(comparison.agents)} agents ({agents}), {len(comparison.seeds)} seeds each. Lines and bars are means "
        "over the seeds, bands are one standard error. A run that failed has no final figures here, which favours its "
        "agent; the comparison's own tables count it as random choices.\n\n"
        f"`{comparison.command}`"
    )


def _only(attribute: str, value: str) -> str:
    """Returns the library's filter expression for runs with an attribute of that value."""
    # The library rewrites these characters inside of quotes, too, and would filter by another name.
    if any(sign in value for sign in "=<>"):
        raise ValueError(f"expected a {attribute.lower()} without =, < and >, which filters cannot hold, got {value!r}")
    return f"Metric({attribute!r}) == {value!r}"


def _displayable(name: str) -> str:
    """Replaces symbols, such as a plus sign, which the library refuses in a workspace's name."""
    return "".join("-" if unicodedata.category(sign).startswith("S") else sign for sign in name)


def _uploaded(saved: Any) -> dict[str, Any]:
    view = saved._to_model()
    return {
        "displayName": view.display_name,
        "spec": json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True)),
    }
