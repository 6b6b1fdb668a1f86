"""Pictures of a run, as PNG files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")  # No window may open.

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from slot_rl.looks import Look, looks_in_order, looks_of

Numbers = npt.NDArray[np.floating]
Curve = tuple[Sequence[float], Sequence[float]]

NEAREST = 1e-3
"""The smallest distance to the best that is drawn; the fourth decimal of an optimality is noise."""
DISTANCE = "distance to the best (1 - optimality), smaller is better"
SMALLER = "distance to the best\n(1 - optimality), smaller is better"
"""Labels of an axis of distances; the second stands beside an axis whose height it would exceed in one line."""
HOLLOW: dict[str, Any] = {"markersize": 6, "fillstyle": "none", "markeredgewidth": 1.4}
"""Markers of a line, so that several points in one place are all seen."""
STEPS = [step * 10.0**power for power in range(-3, 4) for step in (1, 2, 5)]
MOST_TICKS = 7


def plain_text(text: str) -> str:
    """Returns a text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def distances(optimality: npt.ArrayLike) -> Numbers:
    """Returns ``1 - optimality`` as it is drawn, of any shape: at least :data:`NEAREST`; NaN stays."""
    drawn: Numbers = np.maximum(1 - np.asarray(optimality, float), NEAREST)
    return drawn


def scale_distances(axes: Axes, which: Literal["x", "y"]) -> None:
    """Makes an axis of distances to the best logarithmic, once everything is drawn.

    It ends at round numbers beyond all that is drawn, so that no marker lies on the edge. The last tick of an axis that
    reaches :data:`NEAREST` says that smaller distances, and none, are drawn there.
    """
    interval = axes.dataLim.intervalx if which == "x" else axes.dataLim.intervaly
    low = max((step for step in STEPS if step <= interval[0] * (1 + 1e-9)), default=STEPS[0])
    high = min((step for step in STEPS if step >= interval[1] * (1 - 1e-9) and step > low), default=interval[1])
    pad = (high / low) ** 0.05
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low / pad, high * pad)
    ticks = [step for step in STEPS if low <= step <= high]
    if len(ticks) > MOST_TICKS:
        ticks = [step for step in ticks if f"{step:e}".startswith("1")]
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda at, _: f"≤ {at:g}" if at <= NEAREST else f"{at:g}")


def plot_fit(path: Path, predicted: Numbers, true: Numbers, title: str) -> None:
    """Draws predicted against true scores.

    Args:
        path: The PNG file.
        predicted: Predicted scores, of shape ``(rows,)``.
        true: True scores, of shape ``(rows,)``.
        title: Says what was fitted and how well.
    """
    figure, axes = pyplot.subplots(figsize=(5.2, 5), layout="constrained")
    size = float(np.clip(4000 / len(true), 1, 14))
    axes.scatter(true, predicted, s=size, alpha=0.35, linewidths=0, color="tab:blue", rasterized=True)
    ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    axes.plot(ends, ends, color="black", linewidth=0.8, label="perfect")
    axes.set(xlabel="true score", ylabel="predicted score", title=plain_text(title), aspect="equal")
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def plot_learning_curve(
    path: Path,
    budget: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    title: str,
    looks: Mapping[str, Look],
) -> None:
    """Draws the distance to the best over the budget, with horizontal lines for what an agent competes with.

    Args:
        path: The PNG file.
        budget: Estimator calls at each point.
        curves: Optimality at each point, by name; NaN leaves a gap.
        levels: Competitors' optimality, by name.
        title: Says which agent ran where.
        looks: How each name is drawn.
    """
    figure, axes = pyplot.subplots(figsize=(7.6, 4.2), layout="constrained")
    for i, (name, values) in enumerate(curves.items()):
        # Hollow, so that a curve behind one with the same values is seen.
        marks: dict[str, Any] = {"markersize": 4 + 4 * i, "fillstyle": "none" if i else "full"}
        axes.plot(budget, distances(values), label=plain_text(name), **marks, **looks[name].marked)
    for name, value in levels.items():
        axes.axhline(float(distances(value)), linewidth=1.1, label=plain_text(name), **looks[name].line)
    axes.set(xlabel="estimator calls in training", ylabel=SMALLER, title=plain_text(title))
    scale_distances(axes, "y")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.2)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


@dataclass(frozen=True)
class Panel:
    """One panel in :func:`plot_curves`.

    Attributes:
        title: Says what is drawn.
        value: Label of the ordinates.
        curves: Abscissas and ordinates, by name; a name has one look in all panels.
        log: Whether the ordinates are drawn on a logarithmic scale.
        nearness: Whether the ordinates are optimality, drawn as distances to the best.
        along: Label of its own abscissas, where panels differ.
        log_along: Whether the abscissas are drawn on a logarithmic scale; with a point at 0, from 1 on.
        marked: Whether points are marked, so that a curve of a single one is seen.
    """

    title: str
    value: str
    curves: Mapping[str, Curve]
    log: bool = False
    nearness: bool = False
    along: str = ""
    log_along: bool = False
    marked: bool = False


def plot_curves(path: Path, panels: Sequence[Panel], along: str = "", looks: Mapping[str, Look] | None = None) -> None:
    """Draws named curves, two panels a row, with one legend.

    Args:
        path: The PNG file.
        panels: The panels.
        along: Label of the abscissas, where panels have none of their own.
        looks: How each name is drawn; agents need those of :func:`slot_rl.looks.looks_of`. By their order if None.
    """
    figure, grid = _grid(len(panels))
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    looks = looks_in_order(names) if looks is None else looks
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, looks)
    figure.supxlabel(plain_text(along), fontsize="medium")
    marked = any(panel.marked for panel in panels)
    handles = [
        Line2D([], [], label=plain_text(name), **(looks[name].marked | HOLLOW if marked else looks[name].line))
        for name in names
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize="small", handlelength=3.2)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_panel(axes: Axes, panel: Panel, looks: Mapping[str, Look]) -> None:
    size = 6
    for name, (abscissas, ordinates) in panel.curves.items():
        look = looks[name].marked | HOLLOW if panel.marked else looks[name].line
        if panel.marked and len(abscissas) == 1:
            # Ever larger: none hides another, nor do curves that begin there.
            size += 4
            look |= {"markersize": size, "zorder": 10}
        axes.plot(abscissas, distances(ordinates) if panel.nearness else ordinates, linewidth=1.2, **look)
    axes.set(title=plain_text(panel.title), xlabel=plain_text(panel.along), ylabel=plain_text(panel.value))
    axes.set_yscale("log" if panel.log else "linear")
    if panel.nearness:
        scale_distances(axes, "y")
    every = [at for abscissas, _ in panel.curves.values() for at in abscissas]
    if panel.log_along and min(every) > 0:
        axes.set_xscale("log")
    elif panel.log_along:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.15, 1.5 * max(every))
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    axes.grid(alpha=0.25)


def _grid(panels: int) -> tuple[Figure, Any]:
    """Returns a figure with two panels a row and space for a legend at the right."""
    columns = min(2, panels)
    rows = -(-panels // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(4.4 * columns + 2.6, 4.1 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat[panels:]:
        axes.set_axis_off()
    return figure, grid


@dataclass(frozen=True)
class Point:
    """One selector in :func:`plot_bias_and_variance`.

    Attributes:
        name: The selector.
        bias: Relative squared bias.
        variance: Relative variance.
        cost: Calls per row, drawn as the marker's area.
    """

    name: str
    bias: float
    variance: float
    cost: float = 1.0


def plot_bias_and_variance(path: Path, panels: Mapping[str, Sequence[Point]]) -> None:
    """Draws squared bias against variance on logarithmic scales, two panels a row, with one legend.

    Args:
        path: The PNG file.
        panels: For each panel's title, its points; a selector looks as its agent does. A bias or variance of 0 is drawn
            on a dotted line a decade below all others.
    """
    figure, grid = _grid(len(panels))
    looks = looks_of(point.name for points in panels.values() for point in points)
    for axes, (title, points) in zip(grid.flat, panels.items(), strict=False):
        least = [_edge([point.bias for point in points]), _edge([point.variance for point in points])]
        for point in sorted(points, key=lambda each: -each.cost):  # no small marker under a large one
            place = max(point.variance, least[1]), max(point.bias, least[0])
            look = looks[point.name]
            axes.scatter(*place, s=40 + 60 * np.log2(point.cost), color=look.colour, marker=look.marker, alpha=0.7)
        axes.axhline(least[0], color="black", linewidth=0.6, linestyle=":")
        axes.set(xscale="log", yscale="log", title=plain_text(title))
        axes.margins(x=0.1, y=0.1)
        axes.grid(alpha=0.25)
    figure.supxlabel("variance / |true gradient|²", fontsize="medium")
    figure.supylabel("squared bias / |true gradient|² (dotted line: unbiased)", fontsize="medium")
    handles = [
        Line2D([], [], linestyle="", marker=look.marker, color=look.colour, label=plain_text(name))
        for name, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _edge(values: Sequence[float]) -> float:
    """The place of zeros on a logarithmic axis: a decade below the smallest value that is not one."""
    return min((value for value in values if value > 1e-9), default=1e-3) / 10


@dataclass(frozen=True)
class Interval:
    """A figure and its interval, in :func:`plot_intervals`.

    Attributes:
        value: The figure.
        low: The interval's lower end.
        high: The interval's upper end.
    """

    value: float
    low: float
    high: float


def plot_intervals(path: Path, panels: Mapping[str, Mapping[str, Mapping[str, Interval | None]]], along: str) -> None:
    """Draws figures with their intervals, a row for each case, one panel beside the other, with one legend.

    Args:
        path: The PNG file.
        panels: For each panel's title and each case, the figures by name; a name has one colour in all panels, and
            one that is None is left out.
        along: Label of the abscissas.
    """
    figure, grid = pyplot.subplots(
        1, len(panels), figsize=(3.4 * len(panels) + 2.6, 3.2), layout="constrained", squeeze=False, sharey=True
    )
    names = list(dict.fromkeys(name for cases in panels.values() for case in cases.values() for name in case))
    cases = list(dict.fromkeys(case for panel in panels.values() for case in panel))
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=True):
        for i, name in enumerate(names):
            for case, found in panel.items():
                interval = found.get(name)
                if interval is not None:
                    place = cases.index(case) + 0.22 * (i - (len(names) - 1) / 2)
                    axes.plot([interval.low, interval.high], [place, place], color=f"C{i}", linewidth=1.5)
                    axes.plot(interval.value, place, marker="o", markersize=4, color=f"C{i}")
        axes.axvline(0.0, color="black", linewidth=0.6)
        axes.set(
            title=plain_text(title),
            yticks=range(len(cases)),
            yticklabels=map(plain_text, cases),
            ylim=(len(cases) - 0.5, -0.5),
        )
        axes.grid(alpha=0.25, axis="x")
    figure.supxlabel(plain_text(along), fontsize="medium")
    handles = [
        Line2D([], [], label=plain_text(name), color=f"C{i}", marker="o", markersize=4) for i, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
