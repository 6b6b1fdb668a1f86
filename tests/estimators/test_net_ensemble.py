"""The ensemble: each member is a network of its own, all are fitted at once, and their mean is an estimator."""

import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slot_rl.estimators import load_estimator, net_ensemble, save_estimator
from slot_rl.estimators.blend import Blend
from slot_rl.estimators.fitting import swapped_rows
from slot_rl.estimators.kinds import model_of, shape_of
from slot_rl.estimators.net_ensemble import EnsembleFit, NetEnsemble, NetEnsembleShape, fit_ensemble
from slot_rl.estimators.product_gp import fit_gp
from slot_rl.io import BundleError, read_json
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot

SHAPE = NetEnsembleShape((4, 3, 5), (2,), members=3, dim=4, hidden=(16, 8))
QUICK = EnsembleFit(steps=300, most_steps=300, batch_size=32, learning_rate=1e-2)


def built() -> NetEnsemble:
    return NetEnsemble(SHAPE, generator_from(0))


def rows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = generator_from(seed)
    columns = [torch.randint(size, (count,), generator=generator) for size in (*SHAPE.context_sizes, *SHAPE.sizes)]
    return torch.stack(columns[1:], dim=1), columns[0].unsqueeze(1)


def truth(features: Tensor, context: Tensor) -> Tensor:
    return 100 + 5 * torch.sin(2.0 * features[:, 0]) * (1 + context[:, 0]) + features[:, 2] * (features[:, 1] - 1.0)


def test_each_member_is_a_network_of_its_own() -> None:
    ensemble = built()
    features, context = rows(9, 1)
    with torch.no_grad():
        found = ensemble.member_scores(features, context)
        for member in range(3):
            parts = [table[member, context[:, 0]] for table in list(ensemble.embeddings)[:1]]
            parts += [table[member, features[:, i]] for i, table in enumerate(list(ensemble.embeddings)[1:])]
            hidden = torch.cat(parts, dim=1)
            for layer, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
                hidden = hidden @ weight[member] + bias[member]
                hidden = nn.functional.silu(hidden) if layer < 2 else hidden
            assert torch.allclose(found[member], hidden.squeeze(1), atol=1e-6)
        assert torch.allclose(ensemble(features, context), found.mean(dim=0))
    assert not torch.allclose(found[0], found[1])


def test_rows_score_as_their_indices_in_every_shape() -> None:
    ensemble = built()
    features, context = rows(6, 2)
    stacked = torch.stack([features, features.flip(0)])
    with torch.no_grad():
        hard, soft = ensemble(stacked, context), ensemble(one_hot(stacked, 5, torch.float32), context)
        assert hard.shape == (2, 6) and torch.allclose(hard, soft, atol=1e-6)
        assert torch.allclose(hard[1], ensemble(features.flip(0), context), atol=1e-6)
    with pytest.raises(ValueError, match="expected a context of 1 columns, got None"):
        ensemble(features)


def test_all_members_learn_and_a_seed_repeats_it() -> None:
    features, context = rows(400, 3)
    fresh, there = rows(300, 4)
    target = truth(fresh, there)
    models = []
    for seed in (5, 5, 6):
        model = NetEnsemble(SHAPE, generator_from(seed))
        fit_ensemble(model, features, context, truth(features, context), QUICK, generator_from(seed))
        models.append(model)
    with torch.no_grad():
        errors = (models[0].member_scores(fresh, there) - target).square().mean(dim=1) / target.var()
        first, second, other = (model(fresh, there) for model in models)
    assert bool((errors < 0.15).all())
    assert torch.equal(first, second) and not torch.equal(first, other)
    untrained = built()
    with torch.no_grad():
        assert float((untrained(fresh, there) - target).square().mean() / target.var()) > 1


def test_the_step_size_falls_to_zero_and_steps_follow_the_rows() -> None:
    fit = EnsembleFit(steps=100, most_steps=400, rows_a_step=2)
    assert [fit.steps_for(count) for count in (10, 200, 600, 10_000)] == [100, 100, 300, 400]
    model = built()
    seen: list[int] = []
    features, context = rows(50, 3)
    quick = EnsembleFit(steps=5, most_steps=5)
    fit_ensemble(model, features, context, truth(features, context), quick, generator_from(0), seen.append)
    assert seen == [1, 2, 3, 4, 5]


def test_a_swapped_row_differs_in_one_feature_at_most() -> None:
    features, _ = rows(500, 7)
    swapped = swapped_rows(features, SHAPE.sizes, generator_from(0))
    changed = (swapped != features).sum(dim=1)
    assert int(changed.max()) == 1 and 0.5 < float(changed.double().mean()) < 0.9
    assert bool((swapped < torch.tensor(SHAPE.sizes)).all())


def test_a_blend_is_the_mean_of_its_parts() -> None:
    features, context = rows(60, 8)
    gp = fit_gp(torch.cat([context, features], dim=1), truth(features, context), (4, 3, 5), (2,), generator_from(0))
    ensemble = built()
    with torch.no_grad():
        mean = (gp(features, context) + ensemble(features, context)) / 2
        assert torch.allclose(Blend([gp, ensemble])(features, context), mean)


@pytest.mark.parametrize("kind", ["nets", "gp", "blend"])
def test_every_kind_comes_back_from_disk(kind: str, tmp_path: Path) -> None:
    features, context = rows(60, 8)
    gp = fit_gp(torch.cat([context, features], dim=1), truth(features, context), (4, 3, 5), (2,), generator_from(0))
    model = {"nets": built(), "gp": gp, "blend": Blend([gp, built()])}[kind]
    save_estimator(tmp_path / "e", model, {"made": "here"})
    stored = load_estimator(tmp_path / "e")
    with torch.no_grad():
        assert torch.equal(stored.net(features, context), model(features, context))
    assert shape_of(stored.net)["kind"] == kind and stored.card == {"made": "here"}
    card = json.dumps(read_json(tmp_path / "e/card.json"))
    (tmp_path / "e/card.json").write_text(card.replace(f'"kind": "{kind}"', '"kind": "tree"'), encoding="utf-8")
    with pytest.raises(BundleError, match="tree"):
        load_estimator(tmp_path / "e")


def test_other_kinds_are_refused() -> None:
    with pytest.raises(
        TypeError, match="one of the kinds net, nets, motifs, gp, draws, blend, score_units, got Linear"
    ):
        shape_of(nn.Linear(2, 3))
    with pytest.raises(TypeError, match="kind 'tree'"):
        model_of({"kind": "tree"})
    with pytest.raises(TypeError, match="a blend of 1 parts"):
        model_of({"kind": "blend", "parts": [shape_of(built())]})


def test_five_members_cost_less_than_five_calls() -> None:
    sizes = (20,) * 4
    one, five = (NetEnsemble(NetEnsembleShape(sizes, (), count), generator_from(0)) for count in (1, 5))
    asked = torch.randint(20, (64, 4), generator=generator_from(1))

    def seconds(model: NetEnsemble) -> float:
        found = []
        for _ in range(15):
            start = time.process_time()
            with torch.no_grad():
                for _ in range(10):
                    model(asked)
            found.append(time.process_time() - start)
        return min(found)

    assert seconds(five) < 4 * seconds(one)  # benchmark.py ensemble measures it


def test_a_large_batch_is_scored_in_parts_that_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = built()
    features, context = rows(50, 9)
    with torch.no_grad():
        whole = ensemble.member_scores(features, context)
        monkeypatch.setattr(net_ensemble, "CACHED_NUMBERS", 3 * 16 * 7)
        assert torch.allclose(ensemble.member_scores(features, context), whole, atol=1e-6)
        assert ensemble.member_scores(features[:0], context[:0]).shape == (3, 0)
