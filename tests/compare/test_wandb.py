"""The run of a whole comparison on Weights & Biases, read back from its offline file."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import image

from slot_rl import __version__
from slot_rl.compare.wandb import Published, read_published, track_comparison
from tests.helpers.wandb_files import finished_records, history, labels

TABLE = pd.DataFrame({"agent": ["gumbel", "random"], "optimality": [".750", ""], "seeds": [3, 3]})


def picture(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    image.imsave(path, [[0.0, 1.0]])
    return path


def test_one_offline_run_holds_tables_and_pictures(tmp_path: Path) -> None:
    before = os.environ.get("WANDB_DATA_DIR")
    pictures = [picture(tmp_path / "report" / "curves.png"), picture(tmp_path / "report" / "costs.png")]
    track_comparison(tmp_path, "20260101-000000", {"agents": ["gumbel"]}, {"final": TABLE}, pictures, "offline")
    folder = tmp_path / "comparison"
    records = finished_records(folder)
    group = f"comparison__{tmp_path.name}"
    assert labels(records) == (f"{group}__20260101-000000", group, "comparison", ["comparison", __version__])

    (row,) = history(records)
    (files,) = folder.glob("wandb/offline-run-*/files")
    table = json.loads((files / row["tables/final/path"]).read_text())
    assert (row["tables/final/_type"], table["columns"]) == ("table-file", ["agent", "optimality", "seeds"])
    assert table["data"] == [["gumbel", ".750", 3], ["random", "", 3]]
    for path in pictures:
        assert row[f"pictures/{path.stem}/_type"] == "image-file"
        assert (files / row[f"pictures/{path.stem}/path"]).read_bytes() == path.read_bytes()
    (artifact,) = (record.artifact for record in records if record.WhichOneof("record_type") == "artifact")
    copies = [Path(entry.local_path) for entry in artifact.manifest.contents]
    assert copies and all(copy.is_file() and copy.is_relative_to(folder) for copy in copies)
    assert os.environ.get("WANDB_DATA_DIR") == before
    assert read_published(tmp_path) == Published(
        f"{group}__20260101-000000", ("tables/final",), ("pictures/curves", "pictures/costs")
    )


def test_a_refusal_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb.py").write_text("raise RuntimeError('out of order')")
    monkeypatch.syspath_prepend(tmp_path)
    track_comparison(tmp_path, "20260101-000000", {}, {"final": TABLE}, [], "offline")
    (said,) = capsys.readouterr().out.splitlines()
    assert "the comparison is not on Weights & Biases (RuntimeError: out of order)" in said
    assert read_published(tmp_path) is None


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    track_comparison(tmp_path, "20260101-000000", {}, {"final": TABLE}, [], "disabled")
    assert list(tmp_path.iterdir()) == []
    assert read_published(tmp_path) is None


def test_a_bad_picture_is_refused_before_any_write(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    one, other = picture(tmp_path / "a" / "same.png"), picture(tmp_path / "b" / "same.png")
    for pictures, message in (
        ([tmp_path / "missing.png"], "expected a picture in .*missing.png, got no such file"),
        ([text], "expected a PNG file, got .*text.png"),
        ([one, other], r"pictures with names of their own, got \['same.png', 'same.png'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            track_comparison(tmp_path, "20260101-000000", {}, {}, pictures, "offline")
    assert not (tmp_path / "comparison").exists()
