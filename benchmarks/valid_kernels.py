"""Configurations of a GPU kernel, half of which do not run: answers under a table of the valid ones.

An estimator of the relative speed (best time divided by time) is fitted on a share of the measured rows of six GPUs. An
agent learns to answer for each GPU, under the constraint that the table's rows are the only ones allowed. As a control,
the same agent learns without it. Every answer, and a million draws, are looked up in the table.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.reproductions.results import RESULTS, Place, refuse_missing, run_each
from slot_rl.agents import GumbelAgent
from slot_rl.console import print_table, say
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableFit, encode_rows, fit_on_table, network_for
from slot_rl.estimators.store import context_tensor
from slot_rl.estimators.table import read_table
from slot_rl.io import write_json
from slot_rl.places import fresh_folder
from slot_rl.problems import Problem, RowProblem
from slot_rl.problems.constraints import Feasible
from slot_rl.problems.truth_table import TruthTable
from slot_rl.provenance import provenance
from slot_rl.search import enumerate_landscape, guided_search, random_choice
from slot_rl.seeding import generator_from

TABLE, SCORE, CONTEXT = "gpu_dedispersion.csv", "speed", ("gpu",)
FEATURES = ("block_size_x", "block_size_y", "tile_size_x", "tile_size_y", "tile_stride_x", "tile_stride_y")
ROWS_ALLOWED = {"valid": True, "all": False}
CALLS, MOST_GPUS = 16, 1_000
_DRAWN_TOGETHER = 8_192


@dataclass(frozen=True)
class ValidKernelsConfig:
    """Trains on a kernel's valid configurations alone; takes five minutes.

    Attributes:
        data: Folder with gpu_dedispersion.csv.
        share: Share of the measured rows that the estimator is fitted on.
        seeds: Agents, from seed 0.
        timesteps: Estimator calls of each training.
        draws: Answers that are drawn from each trained policy.
        place: Where the results go.
    """

    data: Path
    share: float = 0.2
    seeds: int = 3
    timesteps: int = 200_000
    draws: int = 1_000_000
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses a missing file, and nothing to do."""
        if not 0 < self.share < 1 or min(self.seeds, self.timesteps, self.draws) < 1:
            raise ValueError(f"expected share between 0 and 1, and seeds, timesteps and draws >= 1, got {self}")
        refuse_missing(self.data, [TABLE])


@dataclass(frozen=True)
class KernelAnswers:
    """Means over the GPUs; an answer that is not in the table counts as no speed at all.

    Attributes:
        one_pass: Speed of the policy's answers.
        with_calls: The same after guided search with 16 calls.
        search: Guided search with 16 calls from random starts.
        optimum: The estimator's own optimum.
        constant: The best constant with hindsight, by the true speeds of all rows.
        answers: GPUs.
        invalid_answers: How many of them get an answer that does not run.
        invalid_draws: Drawn answers that do not run.
    """

    one_pass: float
    with_calls: float
    search: float
    optimum: float
    constant: float
    answers: int
    invalid_answers: int
    invalid_draws: int


def measure_valid_kernels(config: ValidKernelsConfig) -> None:
    """Measures, prints one table, and writes the figures.

    Raises:
        ValueError: If the folder of results holds other files.
    """
    folder = config.place.folder("valid-kernels")
    problems = _problems(config)
    keys = [(kind, str(seed)) for kind in ROWS_ALLOWED for seed in range(config.seeds)]
    found = run_each(keys, 1, lambda key, tick: _answers(config, problems[key[0]], int(key[1]), tick))
    with fresh_folder(folder):
        figures = {" ".join(key): asdict(each) for key, each in found.items()}
        write_json(folder / RESULTS, {**provenance(config), "figures": figures})
    columns = ["rows", "seed", "pass", f"+ {CALLS}", "optimum", "constant", "invalid", "of draws"]
    rows = [
        [
            *key,
            *(f"{value:.4f}" for value in (each.one_pass, each.with_calls, each.optimum, each.constant)),
            f"{each.invalid_answers}/{each.answers}",
            f"{each.invalid_draws:,}",
        ]
        for key, each in found.items()
    ]
    print_table("speed of a kernel relative to the best, means over six GPUs", columns, rows)
    say(f"figures: {folder}")


def _problems(config: ValidKernelsConfig) -> dict[str, Problem]:
    """Fits the estimator; returns the problem with and without the constraint."""
    path = config.data / TABLE
    table = read_table(path, SCORE, CONTEXT, FEATURES)
    encoding = TableEncoding.of(table, SCORE, CONTEXT)
    rows, fit = encode_rows(table, encoding), TableFit()
    seen = torch.randperm(len(rows), generator=generator_from(0))[: round(config.share * len(rows))]
    few = round(fit.validation * len(seen))
    net = network_for(encoding, fit, 0)
    fit_on_table(net, rows[seen[few:]], rows[seen[:few]], fit, generator_from(0), lambda step, error: None)
    contexts, truth = context_tensor(encoding.encode_contexts(table)), TruthTable.read(path, encoding)
    problem = RowProblem(net, contexts, truth, "kernels", encoding)
    valid = Feasible.from_table(path)
    return {kind: problem.with_constraints([valid] if limited else []) for kind, limited in ROWS_ALLOWED.items()}


def _answers(config: ValidKernelsConfig, problem: Problem, seed: int, tick: Callable[[], None]) -> KernelAnswers:
    agent = GumbelAgent(problem, GumbelAgent.independent_slots, seed).learn(config.timesteps)
    requests, generator = problem.evaluation_observations(MOST_GPUS, generator_from(0)), generator_from(seed)
    answers = agent.choose(requests)
    rounds = CALLS - 1
    starts = random_choice(problem, requests, generator)
    true = enumerate_landscape(problem, requests, lambda asked, rows: _speed(problem.true_score(asked, rows)))

    def speed(choice: Tensor) -> float:
        return float(_speed(problem.true_score(requests, choice)).double().mean())

    invalid = 0
    with torch.no_grad():
        for part in (torch.arange(config.draws) % len(requests)).split(_DRAWN_TOGETHER):
            asked = requests[part]
            invalid += int(problem.true_score(asked, agent.policy.draw(asked, generator)).isnan().sum())
    tick()
    return KernelAnswers(
        speed(answers),
        speed(guided_search(problem, requests, answers, rounds).choice),
        speed(guided_search(problem, requests, starts, rounds).choice),
        speed(enumerate_landscape(problem, requests, problem.score).choice),
        float(np.mean(true.constant_scores.tolist())),
        len(requests),
        int(problem.true_score(requests, answers).isnan().sum()),
        invalid,
    )


def _speed(true: Tensor) -> Tensor:
    """Counts what does not run as no speed."""
    return true.nan_to_num(0.0)
