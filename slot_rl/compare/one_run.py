"""One run of a comparison in the folder that it fills: it goes on from its newest checkpoint, if there is one."""

import shutil
import traceback
from dataclasses import asdict, replace
from pathlib import Path

from slot_rl import __version__
from slot_rl.agents import AGENTS, Agent, load_agent, make_agent
from slot_rl.agents.base import options_from_json
from slot_rl.agents.searches import SearchOptions
from slot_rl.checkpoints import Checkpoint, newest_checkpoint, remove_checkpoints
from slot_rl.compare.study import FAILURE, Run, ServingCalls
from slot_rl.compare.task import evaluation_on
from slot_rl.console import say
from slot_rl.io import CONFIG, write_json
from slot_rl.provenance import versions
from slot_rl.run_training import Training
from slot_rl.serving_curves import Way, large_batch, policy_ways, search_way, serving_curve, serving_times
from slot_rl.tracking import RunIdentity, Tracker
from slot_rl.wandb_labels import RUN_LABELS
from slot_rl.watching import Report, RunProgress

SERVING_FILE, TIMES_FILE = "serving.json", "serving_times.json"
"""Optimality by calls, the same bit for bit in every repetition; and what the answers took."""
SERVED_BY = ("starts", "search")
"""The ways of answering that are shown: of a policy, and a search from random starts. An agent's first one counts."""


class Interrupted(Exception):
    """A run was asked to stop; it leaves its checkpoints alone."""


def complete(run: Run, out: Path, report: Report) -> None:
    """Does a run and gives its folder the run's name; a failure is kept there, in words.

    Args:
        run: The run.
        out: The comparison's folder.
        report: Is told about progress.

    Raises:
        Interrupted: If the run was asked to stop.
    """
    folder = run.partial_folder(out)
    start = newest_checkpoint(folder, say)
    if start is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        _perform(run, folder, report, start)
    except (KeyboardInterrupt, Interrupted):
        if newest_checkpoint(folder, say) is None:
            shutil.rmtree(folder)
        raise
    # A comparison goes on without a run that failed, and names it: whatever the reason, it is part of the result.
    except Exception as error:
        write_failure(folder, f"{type(error).__name__}: {error}", traceback.format_exc())
    remove_checkpoints(folder)
    settle(folder, run.folder(out))


def settle(partial: Path, folder: Path) -> None:
    """Gives a folder its name, in place of an earlier one."""
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def write_failure(folder: Path, error: str, trace: str = "") -> None:
    """Writes into a run's folder why it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILURE, {"error": " ".join(error.split()), "traceback": trace})


def _perform(run: Run, folder: Path, report: Report, start: Checkpoint | None) -> None:
    report(RunProgress(0, "preparing"))
    task = run.task
    identity = RunIdentity(task.env, run.agent, run.seed, run.timesteps, run.digest, __version__, task.label)
    # One name for all runs would tell none from another.
    said = replace(run.tracking.labels, wandb_name=None, wandb_group=run.tracking.groups.get(task.label))
    labels = said.over(identity.labels)
    known = {"options": run.options, **task.places(), "versions": versions(), RUN_LABELS: asdict(labels)}
    config = {**run.document, **known, "git": run.tracking.git}
    write_json(folder / CONFIG, config)
    evaluation = evaluation_on(task, run.evaluation)
    options = options_from_json(run.options, AGENTS[run.kind].options)
    problem = evaluation.problem.with_fresh_budget()
    agent = make_agent(run.kind, problem, options, run.seed) if start is None else load_agent(start.folder, problem)
    lines = 0 if start is None else start.training["metrics_lines"]
    home = folder.with_name(run.name)
    tracker = Tracker(folder, labels, config, run.tracking.wandb, run.tracking.tensorboard, lines, home)
    training = Training(agent, identity, evaluation, tracker, folder, run.tracking.saving, start=start)
    summary, _ = training.train_and_judge(report)
    if summary["status"] != "finished":
        raise Interrupted(run.name)
    report(RunProgress(run.timesteps, "serving"))
    ways = _ways(agent, run.seed, run.serving)
    write_json(folder / SERVING_FILE, {name: serving_curve(way, evaluation) for name, way in ways.items()})
    timed = {name: ways[name] for name in SERVED_BY if name in ways}
    cost, taken = serving_times(timed, evaluation.problem, large_batch(evaluation))
    write_json(folder / TIMES_FILE, {"call": cost._asdict(), "ways": taken})


def _ways(agent: Agent, seed: int, calls: ServingCalls) -> dict[str, Way]:
    """Returns the ways of answering of agents that can use more calls or fewer."""
    if agent.policy is not None:
        return policy_ways(agent, seed, calls.policies)
    if isinstance(agent.options, SearchOptions):
        return {"search": search_way(agent.name, seed, calls.searches, agent.options)}
    return {}
