"""Problems that come with an id: their sizes, their truths, their estimators, and the arguments that they refuse."""

import hashlib
import re
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

from slot_rl.estimators import EstimatorNet, EstimatorShape, load_estimator, load_shipped, save_estimator
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.io import BundleError
from slot_rl.problems import IDS, Budget, Problem, RowProblem, SlotProblem, make_problem
from slot_rl.problems.named import SYNTHETIC, estimator_hash, resolved_estimator
from slot_rl.problems.truths import PairwiseTruth, SaturatingTruth, pick_value
from slot_rl.search import random_choice
from slot_rl.seeding import generator_from, seeded_initialisation

SIZES = {"SlotRL/Slots-v0": (4, 8, 4), "SlotRL/SlotsLarge-v0": (12, 64, 8), "SlotRL/PickValue-v0": (4, 8, 1)}
TABLE = "c,a,b,y\nl,u,p,1\nl,v,q,2\nr,u,q,3\nr,v,r,4\nr,v,r,6\n"


@pytest.fixture
def rows_folder(tmp_path: Path) -> Path:
    """An estimator of the table above, untrained."""
    encoding = TableEncoding("y", {"a": ("u", "v"), "b": ("p", "q", "r")}, {"c": ("l", "r")})
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(2, 3, (4,), (2, 3), (2,), context_dim=2))
    save_estimator(tmp_path / "rows", net, {}, encoding, torch.tensor([[0], [1]]))
    return tmp_path / "rows"


def vector_folder(folder: Path, shape: EstimatorShape) -> Path:
    with seeded_initialisation(5):
        save_estimator(folder, EstimatorNet(shape), {})
    return folder


def scored(problem: Problem, rows: int = 50) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The vectors of random choices, their scores and their true scores."""
    observation = problem.sample(rows, generator_from(0))
    choice = random_choice(problem, observation, generator_from(1))
    vectors = problem.gather(observation, choice)
    return vectors, problem.score(observation, choice), problem.true_score(observation, choice)


def test_the_ids_are_these() -> None:
    names = ("Slots", "SlotsLarge", "PickValue", "Rows", "Own", "Slate", "Slates")
    assert set(IDS) == {f"SlotRL/{name}-v0" for name in names}
    assert [synthetic.shipped for synthetic in SYNTHETIC.values()] == ["slots-v0", "slots-large-v0"]


@pytest.mark.parametrize("env_id", SIZES)
def test_slot_problems_have_sizes_name_and_budget(env_id: str) -> None:
    slots, items, dim = SIZES[env_id]
    problem = make_problem(env_id)
    assert isinstance(problem, SlotProblem)
    assert (problem.name, problem.slots, problem.items, problem.dim) == (env_id, slots, items, dim)
    assert problem.has_truth and problem.budget == Budget(0, 0)
    assert problem.sample(2, generator_from(0)).mask is None
    varying = make_problem(env_id, fewest_items=3)
    mask = varying.mask(varying.sample(500, generator_from(0)))
    assert mask is not None
    lengths = mask[:, 0].sum(dim=-1)
    assert (int(lengths.min()), int(lengths.max())) == (3, items)


def test_the_pairwise_scales_are_those_of_the_problems_ids() -> None:
    vectors, _, truth = scored(make_problem("SlotRL/Slots-v0"))
    torch.testing.assert_close(truth, SaturatingTruth(PairwiseTruth(4, 4, 1.0, 0.5, seed=0))(vectors))
    vectors, _, truth = scored(make_problem("SlotRL/SlotsLarge-v0"))
    torch.testing.assert_close(truth, PairwiseTruth(12, 8, 0.5, 0.12, seed=0)(vectors))


def test_pick_value_is_its_own_estimator_on_uniform_values() -> None:
    vectors, score, truth = scored(make_problem("SlotRL/PickValue-v0"))
    assert torch.equal(score, pick_value(vectors)) and torch.equal(truth, score)
    assert 0 <= float(vectors.min()) and float(vectors.max()) < 1


@pytest.mark.parametrize("env_id", SYNTHETIC)
def test_synthetic_problems_are_scored_by_the_shipped_estimator(env_id: str) -> None:
    vectors, score, _ = scored(make_problem(env_id))
    with torch.no_grad():
        expected = load_shipped(SYNTHETIC[env_id].shipped).net(vectors)
    torch.testing.assert_close(score, expected)


@pytest.mark.parametrize("as_text", [True, False])
def test_another_estimator_can_be_named_by_its_folder(tmp_path: Path, as_text: bool) -> None:
    folder = vector_folder(tmp_path / "mine", EstimatorShape(4, 4, (8,)))
    vectors, score, _ = scored(make_problem("SlotRL/Slots-v0", str(folder) if as_text else folder))
    with seeded_initialisation(5):
        expected = EstimatorNet(EstimatorShape(4, 4, (8,)))(vectors).detach()
    torch.testing.assert_close(score, expected)


def test_rows_come_from_the_folder_and_the_truth_from_the_table(rows_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(TABLE, encoding="utf-8")
    problem = make_problem("SlotRL/Rows-v0", str(rows_folder), str(table), unmeasured="worst")
    assert isinstance(problem, RowProblem) and problem.name == "SlotRL/Rows-v0"
    assert (problem.sizes, problem.context_sizes, problem.contexts.tolist()) == ((2, 3), (2,), [[0], [1]])
    observation = problem.evaluation_observations(2, generator_from(0))
    choice = torch.tensor([[[0, 0], [0, 1]], [[1, 1], [1, 2]], [[1, 2], [0, 0]]])
    assert problem.true_score(observation, choice).tolist() == [[1.0, 3.0], [2.0, 5.0], [1.0, 3.0]]
    omitting = make_problem("SlotRL/Rows-v0", rows_folder, table).true_score(observation, choice)
    assert omitting.flatten().tolist() == pytest.approx([1.0, 3.0, 2.0, 5.0, nan, nan], nan_ok=True)
    known = problem.true_scores(observation, choice).measured
    assert known is not None and known.tolist() == [[True, True], [True, True], [False, False]]
    assert not make_problem("SlotRL/Rows-v0", rows_folder).has_truth


def test_the_hash_is_that_of_the_estimators_weights(tmp_path: Path) -> None:
    assert estimator_hash("SlotRL/PickValue-v0", None) is None
    assert estimator_hash("SlotRL/Slots-v0", None) == load_shipped("slots-v0").sha256
    folder = vector_folder(tmp_path / "mine", EstimatorShape(4, 4, (8,)))
    assert estimator_hash("SlotRL/Slots-v0", str(folder)) == load_estimator(folder).sha256
    with pytest.raises(BundleError, match="expected a folder with estimator weights and card.json, got nowhere"):
        estimator_hash("SlotRL/Rows-v0", "nowhere")


def test_a_python_file_is_hashed_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("raise SystemExit")
    expected = hashlib.sha256(b"raise SystemExit").hexdigest()
    assert estimator_hash("SlotRL/Rows-v0", "mine.py:build") == expected
    assert resolved_estimator("mine.py:build") == f"{tmp_path / 'mine.py'}:build"
    assert resolved_estimator("folder") == str(tmp_path / "folder")


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("SlotRL/Nope-v0", {}, f"expected one of {', '.join(IDS)}, or path.py:function, got 'SlotRL/Nope-v0'"),
        (
            "SlotRL/Rows-v0",
            {},
            "expected estimator=FOLDER for SlotRL/Rows-v0 (written by slot-rl pretrain), got none",
        ),
        ("SlotRL/Rows-v0", {"estimator": "x", "fewest_items": 2}, "expected no fewest_items for SlotRL/Rows-v0, got 2"),
        ("SlotRL/Slots-v0", {"truth": "t.csv"}, "expected no truth for SlotRL/Slots-v0, got 't.csv'"),
        ("SlotRL/PickValue-v0", {"truth": "t.csv"}, "expected no truth for SlotRL/PickValue-v0, got 't.csv'"),
        (
            "SlotRL/Slots-v0",
            {"unmeasured": "worst"},
            "expected a table with the ground truth with unmeasured=worst, got none",
        ),
        (
            "SlotRL/Rows-v0",
            {"truth": "t.csv", "unmeasured": "best"},
            "expected unmeasured to be omit or worst, got 'best'",
        ),
        ("SlotRL/PickValue-v0", {"estimator": "x"}, "expected no estimator for SlotRL/PickValue-v0, got 'x'"),
        ("SlotRL/Slots-v0", {"fewest_items": 0}, "expected fewest_items from 1 to items = 8, got 0"),
        ("SlotRL/Slots-v0", {"fewest_items": 9}, "expected fewest_items from 1 to items = 8, got 9"),
    ],
)
def test_options_without_a_meaning_are_refused(env_id: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_problem(env_id, **options)


@pytest.mark.parametrize(("slots", "dim"), [(3, 4), (4, 5)])
def test_an_estimator_of_other_sizes_is_refused(tmp_path: Path, slots: int, dim: int) -> None:
    folder = vector_folder(tmp_path / "mine", EstimatorShape(slots, dim, (8,)))
    message = f"expected an estimator of 4 vectors of length 4 for SlotRL/Slots-v0, got .*slots={slots}, dim={dim}"
    with pytest.raises(ValueError, match=message):
        make_problem("SlotRL/Slots-v0", folder)


def test_estimators_of_the_other_kind_are_refused(rows_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an estimator of 4 vectors of length 4 .*, got .*vocabulary="):
        make_problem("SlotRL/Slots-v0", rows_folder)
    folder = vector_folder(tmp_path / "vectors", EstimatorShape(4, 4, (8,)))
    with pytest.raises(
        ValueError, match="expected an estimator of a table for SlotRL/Rows-v0, got .*, an estimator of"
    ):
        make_problem("SlotRL/Rows-v0", folder)


@pytest.mark.parametrize("env_id", ["SlotRL/Slots-v0", "SlotRL/Rows-v0"])
def test_a_folder_without_an_estimator_is_refused(env_id: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a folder with estimator weights and card.json, got .* without"):
        make_problem(env_id, tmp_path)
