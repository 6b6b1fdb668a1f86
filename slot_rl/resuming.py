"""Going on with a training that was killed or stopped, from its newest checkpoint, to the same end bit for bit."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from slot_rl import __version__
from slot_rl.agents import AGENTS, Agent, load_agent, make_agent
from slot_rl.agents.base import options_from_json
from slot_rl.checkpoints import WEIGHTS, CheckpointConfig, newest_checkpoint
from slot_rl.console import console, say
from slot_rl.documents import as_declared
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.io import CONFIG, SUMMARY, as_written, read_config, read_json, write_json
from slot_rl.places import claimed, unmoved
from slot_rl.problems import Problem
from slot_rl.reevaluation import MovedSources
from slot_rl.run_training import OnBadScore, Training, report_run, train_with_progress
from slot_rl.tracking import TENSORBOARD, RunIdentity, Tracker, WandbMode, wandb_mode
from slot_rl.wandb_labels import RUN_LABELS, WandbFlags, labels_of_run


@dataclass(frozen=True)
class ResumeConfig(MovedSources):
    """Goes on with a training that was killed or stopped, from its newest checkpoint, to the same end.

    Attributes:
        resume: The run's folder.
        wandb: Weights & Biases mode; WANDB_MODE if left out, offline without it.
        saving: How often checkpoints are written.
        labels: What changes of the run on Weights & Biases; variables change nothing that it began with.
    """

    resume: Path
    wandb: WandbMode | None = None
    saving: CheckpointConfig = field(default_factory=CheckpointConfig)
    labels: WandbFlags = field(default_factory=WandbFlags)


class RunBegun(TypedDict):
    """What a run's config says of its training."""

    env: str
    agent: str
    options: dict[str, Any]
    evaluation: EvaluationConfig
    seed: int
    budget: int
    began: str
    on_bad_score: OnBadScore


def resume_run(config: ResumeConfig, problem: Problem | None = None) -> tuple[Path, Agent, dict[str, Any]]:
    """Goes on with a training; one without a checkpoint begins again.

    Args:
        config: Which one.
        problem: What it was trained on, if it was built in Python.

    Returns:
        As :func:`slot_rl.training.train_run`.

    Raises:
        ValueError: If the folder is no run, the run has finished, or what it was trained on is another one.
    """
    folder, mode = config.resume, wandb_mode(config.wandb)
    document = read_config(folder)
    with claimed(folder, WEIGHTS), unmoved(folder):
        if (folder / SUMMARY).is_file() and read_json(folder / SUMMARY).get("status") == "finished":
            raise ValueError(f"expected a run that has not finished, got {folder}, which has")
        training = _training(config, document, problem or config.problem_of(document), mode)
        summary, rows = train_with_progress(training)
    report_run(training, summary, rows)
    return folder, training.agent, summary


def _training(config: ResumeConfig, document: dict[str, Any], problem: Problem, mode: WandbMode) -> Training:
    folder = config.resume
    known = as_declared(RunBegun, document, f"{CONFIG} in {folder}")
    with as_written(f"{CONFIG} in {folder}"):
        options = options_from_json(known["options"], AGENTS[known["agent"]].options)
    seed = known["seed"]
    identity = RunIdentity(known["env"], known["agent"], seed, known["budget"], known["began"], __version__)
    start = newest_checkpoint(folder, say)
    say("no checkpoint is there: the training begins again" if start is None else f"goes on from {start.folder}")
    agent = make_agent(identity.agent, problem, options, seed) if start is None else load_agent(start.folder, problem)
    with console.status("measuring the competitors"):
        evaluation = Evaluation(problem, known["evaluation"])
    began = labels_of_run(document, str(folder)) if RUN_LABELS in document else identity.labels
    labels = config.labels.over(began)
    if labels != began:
        document = {**document, RUN_LABELS: asdict(labels)}
        write_json(folder / CONFIG, document)
    lines = 0 if start is None else start.training["metrics_lines"]
    tracker = Tracker(folder, labels, document, mode, (folder / TENSORBOARD).is_dir(), lines)
    return Training(agent, identity, evaluation, tracker, folder, config.saving, known["on_bad_score"], start)
