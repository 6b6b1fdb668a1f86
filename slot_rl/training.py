"""Training one agent: what is built, in which order, what is watched, and what is left on disk."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import nan
from pathlib import Path
from typing import Any

import safetensors.torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from slot_rl import __version__
from slot_rl.agents import Agent, LearningAgent, Options, make_agent
from slot_rl.agents.base import MANIFEST, to_json
from slot_rl.console import console, once_at, progress_bar, say
from slot_rl.estimators.pessimism import Pessimism
from slot_rl.evaluation import SEARCHES, Evaluation, EvaluationConfig, Row, judge
from slot_rl.io import BAD_BATCH, CHECKPOINT, CONFIG, CURVE, SUMMARY, write_atomically, write_json
from slot_rl.metrics import METRICS, POLICY_WITH_SEARCH, truth_mark
from slot_rl.places import check_free, claimed, fresh_folder
from slot_rl.plots import plot_learning_curve
from slot_rl.problems import BadScore, Budget, Problem, Unmeasured, make_problem
from slot_rl.problems.constraints.written import ConstraintFlags
from slot_rl.problems.named import own_env, sources
from slot_rl.provenance import command_line, versions
from slot_rl.seeding import as_seed
from slot_rl.summary_tables import print_judgement
from slot_rl.tracking import RunIdentity, Tracker, TrackerWriter, WandbMode, wandb_mode

WEIGHTS = f"{CHECKPOINT}/{MANIFEST}"
"""The file of a run with which it replaces an earlier one."""
EVALUATIONS = 25
LOG_POINTS = 100
IN_PLOT = (POLICY_WITH_SEARCH, *SEARCHES, "best constant")


@dataclass(frozen=True)
class RunConfig:
    """What is trained, for how long, and where the results go.

    Attributes:
        env: The environment's id.
        estimator: Folder of a pretrained estimator, or path.py:function with --trust; needed by SlotRL/Rows-v0.
        trust: Execute the Python file that --estimator names, with all your rights.
        truth: Table with the true scores, for SlotRL/Rows-v0.
        problem: Your own problem, path.py:function with --trust; its env is SlotRL/Own-v0.
        unmeasured: What an answer counts as that --truth has not measured: nothing, or its context's minimum.
        timesteps: Estimator calls in training.
        seed: Seeds weights, requests and draws.
        out: The run's folder; runs/<env>__<agent>__s<seed>__<time> if left out.
        force: Replace the run that is already in --out.
        wandb: Weights & Biases mode; WANDB_MODE if left out, offline without it.
        objective: What is maximised, where the estimator is an ensemble.
        constraints: What answers are allowed.
        evaluation: The requests to judge on.
    """

    env: str = "SlotRL/Slots-v0"
    estimator: str | None = None
    trust: bool = False
    truth: Path | None = None
    problem: str | None = None
    unmeasured: Unmeasured = "omit"
    timesteps: int = 500_000
    seed: int = 0
    out: Path | None = None
    force: bool = False
    wandb: WandbMode | None = None
    objective: Pessimism = field(default_factory=Pessimism)
    constraints: ConstraintFlags = field(default_factory=ConstraintFlags)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Refuses an empty training and a seed that no generator takes; an own problem has its own env."""
        object.__setattr__(self, "env", own_env(self.env, self.problem, RunConfig.env))
        as_seed(self.seed)
        if self.timesteps < 1:
            raise ValueError(f"expected timesteps >= 1, got {self.timesteps}")

    def make_problem(self) -> Problem:
        """Builds the problem."""
        return make_problem(
            self.env,
            self.estimator,
            self.truth,
            trust=self.trust,
            problem=self.problem,
            unmeasured=self.unmeasured,
            constraints=self.constraints.entries(),
            own_constraints=self.constraints.own_constraints,
            **asdict(self.objective),
        )


@dataclass(frozen=True)
class TrainFlags:
    """The flags of a training: the run's, and those of the agent, whose class is that of the defaults."""

    run: RunConfig
    agent: Options


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come.

    Attributes:
        calls: Estimator calls so far.
        phase: What it is doing, where that is not training.
        row: The figures of the last evaluation; None before the first.
    """

    calls: float
    phase: str = ""
    row: Row | None = None


Report = Callable[[RunProgress], None]


class Stopwatch:
    """Times a training without its evaluations."""

    def __init__(self) -> None:
        """Starts."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        """Seconds on the clock so far."""
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        """The processor's seconds of this process so far."""
        return time.process_time() - self._cpu

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time of the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu


class EvaluationCallback(BaseCallback):
    """Reports progress, evaluates now and then, and stops the training when asked.

    Attributes:
        calls: Estimator calls at each evaluation.
        rows: The figures of each evaluation.
        stopwatch: The training's time, without the evaluations.
        status: "finished", or "interrupted" or "terminated" for a training that stops, or has stopped, early.
    """

    def __init__(self, evaluation: Evaluation, problem: Problem, timesteps: int, report: Report) -> None:
        """Takes the evaluation, the problem whose budget is logged, the training's budget, and the progress report."""
        super().__init__()
        self.calls: list[float] = []
        self.rows: list[Row] = []
        self.stopwatch, self.status = Stopwatch(), "finished"
        self._evaluation, self._problem, self._report = evaluation, problem, report
        self._timesteps = timesteps
        self._every, self._next = timesteps / EVALUATIONS, 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next += self._every
            with self.stopwatch.paused():
                self._evaluate()
        self._report(RunProgress(min(self.num_timesteps, self._timesteps), row=self.rows[-1]))
        return self.status == "finished"

    def stop(self, number: int) -> None:
        """Lets the training stop after the current update, so that no update is half done, because of a signal."""
        self.status = "terminated" if number == signal.SIGTERM else "interrupted"

    def _evaluate(self) -> None:
        agent: Any = self.model
        row = self._evaluation.judge(agent.choose)
        for key, value in logged_metrics(row, self._problem.budget, self.stopwatch.cpu).items():
            self.logger.record(key, value)
        self.calls.append(self.num_timesteps)
        self.rows.append(row)


def logged_metrics(row: Row, budget: Budget, cpu_seconds: float) -> dict[str, float]:
    """Returns the metrics that are followed during a training, under their keys in ``metrics.jsonl``."""
    costs = {
        "estimator_forwards": budget.forwards,
        "estimator_backwards": budget.backwards,
        "cpu_seconds": cpu_seconds,
    }
    return row.logged() | {str(METRICS[key].log_key): value for key, value in costs.items()}


def train_run(
    agent_name: str, run: RunConfig, options: Options, problem: Problem | None = None
) -> tuple[Path, Agent, dict[str, Any]]:
    """Trains an agent and leaves a run folder.

    Args:
        agent_name: A name in ``slot_rl.agents.AGENTS``.
        run: What is trained, for how long, and where the results go.
        options: The agent's own options.
        problem: The problem, if it is built already.

    Returns:
        The run folder, the agent, and the contents of ``summary.json``.

    Raises:
        ValueError: If the input is bad; then nothing was written. Also if the estimator answers NaN or infinity; then
            the batch is in the run folder.
    """
    mode = wandb_mode(run.wandb)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    identity = RunIdentity(run.env, agent_name, run.seed, run.timesteps, stamp, __version__)
    folder = run.out or Path("runs", identity.name)
    with claimed(folder, WEIGHTS):
        check_free(folder, run.force, CONFIG)
        agent, summary, rows = _train_in(folder, identity, run, options, problem or run.make_problem(), mode)
    print_judgement(summary, rows)
    if agent.remark is not None:
        say(agent.remark)
    say(f"run: {folder}")
    return folder, agent, summary


def _train_in(
    folder: Path, identity: RunIdentity, run: RunConfig, options: Options, problem: Problem, mode: WandbMode
) -> tuple[Agent, dict[str, Any], list[Row]]:
    """Trains and judges in a folder that is claimed and free; returns as :func:`train_and_judge`, with the agent."""
    with console.status("measuring the competitors"):
        evaluation = Evaluation(problem, run.evaluation)
    if evaluation.remark is not None:
        say(evaluation.remark)
    agent = make_agent(identity.agent, problem, options, run.seed)
    agent.check_timesteps(run.timesteps)
    config = _config_document(identity.agent, run, options)
    with fresh_folder(folder, WEIGHTS) as begun:
        write_json(folder / CONFIG, config)
        tracker = Tracker(folder, identity, config, mode)
        begun()
        summary, rows = _with_progress(agent, identity, evaluation, tracker, folder)
    return agent, summary, rows


def _with_progress(
    agent: Agent, identity: RunIdentity, evaluation: Evaluation, tracker: Tracker, folder: Path
) -> tuple[dict[str, Any], list[Row]]:
    with progress_bar() as bar:
        task = bar.add_task(agent.name, total=identity.timesteps, note="")

        def report(progress: RunProgress) -> None:
            figures = {} if progress.row is None else progress.row.figures
            note = "".join(
                f"{name} {value:.4g}  " for name in ("score", "optimality") if (value := figures.get(name)) is not None
            )
            bar.update(task, completed=progress.calls, note=note.rstrip())

        return train_and_judge(agent, identity, evaluation, tracker, folder, report)


def train_and_judge(
    agent: Agent, identity: RunIdentity, evaluation: Evaluation, tracker: Tracker, folder: Path, report: Report
) -> tuple[dict[str, Any], list[Row]]:
    """Trains a fresh agent, judges it, and leaves everything but the config in its run folder.

    Args:
        agent: The agent.
        identity: Names the run and its budget.
        evaluation: The requests to judge on.
        tracker: Where metrics go; it is closed before the summary is written.
        folder: The run folder; must exist.
        report: Is told about progress.

    Returns:
        The contents of ``summary.json``, and the rows of the final table, the agent's first.

    Raises:
        ValueError: If the estimator answers NaN or infinity; then the batch is in the run folder. After this and every
            other failure of the training, so are the weights before it, if there was an update, and a summary.
    """
    problem = agent.problem
    assert problem is not None
    callback = EvaluationCallback(evaluation, problem, identity.timesteps, report)
    with tracker:
        _learn(agent, identity.timesteps, callback, tracker, folder)
        wall, cpu = callback.stopwatch.wall, callback.stopwatch.cpu
        agent.save(folder / CHECKPOINT)
        # A copy: the answers of a search count on the same problem.
        budget = replace(problem.budget)
        summary, rows = judge(agent, evaluation, budget, callback.status, wall, cpu)
        tracker.log(agent.num_timesteps, logged_metrics(rows[0], budget, cpu))
        true_name = "true" + truth_mark(evaluation.problem.unmeasured)
        _plot(folder, identity, [*callback.calls, agent.num_timesteps], [*callback.rows, rows[0]], rows[1:], true_name)
        tracker.finish(summary)
    write_json(folder / SUMMARY, summary)
    return summary, rows


def _learn(agent: Agent, timesteps: int, callback: EvaluationCallback, tracker: Tracker, folder: Path) -> None:
    try:
        with once_at([signal.SIGINT, signal.SIGTERM], callback.stop):
            if isinstance(agent, LearningAgent):
                agent.set_logger(Logger(folder=None, output_formats=[TrackerWriter(tracker)]))
                log_interval = max(1, round(timesteps / agent.update_size / LOG_POINTS))
                agent.learn(timesteps, callback=callback, log_interval=log_interval)
            else:
                agent.learn(timesteps)
    except (Exception, KeyboardInterrupt) as failure:  # a second Ctrl-C comes in the middle of an update
        kept = _keep_weights(agent, callback, folder, failure)
        if not isinstance(failure, BadScore):
            raise
        weights = f"the weights before it in {folder / CHECKPOINT}" if kept else "no weights were written"
        raise ValueError(f"{failure}; the batch is in {save_bad_batch(folder, failure)}, {weights}") from failure


def _keep_weights(agent: Agent, callback: EvaluationCallback, folder: Path, failure: BaseException) -> bool:
    """Saves a training that failed after an update, as far as it can be saved, and says in its summary why."""
    # The first update is over once the second one has begun.
    if not isinstance(agent, LearningAgent) or callback.num_timesteps <= agent.update_size:
        return False
    assert agent.problem is not None
    summary = {
        "status": "failed",
        "failure": f"{type(failure).__name__}: {failure}",
        "timesteps": agent.num_timesteps,
        "estimator_forwards": agent.problem.budget.forwards,
        "estimator_backwards": agent.problem.budget.backwards,
        "wall_seconds": callback.stopwatch.wall,
        "cpu_seconds": callback.stopwatch.cpu,
    }
    with contextlib.suppress(OSError, ValueError):
        agent.save(folder / CHECKPOINT)
        write_json(folder / SUMMARY, summary)
        return True
    return False


def save_bad_batch(folder: Path, failure: BadScore) -> Path:
    """Writes the batch on which the estimator failed, as safetensors, and returns its path."""
    path = folder / BAD_BATCH
    tensors = {**failure.observation.tensors(), "rows": failure.rows, "score": failure.score}
    write_atomically(path, safetensors.torch.save({name: part.contiguous() for name, part in tensors.items()}))
    return path


def _config_document(agent_name: str, run: RunConfig, options: Options) -> dict[str, Any]:
    return {
        "command": command_line(),
        "agent": agent_name,
        "budget": run.timesteps,
        "seed": run.seed,
        **sources(run.env, run.estimator, run.truth, run.problem, run.constraints),
        "unmeasured": run.unmeasured,
        **asdict(run.objective),
        "evaluation": asdict(run.evaluation),
        "options": to_json(options),
        "versions": versions(),
    }


def _plot(
    folder: Path,
    identity: RunIdentity,
    calls: list[float],
    rows: list[Row],
    competitors: list[Row],
    true_name: str = "true",
) -> None:
    share = rows[-1].figures["measured_share"]
    # Never rounded up to the whole.
    measured = "" if share is None or share == 1 else f", {min(100 * share, 99.9):.1f} % measured"
    curves: Mapping[str, list[float | None]] = {
        f"{identity.agent}, estimated": [row.figures["optimality"] for row in rows],
        f"{identity.agent}, {true_name}{measured}": [row.figures["true_optimality"] for row in rows],
    }
    drawn = {name: values for name, values in curves.items() if any(value is not None for value in values)}
    known = {name: [nan if value is None else value for value in values] for name, values in drawn.items()}
    levels = {row.name: value for row in competitors if row.name in IN_PLOT and (value := row.figures["optimality"])}
    title = f"{identity.agent} on {identity.env}, seed {identity.seed}"
    plot_learning_curve(folder / CURVE, calls, known, levels, title)
