"""Files from strangers: what is in them is not executed, leads nowhere, and is nothing but text where it is shown."""

import csv
import inspect
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from stable_baselines3.common.base_class import BaseAlgorithm

from slot_rl import plots
from slot_rl.agents import AGENTS, LearningAgent
from slot_rl.agents.maskable_policy import SequentialPolicy, SequentialPPO
from slot_rl.agents.policy import SlotPolicy
from slot_rl.campaign import Campaign
from slot_rl.campaign_command import CampaignConfig, run_campaign
from slot_rl.compare.presets import read_presets
from slot_rl.compare.report import Picture, Section, write_page
from slot_rl.compare.study import read_study
from slot_rl.console import print_table, say
from slot_rl.estimators.frames import read_frame
from slot_rl.estimators.table import read_table
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import BundleError, read_config, read_json, write_json
from slot_rl.looks import looks_of
from slot_rl.metrics_file import read_metrics
from slot_rl.pretraining import PretrainConfig, pretrain
from slot_rl.problems.candidate_file import CandidateRequests
from slot_rl.problems.constraints.written import read_entries
from slot_rl.recommending import RecommendConfig, recommend
from slot_rl.training import RunConfig, train_run
from tests.agents.test_no_pickles import Bomb
from tests.faults.conftest import Promise
from tests.faults.test_damage import vouch
from tests.helpers.options import options_of
from tests.helpers.quick_campaigns import fit_quickly
from tests.helpers.small_agents import TINY
from tests.helpers.written import WRITTEN, Written

KINDS = pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.name)
EXECUTING = re.compile(r"load_from_zip_file|load_from_pkl|\b(th|torch)\.load\(|pickle\.loads?\(|cloudpickle")
"""In the source of what reads a pickle."""


def bombs(target: Path) -> dict[str, bytes]:
    """Returns a pickle in each form in which a library reads one."""
    plain = pickle.dumps(Bomb(target))
    torch.save({"weight": Bomb(target)}, target.with_name("bomb.pt"))
    np.save(target.with_name("bomb.npy"), np.array([Bomb(target)], dtype=object), allow_pickle=True)
    yaml_call = f"!!python/object/apply:os.mkdir ['{target}']\n".encode()
    names = ("bomb.pt", "bomb.npy")
    return {"pickle": plain, **{name: target.with_name(name).read_bytes() for name in names}, "yaml": yaml_call}


@KINDS
@pytest.mark.parametrize("form", ["pickle", "bomb.pt", "bomb.npy", "yaml"])
def test_a_pickle_in_a_file_is_not_executed(kind: Written, form: str, tmp_path: Path, promise: Promise) -> None:
    (tmp_path / "files").mkdir()
    kind.write(tmp_path / "files")
    bomb, tried = bombs(tmp_path / "executed")[form], 0
    for path in kind.files(tmp_path / "files"):
        whole = path.read_bytes()
        path.write_bytes(bomb)
        with pytest.raises(ValueError):
            kind.read(tmp_path / "files")
        if path.suffix == ".safetensors":
            # Also where the document vouches for it.
            vouch(path, bomb)
            with pytest.raises(ValueError):
                kind.read(tmp_path / "files")
        path.write_bytes(whole)
        tried += 1
    executed = (tmp_path / "executed").exists()
    promise(f"planted pickles ({form}) that are executed", f"{int(executed)} of {tried}")
    assert not executed and tried


READERS: dict[str, Callable[[Path], Any]] = {
    "table.csv": lambda path: read_table(path, "y"),
    "table.parquet": lambda path: read_table(path, "y"),
    "frame.csv": lambda path: len(read_frame(path)) and read_table(path, "y"),
    "frame.parquet": read_frame,
    "frame.jsonl": read_frame,
    "requests.safetensors": lambda path: CandidateRequests.read(path, 4, 1, {}),
    "study.yaml": lambda path: read_study(path, {}),
    "rules.yaml": read_entries,
    "metrics.jsonl": lambda path: read_metrics(path) or read_json(path),
    "config.json": lambda path: read_config(path.parent),
    "Slots-v0.yaml": lambda path: read_presets("SlotRL/Slots-v0", path.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pickle_in_what_users_give_is_not_executed(name: str, tmp_path: Path) -> None:
    for bomb in bombs(tmp_path / "executed").values():
        (tmp_path / name).write_bytes(bomb)
        with pytest.raises(ValueError):
            READERS[name](tmp_path / name)
    assert not (tmp_path / "executed").exists()
    # The bomb works where it is read as a pickle.
    pickle.loads(bombs(tmp_path / "executed")["pickle"])
    assert (tmp_path / "executed").exists()


def test_a_pickle_in_the_types_of_a_parquet_file_is_not_executed(tmp_path: Path) -> None:
    storage = pa.array(["a", "b"])
    known = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    known[b"ARROW:extension:metadata"] = pickle.dumps(Bomb(tmp_path / "executed"))
    field = pa.field("kind", pa.string(), metadata=known)
    schema = pa.schema([field, pa.field("y", pa.float64())], metadata={b"pandas": pickle.dumps(Bomb(tmp_path / "e"))})
    pa.parquet.write_table(pa.table([storage, pa.array([1.0, 2.0])], schema=schema), tmp_path / "a.parquet")
    for read in (lambda path: read_table(path, "y"), read_frame):
        try:
            read(tmp_path / "a.parquet")
        except ValueError:
            pass
    assert not (tmp_path / "executed").exists() and not (tmp_path / "e").exists()


def inherited_doors(kind: type) -> set[str]:
    """Returns the public methods that a class has from Stable-Baselines3 and that read a pickle."""
    found = set()
    for name, method in inspect.getmembers(kind, callable):
        whole = getattr(method, "__func__", method)
        foreign = (getattr(whole, "__module__", None) or "").startswith(("stable_baselines3", "sb3_contrib"))
        if not name.startswith("_") and foreign and inspect.isfunction(whole):
            if EXECUTING.search(inspect.getsource(whole)):
                found.add(name)
    return found


def test_no_class_has_a_door_of_stable_baselines3_to_a_pickle(promise: Promise) -> None:
    agents = {kind.build for kind in AGENTS.values()}
    kinds = [*agents, SlotPolicy, SequentialPolicy, SequentialPPO]
    open_doors = {f"{kind.__name__}.{name}" for kind in kinds for name in inherited_doors(kind)}
    promise("doors of Stable-Baselines3 that read a pickle are shut", f"{len(open_doors)} open of {len(kinds)} classes")
    assert not open_doors
    # The search finds them where they are open.
    assert {"load", "set_parameters"} <= inherited_doors(BaseAlgorithm)
    assert sum(issubclass(kind, LearningAgent) for kind in agents) > 5


def test_weights_out_of_the_folder_are_not_read(tmp_path: Path, promise: Promise) -> None:
    kind = next(each for each in WRITTEN if each.name == "estimator")
    (tmp_path / "files").mkdir()
    kind.write(tmp_path / "files")
    (weights,) = (tmp_path / "files").glob("*.safetensors")
    outside = shutil.move(weights, tmp_path / weights.name)
    document = read_json(tmp_path / "files" / "card.json")
    (entry,) = document["files"].values()
    (tmp_path / "files" / "inner").mkdir()
    (tmp_path / "files" / "link.safetensors").symlink_to(outside)
    (tmp_path / "files" / "up").symlink_to(tmp_path)
    names = [f"../{weights.name}", str(outside), f"up/{weights.name}", f"inner/../../{weights.name}"]
    names += ["link.safetensors", "..", ".", "", "/dev/zero", "a" * 5_000, "a\0b"]
    for name in names:
        write_json(tmp_path / "files" / "card.json", {**document, "files": {name: entry}})
        with pytest.raises(BundleError, match="expected the weights .*, got no such file"):
            kind.read(tmp_path / "files")
    shutil.copy(outside, tmp_path / "files" / "link.bin")
    write_json(tmp_path / "files" / "card.json", {**document, "files": {"link.bin": entry}})
    kind.read(tmp_path / "files")
    promise("paths in documents do not leave their folder", f"0 of {len(names)} read")


def test_files_of_a_campaign_out_of_its_folder_are_not_read(tmp_path: Path) -> None:
    kind = next(each for each in WRITTEN if each.name == "campaign")
    (tmp_path / "lab").mkdir()
    kind.write(tmp_path / "lab")
    state = read_json(tmp_path / "lab" / "campaign.json")
    shutil.move(tmp_path / "lab" / "measured_0.csv", tmp_path / "measured_0.csv")
    (tmp_path / "lab" / "link.csv").symlink_to(tmp_path / "measured_0.csv")
    for name in ("../measured_0.csv", str(tmp_path / "measured_0.csv"), "link.csv"):
        first, *others = state["rounds"]
        write_json(tmp_path / "lab" / "campaign.json", {**state, "rounds": [{**first, "file": name}, *others]})
        with pytest.raises(BundleError, match="expected the file .* of the campaign in .*, got no such file"):
            Campaign.load(tmp_path / "lab")


MARKUP = (r"$\frac{", "$_$ $", "<script>alert(1)</script>", "[/] [red]", "{{7*7}}")
NASTY = (*MARKUP, "\x1b]0;x\x07\x1b[2J", "\u202eabc", "a\rb")


def test_names_from_data_are_text_at_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for text in NASTY:
        say(text)
        print_table(text, [text, text], [[text, text]])
    shown = capsys.readouterr().out
    assert not set("\x1b\x07\r\u202e") & set(shown)
    assert shown.count(r"\x1b]0;x\x07\x1b[2J") == 6 and shown.count("[/] [red]") == 6 and r"\u202eabc" in shown


def test_names_from_data_are_text_in_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formulas = []
    parse = MathTextParser.parse

    def watched(parser: Any, text: str, *args: Any, **kwargs: Any) -> Any:
        formulas.append(text)
        return parse(parser, text, *args, **kwargs)

    monkeypatch.setattr(MathTextParser, "parse", watched)
    numbers = np.arange(3.0)
    for text in MARKUP:
        plots.plot_fit(tmp_path / "a.png", numbers, numbers, text)
        plots.plot_learning_curve(tmp_path / "a.png", [0, 1], {text: [0, 1]}, {text: 0.5}, text, looks_of([text]))
    assert formulas == []
    figure = Figure()
    figure.text(0, 0, "$x$")
    figure.savefig(tmp_path / "a.png")
    assert set(formulas) == {"$x$"}  # otherwise nothing was watched


def test_names_from_data_are_text_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    section = Section(NASTY[2], [NASTY[2]], (), [Picture(tmp_path / "a.png", NASTY[2])])
    write_page(tmp_path / "report.html", NASTY[2], [section])
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page and page.count("&lt;script&gt;alert") >= 4


FORMULAS = ("=O", "-OH", "@x", "+a")


def formula_table(path: Path) -> Path:
    rows = [
        {"=solvent": solvent, "acid": acid, "base": base, "y": i * 7 % 11}
        for i, (solvent, acid, base) in enumerate(
            (s, a, b) for s in ("=cmd", "-") for a in FORMULAS for b in ("-OH", "none", "K")
        )
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def cells(path: Path) -> set[str]:
    with path.open(newline="") as file:
        return {cell for row in csv.reader(file) for cell in row}


def executable(found: set[str]) -> set[str]:
    return {cell for cell in found if cell[:1] in tuple("=+-@\t\r") and len(cell) > 1 and not cell[1:2].isdigit()}


def test_answers_execute_nothing_and_read_back(tmp_path: Path, promise: Promise) -> None:
    table = formula_table(tmp_path / "table.csv")
    pretrain(PretrainConfig(table=table, score="y", context=("=solvent",), out=tmp_path / "estimator", model="gp"))
    run = RunConfig(
        env="SlotRL/Rows-v0",
        estimator=str(tmp_path / "estimator"),
        timesteps=64,
        out=tmp_path / "run",
        wandb="disabled",
        evaluation=EvaluationConfig(eval_size=2),
    )
    train_run("gumbel", run, options_of("gumbel", batch_size=32, **TINY["policy"]))
    settings: dict[str, Any] = {"requests": table, "calls": 0, "best_seen": False}
    recommend(RecommendConfig(tmp_path / "run", tmp_path / "answers.csv", **settings))
    recommend(RecommendConfig(tmp_path / "run", tmp_path / "raw.csv", raw_cells=True, **settings))
    written, raw = cells(tmp_path / "answers.csv"), cells(tmp_path / "raw.csv")
    promise("cells of answers that a spreadsheet executes", f"{len(executable(written))} of {len(executable(raw))}")
    assert not executable(written) and {"'=cmd", "'=solvent", "-"} <= written
    assert {"=cmd", "=solvent"} <= executable(raw)
    # Answers are read as requests again, cell for cell.
    for name in ("answers", "raw"):
        settings["requests"] = tmp_path / f"{name}.csv"
        recommend(RecommendConfig(tmp_path / "run", tmp_path / f"{name}.jsonl", **settings))
    assert (tmp_path / "answers.jsonl").read_text() == (tmp_path / "raw.jsonl").read_text()
    assert json.loads((tmp_path / "raw.jsonl").read_text().splitlines()[0])["=solvent"] == "=cmd"


@pytest.mark.parametrize("raw", [False, True])
def test_files_of_a_campaign_execute_nothing(raw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_quickly(monkeypatch)
    table = formula_table(tmp_path / "whole.csv")
    lines = table.read_text().splitlines()
    (tmp_path / "start.csv").write_text("\n".join([lines[0], *lines[1::2], lines[2]]) + "\n")
    out = tmp_path / "lab"
    run_campaign(CampaignConfig(out, table=tmp_path / "start.csv", score="y", batch=4, raw_cells=raw))
    assert not executable(cells(out / "measured_0.csv"))
    assert bool(executable(cells(out / "round_1.csv"))) == raw
    before = Campaign.load(out)
    assert set(before.measured["acid"]) == set(FORMULAS) and "=solvent" in before.measured
    with (out / "round_1.csv").open(newline="") as file:
        rows = [{**row, "y": "3"} for row in csv.DictReader(file)]
    with (out / "round_1.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    run_campaign(CampaignConfig(out, results=out / "round_1.csv", batch=2, raw_cells=raw))
    assert len(Campaign.load(out).measured) == len(before.measured) + 4
