"""Pictures of a run, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")  # A run has no window, and none shall open on a machine that could.

from matplotlib import pyplot

Numbers = npt.NDArray[np.floating]


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
    axes.set(xlabel="true score", ylabel="predicted score", title=title, aspect="equal")
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def plot_learning_curve(
    path: Path, budget: Sequence[float], curves: Mapping[str, Sequence[float]], levels: Mapping[str, float], title: str
) -> None:
    """Draws curves over the budget, with horizontal lines for what they compete with.

    Args:
        path: The PNG file.
        budget: Configurations scored at each point.
        curves: Values at each point, by name.
        levels: Competitors' values, by name.
        title: Says which agent ran where.
    """
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for name, values in curves.items():
        axes.plot(budget, values, marker=".", markersize=4, label=name)
    for i, (name, value) in enumerate(levels.items()):
        axes.axhline(value, color=f"C{len(curves) + i}", linewidth=1.1, linestyle=["--", ":", "-."][i % 3], label=name)
    axes.set(xlabel="configurations scored in training", ylabel="optimality (0 random, 1 best)", title=title)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(min(-0.05, *(min(values) for values in curves.values())), None)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
