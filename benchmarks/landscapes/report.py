"""What is shown and kept of all runs: tables in Markdown, on screen as in the file, the figures, and the picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import inf, isinf
from pathlib import Path
from typing import Any

from benchmarks.landscapes.bars import Bar, BreakEven, bars, break_evens
from benchmarks.landscapes.contestants import GUIDED, GUMBEL, IMITATE, LOCAL
from benchmarks.landscapes.grounds import Ground
from benchmarks.landscapes.medians import Medians, SearchResult
from benchmarks.reproductions.results import PICTURE, RESULTS
from slot_rl.console import markdown, say
from slot_rl.io import write_atomically, write_json
from slot_rl.plots import Panel, plot_curves
from slot_rl.provenance import provenance

TABLE = "table.md"
COLUMNS = {
    "opt": "optimality",
    "hits": "hit_rate",
    "true": "true_score",
    "norm": "true_normalised",
    "worst": "true_worst",
    "gap": "gap",
    "calls": "forwards",
    "each": "calls_per_context",
    "s": "cpu_seconds",
}
LEGEND = (
    "opt: optimality of the estimated score, 0 random and 1 the estimator's best; hits: share of contexts answered",
    "with the estimator's best; true: mean true score; norm: the same between each context's lowest (0) and highest",
    "(1) measurement; worst: the worst context's; gap: mean estimated minus mean true score; calls: configurations",
    "scored in training; each: calls for each answer; s: seconds of training, the processor's, one thread.",
    "Medians over seeds.",
)
DRAWN = {
    f"{IMITATE}, best of draws": (IMITATE, "draws"),
    f"{IMITATE} + guided swaps": (IMITATE, "search"),
    f"{GUMBEL}, best of draws": (GUMBEL, "draws"),
    f"{GUMBEL} + guided swaps": (GUMBEL, "search"),
    "guided search, random starts": (GUIDED, "search"),
    "plain local search": (LOCAL, "search"),
}


def publish(out: Path, config: Any, grounds: Sequence[Ground], found: SearchResult, runs: Mapping[str, Any]) -> None:
    """Prints tables, break-evens and bars, and writes them with the figures and the picture.

    Args:
        out: The folder of results.
        config: The command's flags.
        grounds: The landscapes.
        found: Their medians.
        runs: Every run's figures by landscape and contestant, one for each seed.
    """
    passed, evens = bars(found), break_evens(found)
    lines = [*LEGEND, ""]
    for ground in grounds:
        lines += [heading(ground), "", *_contestants(found[ground.landscape.name]), ""]
    lines += [*_break_evens(evens), "", *_bars(passed)]
    for line in lines:
        say(line)
    figures = {
        "estimators": {ground.landscape.name: ground.card() for ground in grounds},
        "medians": {name: {each: vars(one) for each, one in by.items()} for name, by in found.items()},
        "runs": runs,
        "bars": [{**asdict(bar), "verdict": bar.verdict} for bar in passed],
        "break_even": [{name: _finite(value) for name, value in asdict(even).items()} for even in evens],
    }
    write_json(out / RESULTS, {**provenance(config), "figures": figures})
    write_atomically(out / TABLE, ("\n".join(lines) + "\n").encode())
    if draw(out / PICTURE, found):
        say(f"picture: {out / PICTURE}")
    say(f"figures: {out / RESULTS}, {out / TABLE}")


def heading(ground: Ground) -> str:
    """Says which landscape a table is of, and how well its estimator fits."""
    card, landscape = ground.card(), ground.landscape
    rows = f"{card['seen_rows']:,} of {card['seen_rows'] + card['held_rows']:,} rows seen"
    return f"**{landscape.name}**: {rows}, R2 {card['test']['r2']:.2f} on the others"


def draw(path: Path, found: SearchResult) -> bool:
    """Draws optimality over calls per context, a panel for each landscape; returns whether there is one."""
    panels = []
    for name, by in found.items():
        known = {label: by[who].curves[way] for label, (who, way) in DRAWN.items() if who in by}
        if known:
            curves = {label: tuple(zip(*curve, strict=True)) for label, curve in known.items()}
            panels.append(Panel(name, "optimality", curves))  # type: ignore[arg-type]
    if panels:
        plot_curves(path, panels, "calls of the estimator for each context", log_along=True)
    return bool(panels)


def _contestants(by: Mapping[str, Medians]) -> list[str]:
    return markdown(
        ["", *COLUMNS],
        [[name, *(_cell(key, one.figures[key]) for key in COLUMNS.values())] for name, one in by.items()],
    )


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    if key in ("forwards", "calls_per_context"):
        return f"{value:.0f}"
    if key == "cpu_seconds":
        return f"{value:.1f}" if value < 100 else f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def _break_evens(evens: Sequence[BreakEven]) -> list[str]:
    columns = ["calls of guided search for an answer as good", "each", "opt", "guided", "break-even contexts"]
    return markdown(columns, [list(_break_even(even)) for even in evens])


def _break_even(even: BreakEven) -> Iterator[str]:
    yield f"{even.landscape}: {even.contestant}"
    yield str(even.calls)
    yield f"{even.optimality:.3f}"
    beyond = isinf(even.guided_calls)
    yield "> 1000" if beyond else f"{even.guided_calls:.0f}"
    yield "never" if even.contexts == inf else f"{'< ' if beyond else ''}{even.contexts:,.0f}"


def _bars(passed: Sequence[Bar]) -> list[str]:
    rows = [
        [
            bar.what,
            f"{'<=' if bar.at_most else '>='} {bar.bound:.2f}",
            "" if bar.measured is None else f"{bar.measured:.3f}",
            bar.verdict,
        ]
        for bar in passed
    ]
    return markdown(["bar", "promised", "measured", "verdict"], rows)


def _finite(value: Any) -> Any:
    # JSON knows no infinity.
    return None if isinstance(value, float) and isinf(value) else value
