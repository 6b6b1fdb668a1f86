"""The verdict on a trained agent: its summary for other programs, its tables for people."""

from typing import Any

import torch

from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.agents.policy_agent import PolicyAgent
from slot_rl.console import print_figures, print_table
from slot_rl.evaluation import POLICY_WITH_SEARCH, Choose, Evaluation, Row
from slot_rl.problems import Budget

MOST_CONTEXTS = 24


def metrics_of(evaluation: Evaluation, row: Row) -> dict[str, float]:
    """Returns an evaluation's figures under their metric keys."""
    metrics: dict[str, float | None] = {
        "eval/score": row.score,
        "eval/optimality": row.optimality,
        "eval/hit_rate": row.hit_rate,
        "eval/true_score": row.true_score,
    }
    return {name: value for name, value in metrics.items() if value is not None}


def judge(
    agent: CheckpointedAgent,
    evaluation: Evaluation,
    budget: Budget,
    status: str,
    wall_seconds: float,
    cpu_seconds: float | None,
) -> tuple[dict[str, Any], list[Row]]:
    """Judges a trained agent.

    Args:
        agent: The agent.
        evaluation: The requests and their references.
        budget: What the training asked of the estimator.
        status: ``"finished"`` or ``"interrupted"``.
        wall_seconds: Seconds of the training on the clock, without its evaluations.
        cpu_seconds: The processor's seconds of the same; None where they are not known.

    Returns:
        The contents of ``summary.json``, and the rows of the final table, the policy's first.
    """
    rows = [*_rows_of(agent, evaluation), *evaluation.references]
    policy = rows[0]
    by_name = {row.name: row for row in rows}
    summary = {
        "agent": agent.name,
        "env": evaluation.problem.name,
        "seed": agent.seed,
        "timesteps": agent.num_timesteps,
        "estimator_forwards": budget.forwards,
        "estimator_backwards": budget.backwards,
        "wall_seconds": wall_seconds,
        "cpu_seconds": cpu_seconds,
        "score": policy.score,
        "random_score": evaluation.random_score,
        "best_score": float(evaluation.best.double().mean()),
        "best_is_exact": evaluation.best_is_exact,
        "optimality": policy.optimality,
        "hit_rate": policy.hit_rate,
        **_truth_summary(evaluation, policy),
        "best_constant_optimality": by_name["best constant"].optimality,
        "searched_optimality": None if POLICY_WITH_SEARCH not in by_name else by_name[POLICY_WITH_SEARCH].optimality,
        "calls_per_context": agent.calls_per_context,
        "backwards_per_context": agent.backwards_per_context,
        "policy_parameters": agent.policy_parameters,
        "device": str(agent.device),
        "status": status,
    }
    return summary, rows


def _rows_of(agent: CheckpointedAgent, evaluation: Evaluation) -> list[Row]:
    if isinstance(agent, PolicyAgent):
        return [evaluation.judge(agent.choose), evaluation.judge_with_search(agent.choose)]
    name = f"agent: {agent.name}"
    return [evaluation.judge(agent.choose, name, agent.calls_per_context, agent.backwards_per_context)]


def _truth_summary(evaluation: Evaluation, policy: Row) -> dict[str, float | None]:
    return {
        "true_score": policy.true_score,
        "true_optimality": evaluation.true_optimality(policy.true_score),
        "true_normalised": policy.true_normalised,
        "true_worst": policy.true_worst,
        "gap": policy.gap,
        "measured_share": policy.measured_share,
    }


def print_judgement(summary: dict[str, Any], rows: list[Row]) -> None:
    """Prints the policy beside its competitors, and the run's figures."""
    print_table(
        f"{summary['agent']} on {summary['env']}, seed {summary['seed']}",
        ["", "calls", "backwards", "score", "optimality", "hit rate"],
        [
            [
                row.name,
                _count(row.calls),
                _count(row.backwards),
                f"{row.score:.4f}",
                f"{row.optimality:.4f}",
                _figure(row.hit_rate),
            ]
            for row in rows
        ],
    )
    _print_against_truth(rows)
    _print_run(summary)


def _print_run(summary: dict[str, Any]) -> None:
    best = "best score" if summary["best_is_exact"] else "best known score"
    figures = {
        "score": _figure(summary["score"]),
        "random score": _figure(summary["random_score"]),
        best: _figure(summary["best_score"]),
        "optimality": _figure(summary["optimality"]),
        "hit rate": _figure(summary["hit_rate"]),
        "true score": _figure(summary["true_score"]),
        "true optimality": _figure(summary["true_optimality"]),
        "estimator forwards": f"{summary['estimator_forwards']:,}",
        "estimator backwards": f"{summary['estimator_backwards']:,}",
        "seconds": f"{summary['wall_seconds']:.1f}",
        "status": summary["status"],
    }
    if summary["measured_share"] is not None:
        figures["share of answers measured"] = _figure(summary["measured_share"])
    print_figures("run", figures)


def print_contexts(evaluation: Evaluation, choose: Choose) -> None:
    """Prints an agent's answers context by context, the worst by the ground truth first.

    Nothing is printed without a ground truth, or where each request is new and has no name.

    Args:
        evaluation: The requests.
        choose: The agent's answers.
    """
    named = evaluation.problem.request_names(evaluation.observation)
    if evaluation.true_bests is None or named is None:
        return
    scores = evaluation.scores(choose(evaluation.observation))
    assert scores.true is not None
    names = named.names
    worth = scores.true if scores.normalised is None else scores.normalised
    worst = torch.argsort(worth, stable=True)[:MOST_CONTEXTS].tolist()
    columns = {"estimated": scores.estimated, "true": scores.true, "best true": evaluation.true_bests}
    if scores.normalised is not None:
        columns["normalised"] = scores.normalised
    print_table(
        f"the worst {len(worst)} of {len(names)} contexts" if len(worst) < len(names) else "contexts, the worst first",
        [named.title, *columns],
        [[names[row], *(_figure(float(column[row])) for column in columns.values())] for row in worst],
    )


def _print_against_truth(rows: list[Row]) -> None:
    columns = {
        "true": [row.true_score for row in rows],
        "normalised": [row.true_normalised for row in rows],
        "worst": [row.true_worst for row in rows],
        "gap": [row.gap for row in rows],
        "measured": [row.measured_share for row in rows],
    }
    known = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    if known:
        figures = [[_figure(values[i]) for values in known.values()] for i in range(len(rows))]
        lines = [[row.name, *shown] for row, shown in zip(rows, figures, strict=True)]
        print_table("against the truth", ["", *known], lines)


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
