"""One run of a comparison, from start to its folder: whoever launches it, wherever.

The folder gets its name only once the run has ended, so that whatever is killed leaves nothing that looks like a run.
"""

import shutil
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slot_rl import __version__
from slot_rl.agents import AGENTS, Agent, make_agent
from slot_rl.agents.base import options_from_json
from slot_rl.agents.searches import SearchOptions
from slot_rl.compare.plan import FAILURE, PARTIAL, RUNS, Run
from slot_rl.compare.tasks import evaluation_on
from slot_rl.evaluation import Evaluation
from slot_rl.io import CONFIG, write_json
from slot_rl.provenance import versions
from slot_rl.serving_curves import policy_curves, search_curve
from slot_rl.tracking import RunIdentity, Tracker
from slot_rl.training import Report, RunProgress, train_and_judge

SERVING_FILE = "serving.json"
SERVED = (2, 4, 8, 16, 31)
SEARCHED = (1, 2, 4, 8, 16, 31, 64, 128)


class Interrupted(Exception):
    """A run was asked to stop; it leaves nothing."""


def complete(run: Run, out: Path, report: Report) -> None:
    """Does a run and gives its folder the run's name; a failure is kept there, in words.

    Args:
        run: The run.
        out: The comparison's folder.
        report: Is told about progress.

    Raises:
        Interrupted: If the run was asked to stop.
    """
    partial = run.partial_folder(out)
    partial.mkdir(parents=True)
    try:
        _perform(run, partial, report)
    except (KeyboardInterrupt, Interrupted):
        shutil.rmtree(partial)
        raise
    # A comparison goes on without a run that failed, and names it: whatever the reason, it is part of the result.
    except Exception as error:
        write_failure(partial, f"{type(error).__name__}: {error}", traceback.format_exc())
    settle(partial, run.folder(out))


def settle(partial: Path, folder: Path) -> None:
    """Gives a folder its name, in place of an earlier one."""
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def write_failure(folder: Path, error: str, trace: str = "") -> None:
    """Says in a run's folder why it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILURE, {"error": " ".join(error.split()), "traceback": trace})


def clear_partial(out: Path) -> None:
    """Removes what runs left that were killed."""
    for partial in (out / RUNS).glob(f".*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def _perform(run: Run, folder: Path, report: Report) -> None:
    report(RunProgress(0, "preparing"))
    config = _config_document(run)
    write_json(folder / CONFIG, config)
    evaluation = evaluation_on(run.task, run.evaluation)
    options = options_from_json(run.options, AGENTS[run.agent].options)
    agent = make_agent(run.agent, evaluation.problem.with_fresh_budget(), options, run.seed)
    identity = RunIdentity(
        run.task.env, run.agent, run.seed, run.timesteps, run.name.rpartition("__")[2], __version__, run.task.label
    )
    tracker = Tracker(folder, identity, config, run.tracking.wandb, run.tracking.tensorboard)
    summary, _ = train_and_judge(agent, identity, evaluation, tracker, folder, report)
    if summary["status"] != "finished":
        raise Interrupted(run.name)
    report(RunProgress(run.timesteps, "serving"))
    write_json(folder / SERVING_FILE, _serving(agent, evaluation, run.seed))


def _config_document(run: Run) -> dict[str, Any]:
    task = run.task
    return {
        **run.document,
        "task": task.label,
        "estimator": task.estimator,
        "truth": None if task.truth is None else str(task.truth),
        "evaluation": asdict(run.evaluation),
        "versions": versions(),
    }


def _serving(agent: Agent, evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """Returns optimality over calls for each request, for agents that can use more calls or fewer."""
    if agent.policy is not None:
        return dict(policy_curves(agent, evaluation, seed, SERVED))
    if isinstance(agent.options, SearchOptions):
        return {"search": search_curve(agent.name, evaluation, seed, SEARCHED, agent.options)}
    return {}
