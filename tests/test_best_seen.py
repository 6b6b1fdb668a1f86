"""What was measured already competes: in the estimator's folder, in tables, as an agent, and in answers."""

import csv
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from slot_rl.agents import make_agent
from slot_rl.estimators import load_estimator
from slot_rl.estimators.fitting import TableFit, TableRows
from slot_rl.estimators.seen_rows import KEPT_ROWS, SeenRows, error_at_top
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.pretraining import PretrainConfig, pretrain
from slot_rl.problems import Observation, RowProblem, make_problem, named
from slot_rl.problems.constraints import NotTogether
from slot_rl.recommending import Recommender
from slot_rl.training import RunConfig, train_run
from tests.conftest import ROOT, Command
from tests.helpers.options import options_of
from tests.helpers.small import SMALL

FAST = TableFit(epochs=2, patience=2, batch_size=32, dim=4, hidden=(8,))
SOLVENTS, BASES = ("w", "x"), ("p", "q", "r")


def measured() -> dict[tuple[str, str, str], float]:
    """The best row of a is (x, r), that of b (w, q); nothing is known of base p in b."""
    scores = {("a", s, b): float(i + 2 * j) for i, s in enumerate(SOLVENTS) for j, b in enumerate(BASES)}
    return scores | {("b", "w", "q"): 9.0, ("b", "x", "r"): 1.0, ("b", "w", "r"): 4.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in random order, one row twice, and an estimator that was hardly fitted to it."""
    home = tmp_path_factory.mktemp("home")
    rows = [[*cells, score] for cells, score in measured().items()] * 4 + [["b", "w", "q", 11.0], ["b", "x", "q", 9.2]]
    random.Random(0).shuffle(rows)
    with (home / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["ligand", "solvent", "base", "y"], *rows])
    known = PretrainConfig(table=home / "table.csv", score="y", context=("ligand",), out=home / "estimator", fit=FAST)
    pretrain(known)
    config = RunConfig(
        env="SlotRL/Rows-v0",
        estimator=str(home / "estimator"),
        truth=home / "table.csv",
        timesteps=64,
        wandb="disabled",
        out=home / "run",
    )
    train_run("gumbel", config, options_of("gumbel", **SMALL["gumbel"]))
    return home


def problem(home: Path) -> RowProblem:
    built = make_problem("SlotRL/Rows-v0", home / "estimator", home / "table.csv")
    assert isinstance(built, RowProblem)
    return built


def test_repeated_rows_count_with_their_mean(home: Path) -> None:
    seen = load_estimator(home / "estimator").seen
    assert seen is not None and not seen.censored
    assert seen.counts.tolist() == [6, 4]
    # In b, (w, q) was measured as 9 four times and as 11 once: 9.4 is above (x, q) with 9.2.
    assert seen.score[1, :4].tolist() == pytest.approx([9.4, 9.2, 4.0, 1.0])
    assert seen.choice[:, :2].tolist() == [[[1, 2], [0, 2]], [[0, 1], [1, 1]]]


def test_at_most_sixteen_rows_of_a_context_are_kept() -> None:
    features = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    seen = SeenRows.of(features, None, torch.arange(36.0), None)
    assert seen.score.tolist() == [[float(35 - rank) for rank in range(KEPT_ROWS)]]
    assert torch.equal(seen.choice[0, 0], torch.tensor([5, 5]))


def test_rows_that_do_not_fit_the_problem_are_refused(home: Path) -> None:
    seen = load_estimator(home / "estimator").seen
    assert seen is not None
    with pytest.raises(ValueError, match=r"expected measured rows \(3, kept, 2\) with scores and counts"):
        seen.check(3, (2, 3))
    with pytest.raises(ValueError, match=r"expected measured rows of categories below \(2, 2\), got others"):
        seen.check(2, (2, 2))


def test_constraints_and_exclusions_leave_the_best_allowed_row(home: Path) -> None:
    rows = problem(home)
    both = Observation(context=torch.tensor([[0], [1], [1]]))
    free = rows.best_seen(both)
    assert free is not None and free.score.tolist() == pytest.approx([5.0, 9.4, 9.4])
    no_w_with_q = rows.with_constraints([NotTogether([(("solvent", "w"), ("base", "q"))])])
    ruled = no_w_with_q.best_seen(both)
    assert ruled is not None and ruled.choice.tolist() == [[1, 2], [1, 1], [1, 1]]
    mask = torch.ones(3, 2, 3, dtype=torch.bool)
    mask[2, 1, 1:] = False
    masked = rows.best_seen(Observation(context=both.context, mask=mask))
    assert masked is not None and masked.score[2] == -torch.inf
    assert masked.choice_or(torch.tensor([[0, 0]] * 3))[2].tolist() == [0, 0]


def test_every_table_of_a_run_has_the_best_seen_rows(home: Path) -> None:
    evaluation = Evaluation(problem(home), EvaluationConfig())
    rows = {row.name: row.figures for row in [*evaluation.references, *evaluation.judge_agent(agent(home))]}
    assert rows["best seen"]["true_optimality"] == pytest.approx(1.0)
    true = {name: rows[name]["true_score"] for name in ("policy, 31 calls", "policy, 31 calls, or best seen")}
    assert true["policy, 31 calls, or best seen"] == pytest.approx((5.0 + 9.4) / 2)
    assert true["policy, 31 calls"] is None or true["policy, 31 calls"] <= (5.0 + 9.4) / 2


def agent(home: Path) -> Any:
    return Recommender.load(home / "run").run.agent


def test_as_an_agent_it_looks_rows_up_without_a_call(home: Path) -> None:
    rows = problem(home)
    best = make_agent("best_seen", rows).learn(100)
    assert best.choose(Observation(context=torch.tensor([[1], [0]]))).tolist() == [[0, 1], [1, 2]]
    assert rows.budget.forwards == 0
    with pytest.raises(ValueError, match="expected an estimator that slot-rl pretrain --table fitted"):
        make_agent("best_seen", make_problem("SlotRL/PickValue-v0"))


@pytest.fixture
def recommend(script: Command, home: Path, tmp_path: Path) -> Command:
    """Asks for both contexts, with further flags."""
    (tmp_path / "asked.csv").write_text("ligand\nb\na\n")
    return partial(script, ROOT / "scripts" / "recommend.py", home / "run", "--requests", tmp_path / "asked.csv")


def answers(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_answer_says_that_it_is_a_measured_row(recommend: Command, tmp_path: Path) -> None:
    # The estimator is hardly fitted, so its estimates are near the mean and below the best measurements.
    assert recommend("--out", tmp_path / "o.csv")[0] == 0
    found = [(row["solvent"], row["base"], row["measured_score"]) for row in answers(tmp_path / "o.csv")]
    assert found == [("w", "q", "9.4"), ("x", "r", "5")]
    assert recommend("--out", tmp_path / "n.csv", "--no-best-seen")[0] == 0
    assert "measured_score" not in answers(tmp_path / "n.csv")[0]


def test_the_measured_row_leads_a_list_without_being_in_it_twice(recommend: Command, tmp_path: Path) -> None:
    assert recommend("--out", tmp_path / "o.csv", "--top", 3)[0] == 0
    rows = answers(tmp_path / "o.csv")
    assert [row["measured_score"] for row in rows] == ["9.4", "", "", "5", "", ""]
    assert len({(row["ligand"], row["solvent"], row["base"]) for row in rows}) == 6
    for part in (rows[1:3], rows[4:]):
        assert float(part[0]["estimated_score"]) >= float(part[1]["estimated_score"])


def test_the_error_of_promising_rows_by_hand() -> None:
    # Eighty rows in context 0, so its four highest estimates count; two rows in context 1, and both count.
    score = torch.arange(82.0)
    predicted = torch.zeros(82)
    errors = {7: 93.0, 12: 90.0, 50: 51.0, 79: 21.0, 80: 5.0, 81: -2.0}
    for row, error in errors.items():
        predicted[row] = row + error
    rows = TableRows(torch.zeros(82, 1, dtype=torch.long), torch.tensor([[0]] * 80 + [[1]] * 2), score)
    assert error_at_top(predicted, rows) == pytest.approx(fmean(error**2 for error in errors.values()) ** 0.5)
    assert error_at_top(score, rows) == 0


def test_the_error_is_kept_with_the_estimator(home: Path) -> None:
    seen = load_estimator(home / "estimator").seen
    # The estimator was hardly fitted, and the rows that it finds most promising score from 0 to 9.4.
    assert seen is not None and 0.1 < seen.error < 10


def test_an_answer_must_be_above_a_measured_row_by_the_error(
    recommend: Command, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load_estimator(home / "estimator")
    assert stored.seen is not None
    for error, is_measured in ((0.0, False), (200.0, True)):
        # The measured scores are 100 lower, and so below every estimate.
        lower = replace(stored.seen, score=stored.seen.score - 100, error=error)
        monkeypatch.setattr(named, "load_estimator", partial(lambda seen, folder: replace(stored, seen=seen), lower))
        assert recommend("--out", tmp_path / "o.csv", "--force")[0] == 0
        assert [bool(row["measured_score"]) for row in answers(tmp_path / "o.csv")] == [is_measured] * 2


def test_rows_of_a_censored_table_do_not_compete(
    recommend: Command, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load_estimator(home / "estimator")
    assert stored.seen is not None
    censored = replace(stored, seen=replace(stored.seen, censored=True))
    monkeypatch.setattr(named, "load_estimator", lambda folder: censored)
    assert recommend("--out", tmp_path / "o.csv")[0] == 0
    assert "measured_score" not in answers(tmp_path / "o.csv")[0]


def test_a_sample_is_a_draw_whatever_was_measured(recommend: Command, tmp_path: Path) -> None:
    assert recommend("--out", tmp_path / "o.csv", "--mode", "sample")[0] == 0
    assert {"propensity"} == {*answers(tmp_path / "o.csv")[0]} - {"ligand", "solvent", "base", "estimated_score"}
