"""A fit that is killed and begun again ends with the weights of one that was not, bit for bit."""

import csv
import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl import pretraining
from slot_rl.estimators.ensemble_kinds import EnsembleMaking, make_members
from slot_rl.estimators.fitting import TableFit, TableRows, TruthFit, fit_on_table, fit_on_truth, network_for
from slot_rl.estimators.kept_fit import DOCUMENT, KIND, KeptFit
from slot_rl.estimators.motif_nets import fit_motifs
from slot_rl.estimators.net import EstimatorNet, EstimatorShape
from slot_rl.estimators.net_ensemble import EnsembleFit, NetEnsembleShape
from slot_rl.io import read_bundle, write_bundle
from slot_rl.problems.named import SYNTHETIC
from slot_rl.seeding import generator_from, seeded_initialisation
from tests.conftest import ROOT, Command
from tests.helpers.logged_table import ENCODING, all_rows
from tests.helpers.shop import write_shop

FIT = TableFit(epochs=9, batch_size=32, dim=3, hidden=(8,))
NETS = EnsembleFit(steps=9, most_steps=9, batch_size=40)


class Killed(BaseException):
    """Ends a fit as a kill does."""


def rows() -> TableRows:
    contexts, choices = all_rows()
    return TableRows(choices, contexts, (choices.sum(dim=1) + contexts[:, 0] * choices[:, 0]).float())


def on_table(kept: KeptFit | None, validation: float = 1.0) -> dict[str, Tensor]:
    net, table = network_for(ENCODING, FIT, seed=1), rows()
    judged = replace(table, score=validation * table.score)
    epoch = fit_on_table(net, table, judged, FIT, generator_from(2), lambda step, error: None, kept)
    return {**net.state_dict(), "epoch": torch.tensor(epoch)}


def on_truth(kept: KeptFit | None) -> dict[str, Tensor]:
    def draw(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        vectors = torch.randn(batch, 2, 3, generator=generator)
        return vectors, vectors.prod(dim=1).sum(dim=-1)

    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(2, 3, (8,)))
    fit_on_truth(net, draw, TruthFit(9, 16), generator_from(2), lambda step, loss: None, kept)
    return net.state_dict()


def of_members(making: EnsembleMaking, kept: KeptFit | None) -> dict[str, Tensor]:
    shape = NetEnsembleShape((4, 4, 3), (3,), members=3, dim=3, hidden=(8,))
    return make_members(making, shape, rows(), NETS, generator_from(2), kept=kept).state_dict()


def of_motifs(kept: KeptFit | None) -> dict[str, Tensor]:
    positions = torch.randint(4, (60, 6), generator=generator_from(1))
    sequences = TableRows(positions, None, positions[:, 2] + positions[:, 0] / 4)
    return fit_motifs([range(4)] * 6, (), sequences, NETS, generator_from(2), kept=kept).state_dict()


LOOPS: dict[str, tuple[Callable[[KeptFit | None], dict[str, Tensor]], int]] = {
    "table": (on_table, 9),
    "early best": (partial(on_table, validation=-1), 9),
    "truth": (on_truth, 9),
    "nets": (partial(of_members, EnsembleMaking()), 9),
    "joint": (partial(of_members, EnsembleMaking("joint", "linear_cka")), 9),
    "bootstrap": (partial(of_members, EnsembleMaking("bootstrap")), 9),
    "folds": (partial(of_members, EnsembleMaking("folds")), 9),
    "snapshot": (partial(of_members, EnsembleMaking("snapshot")), 9),
    "sequential": (partial(of_members, EnsembleMaking("sequential", "weight_distance")), 27),
    "mixed": (partial(of_members, EnsembleMaking("mixed")), 10),
    "motifs": (of_motifs, 9),
}
"""Fits, and how many steps they have."""


class KilledFit(KeptFit):
    """Writes after every step, and ends as a kill does once so many are written."""

    left = 0

    def write(self, loop: int, tensors: Any, step: int) -> None:
        super().write(loop, tensors, step)
        self.left -= 1
        if not self.left:
            raise Killed


def kill(fit: Callable[[KeptFit], object], folder: Path, after: int) -> None:
    kept = KilledFit(folder, "key", seconds=0)
    kept.left = after
    with pytest.raises(Killed):
        fit(kept)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", LOOPS)
def test_a_killed_fit_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    fit, steps = LOOPS[name]
    straight = fit(None)
    for cut in {*range(1, steps + 1, 1 + steps // 10), steps}:
        kill(fit, tmp_path / str(cut), cut)
        assert equal(fit(KeptFit(tmp_path / str(cut), "key")), straight), cut
    shutil.copytree(tmp_path / str(steps), tmp_path / "over")
    # What is over is not done again, or the counter would come to its end.
    kept = KilledFit(tmp_path / "over", "key", seconds=0)
    kept.left = 1
    assert equal(fit(kept), straight)


@pytest.mark.parametrize("name", ["table", "early best", "truth", "nets", "snapshot"])
def test_each_field_of_a_kept_fit_is_needed(name: str, tmp_path: Path) -> None:
    fit, _ = LOOPS[name]
    straight = fit(None)
    kill(fit, tmp_path / "kept", 5)
    tensors, _ = read_bundle(tmp_path / "kept" / "1", KIND, DOCUMENT)
    parts = {".".join(each.split(".")[:2]) if each.startswith("tensors") else each.split(".")[0] for each in tensors}
    # The best weights so far matter where later ones are worse, all others where they are not.
    best = {part for part in parts if part.startswith("tensors.best")}
    parts = best if name == "early best" else parts - best
    assert len(parts) > 2
    for part in sorted(parts):
        other = {each: value + 1 if each.startswith(part) else value for each, value in tensors.items()}
        write_bundle(tmp_path / part / "1", KIND, other, {"step": 5, "key": "key"}, DOCUMENT)
        try:
            same = equal(fit(KeptFit(tmp_path / part, "key")), straight)
        except (RuntimeError, IndexError):  # no generator has this state, and no table so many rows
            same = False
        assert not same, part
    write_bundle(tmp_path / "step" / "1", KIND, tensors, {"step": 4, "key": "key"}, DOCUMENT)
    assert name == "early best" or not equal(fit(KeptFit(tmp_path / "step", "key")), straight)


def test_the_state_of_another_fit_is_left_out(tmp_path: Path) -> None:
    kill(on_table, tmp_path, 4)
    assert KeptFit(tmp_path, "key").read(1) is not None
    assert KeptFit(tmp_path, "another").read(1) is None and KeptFit(tmp_path, "key").read(2) is None
    assert equal(on_table(KeptFit(tmp_path, "another")), on_table(None))


def test_the_state_of_another_loop_is_left_out(tmp_path: Path) -> None:
    kill(LOOPS["nets"][0], tmp_path, 4)
    assert KeptFit(tmp_path, "key").read(1) is not None
    assert equal(on_table(KeptFit(tmp_path, "key")), on_table(None))


def test_a_state_is_written_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    kept = KilledFit(tmp_path, "key", seconds=1_000)
    kept.left = 2
    on_table(kept)
    assert kept.left == 1


@pytest.mark.parametrize("fault", ["a full disk", "weights that are not finite"])
def test_a_state_that_cannot_be_written_ends_no_fit(fault: str, tmp_path: Path) -> None:
    kept = KeptFit(tmp_path / "kept", "key", seconds=0)
    if fault == "a full disk":
        kept.folder.write_text("no folder")
        assert equal(on_table(kept), on_table(None))
    else:
        kept.write(1, {"weight": torch.tensor(torch.nan)}, 1)
    assert kept.read(1) is None


def table_flags(folder: Path, *flags: str) -> list[Any]:
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        cells = [(*each, sum(map(ord, each)) % 17) for each in itertools.product("abcd", "efgh", "ijkl")]
        csv.writer(file).writerows([("p", "q", "r", "y"), *cells])
    return ["--table", path, "--score", "y", "--model", *flags]


COMMANDS: dict[str, tuple[Callable[[Path], Sequence[Any]], int]] = {
    "net": (lambda folder: table_flags(folder, "net", "--epochs", "12"), 12),
    "gp": (lambda folder: table_flags(folder, "gp"), 2),
    "blend": (lambda folder: table_flags(folder, "blend"), 20),
    "auto": (lambda folder: table_flags(folder, "auto"), 52),
    "ensemble": (lambda folder: table_flags(folder, "nets", "--ensemble", "snapshot"), 18),
    "log": (lambda folder: [*write_shop(folder / "shop").flags(), "--passes", 2, "--batch", 1_000], 8),
    "problem": (lambda folder: ["--problem", "slots-v0"], 9),
}
"""Flags of fits, and how many steps they have at least."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_goes_on(name: str, tmp_path: Path, script: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made, steps = COMMANDS[name]
    monkeypatch.setattr(pretraining, "EnsembleFit", lambda: NETS)
    monkeypatch.setattr(pretraining, "TEST_SAMPLES", 100)
    monkeypatch.setitem(vars(SYNTHETIC["SlotRL/Slots-v0"]), "fit", TruthFit(9, 16))
    fit = partial(script, ROOT / "scripts" / "pretrain_estimator.py", *made(tmp_path), "--out")
    assert fit(tmp_path / "straight")[0] == 0
    for after in (steps // 2, steps):
        monkeypatch.setattr(KilledFit, "left", after)
        monkeypatch.setattr(pretraining, "KeptFit", partial(KilledFit, seconds=0))
        with pytest.raises(Killed):
            fit(tmp_path / "cut")
        assert (tmp_path / ".cut.fitting").is_dir() and not (tmp_path / "cut").exists()
        monkeypatch.setattr(pretraining, "KeptFit", KeptFit)
        code, output, error = fit(tmp_path / "cut")
        assert code == 0, error
        assert "goes on with the fit in" in output
        assert not (tmp_path / ".cut.fitting").exists()
        names = [sorted(path.name for path in (tmp_path / run).glob("weights-*")) for run in ("straight", "cut")]
        assert names[0] == names[1] != []
        shutil.rmtree(tmp_path / "cut")


def test_a_changed_file_of_descriptors_begins_a_fit_anew(tmp_path: Path) -> None:
    path = tmp_path / "ligands.csv"
    asked = pretraining.PretrainConfig(table=tmp_path / "none.csv", descriptors=(f"ligand={path}",))
    keys = []
    for text in ("ligand,x\nA,1\n", "ligand,x\nA,2\n"):
        path.write_text(text)
        keys.append(pretraining._key(asked))
    assert keys[0] != keys[1] == pretraining._key(asked)
