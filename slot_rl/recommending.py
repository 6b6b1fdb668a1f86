"""Recommending: a trained agent's answers to a file of requests, written as a file with their scores.

The whole file is read before anything is answered, so an unknown context in its last row costs no estimator call. Each
distinct request is answered once, however many rows ask for it. Then the rows are written in the order of the file.
What a file of requests looks like is up to the kind of problem (``Problem.read_requests``).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from slot_rl.agents import Agent, load_agent
from slot_rl.agents.serving import Mode, Serving, serve
from slot_rl.console import console, print_figures, progress_bar, say
from slot_rl.envs import SlotVecEnv
from slot_rl.io import CHECKPOINT, check_out, read_config
from slot_rl.metrics import METRICS, Scores
from slot_rl.problems import Answers, Problem, Requests, Unmeasured
from slot_rl.reevaluation import problem_of_run
from slot_rl.seeding import generator_from

ANSWER_ROWS, ANSWER_CELLS = 1_024, 2**22


@dataclass(frozen=True)
class RecommendConfig:
    """Writes what a run's agent recommends for each request of a file, with the estimated score.

    Attributes:
        run: The run's folder.
        out: File to write, one row a request: CSV or Parquet by its ending, .safetensors for requests with candidates.
        contexts: CSV or Parquet file with the estimator's context columns, others are ignored; left out where the
            estimator has none. For requests with candidates, .safetensors with candidates (requests, items, dim) and
            perhaps a boolean mask (requests, slots, items).
        mode: One pass of the policy, best of its draws, or a pass improved by search; pass for --calls 0 and
            otherwise search if left out.
        calls: Estimator calls for each distinct request: K draws, or a pass and K - 1 rounds of guided swaps
            with as many backwards; 4 if left out.
        truth: Table with the true scores.
        unmeasured: What an answer counts as that --truth has not measured: nothing, or its context's minimum.
        estimator: Folder or path.py:function of the estimator, if it has moved since the training; it must be the same.
        trust: Execute the Python file that the run's estimator is, with all your rights.
        unknown: What a context that the estimator does not know is: an error, or a row to leave out.
        force: Replace the file that is already there.
        seed: Seeds the draws.
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Path
    contexts: Path | None = None
    mode: Mode | None = None
    calls: int | None = None
    truth: Path | None = None
    unmeasured: Unmeasured = "omit"
    estimator: str | None = None
    trust: bool = False
    unknown: Literal["error", "skip"] = "error"
    force: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses a seed that no generator takes."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"expected 0 <= seed < 2**32, got {self.seed}")


def recommend(config: RecommendConfig) -> None:
    """Answers a file of requests with a run's agent.

    Raises:
        ValueError: If the run, a file or a row is not as expected; then nothing was written.
    """
    start = time.perf_counter()
    document = read_config(config.run)
    # The truth of the training may be gone, and no recommendation needs it.
    document = {**document, "truth": None}
    problem = problem_of_run(document, config.estimator, config.truth, config.trust, config.unmeasured)
    check_out(config.out, config.force, problem.request_suffixes, (config.contexts, config.truth))
    agent = load_agent(config.run / CHECKPOINT, SlotVecEnv(problem, 2))
    answer = _Answering(agent, problem, Serving.of(agent, config.mode, config.calls), config.seed)
    with console.status("reading the requests") as status:
        requests = problem.read_requests(
            config.contexts,
            config.out.parent,
            config.unknown == "skip",
            lambda rows: status.update(f"reading the requests: {rows:,} rows"),
        )
    with requests, progress_bar() as progress:
        unit = f"{requests.unit}s"
        answering = progress.add_task(f"{unit} answered", total=len(requests.observation), note="")
        writing = progress.add_task("rows written", total=len(requests), note="")
        choice, scores = answer(requests, lambda count: progress.update(answering, completed=count))
        answers = Answers(choice, scores.estimated, scores.true, scores.measured)
        requests.write(config.out, answers, lambda count: progress.advance(writing, count))
    figures = requests.figures() | _score_figures(scores, problem.unmeasured)
    figures |= answer.calls(requests.unit, len(requests.observation))
    figures["seconds"] = f"{time.perf_counter() - start:.1f}"
    print_figures(f"{agent.name} on {problem.name}, {answer.serving.mode}", figures)
    say(f"written: {config.out}")


class _Answering:
    """Answers distinct requests in parts of a fixed size, so answers do not depend on the file, and counts calls."""

    def __init__(self, agent: Agent, problem: Problem, serving: Serving, seed: int) -> None:
        self.agent, self.problem, self.serving = agent, problem, serving
        self._generator = generator_from(seed)
        # A search holds several tensors of shape (rows, slots, items).
        self._rows = max(1, min(ANSWER_ROWS, ANSWER_CELLS // (problem.slots * problem.items)))

    def __call__(self, asked: Requests, report: Callable[[int], None]) -> tuple[Tensor, Scores]:
        requests = asked.observation
        # Filled in place: many small results between what a search frees would keep its memory from being returned.
        choice = torch.empty(len(requests), self.problem.slots, dtype=torch.long)
        score = torch.empty(len(requests))
        for first in range(0, len(requests), self._rows):
            part = slice(first, first + self._rows)
            found = serve(self.agent, self.problem, requests[part], self.serving, self._generator)
            choice[part], score[part] = found.choice, found.score
            report(first + len(found.score))
        return choice, Scores.of(self.problem, requests, choice, score, asked.counts)

    def calls(self, unit: str, requests: int) -> dict[str, str]:
        """Says what the answers to so many requests have cost each."""
        budget = self.problem.budget
        spent = f"{budget.forwards / requests:g} estimator calls, {budget.backwards / requests:g} backward passes"
        figures = {f"calls per {unit}": spent}
        if self.serving.mode == "pass":
            figures["to report its score"] = "1 estimator call"
        return figures


def _score_figures(scores: Scores, unmeasured: Unmeasured | None) -> dict[str, str]:
    """Returns the metrics that need no other answers to compare with, as far as there is a ground truth for them."""
    metrics = [
        METRICS[key] for key in ("score", "true_score", "true_normalised", "true_worst", "gap", "measured_share")
    ]
    values = {metric: metric.compute(scores, None) for metric in metrics}
    shown = {metric: value for metric, value in values.items() if value is not None or unmeasured is not None}
    return {metric.marked(metric.name, unmeasured): metric.text(value) for metric, value in shown.items()}
