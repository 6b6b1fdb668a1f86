"""Estimators on disk, and the two shipped ones, whose cards are compared with new measurements."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from slot_rl.estimators import EstimatorNet, EstimatorShape, load_estimator, load_shipped, save_estimator
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.store import CARD, SHIPPED, context_tensor
from slot_rl.io import BundleError, read_json, write_bundle
from slot_rl.problems import Budget, make_problem
from slot_rl.problems.named import SHIPPED_SLATE, SYNTHETIC
from slot_rl.search import random_choice
from slot_rl.seeding import generator_from, seeded_initialisation

SHAPE = EstimatorShape(2, 3, (4,), (2, 3), (2,), context_dim=2)
ENCODING = TableEncoding("y", {"a": ("", "X"), "b": ("p", "q", "ü")}, {"c": ("l", "r")})


def build(shape: EstimatorShape, seed: int = 0) -> EstimatorNet:
    with seeded_initialisation(seed):
        net = EstimatorNet(shape)
    net.offset.fill_(2.0)
    net.scale.fill_(0.5)
    return net.requires_grad_(False)


def test_an_estimator_of_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    net, contexts = build(SHAPE).train(), torch.tensor([[0], [1]])
    save_estimator(tmp_path / "mine", net, {"seed": 3, "test": {"r2": 0.5}}, ENCODING, contexts)
    stored = load_estimator(tmp_path / "mine")
    assert stored.net.shape == SHAPE and not any(part.training for part in stored.net.modules())
    found, expected = stored.net.state_dict(), net.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert stored.card == {"seed": 3, "test": {"r2": 0.5}}
    assert stored.encoding == ENCODING and list(stored.encoding.features) == ["a", "b"]
    assert stored.contexts is not None and torch.equal(stored.contexts, contexts)
    assert net.training
    vectors = torch.randn(5, 2, 3, generator=generator_from(0))
    context = torch.tensor([[0], [1], [1], [0], [1]])
    assert torch.equal(stored.net(vectors, context), net(vectors, context))


def test_an_estimator_of_vectors_has_no_encoding_or_contexts(tmp_path: Path) -> None:
    save_estimator(tmp_path, build(EstimatorShape(2, 3, (4,))), {})
    stored = load_estimator(tmp_path)
    assert (stored.encoding, stored.contexts, stored.card) == (None, None, {})
    (weights,) = tmp_path.glob("*.safetensors")
    assert stored.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_another_estimator_in_the_same_folder_replaces_the_first(tmp_path: Path) -> None:
    save_estimator(tmp_path, build(SHAPE), {}, ENCODING, torch.tensor([[0]]))
    first = load_estimator(tmp_path).sha256
    save_estimator(tmp_path, build(SHAPE, seed=1), {}, ENCODING, torch.tensor([[0]]))
    assert load_estimator(tmp_path).sha256 != first
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    net = build(SHAPE)
    net.head.bias.fill_(torch.nan)
    with pytest.raises(BundleError, match="expected finite weights, got NaN or infinity in head.bias; nothing was"):
        save_estimator(tmp_path / "mine", net, {})
    assert not (tmp_path / "mine").exists()


def test_a_bundle_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path, "checkpoint", {}, {}, CARD)
    with pytest.raises(BundleError, match="to be of kind 'estimator', got 'checkpoint'"):
        load_estimator(tmp_path)


def test_a_folder_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a folder with estimator weights and card.json, got .* without"):
        load_estimator(tmp_path)
    with pytest.raises(BundleError, match="expected a folder with estimator weights and card.json, got .*nope without"):
        load_shipped("nope")


DAMAGES: dict[str, dict[str, Any]] = {
    "unknown size": {"shape": {**SHAPE.to_json(), "depth": 2}},
    "missing size": {"shape": {"slots": 2}},
    "other width": {"shape": {**SHAPE.to_json(), "hidden": [5]}},
    "other vocabulary": {"shape": {**SHAPE.to_json(), "vocabulary": [2, 4]}},
    "other contexts": {"shape": {**SHAPE.to_json(), "contexts": []}},
    "no hidden layer": {"shape": {**SHAPE.to_json(), "hidden": []}},
    "shape is a list": {"shape": [1, 2]},
    "encoding without features": {"encoding": {"score": "y", "contexts": {}}},
    "encoding is a list": {"encoding": [1]},
    "features are a list": {"encoding": {"score": "y", "features": ["a"], "contexts": {}}},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_card_that_does_not_fit_the_weights_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    save_estimator(tmp_path, build(SHAPE), {}, ENCODING, torch.tensor([[0]]))
    load_estimator(tmp_path)
    document = read_json(tmp_path / CARD)
    (tmp_path / CARD).write_text(json.dumps({**document, **damage}), encoding="utf-8")
    with pytest.raises(
        BundleError,
        match="expected .*, in card.json and weights|expected card.json and weights",
    ):
        load_estimator(tmp_path)


@pytest.mark.parametrize("part", ["shape", "encoding", "card"])
def test_a_card_without_one_of_its_parts_is_refused(tmp_path: Path, part: str) -> None:
    save_estimator(tmp_path, build(SHAPE), {}, ENCODING, torch.tensor([[0]]))
    document = read_json(tmp_path / CARD)
    del document[part]
    (tmp_path / CARD).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match=f"expected card.json and weights that fit it in .*, got: no '{part}'"):
        load_estimator(tmp_path)


def test_context_rows_are_listed_once_and_sorted() -> None:
    rows = torch.tensor([[1, 0], [0, 2], [1, 0], [0, 1], [0, 2]])
    assert context_tensor(rows).tolist() == [[0, 1], [0, 2], [1, 0]]
    assert context_tensor(rows).dtype == torch.int64


@pytest.mark.parametrize("sizes", [(3,), (1, 4), (5, 1, 7), (900, 1100)])
def test_context_rows_are_those_of_a_set(sizes: tuple[int, ...]) -> None:
    rows = torch.stack([torch.randint(size, (200,), generator=generator_from(size)) for size in sizes], dim=1)
    assert context_tensor(rows).tolist() == sorted(map(list, {tuple(row) for row in rows.tolist()}))


@pytest.mark.parametrize(("env_id", "least"), [("SlotRL/Slots-v0", 0.93), ("SlotRL/SlotsLarge-v0", 0.99)])
def test_the_shipped_estimators_fit_their_truths(env_id: str, least: float) -> None:
    problem = make_problem(env_id)
    predicted, true, alone = [], [], []
    for seed in range(1000, 1010):
        observation = problem.sample(4_000, generator_from(seed))
        choice = random_choice(problem, observation, generator_from(seed + 100))
        predicted.append(problem.score(observation, choice))
        true.append(problem.true_score(observation, choice))
        alone.append((choice.sort(dim=1).values.diff(dim=1) > 0).all(dim=1))
    scores, truth = torch.cat(predicted).double(), torch.cat(true).double()
    r2 = 1 - float((scores - truth).square().sum() / (truth - truth.mean()).square().sum())
    assert r2 >= least
    card = load_shipped(SYNTHETIC[env_id].shipped).card
    assert r2 == pytest.approx(card["test"]["r2"], abs=0.005)
    # In requests an item may fill several slots, which the rows of the fit and of its test never show.
    errors = (scores - truth)[torch.cat(alone)]
    assert float(errors.square().mean().sqrt()) == pytest.approx(card["test"]["rmse"], rel=0.05)
    assert problem.budget == Budget(40_000, 0)


@pytest.mark.parametrize("env_id", SYNTHETIC)
def test_the_shipped_cards_match_their_weights(env_id: str) -> None:
    synthetic = SYNTHETIC[env_id]
    stored, folder = load_shipped(synthetic.shipped), SHIPPED / synthetic.shipped
    (weights,) = folder.glob("*.safetensors")
    data = weights.read_bytes()
    assert len(data) < 1_000_000
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert weights.name == f"weights-{stored.sha256[:12]}.safetensors"
    assert f"pretrain_estimator.py --problem {synthetic.shipped} " in stored.card["command"]
    assert stored.card["seed"] == 0
    assert 0 < stored.card["test"]["r2"] < 1
    fit = synthetic.fit
    made = {"steps": fit.steps, "batch_size": fit.batch_size, "learning_rate": fit.learning_rate}
    assert stored.card["fit"] == made
    assert {"python", "slot_rl", "torch", "numpy"} <= set(stored.card["versions"])
    assert all(stored.card["versions"].values())
    assert stored.net.shape == synthetic.shape and stored.encoding is None and stored.contexts is None
    assert not stored.net.training


def test_every_shipped_estimator_belongs_to_a_problem() -> None:
    assert {path.name for path in SHIPPED.iterdir()} == {
        SHIPPED_SLATE,
        *(known.shipped for known in SYNTHETIC.values()),
    }
