"""Logged slates from files to answers: pretraining, training, recommending with new requests, items and any N."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from slot_rl import Recommender
from slot_rl.estimators.slate_store import load_slates
from slot_rl.problems import make_problem
from tests.conftest import ROOT, Command
from tests.helpers.shop import ITEMS, SLOTS, Shop, value, write_shop

PRETRAIN, TRAIN, RECOMMEND, EVALUATE = (
    ROOT / "scripts" / f"{name}.py" for name in ("pretrain_estimator", "train_agent", "recommend", "evaluate_agent")
)
SLATES = "SlotRL/Slates-v0"
NAMES = ["s0", "s1", "s2"]
Answered = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slates")


@pytest.fixture(scope="module")
def shop(home: Path) -> Shop:
    return write_shop(home / "log")


@pytest.fixture
def run(home: Path, shop: Shop, script: Command) -> Path:
    """A run of guided search on the shop's estimator: answers are right as far as the estimator is."""
    if not (home / "run").is_dir():
        code, shown, errors = script(PRETRAIN, *shop.flags(), "--out", home / "estimator", "--passes", 25)
        assert (code, errors) == (0, "") and "Spearman" in shown and "log-loss" not in shown
        flags = ["--agent", "guided_search", "--env", SLATES, "--estimator", home / "estimator", "--wandb", "disabled"]
        assert script(TRAIN, *flags, "--eval-size", 20, "--timesteps", 10, "--out", home / "run")[0] == 0
    return home / "run"


@pytest.fixture
def answered(run: Path, script: Command, tmp_path: Path) -> Answered:
    """Returns the answers to rows that are written to a file."""

    def answer(rows: pd.DataFrame, *flags: object) -> pd.DataFrame:
        rows.to_parquet(tmp_path / "asked.parquet", index=False)
        out = tmp_path / "answers.jsonl"
        code, _, errors = script(
            RECOMMEND, run, "--requests", tmp_path / "asked.parquet", "--out", out, "--force", *flags
        )
        assert (code, errors) == (0, ""), errors
        return pd.DataFrame([json.loads(line) for line in out.read_text().splitlines()])

    return answer


def worths(items: pd.DataFrame, request: Any) -> "pd.Series[float]":
    """The true value of each item to a request, by the item's id."""
    found = value(items["price"], items["colour"], request["wealth"], request["liked"])
    return pd.Series(found.to_numpy(), index=items["item"])


def shares_of_best(answers: pd.DataFrame, items: pd.DataFrame) -> list[float]:
    """For each answer, its true value as a share of the best page's, from random (0) to best (1)."""
    weights, found = np.array([1.0, 0.7, 0.4]), []
    for answer in answers.to_dict("records"):
        known = worths(items, answer)
        listed = answer.get("candidates")
        known = known if listed is None else known[listed]
        mine = sum(weight * known[answer[name]] for weight, name in zip(weights, NAMES, strict=True))
        best, random = known.max() * weights.sum(), known.mean() * weights.sum()
        found.append((mine - random) / (best - random))
    return found


def test_the_estimator_predicts_new_requests(home: Path, run: Path) -> None:
    card = load_slates(home / "estimator").card
    assert card["test"]["r2"] > 0.9 and card["test"]["spearman"] > 0.9
    assert card["train_slates"] + card["test_slates"] == 4_000


def test_answers_are_near_the_best_pages(answered: Answered, shop: Shop) -> None:
    answers = answered(shop.request_rows, "--calls", 31)
    assert list(answers["request"]) == list(shop.request_rows["request"])
    for answer in answers.to_dict("records"):
        assert {answer[name] for name in NAMES} <= set(answer["candidates"])
    assert np.mean(shares_of_best(answers, shop.item_rows)) > 0.9


def test_new_requests_items_and_numbers_are_answered(answered: Answered, shop: Shop, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    many = pd.DataFrame({"price": random.normal(size=2_000), "colour": random.choice(["red", "green"], 2_000)})
    many.insert(0, "item", [f"new{i}" for i in range(2_000)])
    many.to_parquet(tmp_path / "items.parquet", index=False)
    asked = pd.DataFrame({"request": ["p", "q"], "wealth": [2.0, -2.0], "liked": ["red", "green"], "note": ["a", "b"]})
    answers = answered(asked, "--items", tmp_path / "items.parquet", "--calls", 31)
    assert list(answers["request"]) == ["p", "q"] and list(answers["note"]) == ["a", "b"]
    assert answers[NAMES].map(lambda name: name.startswith("new")).all(axis=None)
    assert np.mean(shares_of_best(answers, many)) > 0.7


def test_unseen_categories_fall_back_to_other_columns(answered: Answered, shop: Shop) -> None:
    rich = pd.DataFrame({"request": ["a"], "wealth": [3.0], "liked": ["violet"]})
    answers = answered(rich, "--calls", 31)
    prices = shop.item_rows.set_index("item")["price"]
    assert prices[str(answers.loc[0, NAMES[0]])] > prices.quantile(0.8)  # nothing but wealth and price is known


def test_excluded_items_are_in_no_answer(answered: Answered, shop: Shop, tmp_path: Path) -> None:
    asked = shop.request_rows.head(2)
    first = answered(asked, "--calls", 31)
    out_of_stock = {first.loc[0, name] for name in NAMES}
    rows = [{"request": 0, "item": item} for item in out_of_stock]
    pd.DataFrame(rows).to_csv(tmp_path / "out.csv", index=False)
    second = answered(asked, "--calls", 31, "--exclude", tmp_path / "out.csv")
    assert not out_of_stock & {second.loc[0, name] for name in NAMES}
    assert second[NAMES].to_numpy().tolist()[1] == first[NAMES].to_numpy().tolist()[1]


def test_exclusions_that_leave_too_few_items_are_refused(
    run: Path, shop: Shop, script: Command, tmp_path: Path
) -> None:
    asked = shop.request_rows.head(2).assign(candidates=pd.Series([["i1", "i2", "i3", "i4"]] * 2), request=[7, 8])
    asked.to_parquet(tmp_path / "asked.parquet", index=False)
    pd.DataFrame({"request": [8, 8], "item": ["i1", "i4"]}).to_csv(tmp_path / "out.csv", index=False)
    flags = ["--requests", tmp_path / "asked.parquet", "--exclude", tmp_path / "out.csv", "--out", tmp_path / "a.csv"]
    code, _, errors = script(RECOMMEND, run, *flags)
    assert code == 2 and "expected at least 3 items that are not excluded, got 2 in row 2 of" in errors
    assert script(RECOMMEND, run, *flags, "--unknown", "skip")[0] == 0
    assert pd.read_csv(tmp_path / "a.csv")["not_answered"].notna().tolist() == [False, True]


def test_several_answers_differ_and_fall(answered: Answered, shop: Shop) -> None:
    answers = answered(shop.request_rows.head(4), "--top", 5)
    assert answers["rank"].tolist() == [1, 2, 3, 4, 5] * 4
    assert not answers.duplicated(["request", *NAMES]).any()
    assert bool((answers.groupby("request")["estimated_score"].diff().dropna() <= 0).all())


def test_faulty_requests_get_the_reason(answered: Answered, shop: Shop) -> None:
    asked = shop.request_rows.head(4).copy()
    asked["candidates"] = [["i1", "ghost", "i2"], [], ["i1", "i1", "i3"], ["i1", "i2", "i3"]]
    answers = answered(asked, "--unknown", "skip")
    assert answers["not_answered"].fillna("").tolist() == [
        "expected known items, got 'ghost'",
        "expected at least 3 candidates, got 0",
        "expected each item once, got 'i1' twice",
        "",
    ]
    assert answers[NAMES].isna().all(axis=1).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"candidates": [["i1", "i2", "i3"], ["i1", "i2", "ghost"]]},
            "known items, got 'ghost' in column 'candidates', row 2",
        ),
        ({"candidates": [["i1", "i2", "i3"], []]}, "at least 3 candidates, got 0 in column 'candidates', row 2"),
        ({"candidates": [["i1", "i2", "i3"], ["i1"]]}, "at least 3 candidates, got 1 in column"),
        ({"wealth": [1.0, np.nan]}, "a number in column 'wealth', row 2 of"),
        ({"wealth": ["1", "rich"]}, "finite number in column 'wealth', row 2 of"),
    ],
)
def test_wrong_requests_are_one_line_with_row_and_column(
    change: dict[str, Any], message: str, run: Path, shop: Shop, script: Command, tmp_path: Path
) -> None:
    asked = shop.request_rows.head(2).assign(**{name: pd.Series(cells) for name, cells in change.items()})
    asked.to_parquet(tmp_path / "asked.parquet", index=False)
    out = tmp_path / "answers.csv"
    code, _, errors = script(RECOMMEND, run, "--requests", tmp_path / "asked.parquet", "--out", out)
    assert code == 2 and message in errors and len(errors.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"asked.parquet"}


def test_wrong_items_are_one_line(run: Path, shop: Shop, script: Command, tmp_path: Path) -> None:
    shop.request_rows.drop(columns="candidates").to_parquet(tmp_path / "asked.parquet", index=False)
    flags = ["--requests", tmp_path / "asked.parquet", "--items", tmp_path / "items.csv", "--out", tmp_path / "o.csv"]
    doubled = pd.concat([shop.item_rows, shop.item_rows.head(1)])
    for rows, message in (
        (doubled, f"each 'item' of {tmp_path / 'items.csv'} once, got 'i0' in rows 1 and {ITEMS + 1}"),
        (shop.item_rows.drop(columns="price"), "expected a column 'price'"),
        (shop.item_rows.head(2), f"expected at least 3 items in {tmp_path / 'items.csv'}, got 2"),
    ):
        rows.to_csv(tmp_path / "items.csv", index=False)
        code, _, errors = script(RECOMMEND, run, *flags)
        assert code == 2 and message in errors and len(errors.splitlines()) == 1


def with_list(rows: pd.DataFrame, row: int, candidates: list[str]) -> pd.DataFrame:
    lists = [candidates if i == row else each for i, each in enumerate(rows["candidates"])]
    return rows.assign(candidates=pd.Series(lists))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("items", lambda rows: pd.concat([rows, rows.tail(1)]), "once, got 'i23' in rows 24 and 25"),
        (
            "requests",
            lambda rows: with_list(rows, 1, ["i1"]),
            "at least 3 candidates, got 1 in column 'candidates', row 2",
        ),
        ("requests", lambda rows: with_list(rows, 3, []), "at least 3 candidates, got 0 in column 'candidates', row 4"),
        ("requests", lambda rows: with_list(rows, 0, ["?"]), "known items, got '?' in column 'candidates', row 1"),
        ("log", lambda rows: rows.assign(s1="ghost"), "the id of a known item in column 's1', row 1 of"),
        ("log", lambda rows: rows.assign(request=999), "the id of a known request in column 'request', row 1 of"),
        ("log", lambda rows: rows.assign(value=np.nan), "a number in column 'value', row 1 of"),
        ("log", lambda rows: rows.assign(value=1.0), "expected scores that vary in the log, got 1 throughout"),
        ("log", lambda rows: rows.assign(value=rows.value + 1e8), "to spread by at least 1e-05 of its size"),
        ("log", lambda rows: rows.assign(propensity=0.0), "a propensity above 0 and at most 1 in row 1 of"),
        ("log", lambda rows: rows.drop(columns="value"), "expected a column 'value'"),
        ("log", lambda rows: rows.head(3).assign(request=1), "slates of several requests"),
    ],
)
def test_wrong_logs_are_one_line_and_leave_nothing(
    part: str, change: Callable[[pd.DataFrame], pd.DataFrame], message: str, script: Command, tmp_path: Path
) -> None:
    shop = write_shop(tmp_path / "log", slates=20)
    path = tmp_path / "log" / f"{part}.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    code, _, errors = script(PRETRAIN, *shop.flags(), "--out", tmp_path / "estimator")
    assert code == 2 and message in errors and len(errors.splitlines()) == 1
    assert not (tmp_path / "estimator").exists()


def test_clicks_have_a_log_loss_and_probabilities(script: Command, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "log", slates=1_500, binary=True)
    code, shown, errors = script(PRETRAIN, *shop.flags(), "--out", tmp_path / "estimator", "--passes", 8)
    assert (code, errors) == (0, "") and "log-loss" in shown
    assert load_slates(tmp_path / "estimator").card["test"]["log_loss"] < 0.6  # a coin has .693
    problem = make_problem(SLATES, estimator=tmp_path / "estimator")
    observation = problem.sample(50, torch.Generator().manual_seed(0))
    score = problem.score(observation, torch.zeros(50, SLOTS, dtype=torch.long))
    assert float(score.min()) >= 0 and float(score.max()) <= 1


def test_propensities_weigh_the_fit(script: Command, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "log", slates=300)
    code, _, errors = script(PRETRAIN, *shop.flags(), "--slots", *NAMES, NAMES[0], "--out", tmp_path / "doubled")
    assert code == 2 and "expected different columns for the slots, got" in errors
    rows = pd.read_parquet(shop.log)
    rows["propensity"] = np.where(np.arange(300) % 2, 0.9, 0.01)
    rows.to_parquet(shop.log, index=False)
    flags = [*shop.flags(), "--slots", *NAMES, "--passes", 2]
    assert script(PRETRAIN, *flags, "--out", tmp_path / "plain")[0] == 0
    assert script(PRETRAIN, *flags, "--out", tmp_path / "weighed", "--inverse-propensity")[0] == 0
    assert load_slates(tmp_path / "plain").sha256 != load_slates(tmp_path / "weighed").sha256
    pd.read_parquet(shop.log).drop(columns="propensity").to_parquet(shop.log, index=False)
    code, _, errors = script(PRETRAIN, *flags, "--out", tmp_path / "none", "--inverse-propensity")
    assert code == 2 and "expected a column 'propensity'" in errors


def test_the_unit_of_a_number_does_not_matter(script: Command, tmp_path: Path) -> None:
    fits = []
    for name, unit in (("euros", 1.0), ("giga", 1e-9)):
        shop = write_shop(tmp_path / name, slates=300)
        items = pd.read_parquet(shop.items)
        items.assign(price=items["price"] * unit).to_parquet(shop.items)
        assert script(PRETRAIN, *shop.flags(), "--out", tmp_path / f"e-{name}", "--passes", 4)[0] == 0
        fits.append(load_slates(tmp_path / f"e-{name}").card["test"]["r2"])
    assert fits[0] == pytest.approx(fits[1], abs=1e-3)


def test_row_numbers_are_left_out_of_a_fit(script: Command, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "log", slates=300)
    assert script(PRETRAIN, *shop.flags(), "--out", tmp_path / "plain", "--passes", 2)[0] == 0
    for path in (shop.items, shop.requests, shop.log):
        rows = pd.read_parquet(path)
        rows.set_index(pd.Index([i * i for i in range(len(rows))])).to_parquet(path)
    code, shown, errors = script(PRETRAIN, *shop.flags(), "--out", tmp_path / "numbered", "--passes", 2)
    assert (code, errors) == (0, "")
    assert shown.count("left out as row numbers: '__index_level_0__' of") == 3
    assert load_slates(tmp_path / "plain").sha256 == load_slates(tmp_path / "numbered").sha256


def test_a_fit_repeats_bit_for_bit(script: Command, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "log", slates=300)
    for name in ("a", "b"):
        assert script(PRETRAIN, *shop.flags(), "--out", tmp_path / name, "--passes", 2)[0] == 0
    assert load_slates(tmp_path / "a").sha256 == load_slates(tmp_path / "b").sha256


def test_a_policy_trains_and_is_asked_in_python(home: Path, run: Path, shop: Shop, script: Command) -> None:
    flags = ["--env", SLATES, "--estimator", home / "estimator", "--wandb", "disabled", "--eval-size", 20]
    assert script(TRAIN, *flags, "--timesteps", 2_000, "--batch-size", 64, "--out", home / "policy")[0] == 0
    code, shown, _ = script(EVALUATE, home / "policy")
    assert code == 0 and "best ranking" in shown
    recommender = Recommender.load(home / "policy")
    one = recommender({"wealth": 1.0, "liked": "red"})
    assert isinstance(one, dict) and {one[name] for name in NAMES} <= set(shop.item_rows["item"])
    two = recommender([{"wealth": 1.0, "liked": "red", "candidates": ["i1", "i2", "i3"]}] * 2, calls=4, top=2)
    assert [each["rank"] for each in two] == [1, 2, 1, 2]
    frame = recommender(pd.DataFrame([{"wealth": 1.0, "liked": "red"}] * 3, index=[5, 5, 9]))
    assert len(frame) == 3 and frame[0]["s0"] == one["s0"]
    # A request may lack what another one has.
    some, every = recommender(
        [{"wealth": 1.0, "liked": "red", "candidates": ["i1", "i2", "i3"]}, {"wealth": 1, "liked": "red"}]
    )
    assert {some[name] for name in NAMES} <= {"i1", "i2", "i3"} and every["s0"] == one["s0"]
    assert {each[name] for each in two for name in NAMES} <= {"i1", "i2", "i3"}
    with pytest.raises(ValueError, match="expected a column 'wealth' in the requests"):
        recommender({"liked": "red"})
    with pytest.raises(ValueError, match="expected at least one request"):
        recommender([])


def test_an_estimator_of_other_columns_is_refused(home: Path, run: Path, script: Command, tmp_path: Path) -> None:
    code, _, errors = script(
        TRAIN, "--env", "SlotRL/Slate-v0", "--estimator", home / "estimator", "--out", tmp_path / "r"
    )
    assert code == 2 and "expected an estimator of 6 items of 16 numbers" in errors
    shipped = ROOT / "slot_rl" / "estimators" / "shipped"
    for env, folder in ((SLATES, shipped / "slots-v0"), ("SlotRL/Rows-v0", home / "estimator")):
        code, _, errors = script(TRAIN, "--env", env, "--estimator", folder, "--out", tmp_path / "r")
        assert code == 2 and "to be of kind" in errors and len(errors.splitlines()) == 1
    code, _, errors = script(TRAIN, "--env", SLATES, "--out", tmp_path / "r")
    assert code == 2 and "expected estimator=FOLDER" in errors
