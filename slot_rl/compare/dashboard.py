"""The dashboard of a comparison on Weights & Biases: a saved workspace for each task, and one report on all of them.

In each task the runs are grouped by agent, which is their job type, and averaged over seeds. Each task has a workspace
of its own, because a workspace filters its runs as a whole. The report has a section for each task.

All of it is built by wandb-workspaces without a network, so a dry run needs no login and writes what would be uploaded.
"""

import json
import os
import shlex
import unicodedata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slot_rl.compare.runner import COMPARISON
from slot_rl.compare.wandb import Published, read_published, sync_command
from slot_rl.console import say
from slot_rl.documents import as_declared
from slot_rl.io import read_json, write_json
from slot_rl.metrics import METRICS
from slot_rl.places import check_out
from slot_rl.problems import Unmeasured

SPECIFICATION = "dashboard.json"
NO_LOGIN = "expected a login to Weights & Biases (`wandb login`, or an API key in WANDB_API_KEY)"

GROUPED_BY = "JobType"
COLUMNS, WIDTH, HEIGHT = 3, 8, 6
SECONDS = METRICS["cpu_seconds"].log_key
AXES = {"global_step": "estimator calls", SECONDS: "seconds of training"}
CURVES, BARS, COSTS = (
    [metric for metric in METRICS.values() if kind in metric.dashboard] for kind in ("curve", "bar", "cost")
)


@dataclass(frozen=True)
class DashboardConfig:
    """Publishes a comparison's dashboard on Weights & Biases; every call adds new workspaces and a new report.

    Attributes:
        folder: The comparison's folder.
        entity: The owner of the project; the comparison's own if left out, without it WANDB_ENTITY, and without it the
            user who is logged in.
        project: The project; the comparison's own if left out.
        dry_run: Send nothing, and write what would be sent to a file; needs no login.
        out: The file of a dry run; dashboard.json in the comparison's folder if left out.
    """

    folder: Path
    entity: str | None = None
    project: str | None = None
    dry_run: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuses an output file without a dry run."""
        if self.out is not None and not self.dry_run:
            raise ValueError(f"expected --dry-run with --out, got --out {self.out} alone")


@dataclass(frozen=True)
class ComparedTask:
    """A task of a comparison.

    Attributes:
        label: Its label.
        group: The group of its runs on Weights & Biases.
        timesteps: The budget of each run.
        unmeasured: What answers count as that the ground truth has not measured; None without one.
        env: Its environment.
    """

    label: str
    group: str
    timesteps: int
    unmeasured: Unmeasured | None = None
    env: str = ""


@dataclass(frozen=True)
class ComparisonDocument:
    """What a dashboard shows of a comparison; ``published`` is None if the comparison has no run of its own."""

    tasks: tuple[ComparedTask, ...]
    agents: tuple[str, ...]
    seeds: tuple[int, ...]
    project: str
    command: str
    published: Published | None = None
    entity: str | None = None


def publish_dashboard(config: DashboardConfig) -> None:
    """Builds a dashboard, sends it or writes it to a file, and prints how to send the runs that it shows.

    Raises:
        ValueError: If the folder holds no comparison, wandb-workspaces is missing, there is no login (then nothing was
            sent), or Weights & Biases refuses.
    """
    comparison = read_comparison(config.folder)
    project, entity = config.project or comparison.project, config.entity or comparison.entity
    # Built before the login is asked for, so that bad input shows first.
    workspaces, report = build_dashboard(comparison, entity or "", project)
    if config.dry_run:
        out = config.out or config.folder / SPECIFICATION
        check_out(out, force=True, suffixes=(".json",), inputs=(config.folder / COMPARISON,))
        parts = {"workspaces": list(map(_uploaded, workspaces)), "report": _uploaded(report)}
        write_json(out, {"entity": entity, "project": project, **parts})
        say(f"specification: {out}")
    else:
        _check_login()
        _save(comparison, entity or _own_entity(), project)
    _print_sync(config, comparison)


def read_comparison(folder: Path) -> ComparisonDocument:
    """Reads what a dashboard needs from a comparison's folder.

    Raises:
        ValueError: If the folder holds no comparison, or one without tasks, agents or seeds.
    """
    path = folder / COMPARISON
    if not path.is_file():
        raise ValueError(f"expected the folder of a comparison with {COMPARISON}, got {folder} without one")
    document, published = read_json(path), read_published(folder)
    names = {
        "project": "wandb_project",
        "entity": "wandb_entity",
        **{name: name for name in ("tasks", "agents", "seeds", "command")},
    }
    shown = {name: document[key] for name, key in names.items() if key in document}
    found = as_declared(ComparisonDocument, shown, f"the comparison in {path}")
    if not (found.tasks and found.agents and found.seeds):
        raise ValueError(f"expected tasks, agents and seeds in {path}, got one of them empty")
    return replace(found, published=published)


def build_dashboard(comparison: ComparisonDocument, entity: str, project: str) -> tuple[list[Any], Any]:
    """Builds a comparison's dashboard without a network and a login; the entity may be empty if it is never sent.

    Returns:
        A ``wandb_workspaces`` workspace for each task, and the ``wandb_workspaces`` report.

    Raises:
        ValueError: If wandb-workspaces is missing, or a group's name cannot be filtered by.
    """
    try:
        with warnings.catch_warnings():
            # The library uses old validators of pydantic, which users of this project cannot change.
            warnings.simplefilter("ignore", DeprecationWarning)
            import wandb_workspaces.reports.v2 as wr
            import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise ValueError(
            f'expected the extra [dashboard] (pip install "slot_rl[dashboard]"), got no module {error.name}'
        ) from error
    place = {"entity": entity, "project": project}
    runs = len(comparison.agents) * len(comparison.seeds)
    workspaces = [_workspace(ws, task, _panels(wr, task, runs), runs, place) for task in comparison.tasks]
    return workspaces, _report(wr, comparison, runs, place)


def _workspace(
    ws: Any, task: ComparedTask, panels: Mapping[str, list[Any]], runs: int, place: Mapping[str, str]
) -> Any:
    name = f"{task.label}, {task.timesteps:,} estimator calls"
    return ws.Workspace(
        **place,
        # The library refuses symbols, such as a plus sign, in a workspace's name.
        name="".join("-" if unicodedata.category(sign).startswith("S") else sign for sign in name),
        sections=[ws.Section(name=f"{task.label}: {each}", panels=panels[each], is_open=True) for each in panels],
        settings=ws.WorkspaceSettings(x_axis="global_step", max_runs=runs),
        runset_settings=ws.RunsetSettings(filters=_only("Group", task.group), groupby=[ws.Metric(GROUPED_BY)]),
    )


def _report(wr: Any, comparison: ComparisonDocument, runs: int, place: Mapping[str, str]) -> Any:
    blocks = [wr.MarkdownBlock(_introduction(comparison)), wr.TableOfContents()]
    for task in comparison.tasks:
        panels = [panel for group in _panels(wr, task, runs).values() for panel in group]
        for i, panel in enumerate(panels):
            panel.layout = wr.Layout(x=i % COLUMNS * WIDTH, y=i // COLUMNS * HEIGHT, w=WIDTH, h=HEIGHT)
        runset = wr.Runset(name=task.label, filters=_only("Group", task.group), groupby=[GROUPED_BY])
        blocks += [
            wr.H2(text=task.label),
            wr.P(text=f"Runs of {task.timesteps:,} estimator calls each."),
            wr.PanelGrid(runsets=[runset], panels=panels),
        ]
    if comparison.published is not None:
        blocks += _published(wr, comparison.published)
    title = f"Comparison of {len(comparison.agents)} agents on {len(comparison.tasks)} tasks"
    return wr.Report(**place, title=title, description=comparison.command, blocks=blocks, width="fluid")


def _panels(wr: Any, task: ComparedTask, runs: int) -> dict[str, list[Any]]:
    """Returns new panels by section; one panel cannot be in both a workspace and a report."""
    grouped: dict[str, Any] = {"groupby": GROUPED_BY, "groupby_aggfunc": "mean", "max_runs_to_show": runs}
    curve: dict[str, Any] = {**grouped, "groupby_rangefunc": "stderr", "smoothing_type": "none"}
    names = {metric: metric.marked(metric.name, task.unmeasured) for metric in (*CURVES, *BARS)}
    lines = {
        f"over {axis}": [
            wr.LinePlot(title=f"{names[metric]} over {axis}", x=x, y=[metric.log_key], title_x=axis, **curve)
            for metric in CURVES
        ]
        for x, axis in AXES.items()
    }
    bars = [wr.BarPlot(title=names[metric], metrics=[metric.key], **grouped) for metric in BARS]
    optimality = wr.SummaryMetric("optimality")
    costs = [
        wr.ScatterPlot(title=f"optimality over {cost.name}", x=wr.SummaryMetric(cost.key), y=optimality, log_x=True)
        for cost in COSTS
    ]
    return {**lines, "at the end": [*bars, *costs]}


def _published(wr: Any, published: Published) -> list[Any]:
    panels = [wr.WeavePanelSummaryTable(table_name=key) for key in published.tables]
    if published.pictures:
        panels.append(wr.MediaBrowser(title="pictures", media_keys=list(published.pictures), num_columns=2))
    for i, panel in enumerate(panels):
        panel.layout = wr.Layout(x=0, y=i * 2 * HEIGHT, w=COLUMNS * WIDTH, h=2 * HEIGHT)
    runset = wr.Runset(name="comparison", filters=_only("Name", published.name))
    return [wr.H2(text="Tables and pictures"), wr.PanelGrid(runsets=[runset], panels=panels)]


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


def _uploaded(part: Any) -> dict[str, Any]:
    """Returns what saving a workspace or a report uploads, as the library itself writes it."""
    view = part._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"displayName": view.display_name, "spec": spec}


def _check_login() -> None:
    import wandb

    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        raise ValueError(f"expected WANDB_MODE to be online or unset for a dashboard that is sent, got {mode!r}")
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise ValueError(f"{NO_LOGIN}, got: {error}") from error
    if not known:
        raise ValueError(f"{NO_LOGIN}, got neither; nothing was sent")


def _own_entity() -> str:
    import wandb

    entity = os.environ.get("WANDB_ENTITY")
    try:
        entity = entity or wandb.Api().default_entity
    except Exception as error:
        raise _refused(error) from error
    if not entity:
        raise ValueError("expected --entity, since this login has no entity of its own, got none")
    return entity


def _save(comparison: ComparisonDocument, entity: str, project: str) -> None:
    workspaces, report = build_dashboard(comparison, entity, project)
    # The report first: saving it makes the project if nothing was synced yet. The library prints where each part is.
    for part in (report, *workspaces):
        try:
            part.save()
        except Exception as error:
            raise _refused(error) from error


def _refused(error: Exception) -> ValueError:
    # The library raises many kinds of errors, plain Exception included.
    return ValueError(f"expected Weights & Biases to take the dashboard, got {type(error).__name__}: {error}")


def _print_sync(config: DashboardConfig, comparison: ComparisonDocument) -> None:
    project = config.project if config.project != comparison.project else None
    given = {"entity": config.entity, "project": project}
    command = sync_command(config.folder, [f"--{name} {shlex.quote(value)}" for name, value in given.items() if value])
    if command is None:
        say(f"no offline runs in {config.folder}: nothing to sync")
    else:
        say("the dashboard is empty until the runs are on the server; send them once with")
        say(command)
