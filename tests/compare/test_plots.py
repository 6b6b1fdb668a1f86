"""The comparison's pictures: files of a sensible size whose lines, dots and numbers are those of the runs."""

import struct
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from slot_rl.compare.curves import learning_bands
from slot_rl.compare.plots import (
    draw_improvement_matrix,
    draw_interval_chart,
    draw_learning_curves,
    draw_performance_profile,
    draw_seed_strip,
    draw_serving,
)
from slot_rl.looks import look_of, looks_of
from slot_rl.plots import NEAREST, distances
from tests.helpers.made_up import CURVES, SERVING, made_run

AGENTS = [f"agent_{i} with a long label" for i in range(12)]
TASKS = ["Rows-v0 tf-2000", "a $\\foo$ task whose label does not fit on one line of its panel at all"]
AT = (5_000.0, 50_000.0, 100_000.0)


def outcomes(tasks: list[str] = TASKS, agents: list[str] = AGENTS) -> pd.DataFrame:
    rows = [
        made_run(task, agent, seed, i / 20 + seed / 50, "stopped" if (i, seed) == (1, 2) else None)
        | {"best_constant_optimality": constant}
        for constant, task in zip((0.4, np.nan), tasks, strict=False)
        for i, agent in enumerate(agents)
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def learning(agents: list[str] = AGENTS) -> pd.DataFrame:
    rows = [
        (task, agent, seed, at, at / 1000, value)
        for task in TASKS
        for i, agent in enumerate(agents)
        for seed in range(3)
        for at, value in zip(AT, (0.1, i / 20, i / 15 + seed / 50), strict=True)
    ]
    return pd.DataFrame(rows, columns=CURVES)


def serving(agents: list[str] = AGENTS) -> pd.DataFrame:
    rows = [
        (TASKS[0], agent, seed, calls, value)
        for i, agent in enumerate(agents)
        for seed in range(3)
        for calls, value in [(0, 0.1), (2, 0.2), (64, 0.3 + seed), (810, 0.9)][i == 0 :]
    ]
    return pd.DataFrame(rows, columns=SERVING)


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", head[16:])
    return width, height


IQM = ["task", "agent", "iqm", "iqm_low", "iqm_high"]
IMPROVEMENT = ["task", "first", "second", "improvement"]
CHART = pd.DataFrame(
    [(task, agent, i / 20, i / 20 - 0.1, i / 20 + 0.1) for task in TASKS for i, agent in enumerate(AGENTS)], columns=IQM
)
PAIRS = pd.DataFrame([(task, *pair, 0.25) for task in TASKS for pair in combinations(AGENTS, 2)], columns=IMPROVEMENT)
DRAWN: dict[str, Callable[[Path], Figure]] = {
    "calls": lambda path: draw_learning_curves(path, learning(), "calls"),
    "seconds": lambda path: draw_learning_curves(path, learning(), "seconds"),
    "profile": lambda path: draw_performance_profile(path, outcomes()),
    "strip": lambda path: draw_seed_strip(path, outcomes()),
    "intervals": lambda path: draw_interval_chart(path, CHART),
    "matrix": lambda path: draw_improvement_matrix(path, PAIRS),
}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_have_a_panel_a_task_and_nothing_is_cut(name: str, tmp_path: Path) -> None:
    figure = DRAWN[name](tmp_path / "picture.png")
    width, height = size(tmp_path / "picture.png")
    assert 900 < width < 2600 and 400 < height < 2600
    titles = [axes.get_title().replace("\n", " ") for axes in panels(figure)]
    assert titles == [task.replace("$", r"\$") for task in TASKS]
    shown = {text.get_text() for axes in panels(figure) for text in axes.get_yticklabels()}
    assert set(AGENTS) <= shown.union(*map(legend, [figure] if figure.legends else []))
    pixels = imread(tmp_path / "picture.png")
    margin = pixels[:5].min(), pixels[-5:].min(), pixels[:, :5].min(), pixels[:, -5:].min()
    assert margin == (1, 1, 1, 1)  # white: whatever is cut would reach the edge
    for one in figure.legends:  # beside the panels, never on them
        assert not any(one.get_window_extent().overlaps(axes.get_window_extent()) for axes in panels(figure))


def test_one_look_an_agent_and_no_two_alike(tmp_path: Path) -> None:
    looks = looks_of(AGENTS * 2)
    assert list(looks) == AGENTS and len({(look.colour, str(look.dash)) for look in looks.values()}) == 12
    some = draw_learning_curves(tmp_path / "picture.png", learning([AGENTS[1], AGENTS[11]]), "calls", AGENTS)
    lone = draw_serving(tmp_path / "picture.png", serving(["unheard_of", AGENTS[11]]), AGENTS)
    assert legend(lone) == [AGENTS[11], "unheard_of"]
    first, theirs = panels(some)[0].lines
    same = panels(lone)[0].lines[1]
    assert same.get_color() == theirs.get_color() == look_of(AGENTS[11]).colour
    assert same.get_marker() == theirs.get_marker() == look_of(AGENTS[11]).marker
    assert (first.get_color(), first.get_marker()) != (same.get_color(), same.get_marker())
    with pytest.raises(ValueError, match="expected at least one task"):
        draw_serving(tmp_path / "picture.png", serving([]))


def test_learning_curves_are_the_bands(tmp_path: Path) -> None:
    curves = learning(AGENTS[:3])
    figure = draw_learning_curves(tmp_path / "picture.png", curves, "calls")
    bands = [band for _, band in learning_bands(curves, "calls").groupby(["task", "agent"], sort=False)]
    lines = list(chain.from_iterable(axes.lines for axes in panels(figure)))
    assert len(lines) == len(bands) == 6
    for band, line in zip(bands, lines, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), band.assign(value=distances(band["value"]))[["at", "value"]])
    assert all(len(axes.collections) == 3 for axes in panels(figure))
    axes = panels(figure)[0]
    assert axes.xaxis.get_major_formatter()(100_000, 0) == "100"
    assert axes.get_xscale() == "linear"


def test_seconds_that_span_far_are_logarithmic(tmp_path: Path) -> None:
    def drawn(*seconds: tuple[float, ...]) -> Axes:
        rows = [
            ("task", f"agent {i}", 0, *point)
            for i, at in enumerate(seconds)
            for point in zip(AT, at, (0.0, 0.5, 1.0), strict=True)
        ]
        curves = pd.DataFrame(rows, columns=CURVES)
        (axes,) = panels(draw_learning_curves(tmp_path / "picture.png", curves, "seconds"))
        return axes

    assert drawn((1, 10, 19), (2, 3, 20)).get_xscale() == "linear"
    axes = drawn((0, 10, 19), (2, 3, 41))
    assert axes.get_xscale() == "log"
    # What was evaluated before any training has no place there.
    assert np.asarray(axes.lines[0].get_xdata(), float).min() > 0


def test_a_band_of_optimality_is_one_of_distance(tmp_path: Path) -> None:
    rows = [("task", "a", seed, at, at, value) for seed, value in enumerate((0.2, 0.4)) for at in (1.0, 2.0)]
    (axes,) = panels(draw_learning_curves(tmp_path / "picture.png", pd.DataFrame(rows, columns=CURVES), "calls"))
    heights = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == (pytest.approx(0.6), pytest.approx(0.8))  # .4 and .2
    assert axes.get_yscale() == "log" and "smaller is better" in axes.get_ylabel()


def test_a_strip_has_a_dot_a_run(tmp_path: Path) -> None:
    figure = draw_seed_strip(tmp_path / "picture.png", outcomes())
    for axes, constant in zip(panels(figure), (0.4, None), strict=True):
        places = np.concatenate([np.asarray(dots.get_offsets()) for dots in axes.collections])
        found = sorted((round(float(y)), round(float(x), 9)) for x, y in places)
        assert found == sorted((i, round(1 - i / 20 - seed / 50, 9)) for i in range(12) for seed in range(3))
        black = [dots for dots in axes.collections if np.asarray(dots.get_facecolor())[0, :3].sum() == 0]
        assert len(black) == 1 and np.asarray(black[0].get_offsets())[0, 0] == pytest.approx(1 - 1 / 20 - 2 / 50)
        dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]  # type: ignore[index]
        assert dotted == ([] if constant is None else [1 - constant])
    assert legend(figure) == ["run", "failed run", "best constant"]


def test_an_interval_is_a_line_with_a_marker(tmp_path: Path) -> None:
    chart = [("one", "a", 0.5, 0.25, 0.75), ("one", "b", 0.9, 0.9, 0.9), ("two", "b", 1, 0, 1)]
    figure = draw_interval_chart(tmp_path / "picture.png", pd.DataFrame(chart, columns=IQM), agents=["b", "a"])
    one, two = panels(figure)
    (_, *drawn), (_, span, _) = one.lines, two.lines  # after the line between the rows
    spans, dots = drawn[0::2], drawn[1::2]
    assert [np.asarray(line.get_xydata()).tolist() for line in spans] == [
        [[0.75, 1], [0.25, 1]],
        [[pytest.approx(0.1), 0], [pytest.approx(0.1), 0]],
    ]
    assert [line.get_marker() for line in dots] == [look_of(name).marker for name in "ab"]
    assert [text.get_text() for text in one.get_yticklabels()] == ["b", "a"]
    # An interval that ends at the best ends at the nearest distance that is drawn, whose tick says so.
    assert np.asarray(span.get_xdata()).tolist() == [1, NEAREST]
    ticks = two.xaxis.get_major_locator().tick_values(0, 1)
    assert two.xaxis.get_major_formatter()(ticks[0], 0) == "≤ 0.001" and ticks[-1] == 1
    assert two.get_xlim()[0] < NEAREST and two.get_xlim()[1] > 1  # no marker on the edge


def test_a_profile_begins_with_all_runs_and_ends_with_none(tmp_path: Path) -> None:
    figure = draw_performance_profile(tmp_path / "picture.png", outcomes())
    lines = [line for axes in panels(figure) for line in axes.lines]
    assert len(lines) == 24
    for line in lines:
        shares = np.asarray(line.get_ydata())
        assert shares[0] == 1 and shares[-1] == 0 and (np.diff(shares) <= 0).all()


def test_a_matrix_names_every_pair(tmp_path: Path) -> None:
    pairs = pd.DataFrame([("task", "a", "b", 0.75)], columns=IMPROVEMENT)
    (axes,) = panels(draw_improvement_matrix(tmp_path / "picture.png", pairs, ["b", "a"]))
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a"]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((0, 1), "0.75"), ((1, 0), "0.25")}
    cells = np.asarray(axes.images[0].get_array())
    assert cells[1, 0] == 0.75 and cells[0, 1] == 0.25


def test_serving_is_the_median_with_a_place_for_no_call(tmp_path: Path) -> None:
    curves = serving(["search", "policy"])
    curves = curves.query("agent == 'search' or seed < 2 or calls < 64")  # a seed that was not asked so often
    last = (curves["agent"] == "policy") & (curves["seed"] == 2)
    curves = curves.assign(optimality=curves["optimality"].where(~last, [0.4] * (len(curves) - 1) + [0.5]))
    (axes,) = panels(draw_serving(tmp_path / "picture.png", curves))
    search, policy = axes.lines
    np.testing.assert_allclose(np.asarray(search.get_xydata(), float), [[2, 0.8], [64, NEAREST], [810, 0.1]])
    np.testing.assert_allclose(np.asarray(policy.get_xydata(), float), [[0, 0.9], [2, 0.8]])
    assert axes.get_xscale() == "symlog" and axes.get_xlim()[0] < 0
    assert size(tmp_path / "picture.png")[0] > 600


def test_serving_by_time_is_in_microseconds(tmp_path: Path) -> None:
    curves = serving(["search", "policy"])
    curves = curves.assign(seconds=(1 + curves["calls"]) * (1 + curves["seed"]) * 1e-5)
    (axes,) = panels(draw_serving(tmp_path / "picture.png", curves, along="seconds"))
    search, policy = axes.lines
    # Seed 1 has the median: twice 10 us for each call and one more.
    np.testing.assert_allclose(np.asarray(policy.get_xdata(), float), [20, 60, 1_300, 16_220])
    np.testing.assert_allclose(np.asarray(search.get_xydata(), float)[0], [60, 0.8])
    assert axes.get_xscale() == "log" and axes.get_xlabel().startswith("processor microseconds for each request")
    with pytest.raises(ValueError, match="expected at least one task"):
        draw_serving(tmp_path / "picture.png", serving(), along="seconds")  # not measured
