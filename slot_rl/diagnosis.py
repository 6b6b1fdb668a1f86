"""Advises a selector for a problem: a short training race decides, and figures of every selector's gradient explain.

The error of a gradient does not tell what trains best: with the same number of estimator calls, many requests with
cheap and noisy estimates teach a policy more than few requests with accurate ones, and the policy averages over
requests. Therefore :mod:`slot_rl.race` trains with every selector for a short time, and the advice is its winner.

For the gradients, all selectors estimate the same true gradients, at the same logits of the same requests. Errors are
relative to the squared length of the true gradient, summed over requests. The scale of an estimate is not important,
because the learning rate can change it. Therefore the mean estimate is first scaled to the length of the true
gradient, as published tables do. The error is that at equal cost: with C calls per request, an estimate that costs c
calls can be averaged over C / c draws, and its squared error is the squared bias plus ``variance * c / C``. Forwards
and backwards both count as calls.
"""

import time
from dataclasses import asdict, dataclass, field
from functools import partial
from math import inf, isfinite
from pathlib import Path

import torch
from torch import Tensor

from slot_rl.agents import load_agent
from slot_rl.agents.policy import given, most_probable
from slot_rl.console import console, print_table, progress_bar, say
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators.pessimism import Pessimism
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.io import CHECKPOINT, read_config, write_json
from slot_rl.places import check_free, claimed, fresh_folder
from slot_rl.plots import Point, plot_bias_and_variance
from slot_rl.problems import Observation, Problem, make_problem
from slot_rl.problems.constraints.written import ConstraintFlags
from slot_rl.problems.named import ROWS, constrained, own_env
from slot_rl.provenance import provenance
from slot_rl.race import RaceResult, entrants, run_race
from slot_rl.reevaluation import problem_of_run
from slot_rl.seeding import generator_from
from slot_rl.selectors import NAMES, Exact, LocalExpectation, Selector, make, masked_logits
from slot_rl.selectors.in_turn import InTurn

DIAGNOSIS, PICTURE = "diagnosis.json", "bias_and_variance.png"
CHUNK = 16_384
"""Maximum number of rows that are estimated at once."""


@dataclass(frozen=True)
class DiagnosisConfig:
    """Recommends the selector that wins a short training race, and measures every selector's gradient.

    Attributes:
        env: The environment's id. If left out, that of the policy's run; SlotRL/Rows-v0 for an estimator without a
            policy; SlotRL/Slots-v0 without both.
        estimator: Folder of a pretrained estimator, or path.py:function with --trust.
        problem: Your own problem, path.py:function with --trust; its env is SlotRL/Own-v0.
        trust: Execute the Python file of the estimator or the problem, with all your rights.
        policy: Run folder of a trained agent whose logits are used; without one, logits are random normal numbers.
        spread: Standard deviation of the logits without a policy.
        requests: Number of requests; fewer if the problem has fewer.
        draws: Estimates of each selector per request.
        calls: Estimator calls per request for the error at equal cost.
        limit: Maximum number of configurations of a request, padding included, to enumerate for the true gradient;
            for more, the true gradient is the mean of many unbiased estimates.
        reference_draws: Unbiased estimates per request if the true gradient is not enumerated.
        race_calls: Estimator calls of each training in the race; 0 for no race and no recommendation.
        race_seeds: Trainings of each selector, from --seed on.
        seed: Seeds requests, logits, draws and the race.
        out: The folder of the figures and the picture.
        force: Replace the diagnosis that is already there.
        objective: What is maximised, where the estimator is an ensemble; as in the training with a policy's run.
        constraints: What answers are allowed.
        evaluation: The requests that the race is judged on.
    """

    env: str | None = None
    estimator: str | None = None
    problem: str | None = None
    trust: bool = False
    policy: Path | None = None
    spread: float = 1.0
    requests: int = 16
    draws: int = 1_000
    calls: int = 512
    limit: int = 20_000
    reference_draws: int = 2_000
    race_calls: int = 20_000
    race_seeds: int = 2
    seed: int = 0
    out: Path = Path("runs/diagnosis")
    force: bool = False
    objective: Pessimism = field(default_factory=Pessimism)
    constraints: ConstraintFlags = field(default_factory=ConstraintFlags)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Refuses an empty measurement and an empty race."""
        if self.race_calls < 0 or self.race_seeds < 1:
            raise ValueError(
                f"expected race_calls >= 0 and race_seeds >= 1, got {self.race_calls} and {self.race_seeds}"
            )
        least = min(self.requests, self.calls, self.limit)
        if least < 1 or min(self.draws, self.reference_draws) < 2 or not self.spread >= 0:
            raise ValueError(
                "expected requests, calls and limit >= 1, draws and reference_draws >= 2 and spread >= 0, got "
                f"{self.requests}, {self.calls}, {self.limit}, {self.draws}, {self.reference_draws} and {self.spread}"
            )

    def make_problem(self) -> Problem:
        """Builds the problem."""
        if self.policy is not None and self.env is None:
            if self.objective != Pessimism():
                raise ValueError(f"expected the objective of the run with --policy, got {self.objective.pessimism}")
            found = problem_of_run(read_config(self.policy), self.estimator, trust=self.trust, problem=self.problem)
        else:
            default = "SlotRL/Slots-v0" if self.estimator is None else ROWS
            env = own_env(self.env or default, self.problem, default)
            kinds = {"trust": self.trust, "problem": self.problem, **asdict(self.objective)}
            found = make_problem(env, self.estimator, **kinds)
        return constrained(found, self.constraints.entries(), self.constraints.own_constraints, self.trust)


@dataclass(frozen=True)
class SelectorFigures:
    """The figures of one selector.

    Attributes:
        name: The selector.
        bias: Relative squared bias of the rescaled estimate, without the noise of the draws; may be negative.
        bias_error: Approximate standard error of the bias.
        variance: Relative variance of the rescaled estimate.
        cosine: Mean cosine of one draw with the true gradient, over requests and draws.
        mean_cosine: Mean over requests of the cosine of the mean estimate with the true gradient.
        forwards: Configurations scored per estimate.
        backwards: Configurations differentiated per estimate.
        milliseconds: Time per estimate of one request.
        dead: Share of estimates that are exactly zero.
        error: Relative squared error at equal cost; infinite if one estimate costs more than the allowed calls.
    """

    name: str
    bias: float
    bias_error: float
    variance: float
    cosine: float
    mean_cosine: float
    forwards: int
    backwards: int
    milliseconds: float
    dead: float
    error: float

    @property
    def visible_bias(self) -> float:
        """The squared bias, or 0 if it is within two standard errors."""
        return self.bias if self.bias > 2 * self.bias_error else 0.0


@dataclass(frozen=True)
class TrueGradient:
    """The gradient that all estimates are compared with.

    Attributes:
        mean: Tensor of shape ``(requests, slots, items)``.
        variance: Expected squared error of the mean, of the same shape; 0 if enumerated.
        description: How it was computed.
    """

    mean: Tensor
    variance: Tensor | float
    description: str


@dataclass(frozen=True)
class Setup:
    """The requests and logits at which gradients are estimated."""

    problem: Problem
    observation: Observation
    logits: Tensor
    generator: torch.Generator = field(default_factory=torch.Generator)

    def sample(self, selector: Selector, draws: int) -> tuple[Tensor, Tensor, float]:
        """Returns gradients ``(draws, requests, slots, items)``, whether they are zero, and seconds."""
        rows = torch.arange(len(self.logits)).repeat(draws)
        observation, logits = self.observation[rows], self.logits[rows].requires_grad_()
        start = time.perf_counter()
        objective, rules = partial(self.problem.score_selection, observation), self.problem.rules(observation)
        with self.problem.backward_errors_named():
            estimate = selector(logits, objective, generator=self.generator, rules=rules)
            (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), logits)
        seconds = time.perf_counter() - start
        return gradient.unflatten(0, (draws, -1)).double(), estimate.diagnostics["dead"].double(), seconds


@dataclass(frozen=True)
class Diagnosis:
    """What was found of every selector.

    Attributes:
        race: Results of the race, best first; empty without a race.
        figures: Figures of the gradients, in the order of the race, and then by the error at equal cost.
        true_gradient: How the true gradient was computed.
    """

    race: list[RaceResult]
    figures: list[SelectorFigures]
    true_gradient: str


def diagnose(config: DiagnosisConfig) -> Diagnosis:
    """Races the selectors, measures their gradients, prints the tables and the recommendation, and draws the picture.

    Raises:
        ValueError: If the problem cannot be built, the policy does not fit, all true gradients are zero, no selector
            can take a step in the race, or the folder is not free.
    """
    with claimed(config.out, DIAGNOSIS):
        check_free(config.out, config.force, DIAGNOSIS)
        return _diagnose(config)


def _diagnose(config: DiagnosisConfig) -> Diagnosis:
    setup = _setup(config)
    names = entrants(setup.problem, config.race_calls) if config.race_calls else []
    truth, figures = _measure_all(setup, config)
    race = _race(setup.problem, names, config) if names else []
    order = [one.name for one in race]
    figures.sort(key=lambda one: (order.index(one.name) if one.name in order else len(order), one.error))
    found = Diagnosis(race, figures, truth.description)
    _report(config, setup.problem.name, found)
    return found


def _race(problem: Problem, names: list[str], config: DiagnosisConfig) -> list[RaceResult]:
    with console.status("measuring random and best answers"):
        evaluation = Evaluation(problem, config.evaluation)
    seeds = range(config.seed, config.seed + config.race_seeds)
    with progress_bar() as progress:
        task = progress.add_task("racing", total=len(names) * len(seeds), note="")

        def tick(name: str) -> None:
            progress.update(task, advance=1, note=name)

        return run_race(evaluation, names, config.race_calls, seeds, tick)


def _measure_all(setup: Setup, config: DiagnosisConfig) -> tuple[TrueGradient, list[SelectorFigures]]:
    # Padding is included: a selector receives the same number of items for all slots.
    exact = setup.problem.items**setup.problem.slots <= config.limit
    names = [name for name in NAMES if (name != "exact" or exact) and not _refuses(name, setup.problem)]
    with progress_bar() as progress:
        task = progress.add_task("measuring", total=len(names) + 1, note="true gradient")
        truth = _true_gradient(setup, config, exact)
        if not bool(truth.mean.any()):
            raise ValueError("expected logits at which some true gradient is not zero, got zero for every request")
        progress.advance(task)
        found = []
        for name in names:
            progress.update(task, note=name)
            # The exact gradient is the same every time, so two estimates suffice.
            selector, draws = (Exact(config.limit), 2) if name == "exact" else (make(name), config.draws)
            found.append(_measure(setup, selector, draws, truth, config.calls))
            progress.advance(task)
    return truth, found


def _refuses(name: str, problem: Problem) -> bool:
    try:
        if problem.constraints is not None:
            make(name).check_rules()
    except ValueError as refusal:
        say(f"not measured: {refusal}")
        return True
    return False


def _setup(config: DiagnosisConfig) -> Setup:
    problem = config.make_problem()
    generator = generator_from(config.seed)
    observation = problem.evaluation_observations(config.requests, generator)
    if config.policy is not None:
        agent = load_agent(config.policy / CHECKPOINT, SlotVecEnv(problem, 2))
        if agent.policy is None:
            raise ValueError(f"expected a run with a policy for --policy, got one of {agent.name!r}")
        with torch.no_grad():
            output = agent.policy.output(observation)
            logits = output.logits
            if isinstance(output.rules, InTurn):
                # Each slot's logits in its turn, on the way to the answer.
                logits = given(logits, most_probable(logits, output.rules), output.rules)
    else:
        shape = (len(observation), problem.slots, problem.items)
        logits = masked_logits(config.spread * torch.randn(shape, generator=generator), problem.mask(observation))
    return Setup(problem, observation, logits, generator)


def _true_gradient(setup: Setup, config: DiagnosisConfig, exact: bool) -> TrueGradient:
    if exact:
        gradient, _, _ = setup.sample(Exact(config.limit), 1)
        count = setup.problem.items**setup.problem.slots
        return TrueGradient(gradient[0], 0.0, f"enumerated over {count:,} configurations")
    total = torch.zeros_like(setup.logits, dtype=torch.float64)
    squares, count = torch.zeros_like(total), config.reference_draws
    for draws in _passes(setup, count):
        gradient, _, _ = setup.sample(LocalExpectation(), draws)
        total += gradient.sum(dim=0)
        squares += gradient.square().sum(dim=0)
    mean = total / count
    error = (squares / count - mean.square()) / (count - 1)
    share = float(error.sum() / mean.square().sum()) ** 0.5
    return TrueGradient(mean, error, f"mean of {count:,} local expectations, standard error {share:.1%} of its length")


def _passes(setup: Setup, draws: int) -> list[int]:
    """Splits draws into passes of at most :data:`CHUNK` rows."""
    together = max(1, CHUNK // len(setup.logits))
    return [min(together, draws - start) for start in range(0, draws, together)]


def _measure(setup: Setup, selector: Selector, draws: int, truth: TrueGradient, calls: int) -> SelectorFigures:
    setup.sample(selector, 1)  # warms up, for the time measurement
    gradients, dead, seconds = zip(*(setup.sample(selector, part) for part in _passes(setup, draws)), strict=True)
    gradient = torch.cat(gradients)
    bias, bias_error, variance = _moments(gradient, truth)
    forwards, backwards = selector.cost(setup.problem.slots, setup.problem.items)
    cost = forwards + backwards
    direction = truth.mean.flatten(1)
    cosine = torch.cosine_similarity(gradient.flatten(2), direction, dim=-1)
    mean_cosine = torch.cosine_similarity(gradient.mean(dim=0).flatten(1), direction, dim=-1)
    return SelectorFigures(
        name=selector.name,
        bias=bias,
        bias_error=bias_error,
        variance=variance,
        cosine=float(cosine.mean()),
        mean_cosine=float(mean_cosine.mean()),
        forwards=forwards,
        backwards=backwards,
        milliseconds=1e3 * sum(seconds) / (draws * len(setup.logits)),
        dead=float(torch.cat(dead).mean()),
        error=max(bias, 0.0) + variance * cost / calls if cost <= calls else inf,
    )


def _moments(gradient: Tensor, truth: TrueGradient) -> tuple[float, float, float]:
    """Returns the relative squared bias, its standard error and the relative variance of ``(draws, ...)`` estimates."""
    draws, mean, true2 = len(gradient), gradient.mean(dim=0), float(truth.mean.square().sum())
    spread = gradient.var(dim=0)
    # The noise of the mean makes it longer; its expected contribution is subtracted.
    length2 = max(float(mean.square().sum() - spread.sum() / draws), 1e-12 * true2)
    scale = (true2 / length2) ** 0.5
    noise = scale**2 * spread / draws + truth.variance
    off2 = (scale * mean - truth.mean).square()
    # The square of a normal with mean b and variance v has variance 4 b^2 v + 2 v^2. Entries count as independent.
    error2 = (4 * (off2 - noise).clamp(min=0) * noise + 2 * noise.square()).sum()
    bias = float((off2 - noise).sum())
    return bias / true2, float(error2) ** 0.5 / true2, float(scale**2 * spread.sum()) / true2


def _report(config: DiagnosisConfig, env_id: str, found: Diagnosis) -> None:
    # In the registry's order, so that a selector has the same colour on every problem.
    order = sorted(found.figures, key=lambda one: NAMES.index(one.name))
    points = [Point(one.name, one.visible_bias, one.variance, one.forwards + one.backwards) for one in order]
    advice = recommendation(found.race, config.race_calls)
    document = {
        "recommendation": advice,
        "race": [{"name": one.name, "optimality": list(one.optimality)} for one in found.race],
        "true_gradient": found.true_gradient,
        "selectors": [{**vars(one), "error": one.error if isfinite(one.error) else None} for one in found.figures],
    }
    with fresh_folder(config.out):
        write_json(config.out / DIAGNOSIS, {**provenance(config), **document})
        plot_bias_and_variance(config.out / PICTURE, {f"{env_id}: marker area by calls per estimate": points})
    _print(config, env_id, found)
    say(f"true gradient: {found.true_gradient}")
    console.print(advice)
    say(f"figures and picture: {config.out}")


def _print(config: DiagnosisConfig, env_id: str, found: Diagnosis) -> None:
    race, figures = {one.name: one for one in found.race}, {one.name: one for one in found.figures}
    rows = [[name, *_race_cells(race.get(name)), *_cells(figures.get(name))] for name in {**race, **figures}]
    raced = f"optimality after {config.race_calls:,} calls" if race else "no race"
    title = f"{env_id}: {raced}; error of the gradient with {config.calls:,} calls per request"
    print_table(title, ["", "race", "spread", "error", "bias²", "var", "mean cos"], rows)
    cost = [
        [
            one.name,
            f"{one.forwards:,}",
            str(one.backwards),
            f"{one.milliseconds:.4f}",
            f"{one.dead:.0%}",
            f"{one.cosine:.2f}",
            f"{one.bias_error:.4f}",
        ]
        for one in found.figures
    ]
    print_table("one estimate", ["", "calls", "backwards", "ms", "dead", "cos", "± of bias²"], cost)


def _race_cells(one: RaceResult | None) -> list[str]:
    return ["-", "-"] if one is None else [f"{one.mean:.3f}", f"{one.spread:.3f}"]


def _cells(one: SelectorFigures | None) -> list[str]:
    if one is None:
        return ["-"] * 4
    error = f"{one.error:.3g}" if isfinite(one.error) else "costly"
    return [error, f"{max(one.bias, 0.0):.4f}", f"{one.variance:.3g}", f"{one.mean_cosine:.3f}"]


def recommendation(race: list[RaceResult], calls: int) -> str:
    """Returns one sentence that names the winner of the race and the reason.

    Args:
        race: The results, best first.
        calls: Estimator calls of each training.
    """
    if not race:
        return "recommended: none, because without a race the error of a gradient does not tell what trains best"
    best, *others = race
    seeds = f"{len(best.optimality)} seed{'s'[: len(best.optimality) - 1]}"
    level = [one.name for one in others if one.reaches(best)]
    rival = (
        f"within the spread of the seeds: {', '.join(level)}"
        if level
        else f"next is {others[0].name} with {others[0].mean:.3f}"
        if others
        else "no other could take part"
    )
    return (
        f"recommended: use {best.name}, because it trains best: mean optimality {best.mean:.3f} after {calls:,} calls, "
        f"{min(best.optimality):.3f} to {max(best.optimality):.3f} over {seeds}; {rival}"
    )
