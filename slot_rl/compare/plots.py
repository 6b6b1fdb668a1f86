"""Pictures of a comparison, as PNG files: a panel a task, and for each agent the same look in all of them.

Every function takes all agents of the comparison beside what it draws, since a picture need not show all of them and an
agent's look is its place among them; agents that only the picture knows come after those. Each returns the figure that
it saved.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from slot_rl.compare.curves import Along, learning_bands, profiles, serving_medians
from slot_rl.compare.statistics import Floats
from slot_rl.plots import Interval

COLOURS = "#3f90da #ffa90e #bd1f01 #94a4a2 #832db6 #a96b59 #e76300 #b9ac70 #717581 #92dadd".split()
"""Petroff's ten colours (arXiv:2107.02270), which colour-blind readers can tell apart."""

MARKERS = "os^Dv<>PX*"
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
OPTIMALITY = "optimality (0 random, 1 best; stretched towards 1)"
UPRIGHT = "optimality, stretched towards 1"
ALONG = {"calls": "configurations scored in training, thousands", "seconds": "processor's seconds of training"}
WIDEST_LINEAR = 20.0
NEAR_BEST = 0.01
"""Shortfall from 1 below which an axis of optimality is straight; beyond it is logarithmic in the shortfall."""
TICKS = (-10, -3, -1, 0, 0.5, 0.8, 0.9, 0.95, 0.98, 1)


@dataclass(frozen=True)
class Look:
    """How an agent is drawn.

    Attributes:
        colour: Of lines, markers and bars.
        dash: Line style; differs between agents that share a colour.
        marker: Marker; differs between agents whose colours a reader may confuse.
    """

    colour: str
    dash: Any
    marker: str

    def line(self) -> dict[str, Any]:
        """Returns the settings of a line with markers."""
        return {"color": self.colour, "linestyle": self.dash, "marker": self.marker, "linewidth": 1.6, "markersize": 5}


def looks_of(agents: Iterable[str]) -> dict[str, Look]:
    """Returns each agent's look: ten colours, each with a marker, then the same with other dashes and markers."""
    return {
        agent: Look(COLOURS[i % 10], DASHES[i // 10 % 3], MARKERS[(i + 3 * (i // 10)) % 10])
        for i, agent in enumerate(dict.fromkeys(agents))
    }


def draw_learning_curves(path: Path, curves: pd.DataFrame, along: Along, agents: Sequence[str] = ()) -> Figure:
    """Draws the interquartile mean over seeds of each agent's learning curve, with its 95 % band.

    Args:
        path: The PNG file.
        curves: The runs.
        along: What the curves are drawn against; seconds on a logarithmic scale if they span more than twentyfold.
        agents: All agents of the comparison, in order.
    """
    bands = learning_bands(curves, along)
    positive = bands.loc[bands["at"] > 0, "at"]
    logarithmic = along == "seconds" and positive.max() > WIDEST_LINEAR * positive.min()
    if logarithmic:
        bands = bands[bands["at"] > 0]
    figure, panels = _bands(bands, agents, marked=True)
    for axes in panels:
        axes.set_xscale("log" if logarithmic else "linear")
        axes.xaxis.set_major_formatter((lambda at, _: _plain(at / 1000)) if along == "calls" else _plain)
        _stretch(axes, "y")
    _name_axes(panels, ALONG[along], f"IQM of {UPRIGHT}")
    return _save(figure, path)


def draw_performance_profile(
    path: Path, outcomes: pd.DataFrame, agents: Sequence[str] = (), pooled: bool = False
) -> Figure:
    """Draws for each agent the share of runs above tau, with its 95 % band.

    Args:
        path: The PNG file.
        outcomes: The runs, failed ones with them.
        agents: All agents of the comparison, in order.
        pooled: Whether one panel shows the runs of all tasks instead of a panel a task.
    """
    figure, panels = _bands(profiles(outcomes, pooled=pooled), agents, marked=False)
    for axes in panels:
        axes.set_ylim(-0.03, 1.03)
        _stretch(axes, "x")
        axes.margins(x=0)
    _name_axes(panels, f"τ, {OPTIMALITY}", "share of runs with optimality above τ")
    return _save(figure, path)


def draw_interval_chart(
    path: Path,
    intervals: Mapping[str, Mapping[str, Interval]],
    along: str = f"{OPTIMALITY}, IQM over seeds with its 95 % interval",
    agents: Sequence[str] = (),
) -> Figure:
    """Draws a figure and its interval for each agent, a row each: a bar from end to end with a stroke at the figure.

    Args:
        path: The PNG file.
        intervals: The figures, by task and agent; an agent that lacks one on a task has an empty row there.
        along: Says what the figures and their intervals are.
        agents: All agents of the comparison, in order.
    """
    figure, panels, rows, looks = _rows({task: list(by_agent) for task, by_agent in intervals.items()}, agents)
    for axes, by_agent in zip(panels, intervals.values(), strict=True):
        for agent, interval in by_agent.items():
            place = rows.index(agent)
            width = interval.high - interval.low
            colour = looks[agent].colour  # of the edge as well: a bar without width shall be seen
            axes.barh(place, width, left=interval.low, height=0.6, color=colour, edgecolor=colour, alpha=0.75)
            axes.plot([interval.value] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1.6)
    figure.supxlabel(along, fontsize="medium")
    return _save(figure, path)


def draw_seed_strip(path: Path, outcomes: pd.DataFrame, agents: Sequence[str] = ()) -> Figure:
    """Draws every run as a dot, failed ones as a cross, and the best constant as a dotted line.

    Within an agent's row the seeds lie one below the other, each at the same height in all rows. The best constant is
    its median over the task's runs.

    Args:
        path: The PNG file.
        outcomes: The runs, failed ones with them.
        agents: All agents of the comparison, in order.
    """
    by_task = _by_task(outcomes)
    shown = {task: list(runs["agent"].unique()) for task, runs in by_task.items()}
    figure, panels, rows, looks = _rows(shown, agents)
    seeds = sorted(outcomes["seed"].unique())
    for axes, runs in zip(panels, by_task.values(), strict=True):
        for run in runs.to_dict("records"):
            place = rows.index(run["agent"]) + 0.6 * ((seeds.index(run["seed"]) + 0.5) / len(seeds) - 0.5)
            _draw_run(axes, run, place, looks[run["agent"]].colour)
        constants = runs["best_constant_optimality"].dropna()
        if len(constants):
            axes.axvline(constants.median(), color="black", linestyle=":", linewidth=1.2)
    figure.supxlabel(OPTIMALITY, fontsize="medium")
    _key_of_strip(figure)
    return _save(figure, path)


def _draw_run(axes: Axes, run: Any, place: float, colour: str) -> None:
    if pd.isna(run["failure"]):
        axes.scatter(run["optimality"], place, s=22, color=colour, edgecolors="white", linewidths=0.4, zorder=3)
    else:
        axes.scatter(run["optimality"], place, s=30, color="black", marker="x", linewidths=1.3, zorder=3)


def draw_improvement_matrix(
    path: Path, probabilities: Mapping[str, Mapping[tuple[str, str], float]], agents: Sequence[str] = ()
) -> Figure:
    """Draws how probably a run of the row's agent beats one of the column's, with the number in each cell.

    Args:
        path: The PNG file.
        probabilities: By task, and by the row's and the column's agent; a pair that is missing has an empty cell.
        agents: All agents of the comparison, in order.
    """
    pairs = [pair for by_pair in probabilities.values() for pair in by_pair]
    names = _shown((agent for pair in pairs for agent in pair), agents)
    width = 0.2 + 0.42 * len(names)
    size = width, width + 0.7 * _room(names)
    figure, panels = _panels(list(probabilities), size, _room(names) + 1.0, sharey=True)
    for axes, by_pair in zip(panels, probabilities.values(), strict=True):
        _draw_matrix(axes, by_pair, names)
    colours = panels[0].images[0]
    figure.colorbar(colours, ax=panels, label="probability that the row's agent is better", shrink=0.6, aspect=30)
    return _save(figure, path)


def draw_serving(path: Path, curves: pd.DataFrame, agents: Sequence[str] = ()) -> Figure:
    """Draws the median over seeds of optimality against calls for each request, for searches and policies.

    The calls are on a logarithmic scale from 1 on, with a place for 0. Only calls that all seeds have are drawn.

    Args:
        path: The PNG file.
        curves: The runs.
        agents: All agents of the comparison, in order.
    """
    by_task = _by_task(serving_medians(curves))
    shown = _shown(curves["agent"], agents)
    looks = looks_of([*agents, *shown])
    figure, panels = _panels(list(by_task), (4.4, 3.7), _room(shown))
    for axes, runs in zip(panels, by_task.values(), strict=True):
        for agent, points in runs.groupby("agent", sort=False):
            axes.plot(points["calls"], points["optimality"], **looks[str(agent)].line())
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=-0.15)
        _stretch(axes, "y")
        axes.xaxis.set_major_formatter(_plain)
    _name_axes(panels, "calls of the estimator for each request", f"median {UPRIGHT}")
    _key(figure, shown, looks)
    return _save(figure, path)


def _stretch(axes: Axes, which: Literal["x", "y"]) -> None:
    """Stretches an axis of optimality towards 1: agents stand close to it, random choices far off."""
    scale: Any = axes.set_xscale if which == "x" else axes.set_yscale
    scale("function", functions=(_nearness, _optimality_at))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(TICKS))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_plain)
    axes.autoscale(axis=which)


def _nearness(optimality: Floats) -> Floats:
    return -np.arcsinh((1 - optimality) / NEAR_BEST)


def _optimality_at(nearness: Floats) -> Floats:
    return 1 - NEAR_BEST * np.sinh(-nearness)


def _bands(bands: pd.DataFrame, agents: Sequence[str], marked: bool) -> tuple[Figure, list[Axes]]:
    """Returns a figure of lines in their bands, two panels a row, and its axes."""
    by_task = _by_task(bands)
    shown = _shown(bands["agent"], agents)
    looks = looks_of([*agents, *shown])
    figure, panels = _panels(list(by_task), (4.4, 3.7), _room(shown))
    for axes, drawn in zip(panels, by_task.values(), strict=True):
        for agent, band in drawn.groupby("agent", sort=False):
            look = looks[str(agent)]
            line = look.line() if marked else look.line() | {"marker": "", "drawstyle": "steps-post"}
            # Along the line on the paper, at different places: lines on top of each other can be told apart.
            every = (0.02 + 0.017 * (shown.index(str(agent)) % 10), 0.17) if len(band) > 1 else None
            area: dict[str, Any] = {"color": look.colour, "step": None if marked else "post"}
            axes.fill_between(band["at"], band["low"], band["high"], alpha=0.13, linewidth=0, **area)
            axes.plot(band["at"], band["value"], markevery=every, **line)
    _key(figure, shown, looks, marked)
    return figure, panels


def _rows(
    shown: Mapping[str, Sequence[str]], agents: Sequence[str]
) -> tuple[Figure, list[Axes], list[str], dict[str, Look]]:
    """Returns a figure with a row an agent, its axes, the agents from top to bottom, and their looks."""
    rows = _shown((agent for drawn in shown.values() for agent in drawn), agents)
    size = 2.9, 1.1 + 0.34 * len(rows)
    figure, panels = _panels(list(shown), size, _room(rows), columns=4, sharey=True)
    for axes in panels:
        axes.set(yticks=range(len(rows)), yticklabels=map(_text, rows), ylim=(len(rows) - 0.5, -0.5))
        _stretch(axes, "x")
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.use_sticky_edges = False
        for row in range(1, len(rows)):
            axes.axhline(row - 0.5, color="0.9", linewidth=0.8, zorder=0)
    return figure, panels, rows, looks_of([*agents, *rows])


def _draw_matrix(axes: Axes, by_pair: Mapping[tuple[str, str], float], names: Sequence[str]) -> None:
    cells = [[by_pair.get((row, column), nan) for column in names] for row in names]
    axes.imshow(cells, cmap="coolwarm_r", vmin=0.0, vmax=1.0)
    for (row, column), value in by_pair.items():
        colour = "white" if abs(value - 0.5) > 0.35 else "black"
        at = names.index(column), names.index(row)
        axes.text(*at, f"{value:.2f}", ha="center", va="center", fontsize="small", color=colour)
    labels = [_text(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), labels)
    axes.tick_params(length=0)
    axes.grid(visible=False)


def _room(names: Iterable[str]) -> float:
    """Returns the inches that a column of names takes, beside a panel or in a legend."""
    return 0.7 + 0.085 * max(map(len, names), default=0)


def _panels(
    tasks: Sequence[str], size: tuple[float, float], room: float, columns: int = 2, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Returns a figure with a panel a task, each of ``size`` inches, beside room for names at one side."""
    if not tasks:
        raise ValueError("expected at least one task to draw, got none")
    columns = min(columns, len(tasks))
    rows = -(-len(tasks) // columns)
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08, compress=True)
    figure = Figure(figsize=(size[0] * columns + room, size[1] * rows), dpi=130, layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for axes in grid.flat[len(tasks) :]:
        axes.set_axis_off()
    panels = list(grid.flat[: len(tasks)])
    for axes, task in zip(panels, tasks, strict=True):
        axes.set_title(_text(fill(task, max(16, int(11 * size[0])))), fontsize="medium")
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _name_axes(panels: Sequence[Axes], abscissas: str, ordinates: str) -> None:
    """Names the axes once for each column and row of panels, two panels a row."""
    for i, axes in enumerate(panels):
        axes.set(xlabel=abscissas if i + 2 >= len(panels) else "", ylabel=ordinates if i % 2 == 0 else "")


def _key(figure: Figure, shown: Sequence[str], looks: Mapping[str, Look], marked: bool = True) -> None:
    lines = [looks[agent].line() | ({} if marked else {"marker": ""}) for agent in shown]
    handles = [Line2D([], [], label=_text(agent), **line) for agent, line in zip(shown, lines, strict=True)]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, handlelength=3.2)


def _key_of_strip(figure: Figure) -> None:
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=5, color="tab:gray", label="run"),
        Line2D([], [], linestyle="", marker="x", markersize=5, color="black", label="failed run"),
        Line2D([], [], linestyle=":", color="black", label="best constant"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False)


def _by_task(drawn: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(task): rows for task, rows in drawn.groupby("task", sort=False)}


def _shown(drawn: Iterable[str], agents: Sequence[str]) -> list[str]:
    """Returns the agents in a picture, in the comparison's order, then those that only the picture knows."""
    every = dict.fromkeys(drawn)
    return [agent for agent in dict.fromkeys([*agents, *every]) if agent in every]


def _text(name: str) -> str:
    return name.replace("$", r"\$")  # A name is no formula.


def _plain(number: float, _: object = None) -> str:
    return f"{number:,.10g}"


def _save(figure: Figure, path: Path) -> Figure:
    figure.savefig(path, bbox_inches="tight")  # Nothing is cut, however long the names are.
    return figure
