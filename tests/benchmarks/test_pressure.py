"""The study of pressure: the best of k draws by hand and by simulation, its tables, and refusals."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import pressure
from benchmarks.landscapes import Landscape, Share
from benchmarks.measured_grid import Grid
from benchmarks.pressure import DRAWS, MAKINGS, PRESSED, PressureConfig, measure_pressure, name_of, press
from benchmarks.reproductions.results import Place
from slot_rl.estimators.ensemble_kinds import EnsembleMaking
from slot_rl.estimators.net_ensemble import NetEnsemble, NetEnsembleShape
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command

SMALL = Landscape("small", "small.csv", "y", ("u",), Share(0.5))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    # One combination of each context is not measured.
    rows = [
        f"{u},{a},{b},{a * (b + 1) * scale}" for u, scale in (("x", 1), ("z", 10)) for a in range(5) for b in range(4)
    ]
    rows = [row for row in rows if not row.startswith(("x,0,3", "z,0,3"))]
    (tmp_path / "small.csv").write_text("\n".join(["u,a,b,y", *rows]) + "\n", encoding="utf-8")
    return tmp_path


def test_the_best_of_few_draws_by_hand() -> None:
    estimate, true = torch.tensor([[0.9, 0.1, 0.5, 0.3]]), torch.tensor([[0.2, 0.0, 1.0, 0.4]])
    found = press(estimate, true)
    assert found.top_1 == pytest.approx(0.2) and found.top_10 == pytest.approx(0.4)
    assert found.estimated[0] == pytest.approx(0.45) and found.true[0] == pytest.approx(0.4)
    # Of two draws the highest estimate is best with 7 chances of 16, the next with 5, then 3 and 1.
    assert found.true[1] == pytest.approx((7 * 0.2 + 5 * 1.0 + 3 * 0.4 + 1 * 0.0) / 16)
    # Of very many draws it is the highest estimate, whose true score is low: the estimate is exploited.
    assert found.estimated[-1] == pytest.approx(0.9) and found.true[-1] == pytest.approx(0.2)
    assert max(found.true) > found.true[-1] and len(found.true) == len(DRAWS) == 17


def test_the_best_of_many_draws_is_what_a_simulation_finds() -> None:
    generator = generator_from(0)
    estimate, true = torch.rand(2, 1, 50, generator=generator)
    drawn = torch.randint(50, (40_000, 16), generator=generator)
    best = drawn.gather(1, estimate[0][drawn].argmax(dim=1, keepdim=True)).squeeze(1)
    assert press(estimate, true).true[4] == pytest.approx(float(true[0][best].mean()), abs=0.01)


def test_a_grid_places_estimates_and_rows_as_the_truth(data: Path) -> None:
    grid = Grid.read(SMALL, data)
    assert grid.true.shape == (2, 20) and torch.allclose(grid.true[0], grid.true[1])
    assert grid.true[0, :4].tolist() == [0] * 4 and float(grid.true[0, 19]) == 1  # a = 4, b = 3
    seen = grid.rows[torch.arange(38)[grid.rows.features[:, 0] > 0]]
    unseen = grid.unseen(seen)
    # Seen rows and those that were never measured are left out.
    assert unseen.nonzero().tolist() == [[context, cell] for context in range(2) for cell in range(3)]
    nets = NetEnsemble(NetEnsembleShape((5, 4), (2,), 2, dim=2, hidden=(4,)), generator_from(0))
    found = grid.member_scores(nets)
    with torch.no_grad():
        raw = nets.member_scores(torch.tensor([[3, 1]]), torch.tensor([[1]]))
    assert found.shape == (2, 2, 20)
    assert torch.allclose(found[:, 1, 3 * 4 + 1], raw[:, 0] / 160, atol=1e-6)  # from 0 to 10 * 4 * 4


def test_every_kind_and_term_is_in_the_study() -> None:
    names = [name_of(making) for making in MAKINGS]
    assert len(set(names)) == len(names) == 15 and names[0] == "independent"


def test_the_study_prints_and_writes_every_kind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESSED, "small", SMALL)
    makings = (EnsembleMaking(), EnsembleMaking("mixed"), EnsembleMaking("joint", "linear_cka"))
    monkeypatch.setattr(pressure, "MAKINGS", makings)
    monkeypatch.setattr(pressure, "UNSEEN_SHARE", 0.5)
    measure_pressure(PressureConfig(data, ("small",), 2, steps=10, place=Place(tmp_path / "out")))
    shown = " ".join(capsys.readouterr().out.split())
    assert "true score of the ten highest estimates" in shown and "members and their mean, 2 subsets" in shown
    for name in ("independent", "mixed", "joint, linear_cka"):
        assert shown.count(name.split(", ")[0]) >= 3
    figures = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))["figures"]
    assert list(figures) == ["small, 2000", "small, 2001"]
    assert figures["small, 2000"]["mixed"]["objectives"]["minimum"]["true"][0] == pytest.approx(
        float(Grid.read(SMALL, data).true.mean()), abs=1e-6
    )
    assert (tmp_path / "out/picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--landscapes", "mars"], "got 'mars'"),
        (["--landscapes", "gb1-384", "--subsets", "1"], "expected two pairs of a landscape and a subset at least"),
        (["--steps", "0"], "steps >= 10"),
        ([], "without"),
    ],
)
def test_bad_flags_of_the_study_are_refused(flags: list[str], message: str, script: Command, tmp_path: Path) -> None:
    code, _, error = script(ROOT / "scripts/reproduce.py", "pressure", "--data", tmp_path, *flags)
    assert code == 2 and message in " ".join(error.split())
