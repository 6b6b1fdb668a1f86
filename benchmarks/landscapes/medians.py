"""What the runs of one landscape come to: the median over seeds of every figure and of every point of every curve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from slot_rl.serving_curves import ServingCurve


@dataclass(frozen=True)
class Medians:
    """One contestant's runs on a landscape.

    Attributes:
        figures: Each figure's median over the seeds; None where a run has none.
        curves: Optimality over calls per context, by the way of answering.
        seeds: How many runs there are.
    """

    figures: Mapping[str, float | None]
    curves: Mapping[str, ServingCurve]
    seeds: int

    def figure(self, name: str) -> float:
        """Returns a figure that every run has."""
        value = self.figures[name]
        assert value is not None
        return value


SearchResult = Mapping[str, Mapping[str, Medians]]
"""Medians by landscape and contestant."""


def medians_of(runs: Sequence[Mapping[str, Any]]) -> Medians:
    """Returns the medians of runs as they lie on disk, one for each seed."""
    figures = {name: _median([run["figures"][name] for run in runs]) for name in runs[0]["figures"]}
    curves = {
        name: [
            (int(points[0][0]), median(point[1] for point in points))
            for points in zip(*(run["curves"][name] for run in runs), strict=True)
        ]
        for name in runs[0]["curves"]
    }
    return Medians(figures, curves, len(runs))


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if len(known) == len(values) else None
