"""Which selector's gradient is best on a problem: bias, variance and cost of each, measured against the true gradient.

Every selector estimates the same gradients, at the same logits of the same requests. Errors are relative to the length
of the true gradient, summed over requests. An estimate's scale is beside the point (an optimiser's step size sets it),
so each selector's is first scaled to the true gradient's length in the mean, as published tables do.

What a selector is worth is its error at equal cost: with C calls to spend on a request, an estimate that costs c calls
can be averaged over C / c draws, which leaves the squared bias and ``variance * c / C``. Calls are forwards and
backwards alike.
"""

import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from slot_rl.agents import load_agent
from slot_rl.console import console, print_table, progress_bar, say
from slot_rl.envs import SlotVecEnv
from slot_rl.io import CHECKPOINT, check_free, fresh_folder, read_config, write_json
from slot_rl.plots import Point, plot_bias_and_variance
from slot_rl.problems import Observation, Problem, make_problem
from slot_rl.problems.named import ROWS
from slot_rl.provenance import provenance
from slot_rl.reevaluation import problem_of_run
from slot_rl.seeding import generator_from
from slot_rl.selectors import NAMES, Exact, LocalExpectation, Selector, make, masked_logits

DIAGNOSIS, PICTURE = "diagnosis.json", "bias_and_variance.png"
CHUNK = 16_384
"""Rows that are estimated at once."""


@dataclass(frozen=True)
class DiagnosisConfig:
    """Measures every selector's gradient on a problem and recommends one.

    Attributes:
        env: The environment's id. If left out, that of the policy's run; SlotRL/Rows-v0 for an estimator alone,
            SlotRL/Slots-v0 without either.
        estimator: Folder of a pretrained estimator, or path.py:function with --trust.
        trust: Execute the Python file that the estimator is, with all your rights.
        policy: Run folder of a trained agent, at whose logits the gradients are taken; without one, logits are normal.
        spread: Standard deviation of the logits where no policy is given.
        requests: Requests that the gradients are taken at; fewer where the problem has fewer.
        draws: Estimates of each selector per request.
        calls: Calls per request that the errors at equal cost allow.
        limit: Most configurations of a request, padding included, that are enumerated for the true gradient;
            beyond, it is the mean of many unbiased estimates.
        reference_draws: Unbiased estimates per request where the true gradient is not enumerated.
        seed: Seeds requests, logits and draws.
        out: The folder of the figures and the picture; runs/diagnosis if left out.
        force: Replace the diagnosis that is already there.
    """

    env: str | None = None
    estimator: str | None = None
    trust: bool = False
    policy: Path | None = None
    spread: float = 1.0
    requests: int = 16
    draws: int = 1_000
    calls: int = 512
    limit: int = 20_000
    reference_draws: int = 2_000
    seed: int = 0
    out: Path = Path("runs/diagnosis")
    force: bool = False

    def __post_init__(self) -> None:
        """Refuses an empty measurement."""
        least = min(self.requests, self.calls, self.limit)
        if least < 1 or min(self.draws, self.reference_draws) < 2 or not self.spread >= 0:
            raise ValueError(
                "expected requests, calls and limit >= 1, draws and reference_draws >= 2 and spread >= 0, got "
                f"{self.requests}, {self.calls}, {self.limit}, {self.draws}, {self.reference_draws} and {self.spread}"
            )

    def problem(self) -> Problem:
        """Builds the problem."""
        if self.policy is not None and self.env is None:
            return problem_of_run(read_config(self.policy), self.estimator, trust=self.trust)
        default = "SlotRL/Slots-v0" if self.estimator is None else ROWS
        return make_problem(self.env or default, estimator=self.estimator, trust=self.trust)


@dataclass(frozen=True)
class Health:
    """One selector's figures.

    Attributes:
        name: The selector.
        bias: Relative squared bias of the rescaled estimate, with the draws' own noise taken off.
        bias_error: Standard error of that figure, roughly.
        variance: Relative variance of the rescaled estimate.
        cosine: Mean cosine of one draw with the true gradient, over requests and draws.
        mean_cosine: Mean over requests of the cosine of the mean estimate with the true gradient.
        forwards: Configurations scored per estimate.
        backwards: Configurations differentiated per estimate.
        milliseconds: Time per estimate of one request.
        dead: Share of estimates that are exactly zero.
        error: Relative squared error at equal cost; infinite where one estimate costs more than there is to spend.
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
        """The squared bias, or 0 where it is lost in its own error."""
        return self.bias if self.bias > 2 * self.bias_error else 0.0


@dataclass(frozen=True)
class TrueGradient:
    """The gradient that all estimates are held against.

    Attributes:
        mean: Tensor of shape ``(requests, slots, items)``.
        variance: Its own expected squared error, of the mean's shape; 0 if enumerated.
        description: How it was found.
    """

    mean: Tensor
    variance: Tensor | float
    description: str


@dataclass(frozen=True)
class Bench:
    """Where the gradients are taken."""

    problem: Problem
    observation: Observation
    logits: Tensor
    generator: torch.Generator = field(default_factory=torch.Generator)

    def sample(self, selector: Selector, draws: int) -> tuple[Tensor, Tensor, float]:
        """Returns gradients ``(draws, requests, slots, items)``, which of them are zero, and seconds."""
        rows = torch.arange(len(self.logits)).repeat(draws)
        observation, logits = self.observation[rows], self.logits[rows].requires_grad_()
        start = time.perf_counter()
        estimate = selector(logits, partial(self.problem.score_selection, observation), generator=self.generator)
        (gradient,) = torch.autograd.grad(estimate.surrogate.sum(), logits)
        seconds = time.perf_counter() - start
        return gradient.unflatten(0, (draws, -1)).double(), estimate.diagnostics["dead"].double(), seconds


def diagnose(config: DiagnosisConfig) -> list[Health]:
    """Measures every selector, prints the table with a recommendation, draws the picture.

    Returns:
        The figures, best at equal cost first.

    Raises:
        ValueError: If the problem cannot be built, the policy is not one for it, no true gradient differs from zero, or
            the folder is taken.
    """
    check_free(config.out, config.force, DIAGNOSIS)
    bench = _bench(config)
    # Padding included: a selector sees one number of items for all slots.
    exact = bench.problem.items**bench.problem.slots <= config.limit
    names = [name for name in NAMES if name != "exact" or exact]
    with progress_bar() as progress:
        task = progress.add_task("measuring", total=len(names) + 1, note="true gradient")
        truth = _true_gradient(bench, config, exact)
        if not bool(truth.mean.any()):
            raise ValueError("expected logits at which some true gradient is not zero, got zero for every request")
        progress.advance(task)
        found = []
        for name in names:
            progress.update(task, note=name)
            if name == "exact":  # the same every time
                found.append(_measure(bench, Exact(config.limit), 2, truth, config.calls))
            else:
                found.append(_measure(bench, make(name), config.draws, truth, config.calls))
            progress.advance(task)
    found.sort(key=lambda health: health.error)
    _report(config, bench.problem.name, found, truth)
    return found


def _bench(config: DiagnosisConfig) -> Bench:
    problem = config.problem()
    generator = generator_from(config.seed)
    observation = problem.evaluation_observations(config.requests, generator)
    if config.policy is not None:
        agent = load_agent(config.policy / CHECKPOINT, SlotVecEnv(problem, 2))
        if agent.policy is None:
            raise ValueError(f"expected a run with a policy for --policy, got one of {agent.name!r}")
        with torch.no_grad():
            logits = agent.policy.point(observation)[0]
    else:
        shape = len(observation), problem.slots, problem.items
        logits = masked_logits(config.spread * torch.randn(shape, generator=generator), problem.mask(observation))
    return Bench(problem, observation, logits, generator)


def _true_gradient(bench: Bench, config: DiagnosisConfig, exact: bool) -> TrueGradient:
    if exact:
        gradient, _, _ = bench.sample(Exact(config.limit), 1)
        count = bench.problem.items**bench.problem.slots
        return TrueGradient(gradient[0], 0.0, f"enumerated over {count:,} configurations")
    total = torch.zeros_like(bench.logits, dtype=torch.float64)
    squares, done = torch.zeros_like(total), 0
    per_pass = max(1, CHUNK // len(bench.logits))
    while done < config.reference_draws:
        gradient, _, _ = bench.sample(LocalExpectation(), min(per_pass, config.reference_draws - done))
        total += gradient.sum(dim=0)
        squares += gradient.square().sum(dim=0)
        done += len(gradient)
    mean = total / done
    error = (squares / done - mean.square()) / (done - 1)
    share = float(error.sum() / mean.square().sum()) ** 0.5
    return TrueGradient(mean, error, f"mean of {done:,} local expectations, standard error {share:.1%} of its length")


def _measure(bench: Bench, selector: Selector, draws: int, truth: TrueGradient, calls: int) -> Health:
    bench.sample(selector, 1)  # warms up, so that the time is that of the formula
    per_pass = max(1, CHUNK // len(bench.logits))
    parts = [bench.sample(selector, min(per_pass, draws - done)) for done in range(0, draws, per_pass)]
    gradient = torch.cat([part[0] for part in parts])
    mean = gradient.mean(dim=0)
    bias, bias_error, variance = _moments(gradient, truth)
    forwards, backwards = selector.cost(bench.problem.slots, bench.problem.items)
    cost = forwards + backwards
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(2), truth.mean.flatten(1), dim=-1)
    mean_cosine = torch.nn.functional.cosine_similarity(mean.flatten(1), truth.mean.flatten(1), dim=-1)
    return Health(
        name=selector.name,
        bias=bias,
        bias_error=bias_error,
        variance=variance,
        cosine=float(cosine.mean()),
        mean_cosine=float(mean_cosine.mean()),
        forwards=forwards,
        backwards=backwards,
        milliseconds=1e3 * sum(part[2] for part in parts) / (draws * len(bench.logits)),
        dead=float(torch.cat([part[1] for part in parts]).mean()),
        error=max(bias, 0.0) + variance * cost / calls if cost <= calls else math.inf,
    )


def _moments(gradient: Tensor, truth: TrueGradient) -> tuple[float, float, float]:
    """Returns relative squared bias, its standard error and relative variance of ``(draws, ...)`` estimates."""
    draws, mean, true2 = len(gradient), gradient.mean(dim=0), float(truth.mean.square().sum())
    spread = gradient.var(dim=0)
    # Without bias, an estimate's mean has the true gradient's length; noise of the mean would lengthen it.
    length2 = max(float(mean.square().sum() - spread.sum() / draws), 1e-12 * true2)
    scale = (true2 / length2) ** 0.5
    noise = scale**2 * spread / draws + truth.variance
    off2 = (scale * mean - truth.mean).square()
    # Of a squared normal with mean b and variance v the variance is 4 b^2 v + 2 v^2; entries taken as independent.
    error2 = (4 * (off2 - noise).clamp(min=0) * noise + 2 * noise.square()).sum()
    bias = float((off2 - noise).sum())
    return bias / true2, float(error2) ** 0.5 / true2, float(scale**2 * spread.sum()) / true2


def _report(config: DiagnosisConfig, env_id: str, found: list[Health], truth: TrueGradient) -> None:
    def draw(path: Path) -> None:
        # In the roster's order, so that a selector has the same colour on every problem.
        order = sorted(found, key=lambda one: NAMES.index(one.name))
        points = [Point(one.name, one.visible_bias, one.variance, one.forwards + one.backwards) for one in order]
        plot_bias_and_variance(path, {f"{env_id}: marker area by calls per estimate": points})

    with fresh_folder(config.out):
        selectors = [{**vars(one), "error": one.error if math.isfinite(one.error) else None} for one in found]
        figures = {"true_gradient": truth.description, "selectors": selectors}
        write_json(config.out / DIAGNOSIS, {**provenance(config), **figures})
        draw(config.out / PICTURE)
    _print(f"gradients on {env_id}; error at {config.calls:,} calls per request", found)
    console.print(f"true gradient: {truth.description}")
    console.print(recommendation(found, config.calls))
    say(f"figures and picture: {config.out}")


def _print(title: str, found: list[Health]) -> None:
    quality = [
        [
            one.name,
            f"{one.error:.3g}" if math.isfinite(one.error) else "too dear",
            f"{max(one.bias, 0.0):.4f}",
            f"{one.bias_error:.4f}",
            f"{one.variance:.3g}",
            f"{one.cosine:.2f}",
            f"{one.mean_cosine:.3f}",
        ]
        for one in found
    ]
    print_table(title, ["", "error", "bias²", "±", "var", "cos", "mean cos"], quality)
    cost = [
        [one.name, f"{one.forwards:,}", str(one.backwards), f"{one.milliseconds:.4f}", f"{one.dead:.0%}"]
        for one in found
    ]
    print_table("cost of one estimate", ["", "forwards", "backwards", "ms", "dead"], cost)


def recommendation(found: list[Health], calls: int) -> str:
    """Returns one sentence that names the best selector and the ground for it.

    Args:
        found: The figures, best first.
        calls: Calls per request that the errors allow.
    """
    best = found[0]
    if not math.isfinite(best.error):
        return f"recommended: none, every selector costs more than {calls:,} calls per request"
    cost = best.forwards + best.backwards
    averaged = best.variance * cost / calls
    affordable = [one for one in found[1:] if math.isfinite(one.error)]
    ground = "bias" if best.bias > averaged else "variance"
    rival = f"next is {affordable[0].name} with {affordable[0].error:.2g}" if affordable else "all others are too dear"
    return (
        f"recommended: {best.name}, whose relative squared error is least with {calls:,} calls per request: "
        f"{best.error:.2g} ({calls / cost:.3g} estimates averaged, most of it {ground}); {rival}"
    )
