"""Training one agent, as one command: what is built, in which order, and what is left on disk."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Logger

from slot_rl import __version__
from slot_rl.agents import AGENTS
from slot_rl.agents.base import needed_problem
from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.agents.options import Options, to_json
from slot_rl.console import INTERRUPTED, command_line, console, progress_bar, say
from slot_rl.envs import SlotVecEnv
from slot_rl.evaluation import POLICY_WITH_SEARCH, Evaluation, EvaluationConfig, Row
from slot_rl.io import write_json
from slot_rl.judgement import judge, metrics_of, print_judgement
from slot_rl.plots import plot_learning_curve
from slot_rl.problems import NonFiniteScore, Problem, make_problem
from slot_rl.problems.named import estimator_hash, resolved_estimator
from slot_rl.provenance import versions
from slot_rl.run_folder import (
    CHECKPOINT,
    CONFIG,
    CURVE,
    SUMMARY,
    check_free,
    fresh_folder,
    save_bad_batch,
)
from slot_rl.tracking import RunIdentity, Tracker, TrackerWriter, WandbMode, wandb_mode
from slot_rl.watch import TRAINING_SECONDS, Curve, EvaluationCallback, Report, budget_metrics, stopping

LOG_POINTS = 100
IN_PLOT = (POLICY_WITH_SEARCH, "guided search", "best constant")


@dataclass(frozen=True)
class RunConfig:
    """Where, how long, and where to.

    Attributes:
        env: The environment's id.
        estimator: Folder of a pretrained estimator, or path.py:function with --trust; needed by SlotRL/Rows-v0.
        trust: Execute the Python file that --estimator names, with all your rights.
        truth: Table with the true scores, for SlotRL/Rows-v0.
        timesteps: Configurations that the estimator scores in training.
        seed: Seeds weights, requests and draws.
        out: The run's folder; runs/<env>__<agent>__s<seed>__<time> if left out.
        force: Replace the run that is already in --out.
        wandb: Weights & Biases mode; WANDB_MODE if left out, offline without it.
        evaluation: The requests to judge on.
    """

    env: str = "SlotRL/Slots-v0"
    estimator: str | None = None
    trust: bool = False
    truth: Path | None = None
    timesteps: int = 500_000
    seed: int = 0
    out: Path | None = None
    force: bool = False
    wandb: WandbMode | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Refuses an empty training and a seed that no generator takes."""
        if self.timesteps < 1 or not 0 <= self.seed < 2**32:
            raise ValueError(f"expected timesteps >= 1 and 0 <= seed < 2**32, got {self.timesteps} and {self.seed}")

    def problem(self) -> Problem:
        """Builds the problem."""
        return make_problem(self.env, estimator=self.estimator, truth=self.truth, trust=self.trust)


def train(agent_name: str, run: RunConfig, options: Options) -> int:
    """Trains an agent and leaves a run folder.

    Args:
        agent_name: A name in ``slot_rl.agents.AGENTS``.
        run: Where, how long, and where to.
        options: The agent's own options.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        ValueError: If the input is bad; then nothing was written. Also if the estimator answers NaN or infinity; then
            the batch lies in the run folder.
    """
    mode = wandb_mode(run.wandb)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    identity = RunIdentity(run.env, agent_name, run.seed, run.timesteps, stamp, __version__)
    folder = run.out or Path("runs", identity.name)
    check_free(folder, run.force, CONFIG)
    problem = run.problem()
    with console.status("measuring the competitors"):
        evaluation = Evaluation(problem, run.evaluation)
    agent = build_agent(agent_name, options, problem, run.seed)
    agent.check_timesteps(run.timesteps)
    config = _config_document(agent_name, run, options)
    with fresh_folder(folder):
        write_json(folder / CONFIG, config)
        tracker = Tracker(folder, identity, config, mode)
    with progress_bar() as progress:
        task = progress.add_task(agent.name, total=run.timesteps, note="")

        def report(done: float, note: str) -> None:
            progress.update(task, completed=done, note=note)

        summary, rows = train_and_judge(agent, identity, evaluation, tracker, folder, report)
    print_judgement(summary, rows)
    say(f"run: {folder}")
    return 0 if summary["status"] == "finished" else INTERRUPTED


def build_agent(name: str, options: Options, problem: Problem, seed: int) -> CheckpointedAgent:
    """Builds an agent by its name in ``slot_rl.agents.AGENTS``, in an environment of its own.

    Raises:
        TypeError: If the options are another agent's.
        ValueError: If the agent does not fit the problem.
    """
    env = SlotVecEnv(problem, options.num_envs, seed=seed)
    agent: CheckpointedAgent = AGENTS[name](env, options, seed=seed)  # type: ignore[arg-type, call-arg]
    return agent


def train_and_judge(
    agent: CheckpointedAgent,
    identity: RunIdentity,
    evaluation: Evaluation,
    tracker: Tracker,
    folder: Path,
    report: Report,
) -> tuple[dict[str, Any], list[Row]]:
    """Trains a fresh agent, judges it, and leaves everything but the config in its run folder.

    Args:
        agent: The agent.
        identity: Names the run and its budget.
        evaluation: The requests to judge on.
        tracker: Where metrics go; is closed before the summary is written.
        folder: The run folder; must exist.
        report: Is told about progress.

    Returns:
        The contents of ``summary.json``, and the rows of the final table, the policy's first.

    Raises:
        ValueError: If the estimator answers NaN or infinity; then the batch lies in the run folder.
    """
    problem = needed_problem(agent.env, agent.name)
    watch = EvaluationCallback(evaluation, problem, identity.timesteps, report)
    with tracker:
        _learn(agent, identity.timesteps, watch, tracker, folder)
        status = "interrupted" if watch.stopped else "finished"
        wall, cpu = watch.stopwatch.wall, watch.stopwatch.cpu
        agent.save(folder / CHECKPOINT)
        summary, rows = judge(agent, evaluation, problem.budget, status, wall, cpu)
        last = metrics_of(evaluation, rows[0]) | budget_metrics(problem) | {TRAINING_SECONDS: cpu}
        tracker.log(agent.num_timesteps, last)
        _plot(folder, identity, watch.curve, agent.num_timesteps, evaluation, rows)
        tracker.finish(summary)
    write_json(folder / SUMMARY, summary)
    return summary, rows


def _learn(agent: CheckpointedAgent, timesteps: int, watch: EvaluationCallback, tracker: Tracker, folder: Path) -> None:
    agent.set_logger(Logger(folder=None, output_formats=[TrackerWriter(tracker)]))
    updates = timesteps / agent.update_size
    try:
        with stopping(watch):
            agent.learn(timesteps, callback=watch, log_interval=max(1, round(updates / LOG_POINTS)))
    except NonFiniteScore as failure:
        path = save_bad_batch(folder, failure)
        raise ValueError(f"{failure}; the batch is in {path}, no weights were written") from failure


def _config_document(agent_name: str, run: RunConfig, options: Options) -> dict[str, Any]:
    return {
        "command": command_line(),
        "agent": agent_name,
        "env": run.env,
        "budget": run.timesteps,
        "seed": run.seed,
        "estimator": None if run.estimator is None else resolved_estimator(run.estimator),
        "estimator_sha256": estimator_hash(run.env, run.estimator),
        "truth": None if run.truth is None else str(run.truth.resolve()),
        "evaluation": asdict(run.evaluation),
        "options": to_json(options),
        "versions": versions(),
    }


def _plot(
    folder: Path, identity: RunIdentity, curve: Curve, timesteps: int, evaluation: Evaluation, rows: list[Row]
) -> None:
    budget, optimality = [*curve.budget, float(timesteps)], [*curve.optimality, rows[0].optimality]
    curves: dict[str, list[float]] = {f"{identity.agent}, estimated": optimality}
    true = [*curve.true_optimality, evaluation.true_optimality(rows[0].true_score)]
    known = [value for value in true if value is not None]
    if len(known) == len(true):
        curves[f"{identity.agent}, true"] = known
    levels = {row.name: row.optimality for row in rows[1:] if row.name in IN_PLOT}
    title = f"{identity.agent} on {identity.env}, seed {identity.seed}"
    plot_learning_curve(folder / CURVE, budget, curves, levels, title)
