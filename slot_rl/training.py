"""The command that trains one agent: what is asked for, what is built and in which order."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slot_rl import __version__
from slot_rl.agents import Agent, Options, make_agent
from slot_rl.agents.base import to_json
from slot_rl.checkpoints import WEIGHTS, CheckpointConfig
from slot_rl.console import console, say
from slot_rl.estimators.pessimism import Pessimism
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.io import CONFIG, write_json
from slot_rl.places import check_free, claimed, fresh_folder
from slot_rl.problems import Problem, Unmeasured, make_problem
from slot_rl.problems.constraints.written import ConstraintFlags
from slot_rl.problems.named import own_env, sources
from slot_rl.provenance import command_line, git_state, versions
from slot_rl.run_training import OnBadScore, Training, report_run, train_with_progress
from slot_rl.seeding import as_seed
from slot_rl.tracking import RunIdentity, Tracker, WandbMode, check_tensorboard, wandb_mode
from slot_rl.wandb_labels import RUN_LABELS, WandbFlags, WandbLabels


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
        tensorboard: Also write TensorBoard's files (extra [tensorboard]).
        on_bad_score: Stop where the estimator raises an error or answers something of no use (NaN, infinity, too large,
            a wrong shape), or skip the batch; ten in a row stop.
        objective: What is maximised, where the estimator is an ensemble.
        constraints: What answers are allowed.
        saving: How often checkpoints are written.
        evaluation: The requests to judge on.
        labels: Where the run goes on Weights & Biases, and what it is found by.
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
    tensorboard: bool = False
    on_bad_score: OnBadScore = "stop"
    objective: Pessimism = field(default_factory=Pessimism)
    constraints: ConstraintFlags = field(default_factory=ConstraintFlags)
    saving: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    labels: WandbFlags = field(default_factory=WandbFlags)

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
    if run.tensorboard:
        check_tensorboard()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    identity = RunIdentity(run.env, agent_name, run.seed, run.timesteps, stamp, __version__)
    labels = run.labels.with_variables().over(identity.labels)
    folder = run.out or Path("runs", identity.name)
    with claimed(folder, WEIGHTS):
        check_free(folder, run.force, CONFIG, f"--force replaces it, --resume {folder} goes on with an unfinished run")
        problem = problem or run.make_problem()
        with console.status("measuring the competitors"):
            evaluation = Evaluation(problem, run.evaluation)
        if evaluation.remark is not None:
            say(evaluation.remark)
        agent = make_agent(agent_name, problem, options, run.seed)
        agent.check_timesteps(run.timesteps)
        config = _config_document(identity, labels, run, options)
        with fresh_folder(folder, WEIGHTS) as begun:
            write_json(folder / CONFIG, config)
            tracker = Tracker(folder, labels, config, mode, run.tensorboard)
            begun()
            training = Training(agent, identity, evaluation, tracker, folder, run.saving, run.on_bad_score)
            summary, rows = train_with_progress(training)
    report_run(training, summary, rows)
    return folder, agent, summary


def _config_document(identity: RunIdentity, labels: WandbLabels, run: RunConfig, options: Options) -> dict[str, Any]:
    return {
        "command": command_line(),
        "agent": identity.agent,
        "began": identity.suffix,
        RUN_LABELS: asdict(labels),
        "budget": run.timesteps,
        "seed": run.seed,
        **sources(run.env, run.estimator, run.truth, run.problem, run.constraints),
        "unmeasured": run.unmeasured,
        **asdict(run.objective),
        "evaluation": asdict(run.evaluation),
        "options": to_json(options),
        "on_bad_score": run.on_bad_score,
        "versions": versions(),
        "git": git_state(),
    }
