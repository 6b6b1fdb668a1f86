"""Recommending: a trained agent's answers to a file of requests, written as a file with their scores.

A table of contexts is read piece by piece before anything is answered, so that an unknown context in the last row costs
no call. Then each distinct context is answered once, however many rows ask about it: a context has one answer in the
whole file, and calls are counted per distinct context. Then the rows are written in the table's order. Requests that
bring their own candidates come and go as tensors.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import safetensors.torch
import torch
import tyro
from torch import Tensor

from slot_rl.agents import ReferenceAgent, load_agent
from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.agents.serving import Mode, Serving, serve
from slot_rl.answers import Scores
from slot_rl.console import console, print_figures, progress_bar, say
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.io import whole_file, write_atomically
from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem
from slot_rl.problems.candidate_file import read_candidates
from slot_rl.problems.context_rows import ContextRows, read_contexts
from slot_rl.reevaluation import problem_of_run
from slot_rl.result_file import check_out, table_writer
from slot_rl.run_folder import CHECKPOINT, read_config
from slot_rl.seeding import generator_from

ESTIMATED, TRUE = "estimated_score", "true_score"
ANSWER_ROWS, ANSWER_CELLS = 1_024, 2**22
WRITE_ROWS = 65_536

Report = Callable[[int], None]


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
        calls: Forwards of the estimator for each distinct context: K draws, or a pass and K - 1 rounds of guided swaps
            with as many backwards; 4 if left out.
        truth: Table with the true scores.
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
    estimator: str | None = None
    trust: bool = False
    unknown: Literal["error", "skip"] = "error"
    force: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses a seed that no generator takes."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"expected 0 <= seed < 2**32, got {self.seed}")


@dataclass(frozen=True)
class Answers:
    """Answers to distinct requests: a choice ``(requests, slots)`` and what is to be said of it."""

    choice: Tensor
    scores: Scores


def recommend(config: RecommendConfig) -> None:
    """Answers a file of requests with a run's agent.

    Raises:
        ValueError: If the run, a file or a row is not as expected; then nothing was written.
    """
    start = time.perf_counter()
    document = read_config(config.run)
    # The truth of the training may be gone, and no recommendation needs it.
    problem = problem_of_run({**document, "truth": None}, config.estimator, config.truth, config.trust)
    suffixes = (".safetensors",) if isinstance(problem, SlotProblem) else (".csv", ".parquet")
    check_out(config.out, config.force, suffixes, (config.contexts, config.truth))
    agent = load_agent(config.run / CHECKPOINT, SlotVecEnv(problem, 2))
    answer = _Answering(agent, problem, Serving.of(agent, config.mode, config.calls), config.seed)
    if isinstance(problem, RowProblem):
        figures = _recommend_rows(config, problem, answer)
    else:
        figures = _recommend_for_candidates(config, problem, answer)
    figures["seconds"] = f"{time.perf_counter() - start:.1f}"
    print_figures(f"{agent.name} on {problem.name}, {answer.serving.mode}", figures)
    say(f"written: {config.out}")


class _Answering:
    """Answers distinct requests in parts of one size, so that the answers depend on nothing else, and counts."""

    def __init__(self, agent: CheckpointedAgent, problem: Problem, serving: Serving, seed: int) -> None:
        self.agent, self.problem, self.serving = agent, problem, serving
        self._generator = generator_from(seed)
        # A search holds several tensors of shape (rows, slots, items).
        self._rows = max(1, min(ANSWER_ROWS, ANSWER_CELLS // (problem.slots * problem.items)))

    def __call__(self, requests: Observation, report: Report) -> Answers:
        # Filled in place: thousands of small results kept among what a search frees would hold on to its memory.
        choice = torch.empty(len(requests), self.problem.slots, dtype=torch.long)
        score = torch.empty(len(requests))
        for first in range(0, len(requests), self._rows):
            part = slice(first, first + self._rows)
            found = serve(self.agent, self.problem, requests[part], self.serving, self._generator)
            choice[part], score[part] = found.choice, found.score
            report(first + len(found.score))
        return Answers(choice, Scores.of(self.problem, requests, choice, score))

    def calls(self, request: str, requests: int) -> dict[str, str]:
        """Says what the answers to so many requests have cost each."""
        budgets = [self.problem.budget]
        if isinstance(self.agent, ReferenceAgent):
            budgets.append(self.agent.answering)
        forwards, backwards = (sum(getattr(b, name) for b in budgets) / requests for name in ("forwards", "backwards"))
        figures = {f"calls per {request}": f"{forwards:g} forwards, {backwards:g} backwards"}
        if self.serving.mode == "pass":
            figures["to report its score"] = "1 forward"
        return figures


def _recommend_rows(config: RecommendConfig, problem: RowProblem, answer: _Answering) -> dict[str, str]:
    encoding = _checked_encoding(config, problem)
    with _read_rows(config, encoding) as rows, progress_bar() as progress:
        answering = progress.add_task("contexts answered", total=len(rows.distinct), note="")
        writing = progress.add_task("rows written", total=len(rows), note="")
        context = rows.distinct if encoding.contexts else problem.contexts
        answers = answer(Observation(context=context), lambda done: progress.update(answering, completed=done))
        with whole_file(config.out) as path:
            table = _answer_table(encoding, context, answers)
            schema = _as_text(table.schema)
            with table_writer(path, config.out.suffix, schema) as writer:
                for places in rows.places(WRITE_ROWS):
                    writer.write_table(table.take(pa.array(places)).cast(schema))
                    progress.advance(writing, len(places))
    figures = {"rows": f"{len(rows):,}", "distinct contexts": f"{len(rows.distinct):,}"}
    if config.unknown == "skip":
        figures["rows left out as unknown"] = f"{rows.skipped:,}"
    return {**figures, **_score_figures(answers.scores, rows.counts), **answer.calls("context", len(context))}


def _read_rows(config: RecommendConfig, encoding: TableEncoding) -> ContextRows:
    if config.contexts is None:
        return ContextRows([torch.zeros(1, 1, dtype=torch.long)], config.out.parent)
    with console.status("reading the contexts") as status:
        pieces = read_contexts(
            config.contexts,
            encoding,
            config.unknown == "skip",
            lambda rows: status.update(f"reading the contexts: {rows:,} rows"),
        )
        return ContextRows(pieces, config.out.parent)


def _checked_encoding(config: RecommendConfig, problem: RowProblem) -> TableEncoding:
    encoding = problem.encoding
    if encoding is None:
        raise ValueError(f"expected an estimator that names its columns, got {problem.name} without names")
    columns = ", ".join(map(repr, encoding.contexts))
    if columns and config.contexts is None:
        raise ValueError(f"expected --contexts FILE with {columns}, which the run's estimator asks for, got none")
    if not columns and config.contexts is not None:
        raise ValueError(f"expected no --contexts for an estimator without context columns, got {config.contexts}")
    for name in (ESTIMATED, TRUE):
        if name in (*encoding.contexts, *encoding.features):
            raise ValueError(f"expected no column named {name!r} in the estimator's table, got one: it is the output's")
    return encoding


def _answer_table(encoding: TableEncoding, context: Tensor, answers: Answers) -> pa.Table:
    """Returns one row for each distinct context: its categories, the chosen ones, and their scores.

    The categories are dictionaries, which repeat no text; :func:`_as_text` is what the file shall hold.
    """
    names = (*encoding.contexts.items(), *encoding.features.items())
    codes = [*(context.unbind(dim=1) if encoding.contexts else ()), *answers.choice.unbind(dim=1)]
    table = {
        name: pa.DictionaryArray.from_arrays(column.int().numpy(), pa.array(categories, pa.string()))
        for (name, categories), column in zip(names, codes, strict=True)
    }
    table[ESTIMATED] = pa.array(answers.scores.estimated.numpy())
    if answers.scores.true is not None:
        # An answer that was not measured has no true score: counting it as the lowest is for the figures alone.
        measured = answers.scores.measured
        unknown = None if measured is None else (measured == 0).numpy()
        table[TRUE] = pa.array(answers.scores.true.numpy(), mask=unknown)
    return pa.table(table)


def _as_text(schema: pa.Schema) -> pa.Schema:
    texts = (field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in schema)
    return pa.schema(list(texts))


def _recommend_for_candidates(config: RecommendConfig, problem: Problem, answer: _Answering) -> dict[str, str]:
    assert isinstance(problem, SlotProblem)
    requests = read_candidates(config.contexts, problem)
    with progress_bar() as progress:
        task = progress.add_task("requests answered", total=len(requests), note="")
        answers = answer(requests, lambda done: progress.update(task, completed=done))
    tensors = {"choice": answers.choice, "score": answers.scores.estimated}
    if answers.scores.true is not None:
        tensors[TRUE] = answers.scores.true
    write_atomically(config.out, safetensors.torch.save({name: part.contiguous() for name, part in tensors.items()}))
    figures = {"requests": f"{len(requests):,}", **_score_figures(answers.scores, None)}
    return {**figures, **answer.calls("request", len(requests))}


def _score_figures(scores: Scores, weights: Tensor | None) -> dict[str, str]:
    truth = scores.against_truth(weights)
    figures = {
        "estimated score": scores.score(weights),
        "true score": truth.true_score,
        "true score, normalised": truth.true_normalised,
        "true score, worst": truth.true_worst,
        "estimated minus true": truth.gap,
        "share of answers measured": truth.measured_share,
    }
    return {name: f"{value:.4f}" for name, value in figures.items() if value is not None}
