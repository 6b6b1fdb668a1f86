"""The verdict on a trained agent: its summary for other programs, its table for people."""

from typing import Any

from slot_rl.agents.checkpoint import CheckpointedAgent
from slot_rl.experiments.console import print_figures, print_table
from slot_rl.experiments.evaluation import Evaluation, Row
from slot_rl.problems import Budget


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
    agent: CheckpointedAgent, evaluation: Evaluation, budget: Budget, status: str, seconds: float
) -> tuple[dict[str, Any], list[Row]]:
    """Judges a trained agent.

    Args:
        agent: The agent.
        evaluation: The requests and their references.
        budget: What the training asked of the estimator.
        status: ``"finished"`` or ``"interrupted"``.
        seconds: Wall-clock seconds of the training.

    Returns:
        The contents of ``summary.json``, and the rows of the final table, the policy's first.
    """
    policy = evaluation.judge(agent.choose)
    rows = [policy, evaluation.judge_with_search(agent.choose), *evaluation.references]
    by_name = {row.name: row for row in rows}
    summary = {
        "agent": agent.name,
        "env": evaluation.problem.name,
        "seed": agent.seed,
        "timesteps": agent.num_timesteps,
        "estimator_forwards": budget.forwards,
        "estimator_backwards": budget.backwards,
        "wall_seconds": seconds,
        "score": policy.score,
        "random_score": evaluation.random_score,
        "best_score": float(evaluation.best.double().mean()),
        "best_is_exact": evaluation.best_is_exact,
        "optimality": policy.optimality,
        "hit_rate": policy.hit_rate,
        "true_score": policy.true_score,
        "true_optimality": evaluation.true_optimality(policy.true_score),
        "measured_share": evaluation.measured_share(agent.choose),
        "best_constant_optimality": by_name["best constant"].optimality,
        "policy_parameters": sum(p.numel() for p in agent.policy.network.parameters()),
        "device": str(agent.device),
        "status": status,
    }
    return summary, rows


def print_judgement(summary: dict[str, Any], rows: list[Row]) -> None:
    """Prints the policy beside its competitors, and the run's figures."""
    print_table(
        f"{summary['agent']} on {summary['env']}, seed {summary['seed']}",
        ["", "calls", "score", "optimality", "hit rate", "true"],
        [
            [
                row.name,
                "" if row.calls is None else str(row.calls),
                f"{row.score:.4f}",
                f"{row.optimality:.4f}",
                _figure(row.hit_rate),
                _figure(row.true_score),
            ]
            for row in rows
        ],
    )
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


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
