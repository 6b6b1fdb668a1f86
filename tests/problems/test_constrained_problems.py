"""Problems under constraints: what is drawn, what observations carry, and what tables and items' columns allow."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from slot_rl.estimators.fitting import TableFit, network_for
from slot_rl.estimators.slate_fitting import SlateFit
from slot_rl.estimators.slate_store import load_slates
from slot_rl.problems import Answers, Observation, RowProblem, SlotProblem, make_problem, slots
from slot_rl.problems.base import check_choice
from slot_rl.problems.constraints import AtLeast, AtMost, Constraint, Distinct, Feasible, Fixed, Infeasible, NotTogether
from slot_rl.problems.requests import RequestFiles
from slot_rl.problems.slates import SlateProblem
from slot_rl.seeding import generator_from
from slot_rl.selectors.rules import OPEN
from slot_rl.slate_pretraining import SlateFiles, pretrain_slates
from tests.helpers.shop import ITEMS, write_shop
from tests.problems.test_rows import numeric_problem

# Ten vectors of one advertiser and two of another; some are new.
ADVERTISERS = ["big"] * 10 + ["small"] * 2
NEW = [1, 0, 0] * 4


def total(items: Tensor, *given: Tensor) -> Tensor:
    return items.sum(dim=(-1, -2))


def pages(*constraints: Constraint, items: int | None = 4, **settings: Any) -> SlotProblem:
    """Two slots for lists of some of twelve vectors; a vector's only number is its place in the pool."""
    pool = torch.arange(12.0).unsqueeze(1)
    labels: dict[str, list[Any]] = {"advertiser": ADVERTISERS, "new": NEW}
    return SlotProblem(total, 2, items, pool=pool, item_labels=labels, constraints=constraints, **settings)


def rows_of(problem: SlotProblem, observation: Observation) -> Tensor:
    """Returns which vectors of the pool the candidates are, ``(batch, items)``."""
    return problem.candidates(observation).squeeze(-1).long()


def test_lists_without_an_answer_are_drawn_again() -> None:
    asked, generator = AtLeast(1, "advertiser", "small"), generator_from(0)
    problem, plain = pages(asked), pages()
    batch = 20_000
    small = (rows_of(problem, problem.sample(batch, generator)) >= 10).sum(dim=1)
    before = (rows_of(plain, plain.sample(batch, generator)) >= 10).sum(dim=1)
    assert int(small.min()) == 1 and int(before.min()) == 0
    # Of 495 lists 210 have none, 240 have one and 45 have two; what is left is as likely as it was.
    share = float((small == 2).float().mean())
    assert abs(share - 45 / 285) < 4 * (45 / 285 * 240 / 285 / batch) ** 0.5
    judged = problem.evaluation_observations(200, generator)
    assert bool((rows_of(problem, judged) >= 10).any(dim=1).all())


def test_redrawn_lists_keep_labels_and_masks_beside_them() -> None:
    problem = pages(AtLeast(1, "advertiser", "small"), Distinct(), fewest_items=2)
    observation = problem.sample(500, generator_from(1))
    rows, labels, mask = rows_of(problem, observation), observation.labels, observation.mask
    assert labels is not None and mask is not None
    present = mask[:, 0]
    assert torch.equal(labels[..., 0][present], (rows >= 10).long()[present])
    assert bool(((rows >= 10) & present).any(dim=1).all()) and int(present.sum(dim=1).min()) >= 2


def test_lists_that_never_have_an_answer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rare = pages(Distinct(), AtLeast(2, "new", 1), items=2, name="two")
    monkeypatch.setattr(slots, "MOST_REDRAWS", 2)
    with pytest.raises(Infeasible, match=r"satisfies Distinct\(\), AtLeast\(2, of='new', value=1\) in request \d+ of"):
        rare.sample(100, generator_from(0))
    with pytest.raises(Infeasible, match=r"AtLeast\(1, of='advertiser', value='tiny'\)"):
        SlotProblem(
            total,
            2,
            1,
            pool=torch.rand(500, 1),
            item_labels={"advertiser": ["tiny"] + ["big"] * 499},
            constraints=[AtLeast(1, "advertiser", "tiny")],
        )


def test_labels_are_observed_where_constraints_speak_of_them() -> None:
    assert list(pages().observation_parts()) == ["candidates"]
    assert list(pages(Distinct()).observation_parts()) == ["candidates"]
    problem = pages(Distinct(), AtMost(1, "new"), AtMost(2, "new", 1))
    part = problem.observation_parts()["labels"]
    assert (part.shape, part.kind, part.sizes) == ((4, 1), "numbers", (2,))
    observation = problem.sample(3, generator_from(0))
    assert observation.labels is not None and observation.labels.shape == (3, 4, 1)
    assert torch.equal(observation.labels[..., 0], torch.tensor(NEW)[rows_of(problem, observation)])
    assert problem.sample(3, generator_from(0)).tensors().keys() == problem.observation_parts().keys()


def test_other_constraints_make_another_problem() -> None:
    plain = pages()
    observation = plain.sample(3, generator_from(0))
    plain.score(observation, torch.zeros(3, 2, dtype=torch.long))
    problem = plain.with_constraints([Distinct(), AtMost(1, "advertiser", "small")])
    assert (plain.budget.forwards, problem.budget.forwards) == (3, 0)
    asked = problem.sample(3, generator_from(0))
    problem.score(asked, torch.zeros(3, 2, dtype=torch.long))
    assert (plain.budget.forwards, problem.budget.forwards) == (3, 3)
    assert plain.constraints is None and plain.rules(observation) is None and plain.impossible(observation) == {}
    assert not plain.labels.names and plain.names is not None and not plain.names.labels.names
    assert problem.names is not None and list(problem.names.labels.names) == ["advertiser"]
    assert torch.equal(rows_of(plain, observation), rows_of(problem, asked))
    assert problem.with_constraints([]).constraints is None
    for known, kept in ((problem.with_fresh_budget(), problem), (problem.with_items(4), problem)):
        assert known.constraints is kept.constraints


def test_forbidden_choices_are_refused_by_the_constraints_name() -> None:
    problem = pages(Distinct(), AtMost(1, "advertiser", "big"), items=None)
    observation = problem.sample(1, generator_from(0))
    check_choice(problem, observation, torch.tensor([[0, 11]]))
    with pytest.raises(Infeasible, match=r"expected a configuration that satisfies Distinct\(\), got \[11, 11\]"):
        check_choice(problem, observation, torch.tensor([[11, 11]]))
    with pytest.raises(Infeasible, match=r"satisfies AtMost\(1, of='advertiser', value='big'\), got \[0, 1\]"):
        check_choice(problem, observation, torch.tensor([[0, 1]]))


def test_lists_of_another_length_have_rules_of_their_own() -> None:
    problem = pages(Distinct(), AtMost(1, "advertiser"))
    candidates = torch.arange(6.0, 12).view(1, 6, 1)
    labels = torch.tensor([[[0]] * 4 + [[1]] * 2])
    rules = problem.rules(Observation(candidates, labels=labels))
    assert rules is not None
    is_open = rules.open_items(torch.tensor([[0, OPEN]]))
    assert is_open.tolist() == [[[True] * 6, [False] * 4 + [True] * 2]]
    only = Observation(candidates[:, :4], labels=labels[:, :4])
    expected = "a configuration that satisfies AtMost(1, of='advertiser')"
    assert problem.impossible(replace(only, candidates=candidates[:, :3], labels=labels[:, :3])) == {0: expected}
    wider = problem.with_items(6)
    assert wider.constraints is not None and wider.sizes == (6, 6) and problem.sizes == (4, 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1], "expected item_labels as a mapping of names to categories, got list"),
        ({"new": 5}, "expected item_labels 'new' with 6 categories, got 5"),
        ({"new": "abcdef"}, "expected item_labels 'new' with 6 categories, got 'abcdef'"),
        ({"new": [1]}, "expected item_labels 'new' with 6 categories, got 1"),
    ],
)
def test_labels_that_are_no_lists_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlotProblem(total, 2, pool=torch.zeros(6, 1), item_labels=labels)
    with pytest.raises(ValueError, match="expected a pool of vectors with item_labels, got none"):
        SlotProblem(total, 2, 6, 1, item_labels=labels)


@pytest.mark.parametrize("given", [5, "distinct", {"distinct": True}, Distinct()])
def test_constraints_that_are_no_list_are_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="expected a list of constraints, got "):
        make_problem("SlotRL/Slots-v0", constraints=given)
    with pytest.raises(TypeError, match="expected (a list of )?constraints, got "):
        pages().with_constraints(given)
    with pytest.raises(TypeError, match="expected own_constraints True or False, got 'no'"):
        make_problem("SlotRL/Slate-v0", own_constraints="no")  # type: ignore[arg-type]


def test_single_items_belong_to_whole_pools_alone() -> None:
    with pytest.raises(ValueError, match="expected the same items in every request for NotTogether"):
        pages(NotTogether([(0, 1)]))
    whole = pages(NotTogether([("3", "4")]), Fixed({"slot_1": "3"}), items=None)
    rules = whole.rules(whole.sample(2, generator_from(0)))
    assert rules is not None
    assert rules.open_items(torch.full((2, 2), OPEN), 1)[0].nonzero().flatten().tolist() == [
        *range(4),
        *range(5, 12),
    ]


def row_problem(folder: Path, *lines: str) -> RowProblem:
    """The reactions, without their truth, of which a table allows some."""
    plain, path = numeric_problem(folder), folder / "valid.csv"
    path.write_text("\n".join(["temperature,acid,ligand,equivalents", *lines]) + "\n")
    assert plain.encoding is not None
    net = network_for(plain.encoding, TableFit(dim=4, hidden=(8,)), 0)
    problem = RowProblem(net, plain.contexts, name="reactions", encoding=plain.encoding)
    return problem.with_constraints([Feasible.from_table(path)])


def every_context() -> list[str]:
    return [f"{t},{acid},L1,1" for acid in "ab" for t in (80, 90, 100, 110)]


def test_a_table_allows_each_context_its_own_rows(tmp_path: Path) -> None:
    problem = row_problem(tmp_path, *every_context(), "80,a,L3,2", "80,a,L3,1.5")
    observation = problem.evaluation_observations(100, generator_from(0))
    rules = problem.rules(observation)
    assert rules is not None and problem.impossible(observation) == {}
    found = rules.allows(torch.tensor([[[0, 0]] * 8, [[2, 2]] * 8, [[2, 1]] * 8, [[2, 0]] * 8]))
    assert found.tolist() == [[True] * 8, [True] + [False] * 7, [True] + [False] * 7, [False] * 8]
    drawn, _ = rules.draw(torch.zeros(200, 8, 2, 5), generator_from(0))
    assert bool(rules.allows(drawn).all()) and len(drawn[:, 0].unique(dim=0)) == 3
    assert len(drawn[:, 1:].flatten(0, 1).unique(dim=0)) == 1


def test_further_categories_keep_the_constraints(tmp_path: Path) -> None:
    problem = row_problem(tmp_path, *every_context())
    more = tmp_path / "more.csv"
    more.write_text("ligand,size\nL8,5.5\n")
    wider = problem.with_descriptors({"ligand": more})
    assert wider.sizes == (6, 3) and problem.sizes == (5, 3)
    rules = wider.rules(wider.evaluation_observations(100, generator_from(0)))
    assert rules is not None
    assert rules.open_items(torch.full((8, 2), OPEN)).sum(dim=-1).tolist() == [[1, 1]] * 8


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slate estimator, hardly fitted, of a shop whose items have a brand and whether they are new, as 0 or 1."""
    folder = tmp_path_factory.mktemp("shop")
    files = write_shop(folder / "log", 300)
    items = files.item_rows.assign(brand=[f"b{i % 5}" for i in range(ITEMS)], new=[i % 3 == 0 for i in range(ITEMS)])
    items.astype({"new": int}).to_parquet(files.items, index=False)
    pretrain_slates(folder / "estimator", SlateFiles(files.log, files.items, files.requests, "value"), SlateFit(1), 0)
    return folder


def slates(shop: Path, *constraints: Constraint) -> SlateProblem:
    return SlateProblem(load_slates(shop / "estimator")).with_constraints(constraints)


def test_items_columns_limit_slates(shop: Path) -> None:
    problem = slates(shop, Distinct(), AtMost(1, "brand"), AtMost(1, "new", 1))
    # Numbers come before categories.
    assert list(problem.labels.names.items()) == [("new", ("0", "1")), ("brand", ("b0", "b1", "b2", "b3", "b4"))]
    observation = problem.sample(64, generator_from(0))
    labels, rules = observation.labels, problem.rules(observation)
    assert labels is not None and rules is not None and problem.items > 10
    choice, _ = rules.draw(torch.randn(20, 64, 3, problem.items, generator=generator_from(1)), generator_from(2))
    held = labels.expand(20, -1, -1, -1).gather(2, choice.unsqueeze(-1).expand(-1, -1, -1, 2))
    assert all(len(set(page)) == 3 for page in held[..., 1].flatten(0, 1).tolist())
    assert int(held[..., 0].sum(dim=-1).max()) == 1
    with pytest.raises(ValueError, match=r"\('price', 'new', 'colour', 'brand'\), got 'advertiser'"):
        slates(shop, AtMost(1, "advertiser"))


def test_a_logged_list_without_an_answer_is_refused(shop: Path) -> None:
    with pytest.raises(
        Infeasible, match=r"satisfies Distinct\(\), AtMost\(0, of='new', value=0\) in request \d+ of sla"
    ):
        slates(shop, Distinct(), AtMost(0, "new", 0))


class _Drawn:
    """Answers with a draw under the problem's rules, and keeps what it was asked."""

    def __init__(self, problem: SlotProblem) -> None:
        self.problem = problem

    def __call__(self, observation: Observation, weights: Tensor | None = None) -> Answers:
        self.asked, rules = observation, self.problem.rules(observation)
        assert rules is not None and observation.candidates is not None
        logits = torch.zeros(50, len(observation), self.problem.slots, observation.candidates.shape[1])
        choice = rules.draw(logits, generator_from(0))[0].transpose(0, 1)
        return Answers(choice, torch.zeros(choice.shape[:2]))


def test_each_new_brand_at_serving_is_a_group_of_its_own(shop: Path, tmp_path: Path) -> None:
    problem = slates(shop, AtMost(1, "brand"))
    items = pd.DataFrame(
        {"item": list("pqrst"), "price": 0.0, "colour": "red", "brand": ["b1", "x", "x", "y", "y"], "new": 0}
    )
    items.to_parquet(tmp_path / "items.parquet", index=False)
    seen, asked = _Drawn(problem), pd.DataFrame({"request": ["u"], "wealth": [0.5], "liked": ["red"]})
    pages = problem.desk(tmp_path / "items.parquet").answered(asked, seen, Path("q")).to_pylist()
    assert seen.asked.labels is not None and seen.asked.labels.flatten().tolist() == [1, 5, 5, 6, 6]
    brand = dict(zip(items["item"], items["brand"], strict=True))
    found = [tuple(brand[page[name]] for name in ("s0", "s1", "s2")) for page in pages]
    assert len(found) == 50 and all(sorted(page) == ["b1", "x", "y"] for page in found)
    items.drop(columns="brand").to_parquet(tmp_path / "items.parquet", index=False)
    with pytest.raises(ValueError, match="expected a column 'brand' in"):
        problem.desk(tmp_path / "items.parquet")


def test_new_vectors_bring_the_columns_of_the_constraints(tmp_path: Path) -> None:
    problem = pages(Distinct(), AtMost(1, "advertiser"), AtLeast(1, "new", 1))
    path = tmp_path / "items.csv"
    path.write_text("item,number,advertiser,new\np,1,big,0\nq,2,other,1.0\nr,3,other,1\n")
    seen = _Drawn(problem)
    found = problem.desk(path).answered(pd.DataFrame({"request": ["u"]}), seen, Path("q")).to_pylist()
    assert seen.asked.labels is not None and seen.asked.labels.tolist() == [[[0, 0], [2, 1], [2, 1]]]
    assert {(page["slot_1"], page["slot_2"]) for page in found} == {("p", "q"), ("p", "r"), ("q", "p"), ("r", "p")}
    path.write_text("item,number,new\np,1,0\n")
    with pytest.raises(ValueError, match="expected a column 'advertiser' in"):
        problem.desk(path)


def test_other_items_are_refused_where_constraints_name_items(tmp_path: Path) -> None:
    problem, path = pages(Fixed({0: "3"}), items=None), tmp_path / "items.csv"
    path.write_text("item,number\np,1\nq,2\n")
    with pytest.raises(ValueError, match="expected no other items with constraints on single items, got"):
        problem.desk(path)
    with pytest.raises(ValueError, match="expected no other items"):
        problem.read_requests(RequestFiles(path, tmp_path, items=path))
