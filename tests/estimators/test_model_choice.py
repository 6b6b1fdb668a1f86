"""The choice of a model: its score by hand, that a better one wins by enough or not, and what is not compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl.estimators import load_estimator, model_choice
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableRows
from slot_rl.estimators.model_choice import choose_model, score_of_choice
from slot_rl.estimators.net_ensemble import EnsembleFit
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command

FIT = EnsembleFit(steps=2, most_steps=2)
ENCODING = TableEncoding("y", {"a": tuple("0123456789"), "b": tuple("0123456789")}, {})


def rows(count: int) -> TableRows:
    features = torch.randint(10, (count, 2), generator=generator_from(0))
    return TableRows(features, None, (features[:, 0] * 10 + features[:, 1]).float())


def test_the_score_of_a_choice_by_hand() -> None:
    score = torch.tensor([0.0, 10.0, 20.0, 30.0, 40.0])
    part = TableRows(torch.zeros(5, 1, dtype=torch.long), None, score)
    # A fifth of five rows is one: any order names the mean row.
    assert score_of_choice(score, part, 2.0) == pytest.approx(0.0)
    # Of ten rows two are offered: the best by the order is named with the probability 1 - .9^2, the next .9^2 - .8^2.
    ten = TableRows(torch.zeros(10, 1, dtype=torch.long), None, torch.tensor([100.0, *[0.0] * 9]))
    assert score_of_choice(ten.score, ten, 1.0) == pytest.approx(100 * (1 - 0.81) - 10)
    assert score_of_choice(-ten.score, ten, 10.0) == pytest.approx((100 * 0.01 - 10) / 10)
    # Contexts count alike, however many rows they have.
    both = TableRows(
        torch.zeros(15, 1, dtype=torch.long),
        torch.tensor([0] * 10 + [1] * 5).unsqueeze(1),
        torch.cat([ten.score, score]),
    )
    assert score_of_choice(both.score, both, 1.0) == pytest.approx((100 * (1 - 0.81) - 10) / 2)


def pretend(monkeypatch: pytest.MonkeyPatch, **errors: Callable[[TableRows], Tensor]) -> None:
    """Lets models predict the truth plus some error."""
    monkeypatch.setattr(model_choice, "fit_row_model", lambda name, *rest, kept: name)
    monkeypatch.setattr(model_choice, "score_rows", lambda name, part: part.score + errors[name](part))


def noise(size: float, seed: int) -> Callable[[TableRows], Tensor]:
    generator = generator_from(seed)
    return lambda part: size * torch.randn(len(part), generator=generator)


@pytest.mark.parametrize(("gp", "nets", "model"), [(1.0, 200.0, "gp"), (0.0, 0.0, "gp"), (300.0, 0.1, "nets")])
def test_the_better_model_wins(gp: float, nets: float, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gp=noise(gp, 1), nets=noise(nets, 2))
    found = choose_model(rows(500), ENCODING, FIT, generator_from(3))
    assert found.model == model and found.reason.startswith(f"{model}, ") and "standard error" in found.reason
    assert all(len(scores) == 5 for scores in found.scores.values()) and list(found.scores) == ["gp", "nets", "blend"]
    # Of errors with deviation s, those of the highest estimates are up to 2.1 s: the mean of a normal's highest 5 %.
    assert gp / 2 <= found.errors["gp"] <= 2.5 * gp and nets / 2 <= found.errors["nets"] <= 2.5 * nets


def test_low_scores_alone_are_left_to_networks() -> None:
    found = choose_model(rows(500), ENCODING, FIT, generator_from(3), censored=True)
    assert found.model == "nets" and found.reason == "nets, because the table holds low scores only"
    assert not found.scores and not found.errors


def test_errors_that_cancel_speak_for_the_blend(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(part: TableRows) -> Tensor:
        return 200 * torch.sin(17.0 * part.score)

    pretend(monkeypatch, gp=wrong, nets=lambda part: -wrong(part))
    assert choose_model(rows(500), ENCODING, FIT, generator_from(3)).model == "blend"


def test_each_row_is_held_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table, fitted, asked = rows(103), [], []

    def fit(name: str, part: TableRows, *rest: Any, kept: None) -> str:
        fitted.append(len(part))
        return name

    def score(name: str, part: TableRows) -> Tensor:
        asked.append(part.score)
        return part.score

    monkeypatch.setattr(model_choice, "fit_row_model", fit)
    monkeypatch.setattr(model_choice, "score_rows", score)
    choose_model(table, ENCODING, FIT, generator_from(3))
    assert torch.equal(torch.cat(asked[::2]).sort().values, table.score.sort().values)
    assert fitted == [103 - len(part) for part in asked]


def test_what_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_choice, "MOST_CHOICE_ROWS", 50)
    for count in (9, 51):
        found = choose_model(rows(count), ENCODING, FIT, generator_from(3))
        assert found.model is None and not found.scores
        assert found.reason == f"expected from 10 to 50 rows to compare models on, got {count}"


def test_auto_says_what_it_chose_and_why(script: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "t.csv"
    lines = [f"{a},{b},{(a - 3) * (b - 2) + 0.1 * a}" for a in range(8) for b in range(8)]
    table.write_text("\n".join(["a,b,y", *lines]) + "\n", encoding="utf-8")
    monkeypatch.setattr("slot_rl.pretraining.EnsembleFit", lambda: FIT)
    flags = ["--table", table, "--score", "y", "--model", "auto", "--out", tmp_path / "e"]
    code, shown, error = script(ROOT / "scripts/pretrain_estimator.py", *flags)
    assert code == 0 and "model: gp, no other is better by two standard errors" in " ".join(shown.split()), error
    card = load_estimator(tmp_path / "e").card
    assert card["model"] == "gp" and card["choice"]["model"] == "gp" and len(card["choice"]["scores"]["blend"]) == 5
    more = ["--numeric", "b", "--epochs", "2", "--force"]
    code, _, error = script(ROOT / "scripts/pretrain_estimator.py", *flags, *more)
    assert code == 2 and "expected no settings of a network's fit with --model auto" in error
    code, shown, error = script(ROOT / "scripts/pretrain_estimator.py", *flags, "--numeric", "b", "--force")
    assert code == 0 and "model: net, because nothing else fits: expected columns of categories" in shown, error
