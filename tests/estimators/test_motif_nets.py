"""Motifs: matches by hand, both readings, any position; what is no sequence is refused; they learn what nets cannot."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slot_rl.estimators import grid_kernel, load_estimator
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableRows
from slot_rl.estimators.kinds import model_of, shape_of
from slot_rl.estimators.model_choice import choose_model, models_to_compare
from slot_rl.estimators.motif_nets import OVERHANG, WIDTH, MotifNets, MotifShape, fit_motifs, letters_of
from slot_rl.estimators.net_ensemble import EnsembleFit, NetEnsemble, NetEnsembleShape, fit_ensemble
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot
from tests.conftest import ROOT, Command

DNA = ("A", "C", "G", "T")
STRANDS = (3, 2, 1, 0)
ENCODING = TableEncoding("y", {f"p{place}": DNA for place in range(8)}, {})
SHAPE = MotifShape(((0, 1, 2, 3),) * 8, (3,), STRANDS, members=2, motifs=5, dim=4, hidden=(7,))


def sequences(rows: int, seed: int, positions: int = 8) -> Tensor:
    return torch.randint(4, (rows, positions), generator=generator_from(seed))


def site_score(features: Tensor) -> Tensor:
    """How well the best window of four letters, in either reading, matches GATC weighted 4, 3, 2, 1."""
    wanted, weight = torch.tensor([2, 0, 3, 1]), torch.tensor([4.0, 3.0, 2.0, 1.0])
    both = [features, torch.tensor(STRANDS)[features.flip(1)]]
    windows = torch.stack([each.unfold(1, 4, 1) for each in both], dim=1)
    return ((windows == wanted) * weight).sum(dim=-1).flatten(1).max(dim=1).values


def test_matches_by_hand() -> None:
    nets = MotifNets(SHAPE, generator_from(0))
    row = sequences(1, 1)
    with torch.no_grad():
        found = nets.vectors(row, torch.tensor([[2]]))
        for member, motif in ((0, 0), (1, 4)):
            matrix = nets.motifs[member, :, motif].view(4, WIDTH)
            sums = []
            for read in (row[0].tolist(), [STRANDS[letter] for letter in reversed(row[0].tolist())]):
                for start in range(-OVERHANG, 8 + OVERHANG - WIDTH + 1):
                    places = [place for place in range(WIDTH) if 0 <= start + place < 8]
                    sums.append(sum(float(matrix[read[start + place], place]) for place in places))
            assert len(sums) == SHAPE.windows == 14
            by_hand = torch.tensor(sums).exp().mean().log()
            assert torch.allclose(found[member, 0, motif], by_hand, atol=1e-5)
        assert torch.equal(found[:, 0, 5:], nets.contexts[0][:, 2])


def test_rows_score_as_indices_and_both_readings_score_alike() -> None:
    nets = MotifNets(SHAPE, generator_from(0))
    features, context = torch.stack([sequences(6, 2), sequences(6, 3)]), torch.tensor([[0], [1], [2]] * 2)
    with torch.no_grad():
        hard = nets(features, context)
        assert hard.shape == (2, 6)
        assert torch.allclose(hard, nets(one_hot(features, 4, torch.float32), context), atol=1e-6)
        # A row that is padded to a fifth category, which is no letter.
        assert torch.allclose(hard, nets(one_hot(features, 5, torch.float32), context), atol=1e-6)
        assert torch.allclose(hard, nets(torch.tensor(STRANDS)[features.flip(-1)], context), atol=1e-6)
        assert not torch.allclose(hard, nets(features.flip(-1), context), atol=1e-3)
    with pytest.raises(ValueError, match="expected a context of 1 columns, got None"):
        nets(features)


def test_slopes_are_those_of_the_score() -> None:
    nets = MotifNets(SHAPE, generator_from(0)).double()
    rows = torch.rand(2, 8, 4, generator=generator_from(4), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda part: nets(part, torch.tensor([[0], [1]])), rows)


def test_a_shape_is_stored_and_built_again() -> None:
    nets = MotifNets(SHAPE, generator_from(0))
    again = model_of(json.loads(json.dumps(shape_of(nets))))
    assert isinstance(again, MotifNets) and again.shape == SHAPE
    again.load_state_dict(nets.state_dict())
    features, context = sequences(5, 5), torch.zeros(5, 1, dtype=torch.long)
    assert torch.equal(nets(features, context), again(features, context))


def test_what_is_no_sequence_is_refused() -> None:
    assert letters_of(ENCODING) == ((0, 1, 2, 3),) * 8
    few = {name: DNA for name in "abcde"}
    with pytest.raises(ValueError, match="expected a sequence of 6 features or more for --model motifs, got 5"):
        letters_of(TableEncoding("y", few, {}))
    with pytest.raises(
        ValueError, match="expected features of one alphabet for --model motifs, got 'U' in p7, which p0 has not"
    ):
        letters_of(TableEncoding("y", {**ENCODING.features, "p7": ("A", "U")}, {}))
    # A position may lack letters.
    assert letters_of(TableEncoding("y", {**ENCODING.features, "p7": ("C", "T")}, {}))[7] == (1, 3)


def test_only_sequences_are_compared_with_motifs() -> None:
    other = TableEncoding("y", {"a": DNA, "b": DNA}, {})
    assert models_to_compare(ENCODING, 100, False) == ("gp", "nets", "blend", "motifs")
    assert models_to_compare(ENCODING, 100, True) == ("nets", "motifs")
    assert models_to_compare(other, 100, False) == ("gp", "nets", "blend")
    assert models_to_compare(other, 100, True) == ("nets",)


def test_sequences_too_long_for_a_process_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_kernel, "MOST_EXACT", 50)
    monkeypatch.setattr(grid_kernel, "MOST_GRID_CELLS", 1_000)
    features = sequences(60, 13)
    rows, quick = TableRows(features, None, site_score(features)), EnsembleFit(steps=2, most_steps=2)
    found = choose_model(rows, ENCODING, quick, generator_from(0))
    assert list(found.scores) == ["nets", "motifs"]
    # No sequence: one network, as before; and networks where a table holds low scores only.
    other = TableEncoding("y", {name: tuple("01234567") for name in "abcd"}, {})
    rows = TableRows(features[:, :4], None, site_score(features))
    assert "expected at most 50 rows" in choose_model(rows, other, quick, generator_from(0)).reason
    assert choose_model(rows, other, quick, generator_from(0)).model is None
    assert choose_model(rows, other, quick, generator_from(0), censored=True).model == "nets"


def test_motifs_learn_a_site_where_it_was_not_seen() -> None:
    """The table has the site in the first half alone, the question in the second: networks of positions cannot know."""
    core, filling = torch.tensor([2, 0, 3, 1]), sequences(1_500, 6, 12)
    shown = filling.clone()
    shown[:300, 1:5] = core
    asked = sequences(64, 7, 12)
    asked[:32, 7:11] = core
    rows, fit = TableRows(shown, None, site_score(shown)), EnsembleFit(steps=400, most_steps=400)
    letters = ((0, 1, 2, 3),) * 12
    motifs = fit_motifs(letters, (), rows, fit, generator_from(8))
    nets = NetEnsemble(NetEnsembleShape((4,) * 12), generator_from(8))
    fit_ensemble(nets, shown, None, rows.score, fit, generator_from(8))
    with torch.no_grad():
        errors = [float((model(asked) - site_score(asked)).square().mean()) for model in (motifs, nets)]
    assert errors[0] < 0.3 * errors[1], errors


def test_both_readings_are_taken_where_the_table_proves_it() -> None:
    seen = sequences(4_000, 9).unique(dim=0)
    letters, quick = ((0, 1, 2, 3),) * 8, EnsembleFit(steps=2, most_steps=2)
    noise = 1e-3 * torch.randn(len(seen), generator=generator_from(1))
    for score, complement in ((site_score(seen) + _own_score(seen), STRANDS), (site_score(seen) + noise, None)):
        found = fit_motifs(letters, (), TableRows(seen, None, score), quick, generator_from(0))
        assert found.shape.complement == complement


def _own_score(of: Tensor) -> Tensor:
    """A small number that a sequence shares with its reverse complement alone."""
    places = 4 ** torch.arange(8)
    return torch.minimum((of * places).sum(1), (torch.tensor(STRANDS)[of.flip(1)] * places).sum(1)) / 4.0**8


def test_high_scores_count_more() -> None:
    """Two rows say opposite things of one sequence; the fit is between them, nearer to the higher one."""
    features = sequences(1, 10).expand(64, -1)
    score = torch.tensor([0.0, 1.0]).repeat(32)
    found = fit_motifs(
        ((0, 1, 2, 3),) * 8, (), TableRows(features, None, score), EnsembleFit(300, 300), generator_from(0)
    )
    with torch.no_grad():
        # Their weights are e to the power of half of one and minus one deviation (.992): e^.992 / (1 + e^.992).
        assert float(found(features[:1])) == pytest.approx(0.73, abs=0.02)


def test_auto_looks_for_motifs_in_low_scores_too() -> None:
    features = sequences(2_400, 11)
    score = site_score(features) + 0.1 * torch.randn(2_400, generator=generator_from(1))
    low = (score < score.median()).nonzero().squeeze(1)
    rows, fit = TableRows(features, None, score)[low], EnsembleFit(steps=100, most_steps=100)
    steps: list[int] = []
    found = choose_model(rows, ENCODING, fit, generator_from(0), steps.append, censored=True)
    assert found.model == "motifs" and found.reason.startswith("motifs, better than nets by two standard errors")
    assert steps[-1] == 5 * 2 * 100 and all(following == step + 1 for step, following in pairwise(steps))


def test_a_fit_by_command_is_kept_and_served(script: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slot_rl.pretraining.EnsembleFit", lambda: EnsembleFit(steps=20, most_steps=20))
    features = sequences(300, 12)
    lines = [
        ",".join([*(DNA[letter] for letter in row), f"{score:.3f}"])
        for row, score in zip(features.tolist(), (site_score(features) + 0.1).tolist(), strict=True)
    ]
    table = tmp_path / "t.csv"
    table.write_text("\n".join([",".join([*ENCODING.features, "y"]), *lines]) + "\n", encoding="utf-8")
    flags = ["--table", table, "--score", "y", "--out", tmp_path / "e"]
    code, _, error = script(ROOT / "scripts/pretrain_estimator.py", *flags, "--model", "motifs")
    assert code == 0, error
    stored = load_estimator(tmp_path / "e")
    assert stored.card["model"] == "motifs" and isinstance(stored.net, MotifNets)
    few = ["--table", table, "--score", "y", "--features", "p0", "p1", "--out", tmp_path / "f", "--model", "motifs"]
    code, _, error = script(ROOT / "scripts/pretrain_estimator.py", *few)
    assert code == 2 and "expected a sequence of 6 features or more for --model motifs, got 2" in error
    assert not (tmp_path / "f").exists()
