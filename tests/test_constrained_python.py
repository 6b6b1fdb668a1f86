"""Constraints from Python: ``slot_rl.train`` and ``load``, a moved table, and what a comparison depends on."""

from pathlib import Path
from typing import Any

import pytest

import slot_rl
from slot_rl.compare.task import evaluation_on, make_task, parse_task
from slot_rl.evaluation import EvaluationConfig
from slot_rl.networks import PointerSize
from slot_rl.problems import make_problem
from slot_rl.problems.constraints import ConstraintFlags, Distinct
from slot_rl.reevaluation import problem_of_run

SHORT: dict[str, Any] = {
    "timesteps": 300,
    "wandb": "disabled",
    "evaluation": EvaluationConfig(eval_size=8),
    "batch_size": 64,
}
SMALL = PointerSize(width=16, hidden=32, rounds=1)


def test_flags_in_python_are_kept_by_the_run(tmp_path: Path) -> None:
    run = slot_rl.train(
        "SlotRL/Slots-v0", constraints=ConstraintFlags(distinct=True), out=tmp_path / "run", policy=SMALL, **SHORT
    )
    assert str(run.problem.constraints) == str(slot_rl.load(run.folder).problem.constraints) == "Distinct()"


def test_a_built_problem_takes_no_flags(tmp_path: Path) -> None:
    problem = make_problem("SlotRL/Slots-v0")
    with pytest.raises(ValueError, match="expected no constraints with a built problem"):
        slot_rl.train(problem, constraints=ConstraintFlags(distinct=True), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_table_can_have_moved_where_there_is_none() -> None:
    document = {"env": "SlotRL/PickValue-v0", "estimator": None, "estimator_sha256": None, "truth": None}
    with pytest.raises(ValueError, match="expected no --feasible for a run without a table of allowed answers"):
        problem_of_run(document, feasible="valid.csv")


def test_slate_has_constraints_of_its_own_that_can_be_left_out() -> None:
    assert str(make_problem("SlotRL/Slate-v0").constraints) == "Distinct(), AtMost(2, of='group')"
    assert make_problem("SlotRL/Slate-v0", own_constraints=False).constraints is None
    further = make_problem("SlotRL/Slate-v0", constraints=[Distinct([0, 1])], own_constraints=False)
    assert str(further.constraints) == "Distinct([0, 1])"


def test_what_a_run_depends_on_names_its_constraints(tmp_path: Path) -> None:
    written = tmp_path / "more.yaml"
    written.write_text("- distinct: true\n")
    texts = ["SlotRL/Slots-v0", f"SlotRL/Slots-v0,constraints={written}", "SlotRL/Slate-v0"]
    texts.append("SlotRL/Slate-v0,own_constraints=no")
    documents = [parse_task(text).document() for text in texts]
    assert all(one != other for i, one in enumerate(documents) for other in documents[:i])
    assert documents[1]["constraints"] == [{"distinct": True}]
    assert str(parse_task(texts[1]).make_problem().constraints) == "Distinct()"
    assert parse_task(texts[3]).make_problem().constraints is None


def test_references_are_measured_once_for_each_constraint() -> None:
    config = EvaluationConfig(eval_size=4)
    tasks = [make_task("SlotRL/Slots-v0", {}, constraints=entries) for entries in ([], [{"distinct": True}])]
    free, distinct, again = (evaluation_on(task, config) for task in (*tasks, tasks[1]))
    assert distinct is again and distinct.best_score < free.best_score


def test_a_task_says_yes_or_no_to_own_constraints() -> None:
    with pytest.raises(ValueError, match="expected own_constraints to be yes or no, got 'perhaps'"):
        make_task("SlotRL/Slate-v0", {"own_constraints": "perhaps"})
