"""The command: plan the runs, do those that are not done, and report on all of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from slot_rl.agents import AGENTS, make_agent
from slot_rl.agents.base import options_from_json, to_json
from slot_rl.compare.conclusions import conclude
from slot_rl.compare.differences import parse_claim
from slot_rl.compare.execution import LauncherName, do_runs, make_launcher, opened
from slot_rl.compare.plan import COMPARISON, Run, Tracking
from slot_rl.compare.presets import read_presets
from slot_rl.compare.report import print_claims, publish_report
from slot_rl.compare.results import read_results
from slot_rl.compare.statistics import FEWEST_SEEDS
from slot_rl.compare.tasks import Task, parse_tasks
from slot_rl.compare.wandb import sync_command
from slot_rl.console import say
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import write_json
from slot_rl.provenance import provenance
from slot_rl.tracking import PROJECT, WandbMode, check_tensorboard, run_group, wandb_mode

UNESTABLISHED = 1


@dataclass(frozen=True)
class CompareConfig:
    """Compares agents on tasks at equal budget; takes long, and goes on where it stopped.

    Attributes:
        agents: The agents by name; with ppo among them, the others are timed on its final score.
        env: Tasks, each ID[,estimator=FOLDER][,truth=FILE][,name=LABEL].
        out: Where everything goes; runs that are finished there are not repeated.
        timesteps: Configurations that the estimator scores in each training.
        seeds: Training seeds of each agent on each task; 10 or more for intervals that hold.
        first_seed: The first of them; none may be one that the presets were tuned on.
        floor: Optimality below which a run counts as a failure.
        presets: Folder of presets, a YAML file for each environment; those that come with slot_rl if left out.
        claims: Claims such as "gumbel>ppo" or "gumbel>ppo@Slots-v0"; the exit code is 1 unless all are established.
        workers: Runs at the same time.
        launcher: "local" for this machine, "ray" for a cluster (extra [ray]).
        retry_failed: Do runs again that failed in an earlier call.
        wandb: Weights & Biases mode; WANDB_MODE if left out, offline without it.
        tensorboard: Also write TensorBoard's files (extra [tensorboard]).
        trust: Execute the Python files that tasks name as estimators, with all your rights.
        evaluation: The requests to judge on.
    """

    agents: tuple[str, ...]
    env: tuple[str, ...]
    out: Path
    timesteps: int = 200_000
    seeds: int = 10
    first_seed: int = 100
    floor: float = 0.8
    presets: Path | None = None
    claims: Annotated[tuple[str, ...], tyro.conf.arg(name="assert")] = ()
    workers: int = 2
    launcher: LauncherName = "local"
    retry_failed: bool = False
    wandb: WandbMode | None = None
    tensorboard: bool = False
    trust: bool = False
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Refuses too little to conclude anything from, and names that nothing has."""
        if self.seeds < FEWEST_SEEDS:
            raise ValueError(f"expected --seeds of at least {FEWEST_SEEDS} to conclude anything, got {self.seeds}")
        if self.timesteps < 1 or self.first_seed < 0:
            raise ValueError(f"expected timesteps >= 1 and first-seed >= 0, got {self.timesteps} and {self.first_seed}")
        unknown = [name for name in self.agents if name not in AGENTS]
        if unknown or len(set(self.agents)) < max(2, len(self.agents)):
            raise ValueError(
                f"expected --agents to name two or more of {', '.join(sorted(AGENTS))}, each once, "
                f"got {', '.join(self.agents)}"
            )

    @property
    def training_seeds(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def tasks(self) -> list[Task]:
        """Returns the tasks."""
        return parse_tasks(self.env, self.trust)


def compare(config: CompareConfig) -> int:
    """Does what is not done yet, reports on everything, and checks the claims.

    Returns:
        The exit code: 0, or 1 if a claim is not established.

    Raises:
        ValueError: If the input is bad; then nothing was run.
    """
    mode = wandb_mode(config.wandb)
    if config.tensorboard:
        check_tensorboard()
    tasks = config.tasks()
    claims = [parse_claim(text, config.agents, [task.label for task in tasks]) for text in config.claims]
    launcher = make_launcher(config.launcher, config.workers)
    runs = plan(config, tasks, Tracking(mode, config.tensorboard))
    with opened(config.out):
        document = _document(config, tasks)
        write_json(config.out / COMPARISON, document)
        do_runs(runs, config.out, launcher, config.retry_failed)
        found = conclude(read_results(runs, config.out), config.floor)
        publish_report(config.out, found, document, mode)
    sync = sync_command(config.out)
    if sync is not None:
        say(f"to send it to Weights & Biases: {sync}")
    return 0 if print_claims(claims, found) else UNESTABLISHED


def plan(config: CompareConfig, tasks: list[Task], tracking: Tracking) -> list[Run]:
    """Returns every run, task by task and seed by seed.

    Raises:
        ValueError: If an agent does not fit a task, or a seed is one that presets were tuned on.
    """
    runs = []
    for task in tasks:
        presets = read_presets(task.env, config.presets)
        tuned_on = sorted(set(config.training_seeds) & set(presets.tuning.seeds if presets.tuning else ()))
        if tuned_on:
            raise ValueError(
                f"expected seeds that the presets of {task.env} were not tuned on, got {tuned_on}; see --first-seed"
            )
        options = {agent: to_json(presets.options(agent)) for agent in config.agents}
        _refuse_misfits(task, options, config.timesteps)
        runs += [
            Run(task, agent, options[agent], seed, config.timesteps, config.evaluation, tracking)
            for seed in config.training_seeds
            for agent in config.agents
        ]
    return runs


def _document(config: CompareConfig, tasks: list[Task]) -> dict[str, Any]:
    return {
        **provenance(config),
        "tasks": [
            {
                "label": task.label,
                "env": task.env,
                "timesteps": config.timesteps,
                "group": run_group(task.label, config.timesteps),
            }
            for task in tasks
        ],
        "agents": list(config.agents),
        "seeds": list(config.training_seeds),
        "wandb_project": PROJECT,
    }


def _refuse_misfits(task: Task, options: dict[str, dict[str, Any]], timesteps: int) -> None:
    """Builds every agent once, so that what cannot be is said now and not after an hour."""
    problem = task.problem()
    for name, each in options.items():
        make_agent(name, problem, options_from_json(each, AGENTS[name].options)).check_timesteps(timesteps)
