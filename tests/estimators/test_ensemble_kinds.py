"""Kinds of ensembles: what each member sees and differs by, that frozen ones stay, and the command's flags."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slot_rl import pretraining
from slot_rl.estimators import load_estimator, save_estimator
from slot_rl.estimators.blend import Blend
from slot_rl.estimators.diversity import DIVERSITY, TermName, among
from slot_rl.estimators.drawn_functions import DrawnFunctions
from slot_rl.estimators.ensemble_kinds import EnsembleKind, EnsembleMaking, make_members, stacked
from slot_rl.estimators.fitting import TableRows
from slot_rl.estimators.net_ensemble import EnsembleFit, NetEnsemble, NetEnsembleShape, Variation, fit_ensemble
from slot_rl.estimators.row_scorer import MemberScorer
from slot_rl.problems import make_problem
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot
from tests.conftest import ROOT, Command
from tests.helpers.factorial import write_factorial

SCRIPT = ROOT / "scripts/pretrain_estimator.py"
SHAPE = NetEnsembleShape((4, 3, 5), (2,), members=3, dim=4, hidden=(16,))
QUICK = EnsembleFit(steps=60, most_steps=60, batch_size=32, learning_rate=1e-2)


def table(count: int = 60, seed: int = 0) -> TableRows:
    generator = generator_from(seed)
    columns = [torch.randint(size, (count,), generator=generator) for size in (*SHAPE.context_sizes, *SHAPE.sizes)]
    features, context = torch.stack(columns[1:], dim=1), columns[0].unsqueeze(1)
    return TableRows(features, context, 1.0 * features[:, 0] * (1 + context[:, 0]) + features[:, 1] - features[:, 2])


ROWS = table()


@cache
def made(kind: EnsembleKind, term: TermName | None = None, fit: EnsembleFit = QUICK, members: int = 3) -> MemberScorer:
    """Fits an ensemble to the rows, once for all tests."""
    shape = replace(SHAPE, members=members)
    return make_members(EnsembleMaking(kind, term), shape, ROWS, fit, generator_from(1))


def scores(model: MemberScorer, rows: TableRows = ROWS) -> Tensor:
    with torch.no_grad():
        return model.member_scores(rows.features, rows.contexts)


def test_independent_members_are_those_of_a_plain_fit() -> None:
    generator = generator_from(1)
    plain = NetEnsemble(SHAPE, generator)
    fit_ensemble(plain, ROWS.features, ROWS.contexts, ROWS.score, QUICK, generator)
    assert torch.equal(scores(made("independent")), scores(plain))


def test_a_member_is_blind_to_its_own_fold_alone() -> None:
    fold = torch.randperm(60, generator=_after_building()) % 3
    hidden = (fold == 0).nonzero().squeeze(1)
    # The same scores in another order, so that their mean and spread stay.
    changed = ROWS.score.index_copy(0, hidden, ROWS.score[hidden.roll(1)])
    other = replace(ROWS, score=changed)
    kinds: dict[EnsembleKind, int] = {"folds": 1, "independent": 0}
    for kind, blind in kinds.items():
        after = make_members(EnsembleMaking(kind), SHAPE, other, QUICK, generator_from(1))
        moved = (scores(made(kind)) - scores(after)).abs().amax(dim=1)
        assert int((moved < 1e-3).sum()) == blind and int((moved > 0.05).sum()) == 3 - blind


def _after_building() -> torch.Generator:
    """Returns the generator as it is once first weights are drawn."""
    generator = generator_from(1)
    NetEnsemble(SHAPE, generator)
    return generator


def test_a_rows_weight_is_how_often_it_counts() -> None:
    weights = torch.ones(3, 60)
    weights[1, :30] = 0
    generator = generator_from(1)
    nets = NetEnsemble(SHAPE, generator)
    fit_ensemble(nets, *_data(), QUICK, generator, variation=Variation(row_weights=weights))
    plain = scores(made("independent"))
    assert torch.allclose(scores(nets)[[0, 2]], plain[[0, 2]], atol=1e-5)
    errors = (scores(nets)[1] - ROWS.score).square()
    assert float(errors[:30].mean()) > 2 * float(errors[30:].mean())


def _data() -> tuple[Tensor, Tensor | None, Tensor]:
    return ROWS.features, ROWS.contexts, ROWS.score


def test_bootstrapped_members_differ_more_than_independent_ones() -> None:
    spreads = [float(scores(made(kind)).std(dim=0).mean()) for kind in ("independent", "bootstrap")]
    assert spreads[1] > 1.3 * spreads[0]


@pytest.mark.parametrize("kind", ["joint", "sequential"])
@pytest.mark.parametrize("term", DIVERSITY)
def test_a_term_keeps_members_apart(term: TermName, kind: EnsembleKind) -> None:
    of, rows = DIVERSITY[term], ROWS

    def value(nets: MemberScorer) -> float:
        assert isinstance(nets, NetEnsemble)
        with torch.no_grad():
            hidden = nets.hidden(nets.vectors(rows.features, rows.contexts))
            read = {"parameters": nets.flat_parameters(), "hidden": hidden, "scores": nets.read_out(hidden)}
            return float(among(of.compare, read[of.reads])) / 3

    apart = make_members(EnsembleMaking(kind, term, 3 * of.weight), SHAPE, rows, QUICK, generator_from(1))
    control = made("independent")
    assert value(apart) < value(control)
    # They have learned all the same.
    assert float((scores(apart).mean(dim=0) - rows.score).square().mean() / rows.score.var()) < 0.3


def test_frozen_members_do_not_change() -> None:
    two, three = (scores(made("sequential", "inverse_difference", members=count)) for count in (2, 3))
    assert torch.allclose(two, three[:2], atol=1e-5)


def test_snapshots_are_states_of_one_network() -> None:
    generator = generator_from(1)
    one = NetEnsemble(replace(SHAPE, members=1), generator)
    states: list[Tensor] = []
    fit_ensemble(one, *_data(), QUICK, generator, lambda step: states.append(scores(one)[0]), Variation(cycles=3))
    found = scores(made("snapshot"))
    assert torch.allclose(found, torch.stack([states[step - 1] for step in (20, 40, 60)]), atol=1e-5)
    # The step size falls to almost nothing and starts anew.
    moved = [float((after - before).abs().max()) for before, after in zip(states, states[1:], strict=False)]
    assert moved[18] < 0.1 * moved[20] and moved[38] < 0.1 * moved[40]
    with pytest.raises(ValueError, match="expected a step at least for each of 3 snapshots, got 2"):
        made("snapshot", fit=replace(QUICK, steps=2, most_steps=2))


def test_mixed_members_are_networks_and_drawn_functions() -> None:
    mixed = made("mixed")
    assert isinstance(mixed, Blend) and scores(mixed).shape == (6, 60)
    assert torch.equal(scores(mixed)[3:], scores(made("independent")))
    with torch.no_grad():
        assert torch.allclose(mixed(ROWS.features, ROWS.contexts), scores(mixed).mean(dim=0), atol=1e-5)
    # Drawn functions know the seen rows, and differ from one another.
    draws = scores(mixed)[:3]
    assert float((draws - ROWS.score).abs().mean()) < 0.5 * float(ROWS.score.std())
    assert not torch.allclose(draws[0], draws[1])


def test_a_drawn_function_is_linear_in_each_feature() -> None:
    mixed = made("mixed")
    assert isinstance(mixed, Blend)
    draws = mixed.parts[0]
    assert isinstance(draws, DrawnFunctions)
    rows = one_hot(ROWS.features[:8], 5, torch.float32)
    with torch.no_grad():
        hard = draws.member_scores(ROWS.features[:8], ROWS.contexts[:8])  # type: ignore[index]
        assert torch.allclose(draws.member_scores(rows, ROWS.contexts[:8]), hard, atol=1e-5)  # type: ignore[index]
    mixture = torch.full_like(rows, 0.0)
    for feature, size in enumerate(SHAPE.sizes):
        mixture[:, feature, :size] = 1 / size
    mixture.requires_grad_()
    mean = draws.functions.mean(dim=1)[ROWS.contexts[:8, 0]].T  # type: ignore[index]
    found = draws.member_scores(mixture, ROWS.contexts[:8])  # type: ignore[index]
    assert torch.allclose(found, mean, atol=1e-4)
    found.sum().backward()
    assert mixture.grad is not None and bool((mixture.grad[:, 0, :4] != 0).all())


def test_mixed_members_come_back_from_disk(tmp_path: Path) -> None:
    mixed = made("mixed")
    save_estimator(tmp_path / "e", mixed, {})
    stored = load_estimator(tmp_path / "e").net
    assert isinstance(stored, MemberScorer) and torch.equal(scores(stored), scores(mixed))


def test_a_blends_members_have_its_mean() -> None:
    """Three networks and one model: the model counts three times, as it does in the mean."""
    nets, alone = made("independent"), made("snapshot", members=1)
    found = scores(Blend([nets, alone]))
    assert torch.equal(found, torch.cat([scores(nets), scores(alone).expand(3, -1)]))


def test_stacked_members_score_as_they_did() -> None:
    first, second = made("independent"), made("bootstrap")
    assert isinstance(first, NetEnsemble) and isinstance(second, NetEnsemble)
    assert torch.allclose(scores(stacked([first, second])), torch.cat([scores(first), scores(second)]), atol=1e-6)


@pytest.mark.parametrize(
    ("making", "message"),
    [
        (lambda: EnsembleMaking("joint"), "expected a diversity term with ensemble joint, got None"),
        (lambda: EnsembleMaking("folds", "linear_cka"), "expected no diversity term with ensemble folds"),
        (lambda: EnsembleMaking("joint", "linear_cka", 0.0), "weight above 0, for a diversity term, got 0.0"),
        (lambda: EnsembleMaking("joint", "linear_cka", float("nan")), "got nan for linear_cka"),
        (lambda: EnsembleMaking("folds", None, 1.0), "got 1.0 for no diversity term"),
    ],
)
def test_a_making_that_says_nothing_is_refused(making: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        making()


@pytest.mark.parametrize(
    "flags",
    [["--ensemble", "mixed"], ["--ensemble", "joint", "--diversity", "weight_distance", "--diversity-weight", 9]],
)
def test_the_command_makes_an_ensemble_that_serves(
    flags: list[object], script: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "EnsembleFit", partial(EnsembleFit, steps=10, learning_rate=1e-2))
    data = write_factorial(tmp_path / "small.csv")
    common = ["--table", data, "--score", "y", "--context", "u", "--model", "nets", *flags]
    code, shown, error = script(SCRIPT, *common, "--out", tmp_path / "e")
    assert code == 0, error
    assert "correlation of two members' errors" in shown and "rank correlation of spread and error" in shown
    stored = load_estimator(tmp_path / "e")
    assert (stored.card["model"], stored.card["ensemble"]) == ("nets", flags[1])
    assert stored.card["diversity_weight"] == (9 if len(flags) > 2 else None)
    problem = make_problem("SlotRL/Rows-v0", estimator=tmp_path / "e", truth=data, pessimism="minimum")
    observation = problem.evaluation_observations(4, generator_from(0))
    assert bool(problem.score(observation, torch.zeros(2, 3, dtype=torch.long)).isfinite().all())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "gp", "--ensemble", "folds"], "expected no --ensemble folds with --model gp"),
        (["--ensemble", "folds"], "expected no --ensemble folds with --model net"),
        (["--model", "nets", "--diversity", "linear_cka"], "expected no diversity term with ensemble independent"),
        (["--model", "nets", "--ensemble", "joint"], "expected a diversity term with ensemble joint, got None"),
        (["--model", "nets", "--ensemble", "forest"], "forest"),
        (["--model", "nets", "--ensemble", "mixed", "--numeric", "c"], "expected columns of categories alone"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(
    flags: list[object], message: str, script: Command, tmp_path: Path
) -> None:
    data = write_factorial(tmp_path / "small.csv")
    code, _, error = script(SCRIPT, "--table", data, "--score", "y", "--out", tmp_path / "e", *flags)
    assert code == 2 and message in " ".join(error.replace("│", " ").split())
    assert not (tmp_path / "e").exists()
