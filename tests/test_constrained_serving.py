"""Constraints from training to serving: no command's answer breaks one, and what cannot be answered is named."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from slot_rl import Recommender
from slot_rl.estimators.fitting import TableFit
from slot_rl.estimators.frames import read_frame
from slot_rl.io import read_json
from slot_rl.pretraining import PretrainConfig, pretrain
from tests.conftest import ROOT, Command

TRAIN, EVALUATE, RECOMMEND = (
    ROOT / "scripts" / f"{name}.py" for name in ("train_agent", "evaluate_agent", "recommend")
)
SHORT = ["--timesteps", 256, "--batch-size", 64, "--eval-size", 4, "--wandb", "disabled"]
MODES = [["--mode", "pass"], ["--mode", "draws", "--calls", 3], ["--mode", "search", "--calls", 5]]
PAGES = """
import torch
from slot_rl.problems import SlotProblem


def worth(items, context):
    return (items * context.unsqueeze(1)).sum(dim=(1, 2)) + items[:, 0, 0]


def settings():
    pool = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    return {"pool": pool, "context_dim": 3, "item_ids": [f"i{i}" for i in range(20)],
            "item_labels": {"brand": [f"b{i % 4}" for i in range(20)], "new": [i % 2 for i in range(20)]}}


def lists():
    return SlotProblem(worth, 3, 8, **settings())


def whole():
    return SlotProblem(worth, 3, **settings())
"""
SLOTS = ["slot_1", "slot_2", "slot_3"]
POOL = [f"i{i}" for i in range(20)]
BRANDS = {item: f"b{i % 4}" for i, item in enumerate(POOL)}
CONTEXT = ["context_1", "context_2", "context_3"]
Answered = list[dict[str, Any]]


def request(number: int, **more: Any) -> dict[str, Any]:
    return {"request": f"r{number}", **{name: (number + i) % 5 - 2.0 for i, name in enumerate(CONTEXT)}, **more}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("constrained")
    (home / "mine.py").write_text(PAGES, encoding="utf-8")
    return home


@pytest.fixture
def train(home: Path, script: Command) -> Callable[..., Path]:
    """Trains a run with some flags, once."""

    def once(name: str, problem: str, *flags: object) -> Path:
        if not (home / name / "summary.json").is_file():
            own = ["--problem", f"{home / 'mine.py'}:{problem}", "--trust", "--out", home / name]
            code, _, errors = script(TRAIN, *own, *SHORT, *flags)
            assert (code, errors) == (0, ""), errors
        return home / name

    return once


@pytest.fixture
def listed(train: Callable[..., Path]) -> Path:
    """A run on lists of eight items, without repetition and with at most one item of a brand."""
    return train("lists", "lists", "--distinct", "--at-most", "1:brand")


@pytest.fixture
def whole(home: Path, train: Callable[..., Path]) -> Path:
    """A run on the whole pool, with an item fixed, and items that never stand together."""
    (home / "apart.yaml").write_text("- not_together: [[i3, i5], [i1, i2]]\n")
    return train("whole", "whole", "--fixed", "slot_2=i3", "--constraints", home / "apart.yaml")


@pytest.fixture
def answer(script: Command, tmp_path: Path) -> Callable[..., Answered]:
    """Writes rows to a file, has them answered, and returns the answers."""

    def ask(run: Path, rows: list[dict[str, Any]], *flags: object, suffix: str = ".jsonl") -> Answered:
        path, out = tmp_path / f"asked{suffix}", tmp_path / f"out{suffix}"
        if suffix == ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        code, _, errors = script(RECOMMEND, run, "--trust", "--requests", path, "--out", out, "--force", *flags)
        assert (code, errors) == (0, ""), errors
        frame = read_frame(out)
        return [dict(zip(map(str, frame), row, strict=True)) for row in frame.itertuples(index=False)]

    return ask


def check_page(row: dict[str, Any], offered: set[str], brands: Mapping[str, str] = BRANDS) -> None:
    """No item twice, no brand twice, and nothing that was not offered."""
    page = [row[name] for name in SLOTS]
    assert set(page) <= offered and len({brands[item] for item in page}) == 3


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode[1])
def test_lists_of_any_length_have_allowed_answers(
    mode: list[object], listed: Path, answer: Callable[..., Answered], home: Path
) -> None:
    lists = [POOL[:6], POOL[2:5], POOL[::-1], None, POOL[5:17]]
    rows = [request(i, candidates=each) for i, each in enumerate(lists)]
    (home / "exclude.csv").write_text("request,item\nr0,i0\nr3,i19\nr3,i3\n")
    found = answer(listed, rows, "--exclude", home / "exclude.csv", "--top", 3, *mode)
    assert [row["request"] for row in found] == ["r0"] * 3 + ["r1"] * 3 + ["r2"] * 3 + ["r3"] * 3 + ["r4"] * 3
    offered = [set(each or POOL) for each in lists]
    offered[0] -= {"i0"}
    offered[3] -= {"i19", "i3"}
    for row in found:
        check_page(row, offered[int(row["request"][1])])
    pages = [tuple(row[name] for name in SLOTS) for row in found]
    assert len({(row["request"], *page) for row, page in zip(found, pages, strict=True)}) == 15
    # Three items are left to the second request: all its answers are exchanges of two slots.
    assert {frozenset(page) for page in pages[3:6]} == {frozenset(POOL[2:5])}
    for row in answer(listed, [request(i) for i in range(5)], *mode, suffix=".csv"):
        check_page(row, set(POOL))


def test_new_items_bring_their_brands(listed: Path, answer: Callable[..., Answered], tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    known = {"n0": "b1", "n1": "b1", "n2": "x", "n3": "x", "n4": "y"}
    lines = [f"{item},{i},{-i},{i % 2},{each}" for i, (item, each) in enumerate(known.items())]
    items.write_text("\n".join(["item,p,q,r,brand", *lines]) + "\n")
    found = answer(listed, [request(i) for i in range(8)], "--items", items, "--top", 3, "--calls", 5)
    assert len(found) == 24
    for row in found:
        check_page(row, set(known), known)
    wanted = {"candidates": ["n0", "n2", "n4", "n1"]}
    recommender = Recommender.load(listed, trust=True)
    for mode, calls in (("pass", None), ("draws", 3), ("search", 5)):
        for row in recommender([request(0, **wanted), request(1)], calls, 3, mode, items):  # type: ignore[arg-type]
            check_page(row, set(wanted["candidates"]) if row["request"] == "r0" else set(known), known)


def test_a_list_that_allows_nothing_is_named(
    listed: Path, script: Command, answer: Callable[..., Answered], tmp_path: Path
) -> None:
    few = ["i0", "i1", "i4", "i5"]  # of two brands
    rows = [request(0), request(1, candidates=few), request(2, candidates=POOL[:4])]
    path, out = tmp_path / "bad.jsonl", tmp_path / "bad_out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, errors = script(RECOMMEND, listed, "--trust", "--requests", path, "--out", out)
    expected = "expected a configuration that satisfies AtMost(1, of='brand')"
    assert (code, errors) == (2, f"error: {expected} in row 2 of {path}, got none\n") and not out.exists()
    found = answer(listed, rows, "--unknown", "skip", "--top", 2)
    assert [row["request"] for row in found] == ["r0", "r0", "r1", "r2", "r2"]
    assert [row["not_answered"] for row in found] == [None, None, expected, None, None]
    assert [found[2][name] for name in SLOTS] == [None] * 3
    for row in found[:2] + found[3:]:
        check_page(row, set(POOL))
    with pytest.raises(ValueError, match=r"satisfies AtMost\(1, of='brand'\) in row 2 of the requests, got none"):
        Recommender.load(listed, trust=True)(rows)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode[1])
def test_a_fixed_item_stays_and_pairs_keep_apart(
    mode: list[object], whole: Path, answer: Callable[..., Answered]
) -> None:
    lists = [None, ["i3", "i5", "i7"], ["i1", "i2", "i3"], POOL[:12]]
    found = answer(whole, [request(i, candidates=each) for i, each in enumerate(lists)], "--top", 3, *mode)
    assert len(found) == 12
    for row in found:
        page = {row[name] for name in SLOTS}
        assert row["slot_2"] == "i3" and "i5" not in page and not {"i1", "i2"} <= page
        assert page <= set(lists[int(row["request"][1])] or POOL)


def test_a_fixed_item_that_is_not_offered_is_named(
    whole: Path, script: Command, answer: Callable[..., Answered], tmp_path: Path
) -> None:
    path, out, exclude = tmp_path / "bad.jsonl", tmp_path / "bad_out.jsonl", tmp_path / "exclude.csv"
    rows = [request(0), request(1, candidates=POOL[4:]), request(2)]
    exclude.write_text("request,item\nr2,i3\n")
    expected = "expected a configuration that satisfies Fixed({'slot_2': 'i3'})"
    for asked, flags in ((rows[:2], []), ([rows[0], rows[2]], ["--exclude", exclude])):
        path.write_text("".join(json.dumps(row) + "\n" for row in asked))
        code, _, errors = script(RECOMMEND, whole, "--trust", "--requests", path, "--out", out, *flags)
        assert (code, errors) == (2, f"error: {expected} in row 2 of {path}, got none\n") and not out.exists()
    found = answer(whole, rows, "--unknown", "skip", "--exclude", exclude)
    assert [row["not_answered"] for row in found] == [None, expected, expected]
    assert [row["slot_2"] for row in found] == ["i3", None, None]
    items = tmp_path / "items.csv"
    items.write_text("item,p,q,r\na,1,1,1\nb,2,2,2\nc,3,3,3\n")
    code, _, errors = script(RECOMMEND, whole, "--trust", "--requests", path, "--out", out, "--items", items)
    assert code == 2 and "expected no other items with constraints on single items" in errors


HEAT, ACID, BASE, LIGAND = ("hot", "cold"), ("a", "b"), ("p", "q", "r"), ("L1", "L2", "L3")
TABLE = ["heat,acid,base,ligand,y"] + [
    f"{h},{a},{b},{c},{len(h) * (b == 'q') + (c == 'L3') * (1 if a == 'a' else -1)}"
    for h, a, b, c in product(HEAT, ACID, BASE, LIGAND)
    if (h, a) != ("cold", "b")
]
VALID = ["hot,a,p,L1", "hot,a,r,L2", "hot,b,q,L3", "cold,a,p,L1", "cold,a,p,L2", "cold,a,q,L1"]
FAST = TableFit(epochs=3, patience=3, batch_size=32, learning_rate=1e-2, dim=4, hidden=(16,))


@pytest.fixture
def reactions(home: Path, script: Command) -> Path:
    """A run on a table, of whose rows another table allows some; the context (cold, b) has none."""
    if not (home / "reactions").is_dir():
        (home / "table.csv").write_text("\n".join(TABLE) + "\n")
        (home / "valid.csv").write_text("\n".join(["heat,acid,base,ligand", *VALID]) + "\n")
        out = home / "estimator"
        pretrain(PretrainConfig(table=home / "table.csv", score="y", context=("heat", "acid"), out=out, fit=FAST))
        flags = ["--env", "SlotRL/Rows-v0", "--estimator", out, "--feasible", home / "valid.csv"]
        code, _, errors = script(TRAIN, *flags, *SHORT, "--out", home / "reactions")
        assert (code, errors) == (0, ""), errors
    return home / "reactions"


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode[1])
def test_each_context_has_rows_of_the_table(
    mode: list[object], reactions: Path, answer: Callable[..., Answered]
) -> None:
    rows = [{"heat": h, "acid": a} for h, a in (("cold", "a"), ("hot", "a"), ("hot", "b"), ("cold", "a"))]
    found = answer(reactions, rows, "--top", 3, *mode, suffix=".csv")
    columns = ["heat", "acid", "base", "ligand"]
    assert {",".join(row[name] for name in columns) for row in found} <= set(VALID)
    # A context with one row has one answer; the only other row of (hot, a) is no single swap away.
    assert Counter((row["heat"], row["acid"]) for row in found)[("hot", "b")] == 1
    assert len(found) >= 4


def test_a_context_without_rows_is_named(
    reactions: Path, script: Command, answer: Callable[..., Answered], tmp_path: Path
) -> None:
    rows = [{"heat": "hot", "acid": "b"}, {"heat": "cold", "acid": "b"}, {"heat": "warm", "acid": "b"}]
    path, out = tmp_path / "asked.csv", tmp_path / "none.csv"
    pd.DataFrame(rows[:2]).to_csv(path, index=False)
    code, _, errors = script(RECOMMEND, reactions, "--requests", path, "--out", out)
    expected = f"expected a configuration that satisfies Feasible.from_table('{reactions.parent / 'valid.csv'}')"
    assert (code, errors) == (2, f"error: {expected} for context cold, b, got none\n") and not out.exists()
    found = answer(reactions, rows, "--unknown", "skip", suffix=".csv")
    assert found[0]["base"] == "q" and found[1]["not_answered"] == expected
    assert found[2]["not_answered"] == "expected a known heat, got 'warm'"
    assert [row["ligand"] for row in found] == ["L3", "", ""]
    with pytest.raises(ValueError, match=r"for context cold, b, got none"):
        Recommender.load(reactions)(rows[1])
    answered = Recommender.load(reactions)(rows[0])
    assert (answered["base"], answered["ligand"]) == ("q", "L3")


def test_an_exclusion_may_leave_a_context_no_row(
    reactions: Path, script: Command, answer: Callable[..., Answered], tmp_path: Path
) -> None:
    exclude = tmp_path / "exclude.csv"
    exclude.write_text("heat,ligand\nhot,L3\n")
    rows = [{"heat": "cold", "acid": "a"}, {"heat": "hot", "acid": "b"}]
    found = answer(reactions, rows, "--exclude", exclude, "--unknown", "skip", suffix=".csv")
    assert found[0]["base"] and "satisfies Feasible.from_table" in found[1]["not_answered"]
    flags = ["--requests", tmp_path / "asked.csv", "--exclude", exclude, "--out", tmp_path / "none.csv"]
    code, _, errors = script(RECOMMEND, reactions, *flags)
    assert code == 2 and errors.endswith("for context hot, b, got none\n")


def test_every_flag_comes_back_from_the_runs_config(
    train: Callable[..., Path], home: Path, script: Command, answer: Callable[..., Answered]
) -> None:
    (home / "more.yaml").write_text("- not_together: [[i3, i5]]\n- distinct: [slot_1, slot_2, slot_3]\n")
    pages = [f"{a},{b},{c}" for a, b, c in product(POOL[:8], ["i3", "i4"], POOL)]
    table = home / "pages.csv"
    table.write_text("\n".join([",".join(SLOTS), *pages]) + "\n")
    flags = ["--distinct", "--fixed", "slot_2=i3", "--at-most", "1:brand", "--at-least", "2:new=1", "--feasible", table]
    run = train("all", "whole", *flags, "--constraints", home / "more.yaml")
    config = read_json(run / "config.json")
    assert [next(iter(entry)) for entry in config["constraints"]] == [
        *("not_together", "distinct", "distinct", "fixed", "at_most", "at_least", "feasible"),
    ]
    code, shown, errors = script(EVALUATE, run, "--trust")
    assert (code, errors) == (0, "") and "policy, one pass" in shown
    for row in answer(run, [request(i) for i in range(6)], "--top", 3):
        check_page(row, set(POOL) - {"i5"})
        page = [row[name] for name in SLOTS]
        assert page[1] == "i3" and page[0] in POOL[:8] and sum(int(item[1:]) % 2 for item in page) >= 2
    table.write_text(table.read_text() + "i0,i0,i0\n")
    expected = f"got {sha256(table.read_bytes()).hexdigest()[:12]} in {table}\n"
    for command in ([EVALUATE, run], [RECOMMEND, run, "--requests", home / "q.csv", "--out", home / "o.csv"]):
        code, _, errors = script(*command, "--trust")
        assert code == 2 and errors.endswith(expected) and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--at-least", "4:brand=b1"], "expected at most 3 slots in AtLeast(4, of='brand', value='b1'), got 4"),
        (["--at-least", "2:brand=b1", "--at-most", "1:brand"], "expected quotas that can be met together for"),
        (["--distinct", "--at-most", "0:new"], "satisfies AtMost(0, of='new')"),
        (["--fixed", "slot_9=i1"], "expected a slot of"),
        (["--fixed", "slot_1=i77"], "expected an item of slot 0 of"),
        (["--at-most", "1:seller"], "('brand', 'new'), got 'seller'"),
        (["--feasible", "none.csv"], "none.csv, got no such file"),
        (["--constraints", "none.yaml"], "expected a YAML file with constraints in none.yaml, got no such file"),
    ],
)
def test_constraints_that_cannot_hold_are_refused(
    flags: list[str], message: str, home: Path, script: Command, tmp_path: Path
) -> None:
    own = ["--problem", f"{home / 'mine.py'}:whole", "--trust", "--out", tmp_path / "run"]
    code, _, errors = script(TRAIN, *own, *SHORT, *flags)
    assert code == 2 and message in errors and errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_sample_has_the_probability_of_its_page(listed: Path, answer: Callable[..., Answered]) -> None:
    rows = [{**request(0), "request": f"r{i}", "candidates": POOL[2:5]} for i in range(200)]
    found = answer(listed, rows, "--mode", "sample", suffix=".jsonl")
    chances = {tuple(row[name] for name in SLOTS): row["propensity"] for row in found}
    # Three items in three slots: six pages, and each has one probability.
    assert len({(*page, chance) for page, chance in chances.items()}) == len(chances) <= 6
    assert all(chances[tuple(row[name] for name in SLOTS)] == row["propensity"] for row in found)
    assert 0.9 < sum(chances.values()) < 1 + 1e-9
    (row,) = [Recommender.load(listed, trust=True)(rows[0], mode="sample")]
    assert row["propensity"] == pytest.approx(chances[tuple(row[name] for name in SLOTS)])


def test_a_sample_of_a_context_has_its_probability(reactions: Path, answer: Callable[..., Answered]) -> None:
    found = answer(reactions, [{"heat": "hot", "acid": "a"}] * 3, "--mode", "sample", suffix=".csv")
    assert len({row["propensity"] for row in found}) == 1 and 0 < float(found[0]["propensity"]) <= 1


@pytest.mark.parametrize("flags", [["--top", "2"], ["--calls", "3"]])
def test_a_sample_is_one_answer_without_a_call(flags: list[str], listed: Path, script: Command, tmp_path: Path) -> None:
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    asked.write_text(json.dumps(request(0)) + "\n")
    ask = ["--trust", "--requests", asked, "--out", out, "--mode", "sample", *flags]
    code, _, errors = script(RECOMMEND, listed, *ask)
    assert code == 2 and "mode sample" in errors and not out.exists()
