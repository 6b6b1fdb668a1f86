"""Answers that the truth table has not measured, from the training to the last table: none gets a true score."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from slot_rl import run_training
from slot_rl.agents import GumbelAgent, load_agent
from slot_rl.agents.base import changed
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators.fitting import TableFit
from slot_rl.evaluation import Evaluation, Row
from slot_rl.io import read_config, read_json
from slot_rl.metrics_file import read_metrics
from slot_rl.networks import PointerSize
from slot_rl.pretraining import PretrainConfig, pretrain
from slot_rl.problems import RowProblem, make_problem
from slot_rl.reevaluation import ReevaluationConfig, problem_of_run, reevaluate
from slot_rl.tracking import RunIdentity
from slot_rl.training import RunConfig, train_run
from tests.conftest import ROOT, Command

FAST = TableFit(epochs=5, patience=5, batch_size=16, dim=2, hidden=(8,))
OPTIONS = changed(GumbelAgent.default_options, {"batch_size": 64, "policy": PointerSize(8, 16)})
CONTEXTS, ITEMS = ("cold", "warm", "hot"), ("p", "q", "r")
TRUE = ("true_score", "true_optimality", "true_normalised", "true_worst", "gap")
Cells = tuple[str, str, str]


def score(cells: Cells) -> float:
    """The truth: in each context, 0 to 8 times a factor, in an order of its own."""
    place = CONTEXTS.index(cells[0])
    return float((place + 1) * ((3 * ITEMS.index(cells[1]) + ITEMS.index(cells[2]) + 4 * place) % 9))


def write(path: Path, rows: list[Cells]) -> Path:
    lines = [f"{','.join(cells)},{score(cells)}" for cells in rows]
    path.write_text("\n".join(["heat,a,b,y", *lines]) + "\n", encoding="utf-8")
    return path


def quick(home: Path, name: str, **settings: Any) -> RunConfig:
    estimator = str(home / "estimator")
    return RunConfig("SlotRL/Rows-v0", estimator, timesteps=192, out=home / name, wandb="disabled", **settings)


def summary_of(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = read_json(run / "summary.json")
    return document


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an estimator, a run that knows no truth, and its answers' file, in the order of ``CONTEXTS``."""
    home = tmp_path_factory.mktemp("home")
    whole = write(home / "whole.csv", list(product(CONTEXTS, ITEMS, ITEMS)))
    pretrain(PretrainConfig(table=whole, score="y", context=("heat",), out=home / "estimator", fit=FAST))
    train_run("gumbel", quick(home, "run"), OPTIONS)
    (home / "asked.csv").write_text("\n".join(["heat", *CONTEXTS]) + "\n", encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def answers(home: Path) -> list[Cells]:
    problem = problem_of_run(read_config(home / "run"))
    agent = load_agent(home / "run" / "checkpoint", SlotVecEnv(problem, 2))
    observation = problem.evaluation_observations(3, torch.Generator())
    assert isinstance(problem, RowProblem) and problem.encoding is not None and observation.context is not None
    encoding = problem.encoding
    return [
        (encoding.contexts["heat"][row[0]], encoding.features["a"][choice[0]], encoding.features["b"][choice[1]])
        for row, choice in zip(observation.context.tolist(), agent.choose(observation).tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def partial_truth(home: Path, answers: list[Cells]) -> Path:
    """The whole truth without the answer to the first request."""
    return write(home / "partial.csv", [cells for cells in product(CONTEXTS, ITEMS, ITEMS) if cells != answers[0]])


@pytest.fixture(scope="module")
def strange_truth(home: Path, answers: list[Cells]) -> Path:
    """A truth that has measured none of the answers."""
    return write(home / "strange.csv", [cells for cells in product(CONTEXTS, ITEMS, ITEMS) if cells not in answers])


def test_a_runs_summary_is_over_the_measured_answers(home: Path, answers: list[Cells], partial_truth: Path) -> None:
    train_run("gumbel", quick(home, "partial", truth=partial_truth), OPTIONS)
    summary, config = summary_of(home / "partial"), read_config(home / "partial")
    known = answers[1:]
    true, best = [score(cells) for cells in known], [8.0 * (CONTEXTS.index(cells[0]) + 1) for cells in known]
    # Random choices of whole contexts have the mean of 0 to 8 times the factor, which is half the best.
    random = sum(best) / 4
    assert (summary["unmeasured"], config["unmeasured"]) == ("omit", "omit")
    assert summary["measured_share"] == pytest.approx(2 / 3)
    assert summary["true_score"] == pytest.approx(sum(true) / 2)
    assert summary["true_normalised"] == pytest.approx(sum(t / b for t, b in zip(true, best, strict=True)) / 2)
    assert summary["true_worst"] == pytest.approx(min(t / b for t, b in zip(true, best, strict=True)))
    assert summary["true_optimality"] == pytest.approx((sum(true) / 2 - random) / (sum(best) / 2 - random))
    last = read_metrics(home / "partial" / "metrics.jsonl")[-1]
    assert last["eval/measured_share"] == pytest.approx(2 / 3) and last["eval/true_score"] == summary["true_score"]


def test_without_a_measured_answer_files_hold_null(
    home: Path, strange_truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_run("gumbel", quick(home, "strange", truth=strange_truth), OPTIONS)
    shown = capsys.readouterr().out
    summary = summary_of(home / "strange")
    assert [summary[key] for key in TRUE] == [None] * 5 and summary["measured_share"] == 0
    assert "not measured" in shown and " nan " not in shown
    table = shown[shown.index("against the truth") : shown.index("run  ")]
    assert "…" not in table and max(map(len, table.splitlines())) <= 80
    metrics = (home / "strange" / "metrics.jsonl").read_text()
    assert "NaN" not in metrics + (home / "strange" / "summary.json").read_text()
    last = read_metrics(home / "strange" / "metrics.jsonl")[-1]
    assert last.keys() & {"eval/true_score", "eval/measured_share"} == {"eval/measured_share"}


def test_no_truth_changes_what_is_learned(home: Path, strange_truth: Path) -> None:
    for name, settings in {"knowing": {"unmeasured": "worst"}, "leaving out": {}}.items():
        train_run("gumbel", quick(home, name, truth=strange_truth, **settings), OPTIONS)
        for key in ("score", "optimality", "estimator_forwards"):
            assert summary_of(home / name)[key] == summary_of(home / "run")[key]


def test_a_run_at_worst_is_evaluated_at_worst(home: Path, strange_truth: Path, script: Command) -> None:
    train_run("gumbel", quick(home, "worst", truth=strange_truth, unmeasured="worst"), OPTIONS)
    summary, evaluate = summary_of(home / "worst"), ROOT / "scripts" / "evaluate_agent.py"
    assert (summary["unmeasured"], summary["measured_share"], summary["true_normalised"]) == ("worst", 0, 0)
    assert reevaluate(ReevaluationConfig(home / "worst"))["true_score"] == summary["true_score"]
    shown = script(evaluate, home / "worst")[1]
    assert "against the truth, unmeasured = worst" in shown and " true, unmeasured = worst " in shown
    code, shown, _ = script(evaluate, home / "worst", "--unmeasured", "omit")
    assert code == 0 and "unmeasured = worst" not in shown and "not measured" in shown


def test_runs_of_earlier_versions_are_evaluated_at_worst(home: Path, strange_truth: Path) -> None:
    document = {**read_config(home / "run"), "truth": str(strange_truth)}
    assert problem_of_run(document).unmeasured == "omit"
    del document["unmeasured"]
    assert problem_of_run(document).unmeasured == "worst"
    assert problem_of_run(document, unmeasured="omit").unmeasured == "omit"
    assert problem_of_run({**document, "truth": None}).unmeasured is None


def test_the_worst_of_no_truth_is_refused(home: Path, script: Command) -> None:
    flags = ("--unmeasured", "worst")
    for name, more in {
        "evaluate_agent": (home / "run",),
        "recommend": (home / "run", "--contexts", home / "asked.csv", "--out", home / "never.csv"),
        "train_agent": ("--agent", "gumbel", "--env", "SlotRL/PickValue-v0", "--out", home / "never"),
    }.items():
        code, _, errors = script(ROOT / "scripts" / f"{name}.py", *more, *flags)
        assert code == 2 and "expected a table with the ground truth with unmeasured=worst, got none" in errors
    assert not (home / "never.csv").exists() and not (home / "never").exists()


def test_recommendations_that_are_not_measured(home: Path, strange_truth: Path, script: Command) -> None:
    files = ("--contexts", home / "asked.csv", "--out", home / "answers.csv", "--truth", strange_truth)
    flags = (*files, "--calls", 0, "--no-best-seen")
    shown = script(ROOT / "scripts" / "recommend.py", home / "run", *flags)[1]
    lines = [line for line in shown.splitlines() if "not measured" in line]
    assert [line.split("│")[1].strip() for line in lines] == ["true score", "true normalised", "true worst", "gap"]
    assert all(line.endswith(",") for line in (home / "answers.csv").read_text().splitlines()[1:])
    shown = script(ROOT / "scripts" / "recommend.py", home / "run", *flags, "--force", "--unmeasured", "worst")[1]
    assert "true score, unmeasured = worst" in shown and "not measured" not in shown
    assert all(line.endswith(",") for line in (home / "answers.csv").read_text().splitlines()[1:])


@pytest.mark.parametrize(
    ("true", "shares", "mark", "label", "drawn"),
    [
        ([0.1, None, 0.3], [0.5, 0.0, 0.9996], "true", "gumbel, true, 99.9 % measured", [0.1, None, 0.3]),
        ([0.1, None, None], [0.5, 0.0, 0.0], "true", "gumbel, true, 0.0 % measured", [0.1, None, None]),
        ([0.1, 0.2, 0.3], [0.5, 1.0, 1.0], "true", "gumbel, true", [0.1, 0.2, 0.3]),
        ([0.1], [1.0], "true, unmeasured = worst", "gumbel, true, unmeasured = worst", [0.1]),
        ([None, None], [0.0, 0.0], "true", None, []),
    ],
)
def test_the_learning_curve_has_gaps_and_says_the_share(
    true: list[float | None],
    shares: list[float],
    mark: str,
    label: str | None,
    drawn: list[float | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    curves: dict[str, list[float]] = {}
    monkeypatch.setattr(run_training, "plot_learning_curve", lambda path, calls, known, *rest: curves.update(known))
    rows = [
        Row("gumbel", 0, 0, {"optimality": 0.5, "true_optimality": value, "measured_share": share})
        for value, share in zip(true, shares, strict=True)
    ]
    identity = RunIdentity("SlotRL/Rows-v0", "gumbel", 0, 100, "now", "1")
    run_training._plot(tmp_path, identity, list(range(len(rows))), rows, [], mark)
    expected = {"gumbel, estimated"} | ({label} if label else set())
    assert curves.keys() == expected
    found = curves[label] if label else []
    assert [None if value != value else value for value in found] == drawn


def test_a_curve_with_a_gap_is_drawn(home: Path, strange_truth: Path) -> None:
    problem = make_problem("SlotRL/Rows-v0", home / "estimator", strange_truth)
    row = Evaluation(problem, replace(quick(home, "x")).evaluation).references[0]
    gap = replace(row, figures={**row.figures, "true_optimality": None})
    identity = RunIdentity("SlotRL/Rows-v0", "gumbel", 0, 100, "now", "1")
    run_training._plot(home, identity, [0, 1, 2], [row, gap, row], [])
    assert (home / "learning_curve.png").stat().st_size > 0
