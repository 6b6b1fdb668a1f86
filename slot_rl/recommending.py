"""Recommending: a trained agent's answers to a file of requests, written as a file with their scores.

A file of contexts is read before anything is answered, so an unknown context in its last row costs no estimator call.
Each distinct context is answered once, however many rows ask for it. Slates are answered piece by piece. The rows are
written in the order of the file, whole or not at all. What a file of requests looks like is up to the kind of
problem (``Problem.read_requests``).
"""

import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import tyro
from torch import Tensor

from slot_rl.agents import Agent
from slot_rl.agents.serving import Mode, Serving, best_swaps, propensity, serve
from slot_rl.checkpoints import agent_of_run
from slot_rl.console import console, print_figures, progress_bar, say
from slot_rl.estimators.described import parse_descriptors
from slot_rl.io import read_config
from slot_rl.metrics import METRICS, Scores
from slot_rl.places import check_out, check_parent, claimed
from slot_rl.problems import Answers, Budget, Observation, Problem, RequestFiles, Unmeasured
from slot_rl.reevaluation import problem_of_run
from slot_rl.runs import TrainedRun, load
from slot_rl.seeding import as_seed, generator_from

ANSWER_ROWS, ANSWER_CELLS = 1_024, 2**22


@dataclass(frozen=True)
class RecommendConfig:
    """Writes what a run's agent recommends for each request of a file, with the estimated score.

    Attributes:
        run: The run's folder.
        out: File to write, in the order of the requests and with their columns: CSV, Parquet or JSON Lines (.jsonl) by
            its ending, .safetensors for requests with candidates.
        requests: CSV, Parquet or JSON Lines file with the estimator's context columns; left out where the estimator
            has none. For requests with candidates, .safetensors with candidates (requests, items, dim) and perhaps a
            boolean mask (requests, slots, items).
        items: For slates: file of the items to choose from; those of the training if left out.
        exclude: File of what no answer may have: pairs of a request's and an item's id; for a table's features a
            category in the feature's column, and the contexts that it concerns.
        descriptors: Files that describe further categories of a described column, as electrophile=new.csv.
        top: Different answers for each request, the best first: the answer, and the best of its swaps, which cost
            2 (top - 1) estimator calls more, and one with a gradient.
        mode: One pass of the policy, best of its draws, a pass improved by search, or a sample: one draw of the policy
            with its probability in the column propensity (rows with the same context share a draw); pass for --calls 0
            and otherwise search if left out.
        calls: Estimator calls for each distinct request: K draws, or a pass and K - 1 rounds of guided swaps
            with as many backwards; 4 if left out.
        truth: Table with the true scores.
        unmeasured: What an answer counts as that --truth has not measured: nothing, or its context's minimum.
        estimator: Folder or path.py:function of the estimator, if it has moved since the training; it must be the same.
        problem: path.py:function of your own problem, if it has moved; it must be the same.
        feasible: Table of the allowed answers, or path.py:function, if it has moved; it must be the same.
        trust: Execute the Python file that the run's problem or estimator is, with all your rights.
        unknown: What a request is that cannot be answered, such as one with a context that the estimator does not know:
            an error, or a row with an empty answer and the reason.
        fallback: Take the newest whole checkpoint where the run's last one is missing or damaged.
        force: Replace the file that is already there.
        seed: Seeds the draws.
        raw_cells: In CSV, leave texts as they are that a spreadsheet would execute, such as =O or -OH; otherwise an
            apostrophe goes before them, which files that are read here may have.
        best_seen: Answer with a context's best measured row, unless the answer's estimate is above its measured score
            by the error of the estimator's high estimates; the column measured_score then holds its measured score. It
            needs an estimator whose table is known and not censored, and does nothing to samples.
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Path
    requests: Annotated[Path | None, tyro.conf.arg(aliases=("--contexts",))] = None
    items: Path | None = None
    exclude: Path | None = None
    descriptors: tuple[str, ...] = ()
    top: int = 1
    mode: Mode | None = None
    calls: int | None = None
    truth: Path | None = None
    unmeasured: Unmeasured = "omit"
    estimator: str | None = None
    problem: str | None = None
    feasible: str | None = None
    trust: bool = False
    unknown: Literal["error", "skip"] = "error"
    fallback: bool = False
    force: bool = False
    seed: int = 0
    raw_cells: bool = False
    best_seen: bool = True

    def __post_init__(self) -> None:
        """Refuses a seed that no generator takes, and no answer."""
        if self.top < 1 or (self.top > 1 and self.mode == "sample"):
            raise ValueError(f"expected top >= 1, and 1 with mode sample, got {self.top}")
        as_seed(self.seed)


def recommend(config: RecommendConfig) -> None:
    """Answers a file of requests with a run's agent.

    Raises:
        ValueError: If the run, a file or a row is not as expected; then nothing was written.
    """
    check_parent(config.out)
    with claimed(config.out):
        _recommend(config)


def _recommend(config: RecommendConfig) -> None:
    start = time.perf_counter()
    sources = (config.estimator, config.truth, config.trust, config.problem, config.unmeasured, config.feasible)
    problem = problem_of_run(_without_truth(config.run), *sources)
    files = parse_descriptors(config.descriptors)
    if files:
        problem = problem.with_descriptors(files)
    inputs = (config.requests, config.items, config.exclude, config.truth, *files.values())
    check_out(config.out, config.force, problem.request_suffixes, inputs)
    tensors = [path.suffix.lower() == ".safetensors" for path in (config.out, config.requests) if path is not None]
    if any(tensors) != all(tensors):
        raise ValueError(
            f"expected tables, or .safetensors, as both --requests and --out, got {config.requests} and {config.out}"
        )
    agent = agent_of_run(config.run, problem, config.fallback)
    serving = Serving.of(agent, config.mode, config.calls)
    skip = config.unknown == "skip"
    asked = RequestFiles(config.requests, config.out.parent, skip, config.items, config.exclude)
    with console.status("reading the requests") as status:
        requests = problem.read_requests(asked, lambda rows: status.update(f"reading the requests: {rows:,} rows"))
    requests.raw_cells = config.raw_cells
    with requests, progress_bar() as progress:
        answering = progress.add_task(f"{requests.unit}s answered", total=requests.distinct, note="")
        writing = progress.add_task("rows written", total=len(requests), note="")
        answer = Answering(
            *(agent, problem, serving, config.seed, config.top),
            lambda n: progress.advance(answering, n),
            config.best_seen,
        )
        requests.write(config.out, answer, lambda count: progress.advance(writing, count))
    figures = requests.figures() | _score_figures(answer.scores(), problem.unmeasured) | answer.calls(requests.unit)
    figures["seconds"] = f"{time.perf_counter() - start:.1f}"
    print_figures(f"{agent.name} on {problem.name}, {serving.mode}", figures)
    say(f"written: {config.out}")


class Answering:
    """Answers requests in parts of a fixed size, so that answers do not depend on the file, and counts calls."""

    def __init__(
        self,
        agent: Agent,
        problem: Problem,
        serving: Serving,
        seed: int = 0,
        top: int = 1,
        report: Callable[[int], None] = lambda requests: None,
        best_seen: bool = True,
    ) -> None:
        """Takes the agent and how it answers.

        Args:
            agent: The agent.
            problem: What it was trained on.
            serving: How to answer.
            seed: Seeds draws.
            top: Different answers for each request.
            report: Called with the number of requests answered since the last call.
            best_seen: Whether the best measured rows compete; see :class:`RecommendConfig`.
        """
        self._best_seen = best_seen and serving.mode != "sample"
        self._agent, self._problem, self._serving, self._top, self._report = agent, problem, serving, top, report
        self._generator = generator_from(seed)
        # One array for each figure that grows in place. Small tensors between what a search frees would keep its memory
        # from being returned.
        self._kept: dict[str, array[float]] = {}
        self._budget = Budget()

    def __call__(self, observation: Observation, weights: Tensor | None = None) -> Answers:
        """Answers requests, whose candidates may be more or fewer than in the training."""
        problem, items = self._problem, self._problem.items
        if observation.candidates is not None:
            items = observation.candidates.shape[1]
            problem = problem.with_items(items)
        # Agents that search count on their problem, and need its number of items.
        problem = self._agent.problem = problem.with_fresh_budget()
        # A search holds several tensors of shape (rows, slots, items).
        rows = max(1, min(ANSWER_ROWS, ANSWER_CELLS // (problem.slots * items)))
        # Filled in place: many small results between what a search frees would keep its memory from being returned.
        choice = torch.zeros(len(observation), self._top, problem.slots, dtype=torch.long)
        score = torch.full((len(observation), self._top), -torch.inf)
        chances = torch.ones(len(observation), 1, dtype=torch.float64)
        for first in range(0, len(observation), rows):
            part = slice(first, first + rows)
            found = serve(self._agent, problem, observation[part], self._serving, self._generator)
            if self._serving.mode == "sample":
                chances[part, 0] = propensity(self._agent, observation[part], found.choice)
            ranked = best_swaps(problem, observation[part], found, self._top)
            choice[part, : ranked.choice.shape[1]], score[part, : ranked.score.shape[1]] = ranked.choice, ranked.score
            self._report(len(found.score))
        seen = self._with_seen(problem, observation, choice, score)
        self._budget.forwards += problem.budget.forwards
        self._budget.backwards += problem.budget.backwards
        judged = replace(self._judged(problem, observation, choice, score, weights), seen=seen)
        return replace(judged, propensity=chances) if self._serving.mode == "sample" else judged

    def _with_seen(self, problem: Problem, observation: Observation, choice: Tensor, score: Tensor) -> Tensor | None:
        """Puts the best measured rows before answers ``(requests, top, slots)`` where they are better, in place.

        Returns:
            Their measured scores ``(requests, top)``, NaN for other answers; None where they do not compete.
        """
        seen = problem.best_seen(observation) if self._best_seen else None
        if seen is None or seen.censored:
            return None
        measured = torch.full_like(score, torch.nan, dtype=torch.float64)
        rows = seen.better_than(score[:, 0]).nonzero().squeeze(1)
        if len(rows) == 0:
            return measured
        first = seen.choice[rows].unsqueeze(1)
        # The same row is no other answer.
        other_scores = score[rows].masked_fill((choice[rows] == first).all(dim=2), -torch.inf)
        other_scores, others = other_scores.sort(dim=1, descending=True, stable=True)
        other_rows = choice[rows].gather(1, others.unsqueeze(2).expand(-1, -1, problem.slots))
        estimates = problem.with_fresh_budget().score(observation[rows], seen.choice[rows]).unsqueeze(1)
        choice[rows] = torch.cat([first, other_rows], dim=1)[:, : self._top]
        score[rows] = torch.cat([estimates, other_scores], dim=1)[:, : self._top]
        measured[rows, 0] = seen.score[rows]
        return measured

    def _judged(
        self, problem: Problem, observation: Observation, choice: Tensor, score: Tensor, weights: Tensor | None
    ) -> Answers:
        """Keeps the scores of the best answers, and adds what the ground truth says of all."""
        scores = Scores.of(problem, observation, choice[:, 0], score[:, 0], weights)
        for name, values in vars(scores).items():
            if values is not None:
                self._kept.setdefault(name, array("d")).frombytes(values.double().numpy().tobytes())
        if not problem.has_truth:
            return Answers(choice, score)
        known = problem.true_scores(observation, choice.transpose(0, 1))
        return Answers(choice, score, known.true.T, None if known.measured is None else known.measured.T)

    def scores(self) -> Scores:
        """Returns the scores of the best answers to all requests so far.

        Raises:
            ValueError: If none was answered.
        """
        if not self._kept:
            raise ValueError("expected at least one request that can be answered, got none")
        return Scores(**{name: torch.tensor(values, dtype=torch.float64) for name, values in self._kept.items()})

    def calls(self, unit: str) -> dict[str, str]:
        """Says what the answers to a request have cost."""
        requests = len(self._kept["estimated"])
        forwards, backwards = (spent / requests for spent in (self._budget.forwards, self._budget.backwards))
        figures = {f"calls per {unit}": f"{forwards:g} estimator calls, {backwards:g} backward passes"}
        if self._serving.budget == 0:
            figures["to report its score"] = "1 estimator call"
        return figures


class Recommender:
    """Answers requests in Python with a trained agent: ``recommender({"user": "u1", "age": 31})``.

    Attributes:
        run: The trained run.
    """

    def __init__(self, run: TrainedRun, fallback: bool = False) -> None:
        """Takes a trained run, and whether an older checkpoint will do where the last one is missing or damaged."""
        self.run, self._fallback = run, fallback

    @classmethod
    def load(
        cls,
        run: Path | str,
        problem: Problem | str | None = None,
        *,
        estimator: str | None = None,
        truth: Path | str | None = None,
        feasible: str | None = None,
        trust: bool = False,
        fallback: bool = False,
    ) -> "Recommender":
        """Loads a run from its folder; arguments and errors as for ``slot_rl.load``.

        The truth of the training may be gone: answers have a true score only with ``truth``.
        """
        if not isinstance(problem, Problem):
            where = None if truth is None else Path(truth)
            problem = problem_of_run(_without_truth(Path(run)), estimator, where, trust, problem, feasible=feasible)
        return cls(load(run, problem, fallback=fallback), fallback)

    def __call__(
        self,
        requests: Mapping[str, Any] | Iterable[Mapping[str, Any]] | pd.DataFrame,
        calls: int | None = None,
        top: int = 1,
        mode: Mode | None = None,
        items: Path | str | None = None,
        seed: int = 0,
        descriptors: Mapping[str, Path | str] | None = None,
        best_seen: bool = True,
    ) -> Any:
        """Answers one request or several.

        Args:
            requests: Values by column, as in a file of requests: one dictionary, several, or a data frame.
            calls: Estimator calls for each request; 4 if None.
            top: Different answers for each request, the best first.
            mode: How to answer; see ``agents.serving``.
            items: A file of new items.
            seed: Seeds draws.
            descriptors: Files that describe further categories of a described column, by column.
            best_seen: Whether the best measured rows compete; see :class:`RecommendConfig`.

        Returns:
            The request with its answer and scores, or a list of such; with ``top`` above 1, one for each answer.

        Raises:
            TypeError: If the requests are something else.
            ValueError: If a request is not as expected.
        """
        given = _frame(requests)
        if not len(given) or top < 1:
            raise ValueError(f"expected at least one request and top >= 1, got {len(given)} and {top}")
        problem, agent = self.run.problem, self.run.agent
        if descriptors:
            problem = problem.with_descriptors({name: Path(path) for name, path in descriptors.items()})
            agent = agent_of_run(self.run.folder, problem, self._fallback)
        serving = Serving.of(agent, mode, calls)
        desk = problem.desk(None if items is None else Path(items))
        answer = Answering(agent, problem, serving, seed, top, best_seen=best_seen)
        table = desk.answered(given, answer, Path("the requests"))
        answers: list[dict[str, Any]] = table.to_pylist()
        return answers[0] if isinstance(requests, Mapping) and top == 1 else answers


def _without_truth(run: Path) -> dict[str, Any]:
    """Returns a run's config without its truth, which may be gone and which no recommendation needs."""
    return {**read_config(run), "truth": None}


def _frame(requests: Any) -> pd.DataFrame:
    """Returns requests as a data frame, cells as they are given; raises TypeError for what is no request."""
    if isinstance(requests, pd.DataFrame):
        return requests.reset_index(drop=True)
    listed = isinstance(requests, Iterable) and not isinstance(requests, str | Mapping)
    given = list(requests) if listed else [requests]
    for each in given:
        if not isinstance(each, Mapping):
            raise TypeError(f"expected a dict, several, or a data frame as requests, got {type(each).__name__}")
    rows = [{name: cell.tolist() if isinstance(cell, Tensor) else cell for name, cell in row.items()} for row in given]
    # As objects, whole numbers stay whole beside a missing one.
    return pd.DataFrame(rows, dtype=object)


def _score_figures(scores: Scores, unmeasured: Unmeasured | None) -> dict[str, str]:
    """Returns the metrics that need no other answers to compare with, as far as there is a ground truth for them."""
    metrics = [
        METRICS[key] for key in ("score", "true_score", "true_normalised", "true_worst", "gap", "measured_share")
    ]
    values = {metric: metric.compute(scores, None) for metric in metrics}
    shown = {metric: value for metric, value in values.items() if value is not None or unmeasured is not None}
    return {metric.marked(metric.name, unmeasured): metric.text(value) for metric, value in shown.items()}
