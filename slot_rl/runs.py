"""Fitting, training and loading from Python: ``slot_rl.fit_table``, ``train`` and ``load``, the commands' code."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slot_rl.agents import AGENTS, Agent
from slot_rl.agents.base import Options, changed
from slot_rl.checkpoints import agent_of_run
from slot_rl.estimators.pessimism import Pessimism
from slot_rl.estimators.table_models import RowModel
from slot_rl.estimators.trusted import parse_reference
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import read_config
from slot_rl.pretraining import PretrainConfig, pretrain
from slot_rl.problems import Problem
from slot_rl.problems.constraints.written import ConstraintFlags
from slot_rl.problems.named import OWN
from slot_rl.reevaluation import problem_of_run, summary_of_run
from slot_rl.seeding import Seed, as_seed
from slot_rl.spelling import unknown
from slot_rl.tracking import WandbMode
from slot_rl.training import RunConfig, train_run
from slot_rl.wandb_labels import WandbFlags


@dataclass(frozen=True)
class TrainedRun:
    """A run that ended.

    Attributes:
        folder: Its folder.
        problem: What it was trained on.
        agent: The trained agent; ``agent.choose(observation)`` answers.
        summary: The contents of ``summary.json``.
    """

    folder: Path
    problem: Problem
    agent: Agent
    summary: dict[str, Any]


def train(
    problem: Problem | str,
    agent: str = "gumbel",
    *,
    timesteps: int = RunConfig.timesteps,
    seed: Seed = 0,
    out: Path | str | None = None,
    force: bool = False,
    estimator: Path | str | None = None,
    truth: Path | str | None = None,
    trust: bool = False,
    wandb: WandbMode | None = None,
    tensorboard: bool = False,
    labels: WandbFlags | None = None,
    objective: Pessimism | None = None,
    constraints: ConstraintFlags | None = None,
    evaluation: EvaluationConfig | None = None,
    options: Options | None = None,
    **changes: Any,
) -> TrainedRun:
    """Trains an agent and leaves a run folder, as ``slot-rl train`` does.

    Args:
        problem: A problem, an environment's id, or ``path.py:function`` of your own problem.
        agent: The agent's name.
        timesteps: Estimator calls in training.
        seed: Seeds weights, requests and draws.
        out: The run's folder; ``runs/<env>__<agent>__s<seed>__<time>`` if None.
        force: Replace the run that is already in ``out``.
        estimator: Folder or ``path.py:function`` of the estimator, with an id.
        truth: Table with the true scores, with an id.
        trust: Whether a ``path.py`` may be executed.
        wandb: Weights & Biases mode.
        tensorboard: Also write TensorBoard's files (extra [tensorboard]).
        labels: Where the run goes on Weights & Biases, and what it is found by.
        objective: What is maximised where the estimator is an ensemble, with an id; the members' mean if None.
        constraints: What answers are allowed, as the flags say it, with an id or ``path.py:function``; a built problem
            has its own (``problem.with_constraints``).
        evaluation: The requests to judge on.
        options: The agent's options; its defaults if None.
        changes: Single options that differ, for example ``learning_rate=3e-4``.

    Raises:
        TypeError: If an option is unknown, or the problem is none.
        ValueError: If the input is bad; then nothing was written.
    """
    if agent not in AGENTS:
        raise ValueError(unknown("expected an agent among", AGENTS, agent))
    if not isinstance(problem, Problem | str):
        raise TypeError(f"expected a problem, an id, or path.py:function, got {type(problem).__name__}")
    if isinstance(problem, Problem) and objective is not None:
        raise ValueError("expected no objective with a built problem, whose estimator has its own (Pessimistic)")
    if isinstance(problem, Problem) and constraints is not None:
        raise ValueError("expected no constraints with a built problem, which has its own (problem.with_constraints)")
    own = problem if isinstance(problem, str) and parse_reference(problem) is not None else None
    run = RunConfig(
        env=RunConfig.env if own else problem if isinstance(problem, str) else OWN,
        problem=own,
        estimator=None if estimator is None else str(estimator),
        truth=None if truth is None else Path(truth),
        trust=trust,
        timesteps=operator.index(timesteps),
        seed=as_seed(seed),
        out=None if out is None else Path(out),
        force=force,
        wandb=wandb,
        tensorboard=tensorboard,
        labels=labels or WandbFlags(),
        objective=objective or Pessimism(),
        constraints=constraints or ConstraintFlags(),
        evaluation=evaluation or EvaluationConfig(),
    )
    built = problem if isinstance(problem, Problem) else run.make_problem()
    found = changed(options or AGENTS[agent].options, changes)
    folder, trained, summary = train_run(agent, run, found, built)
    return TrainedRun(folder, built, trained, summary)


def fit_table(
    table: Path | str,
    score: str,
    *,
    out: Path | str,
    context: Sequence[str] = (),
    model: Literal["net", "auto", RowModel] = "net",
    force: bool = False,
    **flags: Any,
) -> Path:
    """Fits an estimator to a table of measured rows, as ``slot-rl pretrain`` does.

    Args:
        table: CSV or Parquet file with one configuration a row; :func:`slot_rl.example` has one to try.
        score: The table's score column, higher is better.
        out: Folder to write the estimator to.
        context: Columns that are given, not chosen.
        model: What is fitted.
        force: Replace an estimator that is already there.
        flags: Further fields of :class:`slot_rl.pretraining.PretrainConfig`.

    Returns:
        The folder, for ``train("SlotRL/Rows-v0", estimator=...)``.

    Raises:
        TypeError: If a flag is unknown.
        ValueError: If the table is not usable, or the folder is taken.
    """
    pretrain(
        PretrainConfig(
            table=Path(table), score=score, out=Path(out), context=tuple(context), model=model, force=force, **flags
        )
    )
    return Path(out)


def load(
    run: Path | str,
    problem: Problem | str | None = None,
    *,
    estimator: str | None = None,
    truth: Path | str | None = None,
    feasible: str | None = None,
    trust: bool = False,
    fallback: bool = False,
) -> TrainedRun:
    """Loads a run from its folder.

    Args:
        run: The folder.
        problem: What it was trained on, if it was built in Python; ``path.py:function`` if that file has moved.
        estimator: Folder or ``path.py:function`` of the estimator, if it has moved.
        truth: Table with the true scores, if it has moved.
        feasible: Table or ``path.py:function`` of the allowed answers, if it has moved.
        trust: Whether a ``path.py`` may be executed.
        fallback: Whether to take the newest whole checkpoint where the last one is missing or damaged.

    Raises:
        ValueError: If the folder is no run that ended, its files were altered, or the problem is another one.
    """
    folder = Path(run)
    document = read_config(folder)
    if not isinstance(problem, Problem):
        where = None if truth is None else Path(truth)
        problem = problem_of_run(document, estimator, where, trust, problem, feasible=feasible)
    summary = summary_of_run(folder, fallback)
    return TrainedRun(folder, problem, agent_of_run(folder, problem, fallback), dict(summary))
