"""A fit that is killed and begun again ends with the weights of one that was not, bit for bit."""

import csv
import itertools
from functools import partial
from pathlib import Path

import pytest
import torch

from slot_rl import pretraining
from slot_rl.estimators.fitting import TableFit, TableRows, fit_on_table, network_for
from slot_rl.estimators.kept_fit import DOCUMENT, KIND, KeptFit
from slot_rl.io import read_bundle, write_bundle
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command
from tests.helpers.logged_table import ENCODING, all_rows

FIT = TableFit(epochs=9, batch_size=32, dim=3, hidden=(8,))
EVERY = 5  # gradient steps of an epoch


class Killed(BaseException):
    """Ends a fit as a kill does."""


def rows() -> TableRows:
    contexts, choices = all_rows()
    return TableRows(choices, contexts, (choices.sum(dim=1) + contexts[:, 0] * choices[:, 0]).float())


def fitted(kept: KeptFit | None, killed: int = 0) -> tuple[dict[str, torch.Tensor], int]:
    """Fits; ends as a kill does after so many epochs."""
    net, table = network_for(ENCODING, FIT, seed=1), rows()

    def report(step: int, error: float | None) -> None:
        if killed and step > killed * EVERY:
            raise Killed

    try:
        epoch = fit_on_table(net, table, table, FIT, generator_from(2), report, kept)
    except Killed:
        return {}, 0
    return net.state_dict(), epoch


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("cut", range(1, FIT.epochs))
def test_a_killed_fit_goes_on_bit_for_bit(cut: int, tmp_path: Path) -> None:
    straight, epoch = fitted(None)
    fitted(KeptFit(tmp_path / "kept", "key", seconds=0), killed=cut)
    found = KeptFit(tmp_path / "kept", "key").read()
    assert found is not None and found[1]["epoch"] == cut
    again, same = fitted(KeptFit(tmp_path / "kept", "key"))
    assert equal(again, straight) and same == epoch


def test_each_field_of_a_kept_fit_is_needed(tmp_path: Path) -> None:
    straight, _ = fitted(None)
    fitted(KeptFit(tmp_path / "kept", "key", seconds=0), killed=4)
    tensors, document = read_bundle(tmp_path / "kept", KIND, DOCUMENT)
    for part in ("net", "average", "optimizer", "generator"):
        less = {
            name: torch.zeros_like(value) if name.split(".")[0] == part else value for name, value in tensors.items()
        }
        values = {name: document[name] for name in ("epoch", "best", "best_epoch", "key")}
        write_bundle(tmp_path / part, KIND, less, values, DOCUMENT)
        try:
            same = equal(fitted(KeptFit(tmp_path / part, "key"))[0], straight)
        except RuntimeError:
            same = False
        assert not same, part


def test_the_state_of_another_fit_is_left_out(tmp_path: Path) -> None:
    fitted(KeptFit(tmp_path / "kept", "another", seconds=0), killed=4)
    assert KeptFit(tmp_path / "kept", "key").read() is None
    assert equal(fitted(KeptFit(tmp_path / "kept", "key"))[0], fitted(None)[0])
    assert KeptFit(tmp_path / "nothing", "key").read() is None


def test_a_state_is_written_now_and_then(tmp_path: Path) -> None:
    fitted(KeptFit(tmp_path / "kept", "key", seconds=1_000), killed=4)
    assert not (tmp_path / "kept").exists()


def test_a_state_that_cannot_be_written_ends_no_fit(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("no folder")
    again, epoch = fitted(KeptFit(tmp_path / "kept", "key", seconds=0))
    assert equal(again, fitted(None)[0]) and epoch == fitted(None)[1]


def test_the_command_goes_on(tmp_path: Path, script: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.csv"
    with table.open("w", newline="") as file:
        cells = [(*each, sum(map(ord, each)) % 17) for each in itertools.product("abcd", "efgh", "ijkl")]
        csv.writer(file).writerows([("p", "q", "r", "y"), *cells])
    flags = ["--table", table, "--score", "y", "--model", "net", "--epochs", 12]
    fit = partial(script, ROOT / "scripts" / "pretrain_estimator.py", *flags)
    assert fit("--out", tmp_path / "straight")[0] == 0
    epochs = 0

    def killing(kept: KeptFit, make: object) -> None:
        nonlocal epochs
        epochs += 1
        original(kept, make)  # type: ignore[arg-type]
        if epochs == 5:
            raise Killed

    original = KeptFit.write
    monkeypatch.setattr(pretraining, "KeptFit", partial(KeptFit, seconds=0))
    monkeypatch.setattr(KeptFit, "write", killing)
    with pytest.raises(Killed):
        fit("--out", tmp_path / "cut")
    assert (tmp_path / ".cut.fitting").is_dir() and not (tmp_path / "cut").exists()
    assert fit("--out", tmp_path / "cut")[0] == 0
    assert epochs < 12 + 5
    assert not (tmp_path / ".cut.fitting").exists()
    names = [sorted(path.name for path in (tmp_path / run).glob("weights-*")) for run in ("straight", "cut")]
    assert names[0] == names[1]
