"""The pictures of a comparison, as PNG files: one panel for each task, and one look for each agent in all pictures.

Every function takes the file, a frame with a column ``task``, and all agents of the comparison in order, which gives
each agent its look. Agents that are only in the frame come last. Each function returns the figure that it saved.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from slot_rl.compare.curves import Along, learning_bands, profiles, serving_medians
from slot_rl.looks import Look, look_of, looks_of
from slot_rl.plots import DISTANCE, HOLLOW, SMALLER, distances, plain_text, scale_distances
from slot_rl.serving_curves import LARGE_BATCH

ALONG = {"calls": "estimator calls in training, thousands", "seconds": "processor seconds of training"}
FOR_A_REQUEST = {
    "calls": "estimator calls for each request",
    "seconds": f"processor microseconds for each request, batch of {LARGE_BATCH}",
}
SIZE = (4.4, 3.7)
WIDEST_LINEAR = 20.0
CONSTANT_LINE: dict[str, Any] = {"color": look_of("best_constant").colour, "linestyle": ":"}

Panels: TypeAlias = list[tuple[Axes, pd.DataFrame]]
"""The axes of each task with the rows that are drawn there."""
Seen: TypeAlias = dict[str, Look]
"""How each agent is drawn."""


def draw_learning_curves(path: Path, curves: pd.DataFrame, along: Along, agents: Sequence[str] = ()) -> Figure:
    """Draws the interquartile mean over seeds of each agent's learning curve, with its 95 % band.

    Seconds are on a logarithmic scale if they span more than twentyfold.
    """
    bands = _distant(learning_bands(curves, along))
    positive = bands.loc[bands["at"] > 0, "at"]
    logarithmic = along == "seconds" and positive.max() > WIDEST_LINEAR * positive.min()
    if logarithmic:
        bands = bands[bands["at"] > 0]
    figure, panels = _bands(bands, agents, marked=True)
    for axes in panels:
        axes.set_xscale("log" if logarithmic else "linear")
        axes.xaxis.set_major_formatter((lambda at, _: _plain(at / 1000)) if along == "calls" else _plain)
        scale_distances(axes, "y")
    _name_axes(panels, ALONG[along], f"IQM of the {SMALLER}")
    return _save(figure, path)


def draw_performance_profile(path: Path, runs: pd.DataFrame, agents: Sequence[str] = ()) -> Figure:
    """Draws for each agent the share of runs nearer to the best, failed ones included, with its 95 % band."""
    shares = profiles(runs)
    # Beyond the best run every share is 0.
    shares = shares[shares["at"] <= shares["task"].map(runs.groupby("task")["optimality"].max())]
    figure, panels = _bands(shares.assign(at=distances(shares["at"])), agents, marked=False)
    for axes in panels:
        axes.set_ylim(-0.03, 1.03)
        scale_distances(axes, "x")
    _name_axes(panels, DISTANCE, "share of runs that are nearer to the best")
    return _save(figure, path)


def draw_interval_chart(path: Path, summaries: pd.DataFrame, agents: Sequence[str] = ()) -> Figure:
    """Draws each agent's interval (columns iqm_low, iqm_high) as a line, with its marker at the IQM (iqm)."""
    figure, panels, places, looks = _rows(summaries, agents)
    for axes, drawn in panels:
        for row in drawn.to_dict("records"):
            place, look = places[row["agent"]], looks[row["agent"]]
            axes.plot(
                distances([row["iqm_low"], row["iqm_high"]]), [place] * 2, color=look.colour, linewidth=5, alpha=0.5
            )
            axes.plot(distances([row["iqm"]]), [place], color=look.colour, marker=look.marker, markersize=7)
        scale_distances(axes, "x")
    figure.supxlabel(DISTANCE, fontsize="medium")
    return _save(figure, path)


def draw_seed_strip(path: Path, runs: pd.DataFrame, agents: Sequence[str] = ()) -> Figure:
    """Draws every run as a dot, failed runs as a cross, and the best constant answer as a dotted line.

    A seed has the same height in the rows of all agents. The line is the median over the task's runs.
    """
    figure, panels, places, looks = _rows(runs, agents)
    seeds = sorted(runs["seed"].unique())
    for axes, drawn in panels:
        for run in drawn.to_dict("records"):
            place = places[run["agent"]] + 0.6 * ((seeds.index(run["seed"]) + 0.5) / len(seeds) - 0.5)
            look: dict[str, Any] = {"s": 30, "color": "black", "marker": "x", "linewidths": 1.3}
            if pd.isna(run["failure"]):
                look = {"s": 22, "color": looks[run["agent"]].colour, "edgecolors": "white", "linewidths": 0.4}
            axes.scatter(distances(run["optimality"]), place, zorder=3, **look)
        constants = drawn["best_constant_optimality"].dropna()
        if len(constants):
            axes.axvline(float(distances(constants.median())), linewidth=1.2, **CONSTANT_LINE)
        scale_distances(axes, "x")
    figure.supxlabel(DISTANCE, fontsize="medium")
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=5, color="tab:gray", label="run"),
        Line2D([], [], linestyle="", marker="x", markersize=5, color="black", label="failed run"),
        Line2D([], [], label="best constant", linewidth=1.2, **CONSTANT_LINE),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False)
    return _save(figure, path)


def draw_improvement_matrix(path: Path, pairs: pd.DataFrame, agents: Sequence[str] = ()) -> Figure:
    """Draws the probability that a run of the row's agent beats a run of the column's; each pair is given once."""
    names = _shown([*pairs["first"], *pairs["second"]], agents)
    turned = pairs.assign(first=pairs["second"], second=pairs["first"], improvement=1 - pairs["improvement"])
    width = 0.2 + 0.42 * len(names)
    size = width, width + 0.7 * _inches(names)
    figure, panels = _panels(pd.concat([pairs, turned]), size, _inches(names) + 1.0, sharey=True)
    for axes, drawn in panels:
        cells = drawn.pivot(index="first", columns="second", values="improvement")
        _draw_matrix(axes, cells.reindex(index=names, columns=names))
    colours, all_axes = panels[0][0].images[0], [axes for axes, _ in panels]
    figure.colorbar(colours, ax=all_axes, label="probability that the row's agent is better", shrink=0.6, aspect=30)
    return _save(figure, path)


def draw_serving(path: Path, serving: pd.DataFrame, agents: Sequence[str] = (), along: Along = "calls") -> Figure:
    """Draws the median over seeds of the distance to the best, against estimator calls for a request or its seconds.

    Calls are 0, then logarithmic from 1; seconds are microseconds on a logarithmic scale.
    """
    medians = serving_medians(serving).dropna(subset=along)
    places = medians["calls"] if along == "calls" else 1e6 * medians["seconds"]
    figure, panels = _bands(medians.assign(at=places, value=distances(medians["optimality"])), agents, marked=True)
    for axes in panels:
        if along == "calls":
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(left=-0.15)
        else:
            axes.set_xscale("log")
            axes.margins(x=0.08)
        scale_distances(axes, "y")
        axes.xaxis.set_major_formatter(_plain)
    _name_axes(panels, FOR_A_REQUEST[along], f"median {SMALLER}")
    return _save(figure, path)


def _distant(bands: pd.DataFrame) -> pd.DataFrame:
    """Returns bands of optimality as bands of the distance to the best, whose lower end is the higher optimality."""
    return bands.assign(value=distances(bands["value"]), low=distances(bands["high"]), high=distances(bands["low"]))


def _bands(bands: pd.DataFrame, agents: Sequence[str], marked: bool) -> tuple[Figure, list[Axes]]:
    """Returns a figure of lines, in bands if they have columns low and high, two panels a row; and its axes."""
    shown = _shown(bands["agent"], agents)
    looks = looks_of([*agents, *shown])
    figure, panels = _panels(bands, SIZE, _inches(shown))
    for axes, drawn in panels:
        for agent, band in drawn.groupby("agent", sort=False):
            look = looks[str(agent)]
            line = look.marked | HOLLOW if marked else look.line | {"drawstyle": "steps-post"}
            # Agents have markers at different places, so that overlapping lines can be told apart.
            dense = "low" in band and len(band) > 1
            every = (0.02 + 0.017 * (shown.index(str(agent)) % 10), 0.17) if dense else None
            if "low" in band:
                area: dict[str, Any] = {"color": look.colour, "step": None if marked else "post"}
                axes.fill_between(band["at"], band["low"], band["high"], alpha=0.13, linewidth=0, **area)
            axes.plot(band["at"], band["value"], markevery=every, linewidth=1.6, **line)
    _legend(figure, shown, looks, marked)
    return figure, [axes for axes, _ in panels]


def _rows(drawn: pd.DataFrame, agents: Sequence[str]) -> tuple[Figure, Panels, dict[str, int], Seen]:
    """Returns a figure with a row for each agent, its panels, and each agent's row and look."""
    rows = _shown(drawn["agent"], agents)
    figure, panels = _panels(drawn, (2.9, 1.1 + 0.34 * len(rows)), _inches(rows), columns=4, sharey=True)
    for axes, _ in panels:
        axes.set(yticks=range(len(rows)), yticklabels=map(plain_text, rows), ylim=(len(rows) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        for row in range(1, len(rows)):
            axes.axhline(row - 0.5, color="0.9", linewidth=0.8, zorder=0)
    return figure, panels, {agent: i for i, agent in enumerate(rows)}, looks_of([*agents, *rows])


def _draw_matrix(axes: Axes, cells: pd.DataFrame) -> None:
    axes.imshow(cells, cmap="coolwarm_r", vmin=0.0, vmax=1.0)
    labels = list(map(plain_text, cells.index))
    for (row, column), value in np.ndenumerate(cells.to_numpy()):
        if not np.isnan(value):
            colour = "white" if abs(value - 0.5) > 0.35 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="small", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.grid(visible=False)


def _inches(names: Iterable[str]) -> float:
    """Returns the width of a column of names, next to a panel or in a legend."""
    return 0.7 + 0.085 * max(map(len, names), default=0)


def _panels(
    drawn: pd.DataFrame, size: tuple[float, float], beside: float, columns: int = 2, sharey: bool = False
) -> tuple[Figure, Panels]:
    """Returns a figure with a panel of ``size`` inches for each task, and ``beside`` inches for names at one side."""
    by_task = {str(task): rows for task, rows in drawn.groupby("task", sort=False)}
    if not by_task:
        raise ValueError("expected at least one task to draw, got none")
    columns = min(columns, len(by_task))
    rows = -(-len(by_task) // columns)
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08, compress=True)
    figure = Figure(figsize=(size[0] * columns + beside, size[1] * rows), dpi=130, layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for axes in grid.flat[len(by_task) :]:
        axes.set_axis_off()
    panels = list(zip(grid.flat, by_task.values(), strict=False))
    for (axes, _), task in zip(panels, by_task, strict=True):
        axes.set_title(plain_text(fill(task, max(16, int(11 * size[0])))), fontsize="medium")
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _name_axes(panels: Sequence[Axes], abscissas: str, ordinates: str) -> None:
    """Names the axes once for each column and row of panels, two panels a row."""
    for i, axes in enumerate(panels):
        axes.set(xlabel=abscissas if i + 2 >= len(panels) else "", ylabel=ordinates if i % 2 == 0 else "")


def _legend(figure: Figure, shown: Sequence[str], looks: Seen, marked: bool = True) -> None:
    lines = {agent: looks[agent].marked | HOLLOW if marked else looks[agent].line for agent in shown}
    handles = [Line2D([], [], label=plain_text(agent), linewidth=1.6, **line) for agent, line in lines.items()]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, handlelength=3.2)


def _shown(drawn: Iterable[str], agents: Sequence[str]) -> list[str]:
    """Returns the agents in a picture, in the comparison's order; agents that are not in the comparison come last."""
    every = dict.fromkeys(drawn)
    return [agent for agent in dict.fromkeys([*agents, *every]) if agent in every]


def _plain(number: float, _: object = None) -> str:
    return f"{number:,.10g}"


def _save(figure: Figure, path: Path) -> Figure:
    figure.savefig(path, bbox_inches="tight")  # Long names are not cut.
    return figure
