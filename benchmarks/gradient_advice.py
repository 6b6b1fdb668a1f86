"""Whether the advice of ``slot-rl diagnose`` is good: its ranking beside what long trainings reach.

On each problem, selectors are ranked by the short race of the diagnosis, and, as a control, by the error of their
gradients at equal cost, which was the advice before there was a race. Then every selector's agent trains for long, from
seeds and judged on requests that the race has not used. Spearman's rank correlation tells how well either ranking
foresees these outcomes. A selector that a ranking leaves out, as too costly, counts as its last.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from math import inf, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy import stats

from benchmarks.landscapes import LANDSCAPES, prepare
from benchmarks.reproductions.results import RESULTS, Place, refuse_missing
from slot_rl.console import print_table, progress_bar, say
from slot_rl.diagnosis import Diagnosis, DiagnosisConfig, diagnose
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.io import write_json
from slot_rl.places import fresh_folder
from slot_rl.problems import make_problem
from slot_rl.problems.named import ROWS
from slot_rl.provenance import provenance
from slot_rl.race import RaceResult, entrants, run_race

ADVISED = {"Slots-v0": "SlotRL/Slots-v0", "Slate-v0": "SlotRL/Slate-v0", "tf-2000": ROWS, "suzuki-30": ROWS}
"""The problems, and their environments."""
FIRST_SEED, EVAL_SEED = 100, 1
"""The outcomes' seeds, which no race uses: races start at 0, with evaluation seed 0."""


@dataclass(frozen=True)
class GradientAdviceConfig:
    """Sets rankings of selectors beside the outcomes of their trainings; takes an hour and a half.

    Attributes:
        data: Folder with the measured landscapes.
        problems: The problems by name; all if left out.
        timesteps: Estimator calls of each training.
        seeds: Trainings of each selector.
        race_calls: Estimator calls of each training in the race.
        race_seeds: Trainings of each selector in the race.
        landscapes: Folder of the results of ``reproduce.py landscapes``: estimators that are not there are fitted.
        place: Where the results go.
    """

    data: Path
    problems: tuple[str, ...] = tuple(ADVISED)
    timesteps: int = 100_000
    seeds: int = 3
    race_calls: int = DiagnosisConfig.race_calls
    race_seeds: int = DiagnosisConfig.race_seeds
    landscapes: Path = Path("runs/reproduce-landscapes")
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses unknown names, missing files, and nothing to do."""
        for name in self.problems:
            if name not in ADVISED:
                raise ValueError(f"expected --problems to be of {', '.join(ADVISED)}, got {name!r}")
        if self.seeds < 1 or not 1 <= self.race_seeds <= FIRST_SEED or self.race_calls < 1:
            raise ValueError(f"expected seeds and race_calls >= 1 and race_seeds from 1 to {FIRST_SEED}, got {self}")
        refuse_missing(self.data, [LANDSCAPES[name].file for name in self.problems if name in LANDSCAPES])


@dataclass(frozen=True)
class AdviceCheck:
    """What was advised on a problem and what came of it.

    Attributes:
        outcome: What the trainings reached, best first.
        race: Optimality in the race, by selector; minus infinity for one that took no part.
        error: Error of the gradient at equal cost, by selector; infinity for one that was too costly.
    """

    outcome: list[RaceResult]
    race: dict[str, float]
    error: dict[str, float]

    @property
    def by_race(self) -> float:
        """Rank correlation of the race with the outcome."""
        return self._correlation(self.race)

    @property
    def by_error(self) -> float:
        """Rank correlation of small errors with the outcome."""
        return self._correlation({name: -error for name, error in self.error.items()})

    @property
    def by_another_seed(self) -> float | None:
        """Mean rank correlation of the outcomes of two seeds: what a training of the full length foresees."""
        columns = list(zip(*(one.optimality for one in self.outcome), strict=True))
        pairs = [_spearman(first, second) for first, second in combinations(columns, 2)]
        return fmean(pairs) if pairs else None

    def figures(self) -> dict[str, Any]:
        """Returns all figures, ready for JSON; None stands for what a ranking leaves out."""
        left_out = {
            key: {name: value if isfinite(value) else None for name, value in advice.items()}
            for key, advice in (("race", self.race), ("error", self.error))
        }
        correlations = {key: getattr(self, key) for key in ("by_race", "by_error", "by_another_seed")}
        return {**asdict(self), **left_out, **correlations}

    def _correlation(self, advice: dict[str, float]) -> float:
        return _spearman([one.mean for one in self.outcome], [advice[one.name] for one in self.outcome])


def _spearman(first: Any, second: Any) -> float:
    return float(stats.spearmanr(stats.rankdata(first), stats.rankdata(second)).statistic)


def measure_gradient_advice(config: GradientAdviceConfig) -> None:
    """Measures, prints a table for each problem and one of all correlations, and writes the figures.

    Raises:
        ValueError: If the folder of results holds other files.
    """
    folder = config.place.folder("gradient-advice")
    with fresh_folder(folder):
        checks = {name: _check(name, config, folder / name) for name in config.problems}
        figures = {name: check.figures() for name, check in checks.items()}
        write_json(folder / RESULTS, {**provenance(config), "figures": figures})
    for name, check in checks.items():
        _print_check(f"{name}: optimality after {config.timesteps:,} calls, and ranks", check)
    rows = [
        [name, check.outcome[0].name, *map(_figure, (check.by_race, check.by_error, check.by_another_seed))]
        for name, check in checks.items()
    ]
    print_table("rank correlation with the outcome", ["", "best", "race", "gradient error", "another seed"], rows)
    say(f"figures: {folder}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _check(name: str, config: GradientAdviceConfig, out: Path) -> AdviceCheck:
    env, estimator = ADVISED[name], None
    if name in LANDSCAPES:
        say(f"estimator of {name}: fitted where it is missing")
        prepare(LANDSCAPES[name], config.data, config.landscapes)
        estimator = str(config.landscapes / "estimators" / name)
    advice = DiagnosisConfig(env, estimator, race_calls=config.race_calls, race_seeds=config.race_seeds, out=out)
    found = diagnose(advice)
    problem = make_problem(env, estimator)
    names = entrants(problem, config.timesteps)
    evaluation = Evaluation(problem, EvaluationConfig(eval_seed=EVAL_SEED))
    seeds = range(FIRST_SEED, FIRST_SEED + config.seeds)
    with progress_bar() as progress:
        task = progress.add_task(f"training on {name}", total=len(names) * len(seeds), note="")
        outcome = run_race(
            evaluation, names, config.timesteps, seeds, lambda one: progress.update(task, advance=1, note=one)
        )
    return beside(found, outcome)


def beside(found: Diagnosis, outcome: list[RaceResult]) -> AdviceCheck:
    """Sets a diagnosis beside the outcomes of the selectors that were trained."""
    race, error = {one.name: one.mean for one in found.race}, {one.name: one.error for one in found.figures}
    names = [one.name for one in outcome]
    return AdviceCheck(
        outcome, {name: race.get(name, -inf) for name in names}, {name: error.get(name, inf) for name in names}
    )


def _print_check(title: str, check: AdviceCheck) -> None:
    names = [one.name for one in check.outcome]
    by_race = _ranks(names, lambda name: -check.race[name])
    by_error = _ranks(names, lambda name: check.error[name])
    rows = [
        [one.name, f"{one.mean:.4f}", f"{one.spread:.4f}", str(rank), by_race[one.name], by_error[one.name]]
        for rank, one in enumerate(check.outcome, 1)
    ]
    print_table(title, ["", "optimality", "spread", "rank", "in the race", "by gradient error"], rows)


def _ranks(names: list[str], key: Callable[[str], float]) -> dict[str, str]:
    """Returns ranks from 1; equal ones share a rank."""
    ranks = stats.rankdata([key(name) for name in names], method="min")
    return {name: str(int(rank)) for name, rank in zip(names, ranks, strict=True)}
