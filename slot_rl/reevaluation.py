"""Evaluating a run again, from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from slot_rl.checkpoints import agent_of_run, newest_checkpoint
from slot_rl.console import console, say
from slot_rl.documents import as_declared
from slot_rl.estimators.pessimism import MemberObjective, Pessimism
from slot_rl.evaluation import Evaluation, EvaluationConfig, judge
from slot_rl.io import SERVING, SUMMARY, read_config, read_json
from slot_rl.problems import Budget, Problem, Unmeasured, make_problem
from slot_rl.problems.constraints.written import moved_entries
from slot_rl.problems.named import estimator_hash, own_reference
from slot_rl.serving_curves import report_serving
from slot_rl.summary_tables import print_contexts, print_judgement


@dataclass(frozen=True, kw_only=True)
class MovedSources:
    """Where that is now which a run was trained on.

    Attributes:
        estimator: Folder or path.py:function of the estimator, if it has moved since the training; it must be the same.
        trust: Execute the Python file that the run's estimator or problem is, with all your rights.
        truth: Table with the true scores, if it has moved or the training had none.
        problem: path.py:function of your own problem, if it has moved; it must be the same.
        feasible: Table of the allowed answers, or path.py:function, if it has moved; it must be the same.
    """

    estimator: str | None = None
    trust: bool = False
    truth: Path | None = None
    problem: str | None = None
    feasible: str | None = None

    def problem_of(self, config: Mapping[str, Any], unmeasured: Unmeasured | None = None) -> Problem:
        """Builds the problem that a run was trained on; arguments and errors as for :func:`problem_of_run`."""
        return problem_of_run(
            config, self.estimator, self.truth, self.trust, self.problem, unmeasured, feasible=self.feasible
        )


@dataclass(frozen=True)
class ReevaluationConfig(MovedSources):
    """Loads a run's checkpoint and judges it on its evaluation requests.

    Attributes:
        run: The run's folder.
        unmeasured: What an answer counts as that the truth has not measured: nothing, or its context's minimum; as in
            the training if left out.
        fallback: Take the newest whole checkpoint where the last one is missing or damaged.
        serving: Also print and draw how answers improve with more estimator calls and what they take, beside searches,
            and at which cost of a call the policy is cheaper.
    """

    run: Path
    unmeasured: Unmeasured | None = None
    serving: bool = False
    fallback: bool = False


class RunSources(TypedDict):
    """What a run's config says of its problem; what earlier versions did not say is not required."""

    env: str
    estimator: str | None
    estimator_sha256: str | None
    truth: str | None
    problem: NotRequired[str | None]
    problem_sha256: NotRequired[str | None]
    unmeasured: NotRequired[Unmeasured]
    constraints: NotRequired[list[dict[str, Any]]]
    own_constraints: NotRequired[bool]
    pessimism: NotRequired[MemberObjective]
    beta: NotRequired[float]


class RunEnd(TypedDict):
    """What every ``summary.json`` says of the training."""

    status: str
    estimator_forwards: int
    estimator_backwards: int
    wall_seconds: float
    cpu_seconds: NotRequired[float | None]


def reevaluate(config: ReevaluationConfig) -> dict[str, Any]:
    """Judges a run's checkpoint and prints the tables that its training printed.

    Returns:
        The summary.

    Raises:
        ValueError: If the folder is no run, its files were altered, or the estimator is another one.
    """
    document = read_config(config.run)
    problem = config.problem_of(document, config.unmeasured)
    requests = as_declared(EvaluationConfig, document.get("evaluation"), f"evaluation of the config in {config.run}")
    agent = agent_of_run(config.run, problem, config.fallback)
    if config.serving and agent.policy is None:
        raise ValueError(f"expected an agent with a policy for --serving, got {agent.name!r}")
    with console.status("measuring the competitors"):
        evaluation = Evaluation(problem, requests)
    training = summary_of_run(config.run, config.fallback)
    budget = Budget(training["estimator_forwards"], training["estimator_backwards"])
    # Runs of earlier versions did not keep the processor's seconds.
    seconds = training["wall_seconds"], training.get("cpu_seconds")
    summary, rows = judge(agent, evaluation, budget, training["status"], *seconds)
    print_judgement(summary, rows)
    print_contexts(evaluation, agent.choose)
    if config.serving:
        picture = config.run / SERVING
        report_serving(agent, evaluation, requests.eval_seed, f"{agent.name} on {problem.name}", picture)
        say(f"picture: {picture}")
    return summary


def problem_of_run(
    config: Mapping[str, Any],
    estimator: str | None = None,
    truth: Path | None = None,
    trust: bool = False,
    problem: str | None = None,
    unmeasured: Unmeasured | None = None,
    feasible: str | None = None,
) -> Problem:
    """Builds the problem that a run was trained on.

    Args:
        config: The run's config.
        estimator: Folder or path.py:function of the estimator, if it has moved.
        truth: Table with the true scores, if it has moved.
        trust: Whether a path.py may be executed.
        problem: path.py:function of the user's own problem, if it has moved.
        unmeasured: What unmeasured answers count as; the run's own if None.
        feasible: Table or path.py:function of the allowed answers, if it has moved.

    Raises:
        ValueError: If the document lacks something, the estimator or the own problem is another one than the run's, or
            unmeasured answers shall count as the worst without a truth.
    """
    document = as_declared(RunSources, config, "the config of a run")
    env_id, estimator, problem = document["env"], estimator or document["estimator"], problem or document.get("problem")
    _refuse_another("the estimator", estimator_hash(env_id, estimator), document["estimator_sha256"], estimator)
    if problem is not None:
        _refuse_another("the problem", own_reference(problem).sha256(), document.get("problem_sha256"), problem)
    truth = truth or (None if document["truth"] is None else Path(document["truth"]))
    if unmeasured is None:
        # Runs of earlier versions counted them as the worst.
        unmeasured = "omit" if truth is None else document.get("unmeasured", "worst")
    return make_problem(
        env_id,
        estimator,
        truth,
        trust=trust,
        problem=problem,
        unmeasured=unmeasured,
        constraints=moved_entries(document.get("constraints", ()), feasible),
        own_constraints=document.get("own_constraints", True),
        # Runs of earlier versions knew the mean alone.
        pessimism=document.get("pessimism", Pessimism.pessimism),
        beta=document.get("beta", Pessimism.beta),
    )


def _refuse_another(what: str, found: str | None, expected: object, source: str | None) -> None:
    if found is not None and found != expected:
        raise ValueError(
            f"expected {what} {str(expected)[:12]} that the run was trained with, "
            f"got {found[:12]} in {source or 'this version of slot_rl'}"
        )


def summary_of_run(run: Path, fallback: bool) -> RunEnd:
    """Returns how a run ended, or with ``fallback`` how far its newest checkpoint is."""
    path = run / SUMMARY
    if not path.is_file() and fallback and (found := newest_checkpoint(run, say)) is not None:
        calls, watch = found.training["budget"], found.training["watch"]
        known = {"estimator_forwards": calls.forwards, "estimator_backwards": calls.backwards, **watch}
        return as_declared(RunEnd, {**known, "status": "unfinished"}, str(found.folder))
    if not path.is_file():
        raise ValueError(f"expected a run that ended, with {SUMMARY}, got {run} without one")
    return as_declared(RunEnd, read_json(path), str(path))
