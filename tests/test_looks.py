"""Every agent has one look, no two of them alike, and every command draws an agent in the same colour."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from slot_rl.agents import AGENTS
from slot_rl.compare.plots import draw_interval_chart
from slot_rl.looks import COLOURS, VARIANTS, look_of, looks_in_order, looks_of, variant
from slot_rl.plots import Point, plot_bias_and_variance, plot_learning_curve
from slot_rl.selectors import NAMES
from slot_rl.serving_curves import Timing, plot_serving, way_looks


def test_no_two_agents_share_colour_and_dash_or_marker() -> None:
    looks = [look_of(name) for name in AGENTS]
    assert len({(look.colour, str(look.dash)) for look in looks}) == len(AGENTS)
    assert len({(look.colour, look.marker) for look in looks}) == len(AGENTS)
    assert len({look_of(name).colour for name in NAMES}) == len(NAMES)  # selectors are told apart by colour alone


def test_colours_are_far_apart() -> None:
    for one, other in combinations(map(to_rgb, COLOURS), 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 0.15


def test_a_name_has_its_look_whoever_else_is_there() -> None:
    names = [*AGENTS, "mine", "gumbel, tau .3"]
    for some in (names, names[::-1], names[::3]):
        assert looks_of(some) == {name: look_of(name) for name in some}


@pytest.mark.parametrize("names", [("guided_search", "guided search"), ("multi_swap", "multi-swap search")])
def test_spellings_are_one_name(names: tuple[str, str]) -> None:
    assert look_of(names[0]) == look_of(names[1])


def test_a_variant_keeps_the_colour_alone() -> None:
    plain = look_of("gumbel")
    for look in (look_of("gumbel + 31 calls"), look_of("gumbel, tau .3"), variant(plain, VARIANTS - 1)):
        assert look.colour == plain.colour and look.dash != plain.dash and look.marker != plain.marker
    assert len({variant(plain, number) for number in range(VARIANTS)}) == VARIANTS


def test_unknown_names_look_like_no_agent() -> None:
    known = {(look_of(name).colour, str(look_of(name).dash)) for name in AGENTS}
    looks = looks_of(f"mine {i}" for i in range(12))
    drawn = {(look.colour, str(look.dash)) for look in looks.values()}
    assert len(drawn) == 12 and look_of("mine 0") == looks["mine 0"]
    assert (look_of("mine 0").colour, str(look_of("mine 0").dash)) not in known
    assert len({(look.colour, str(look.dash)) for look in looks_in_order(map(str, range(39))).values()}) == 39


def test_commands_agree_on_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    rows = [("task", name, 0.5, 0.4, 0.6) for name in ("guided_search", "gumbel")]
    chart = pd.DataFrame(rows, columns=["task", "agent", "iqm", "iqm_low", "iqm_high"])
    compared = draw_interval_chart(tmp_path / "a.png", chart).axes[0].lines[1:]
    plot_bias_and_variance(tmp_path / "b.png", {"": [Point("reinmax", 0.1, 1.0), Point("gumbel", 0.1, 2.0)]})
    curves = {"guided search": [(1, 0.5)], "starts + swaps": [(0, 0.4)], "one pass": [(0, 0.3)]}
    taken = {name: [Timing(1, 1e-5, 0.0, 0.0)] for name in curves}
    plot_serving(tmp_path / "c.png", "", curves, taken, 1, way_looks("gumbel", curves))
    looks = looks_of(["gumbel", "guided search"])
    plot_learning_curve(tmp_path / "d.png", [0, 1], {"gumbel": [0.1, 0.5]}, {"guided search": 0.3}, "", looks)
    diagnosed, served, trained = (figure.axes[0] for figure in drawn)

    def colours(lines: Any) -> list[str]:
        return [to_hex(line.get_color()) for line in lines]

    def colours_of(axes: Any) -> list[str]:
        return [to_hex(dots.get_facecolor()[0]) for dots in axes.collections]

    gumbel, guided = look_of("gumbel").colour, look_of("guided_search").colour
    assert colours(compared) == [guided, guided, gumbel, gumbel]
    assert colours_of(diagnosed)[1] == gumbel
    assert colours(served.lines) == [guided, gumbel, gumbel]
    assert colours(trained.lines) == [gumbel, guided]
