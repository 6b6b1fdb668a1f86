"""Do diverse or pessimistic ensembles choose better rows? Estimated and true scores under more and more selection.

Ensembles of every kind and diversity term are fitted to random parts of measured landscapes and score all
combinations. The best of k uniform draws by an objective (the members' mean, their minimum, or the mean less a standard
deviation) has an estimated and a true score; both are exact, from the ranks of all combinations. If the true score
falls while the estimated one rises, the objective is exploited. Scores are normalised to each context's lowest (0) and
highest (1) measurement; what was not measured counts with the lowest. All differences are to independent members' mean
on the same rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.landscapes import LANDSCAPES, Landscape, PerContext
from benchmarks.measured_grid import Grid
from benchmarks.reproductions.results import PICTURE, RESULTS, Place, refuse_missing, run_each
from benchmarks.table_models import STUDIED, difference_with_interval
from slot_rl.console import print_table, say
from slot_rl.estimators.diversity import DIVERSITY
from slot_rl.estimators.ensemble_kinds import INDEPENDENT, EnsembleMaking
from slot_rl.estimators.model_choice import chances_of_ranks
from slot_rl.estimators.net_ensemble import EnsembleFit
from slot_rl.estimators.pessimism import Pessimism
from slot_rl.estimators.row_scorer import MemberScorer
from slot_rl.estimators.spread import given_another, spread_against_error
from slot_rl.estimators.table_models import fit_row_model
from slot_rl.io import write_json
from slot_rl.places import fresh_folder
from slot_rl.plots import Curve, Panel, plot_curves
from slot_rl.provenance import provenance
from slot_rl.seeding import generator_from

DRAWS = tuple(2**power for power in range(17))
"""From 1 to 65,536."""
TOP = 10
UNSEEN_SHARE = 0.01
"""The share of the unseen rows, those with the highest means, on which spread is compared with error."""
FIRST_SEED = 2_000
OBJECTIVES = {"mean": Pessimism(), "minimum": Pessimism("minimum"), "mean - sd": Pessimism("lower")}
MAKINGS = (
    INDEPENDENT,
    EnsembleMaking("bootstrap"),
    EnsembleMaking("folds"),
    EnsembleMaking("snapshot"),
    EnsembleMaking("mixed"),
    *(EnsembleMaking(kind, term) for kind in ("joint", "sequential") for term in DIVERSITY),
)
PRESSED: dict[str, Landscape] = {
    **{name: STUDIED[name] for name in ("gb1-384", "suzuki-20", "arylation-100")},
    "gb1-2000": replace(LANDSCAPES["gb1-384"], subset=PerContext(2_000)),
}


@dataclass(frozen=True)
class PressureConfig:
    """Estimated and true scores of best-of-k by every kind of ensemble and objective; a minute for each subset.

    Fits are shorter than those of slot-rl pretrain, since fifteen ensembles are fitted to each subset.

    Attributes:
        data: Folder with the measured landscapes.
        landscapes: The landscapes by name; all if left out.
        subsets: Random subsets of each.
        steps: Gradient steps of each fit.
        batch_size: Rows of a step.
        learning_rate: Adam's step size at the start.
        place: Where the results go.
    """

    data: Path
    landscapes: tuple[str, ...] = tuple(PRESSED)
    subsets: int = 3
    steps: int = 250
    batch_size: int = 64
    learning_rate: float = 2e-3
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses unknown names, missing files, and too little to compare."""
        for name in self.landscapes:
            if name not in PRESSED:
                raise ValueError(f"expected --landscapes to be of {', '.join(PRESSED)}, got {name!r}")
        if self.subsets < 1 or self.subsets * len(self.landscapes) < 2 or self.steps < TOP:
            raise ValueError(
                f"expected two pairs of a landscape and a subset at least and steps >= {TOP}, "
                f"got {self.subsets} subsets of {len(self.landscapes)} landscapes and {self.steps} steps"
            )
        refuse_missing(self.data, [PRESSED[name].file for name in self.landscapes])

    def fit(self) -> EnsembleFit:
        """Returns the settings of a fit."""
        return EnsembleFit(self.steps, self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate)


@dataclass(frozen=True)
class Pressed:
    """What an objective chooses; means over contexts of normalised scores.

    Attributes:
        top_1: True score of the row with the highest estimate.
        top_10: Mean true score of the ten with the highest estimates.
        estimated: Estimated score of the best of :data:`DRAWS` uniform draws.
        true: True score of the same.
    """

    top_1: float
    top_10: float
    estimated: list[float]
    true: list[float]


@dataclass(frozen=True)
class Made:
    """What an ensemble is worth on one subset.

    Attributes:
        objectives: What each objective chooses.
        spread_against_error: Rank correlation over the unseen rows with the highest means.
        given_another: A member's accuracy given another's output on unseen rows, the mean over pairs.
        error_correlation: Correlation of the errors on unseen rows, the mean over pairs.
    """

    objectives: dict[str, Pressed]
    spread_against_error: float
    given_another: float
    error_correlation: float


def measure_pressure(config: PressureConfig) -> None:
    """Fits every kind of ensemble, prints what its choices are worth, and writes figures and a picture.

    Raises:
        ValueError: If the folder of results holds other files.
    """
    folder = config.place.folder("pressure")
    # A round of all landscapes after the other, so that the first figures are of all kinds of tables.
    keys = [(name, FIRST_SEED + subset) for subset in range(config.subsets) for name in config.landscapes]
    with fresh_folder(folder):
        grids = {name: Grid.read(PRESSED[name], config.data) for name in config.landscapes}
        found = run_each(keys, len(MAKINGS), lambda key, report: _subset(key, grids[key[0]], config.fit(), report))
        figures = {
            f"{name}, {seed}": {made: asdict(each) for made, each in result.items()}
            for (name, seed), result in found.items()
        }
        write_json(folder / RESULTS, {**provenance(config), "draws": DRAWS, "figures": figures})
        plot_curves(folder / PICTURE, _panels(list(found.values())), "uniform draws")
    _print(list(found.values()))
    say(f"figures and picture: {folder}")


def name_of(making: EnsembleMaking) -> str:
    """Returns how a kind of ensemble is called in tables."""
    return making.ensemble if making.diversity is None else f"{making.ensemble}, {making.diversity}"


def _subset(key: tuple[str, int], grid: Grid, fit: EnsembleFit, report: Callable[[], None]) -> dict[str, Made]:
    name, seed = key
    seen = grid.rows[PRESSED[name].subset.pick(grid.rows, generator_from(seed))]
    unseen = grid.unseen(seen)
    made: dict[str, Made] = {}
    for making in MAKINGS:
        # The same first weights for all, as far as a kind draws them first.
        ensemble = fit_row_model("nets", seen, grid.encoding, fit, generator_from(seed), making=making)
        assert isinstance(ensemble, MemberScorer)
        members = grid.member_scores(ensemble)
        made[name_of(making)] = _made(members, grid.true, unseen)
        report()
    return made


def _made(members: Tensor, true: Tensor, unseen: Tensor) -> Made:
    objectives = {name: press(each.of_members(members), true) for name, each in OBJECTIVES.items()}
    on_unseen, known = members[:, unseen], true[unseen]
    others = ~torch.eye(len(members), dtype=torch.bool)
    errors = torch.corrcoef((on_unseen - known).double())
    return Made(
        objectives,
        spread_against_error(on_unseen, known, UNSEEN_SHARE),
        float(given_another(on_unseen, known)[others].mean()),
        float(errors[others].mean()),
    )


def press(estimate: Tensor, true: Tensor) -> Pressed:
    """Says what an estimate chooses.

    Args:
        estimate: Normalised estimates of all combinations, ``(contexts, combinations)``.
        true: Normalised true scores, of the same shape.
    """
    order = estimate.argsort(dim=1, descending=True, stable=True)
    ranked_true, ranked = (scores.gather(1, order).double().mean(dim=0) for scores in (true, estimate))
    chances = [chances_of_ranks(len(ranked), draws) for draws in DRAWS]
    return Pressed(
        float(ranked_true[0]),
        float(ranked_true[:TOP].mean()),
        [float(chance @ ranked) for chance in chances],
        [float(chance @ ranked_true) for chance in chances],
    )


def _panels(found: Sequence[dict[str, Made]]) -> list[Panel]:
    """Returns the curves of estimated and true scores for each objective, means over all subsets."""

    def curve(made: str, objective: str, which: str) -> Curve:
        of_subsets = (getattr(each[made].objectives[objective], which) for each in found)
        return DRAWS, [fmean(point) for point in zip(*of_subsets, strict=True)]

    return [
        Panel(
            f"{objective}: {which} score",
            "normalised score",
            {made: curve(made, objective, which) for made in found[0]},
            log_along=True,
        )
        for objective in OBJECTIVES
        for which in ("estimated", "true")
    ]


def _print(found: Sequence[dict[str, Made]]) -> None:
    for title, figure in (("the ten highest estimates", "top_10"), ("the highest estimate", "top_1")):
        _print_objectives(f"true score of {title}, less that of independent members' mean", figure, found)
    lines = []
    for made in found[0]:
        of_all = [each[made] for each in found]
        curve = [fmean(point) for point in zip(*(each.objectives["mean"].true for each in of_all), strict=True)]
        last = fmean(each.objectives["mean"].estimated[-1] for each in of_all)
        lines.append(
            [
                made,
                difference_with_interval([each.spread_against_error for each in of_all]),
                f"{fmean(each.given_another for each in of_all):.3f}",
                f"{fmean(each.error_correlation for each in of_all):.3f}",
                f"{last:.3f}",
                f"{curve[-1]:.3f}",
                f"{max(curve):.3f} at {DRAWS[curve.index(max(curve))]:,}",
            ]
        )
    columns = ["", "spread against error", "given another", "error correlation"]
    columns += [f"estimated, best of {DRAWS[-1]:,}", "true", "highest true, at k"]
    print_table(f"members and their mean, {len(found)} subsets", columns, lines)


def _print_objectives(title: str, figure: str, found: Sequence[dict[str, Made]]) -> None:
    def values(made: str, objective: str) -> list[float]:
        return [getattr(each[made].objectives[objective], figure) for each in found]

    base, lines = values(name_of(INDEPENDENT), "mean"), []
    for made in found[0]:
        line = [made]
        for objective in OBJECTIVES:
            scores = values(made, objective)
            gains = [score - before for score, before in zip(scores, base, strict=True)]
            line += [f"{fmean(scores):.3f}", difference_with_interval(gains) if any(gains) else ""]
        lines.append(line)
    columns = ["", *(text for objective in OBJECTIVES for text in (objective, "difference"))]
    print_table(f"{title}, {len(found)} subsets", columns, lines)
