"""The measurements of constraints, in short: what they print and what must hold at any length."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT, Command


def test_valid_kernels_never_names_what_does_not_run(
    tmp_path: Path, script: Command, landscape: Callable[[str], Path]
) -> None:
    rows = pd.read_csv(landscape("gpu_dedispersion.csv"))
    few = rows[rows["block_size_y"].isin([64, 128, 256]) & rows["tile_size_y"].isin([1, 2, 4, 8])]
    few.to_csv(tmp_path / "gpu_dedispersion.csv", index=False)
    flags = ["--share", "0.1", "--seeds", "1", "--timesteps", "1000", "--draws", "1000", "--out", tmp_path / "k"]
    code, output, errors = script(ROOT / "scripts" / "reproduce.py", "valid-kernels", "--data", tmp_path, *flags)
    assert code == 0, errors
    figures = json.loads((tmp_path / "k" / "results.json").read_text())["figures"]
    assert figures["valid 0"]["invalid_answers"] == figures["valid 0"]["invalid_draws"] == 0
    # The control learns the same without the constraint, and names configurations that do not run.
    assert figures["all 0"]["invalid_draws"] > 100
    assert "0/6" in output


@pytest.mark.parametrize(("flag", "value"), [("--share", "1"), ("--draws", "0"), ("--seeds", "0")])
def test_valid_kernels_refuses_nothing_to_do(flag: str, value: str, tmp_path: Path, script: Command) -> None:
    code, _, errors = script(ROOT / "scripts" / "reproduce.py", "valid-kernels", "--data", tmp_path, flag, value)
    assert code == 2
    assert "expected share between 0 and 1, and seeds, timesteps and draws >= 1" in " ".join(errors.split())


def test_the_speed_of_answers_is_printed_for_each_constraint(script: Command) -> None:
    flags = ["--batch", "4", "--repeats", "1", "--seconds", "0.01"]
    code, output, errors = script(ROOT / "scripts" / "benchmark.py", "answers", *flags)
    assert code == 0, errors
    assert "1.00x" in output and "distinct" in output
