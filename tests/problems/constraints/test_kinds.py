"""Each kind of constraint: what it refuses, with its message, and what it means by numbers worked out by hand."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.problems import Observation, RowProblem, SlotProblem
from slot_rl.problems.constraints import (
    AtLeast,
    AtMost,
    Constraint,
    ConstraintSet,
    Distinct,
    Feasible,
    Fixed,
    Infeasible,
    ItemSpace,
    NotTogether,
)
from slot_rl.problems.constraints.tables import TableRules
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors.rules import OPEN
from tests.problems.test_rows import numeric_problem

MASK = torch.ones(3, 4, dtype=torch.bool)
LABELS = {"advertiser": ("x", "y"), "new": ("0", "1"), "kind": ("u", "v")}
# What the shop's items a, b, c and d are.
CODES = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 0]])
SHOP = ItemSpace(
    "shop",
    MASK,
    ("top", "middle", "end"),
    (tuple("abcd"),) * 3,
    attributes=(*LABELS, "colour"),
    labels=LABELS,
    fixed_labels=CODES,
)
PLAIN = ItemSpace("plain", MASK)
LISTS = ItemSpace("lists", MASK, fixed=False, labels=LABELS)
ROWS = ItemSpace(
    "rows",
    torch.tensor([[1, 1, 0], [1, 1, 1]]).bool(),
    ("heat", "base"),
    (("hot", "cold"), tuple("pqr")),
    same_items=False,
)
NOBODY = Observation(context=torch.zeros(2, 1, dtype=torch.long))
CLASHING = (AtLeast(2, "advertiser", "x"), AtMost(1, "advertiser", "x"))


def broken_predicate(rows: Tensor) -> Tensor:
    raise KeyError("table")


def heavy(rows: Tensor) -> Tensor:
    return rows.sum(dim=1) > 100


def weights(rows: Tensor) -> Tensor:
    return rows.sum(dim=1)


@pytest.mark.parametrize(
    ("space", "constraints", "message"),
    [
        (SHOP, [Fixed({"bottom": "a"})], "expected a slot of shop (top, middle, end, or 0 to 2), got 'bottom'"),
        (SHOP, [Fixed({3: "a"})], "expected a slot of shop (top, middle, end, or 0 to 2), got 3"),
        (SHOP, [Fixed({True: "a"})], "expected a slot of shop (top, middle, end, or 0 to 2), got True"),
        (PLAIN, [Fixed({-1: 0})], "expected a slot of plain (0 to 2), got -1"),
        (SHOP, [Fixed({"top": "e"})], "expected an item of slot 0 of shop (a, b, c, d), got 'e'"),
        (PLAIN, [Fixed({2: 4})], "expected an item of slot 2 of plain (0 to 3), got 4"),
        (ROWS, [Fixed({"heat": 2})], "expected an item of slot 0 of rows (hot, cold), got 2"),
        (PLAIN, [Fixed({})], "expected at least one slot with its item in Fixed, got {}"),
        (PLAIN, [Fixed({0: 1, "0": 2})], "expected different slots, got 0, 0"),
        (SHOP, [AtMost(1, "size")], "attribute of the items of shop ('advertiser', 'new', 'kind', 'colour')"),
        (PLAIN, [AtMost(1, "size")], "expected an attribute of the items of plain (none), got 'size'"),
        (SHOP, [AtMost(1, "new", 7)], "expected a value of 'new' ('0', '1'), got 7"),
        (SHOP, [AtMost(-1, "new")], "expected a whole number from 0 in AtMost(-1, of='new'), got -1"),
        (SHOP, [AtLeast(1.5, "new")], "expected a whole number from 0 in AtLeast(1.5, of='new'), got 1.5"),  # type: ignore[arg-type]
        (SHOP, [AtMost(True, "new")], "expected a whole number from 0 in AtMost(True, of='new'), got True"),
        (SHOP, [AtMost(1, [0, 1, 2])], "for each item, (3, 4), in AtMost(1, of=…), got torch.int64 (3,)"),
        (SHOP, [AtMost(1, [0.0, 1, 2, 3])], "for each item, (3, 4), in AtMost(1, of=…), got torch.float64 (4,)"),
        (SHOP, [AtMost(1, [0, -1, 2, 3])], "expected groups from 0 in AtMost(1, of=…), got -1"),
        (SHOP, [AtMost(1, [0, 1, 1, 0], "x")], "expected a value with an attribute's name only, got 'x' in AtMost"),
        (SHOP, [AtMost(1, {"top": ["z"]})], "expected an item of slot 0 of shop (a, b, c, d), got 'z'"),
        (SHOP, [AtMost(1, {"bottom": "a"})], "expected a slot of shop (top, middle, end, or 0 to 2), got 'bottom'"),
        (LISTS, [AtMost(1, [0, 0, 1, 1])], "an attribute's name in AtMost(1, of=…): the items of lists vary"),
        (SHOP, [Distinct("01")], "expected a list of slots, got '01'"),
        (SHOP, [Distinct(5)], "expected a list of slots, got 5"),  # type: ignore[arg-type]
        (SHOP, [Fixed([1])], "expected at least one slot with its item in Fixed, got [1]"),  # type: ignore[arg-type]
        (SHOP, [NotTogether(5)], "expected at least one pair in NotTogether, got 5"),  # type: ignore[arg-type]
        (SHOP, [NotTogether([(0, (1, 2, 3))])], "expected an item or (slot, item) in NotTogether, got (1, 2, 3)"),  # type: ignore[list-item]
        (SHOP, [AtMost(1, [[1, 2], [3]])], "expected as many groups in each row of a quota, got [[1, 2], [3]]"),
        (SHOP, [AtMost(1, {})], "expected at least one item in AtMost(1, of={}), got none"),
        (SHOP, [AtMost(1, {0: None})], "expected an item of slot 0 of shop"),
        (SHOP, [Distinct([])], "expected at least one slot in Distinct([]), got none"),
        (SHOP, [Distinct(["top", 0])], "expected different slots, got top, 0"),
        (SHOP, [Distinct([0, 5])], "expected a slot of shop (top, middle, end, or 0 to 2), got 5"),
        (ROWS, [Distinct()], "expected slots with the same items for Distinct() in rows, got different ones"),
        (
            SHOP,
            [Distinct([0, 1]), Distinct([1, 2])],
            "expected sets of slots without a slot in common, got Distinct([0, 1]), Distinct([1, 2])",
        ),
        (LISTS, [NotTogether([(0, 1)])], "same items in every request for NotTogether([(0, 1)]), those of"),
        (PLAIN, [NotTogether([])], "expected at least one pair in NotTogether, got []"),
        (PLAIN, [NotTogether([(0, 1, 2)])], "expected pairs in NotTogether, got (0, 1, 2)"),  # type: ignore[list-item]
        (SHOP, [NotTogether(["ab"])], "expected pairs in NotTogether, got 'ab'"),  # type: ignore[list-item]
        (SHOP, [NotTogether([("a", "z")])], "expected an item of slot 0 of shop (a, b, c, d), got 'z'"),
        (ROWS, [NotTogether([("hot", "p")])], "expected pairs of (slot, item) in NotTogether for rows, got 'hot'"),
        (ROWS, [NotTogether([(("heat", "hot"), ("bass", "p"))])], "expected a slot of rows (heat, base, or 0 to 1)"),
        (SHOP, [Feasible(weights)], "expected 64 truth values from Feasible(weights), got torch.int64 (64,)"),
        (SHOP, [Feasible(lambda rows: rows[:3] > 0)], "64 truth values from Feasible(<lambda>), got torch.bool"),
        (SHOP, [Feasible(broken_predicate)], "truth values from Feasible(broken_predicate), got KeyError: 'table'"),
        (SHOP, [Feasible(lambda rows: None)], "expected truth values from Feasible(<lambda>), got RuntimeError"),  # type: ignore[arg-type,return-value]
        (LISTS, [Feasible(heavy)], "for lists, got Feasible(heavy): Feasible(heavy) can only be tried"),
        (SHOP, [Feasible.from_table("t.csv")], "problem whose slots and items have names for Feasible.from_table"),
        (
            replace(PLAIN, mask=torch.ones(6, 100, dtype=torch.bool)),
            [Feasible(heavy)],
            "at most 200,000 configurations to list, for plain, got Feasible(heavy) with 1,000,000,000,000",
        ),
        (LISTS, [AtMost(1, name) for name in LABELS], "quotas by 3 attributes with many groups depend on one another"),
        (
            LISTS,
            [Distinct([0, 1]), AtMost(1, "advertiser"), AtMost(1, "new")],
            "quotas by two attributes need slots that all allow the same items",
        ),
    ],
)
def test_what_does_not_fit_is_refused(space: ItemSpace, constraints: list[Constraint], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ConstraintSet(constraints, space)


@pytest.mark.parametrize(
    ("space", "constraints", "message"),
    [
        (SHOP, [AtLeast(4, "new", 1)], "expected at most 3 slots in AtLeast(4, of='new', value=1), got 4"),
        (SHOP, CLASHING, f"expected quotas that can be met together for shop, got {CLASHING[0]}, {CLASHING[1]}"),
        (LISTS, CLASHING, f"expected quotas that can be met together for lists, got {CLASHING[0]}, {CLASHING[1]}"),
        (SHOP, [Distinct(), AtLeast(2, "kind", "v")], "configuration that satisfies Distinct(), AtLeast(2, of='kind'"),
        (SHOP, [Fixed({0: "c"}), AtMost(0, "kind", "v")], "a configuration that satisfies Fixed({0: 'c'}), AtMost(0,"),
        (SHOP, [Distinct(), Fixed({0: "a", 1: "a"})], "satisfies Distinct(), Fixed({0: 'a', 1: 'a'}) in shop, got"),
        (SHOP, [Fixed({0: "a"}), Fixed({0: "b"}), Distinct()], "satisfies Fixed({0: 'a'}), Fixed({0: 'b'}) in shop"),
        (SHOP, [AtMost(0, [0, 0, 0, 0])], "configuration that satisfies AtMost(0, of=…) in shop, got none"),
        (SHOP, [Feasible(heavy)], "that satisfies Feasible(heavy), got none left with Feasible(heavy)"),
        (
            SHOP,
            [Fixed({0: "a", 1: "b"}), NotTogether([("a", "b")])],
            "got none left with Fixed({0: 'a', 1: 'b'})",
        ),
    ],
)
def test_what_leaves_nothing_is_refused(space: ItemSpace, constraints: list[Constraint], message: str) -> None:
    with pytest.raises(Infeasible, match=re.escape(message)):
        ConstraintSet(constraints, space)


def test_more_distinct_slots_than_items_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("expected at least 3 items for Distinct() in plain, got 2")):
        ConstraintSet([Distinct()], replace(PLAIN, mask=MASK[:, :2]))


def test_what_is_no_constraint_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a list of constraints, got Distinct"):
        ConstraintSet(Distinct(), SHOP)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected constraints, got str"):
        ConstraintSet(["distinct"], SHOP)  # type: ignore[list-item]


def test_feasible_needs_one_of_function_and_table() -> None:
    for wrong in ({}, {"predicate": heavy, "path": Path("t.csv")}):
        with pytest.raises(
            ValueError, match=re.escape("expected Feasible(predicate) or Feasible.from_table(file), got")
        ):
            Feasible(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a function in Feasible, got str"):
        Feasible("heavy")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("constraints", "banned", "message"),
    [
        ([Fixed({"middle": "b"})], [[1], [1], [1]], "Fixed({'middle': 'b'})"),
        ([Fixed({"middle": "b"}), NotTogether([("b", "c")])], [[], [1], []], "Fixed({'middle': 'b'})"),
        ([Distinct(), AtMost(1, "new", 1)], [[0]] * 3, "Distinct(), AtMost(1, of='new', value=1)"),
        ([Distinct(), AtMost(2, "new", 1)], [[0, 1]] * 3, "Distinct()"),
        ([AtMost(1, "new", 1), AtLeast(1, "new", 0), Distinct()], [[0, 2]] * 3, "AtMost(1, of='new', value=1)"),
        ([Distinct([0, 1]), Feasible(lambda rows: rows[:, 2] < 2)], [[], [], [0, 1]], "Feasible(<lambda>)"),
    ],
)
def test_an_impossible_request_names_constraint_and_number(
    constraints: list[Constraint], banned: list[list[int]], message: str
) -> None:
    """The second of two requests lacks, in each slot, some items."""
    mask = MASK.repeat(2, 1, 1)
    for slot, items in enumerate(banned):
        mask[1, slot, items] = False
    asked = replace(NOBODY, labels=CODES.expand(2, -1, -1))
    together = ConstraintSet(constraints, SHOP)
    expected = f"a configuration that satisfies {message}"
    assert together.impossible(asked, mask) == {1: expected}
    with pytest.raises(Infeasible) as error:
        together.rules(asked, mask)
    assert str(error.value) == f"expected {expected} in request 1 of shop, got none"
    assert together.rules(asked[:1], mask[:1]).open_items(torch.full((1, 3), OPEN)).any(dim=-1).all()


def test_labels_are_asked_for() -> None:
    with pytest.raises(ValueError, match="expected an observation with labels for the quota of new, got one without"):
        ConstraintSet([AtMost(1, "new")], LISTS).rules(NOBODY, None)


def test_masks_by_slot_and_two_attributes_are_refused() -> None:
    mask = MASK.repeat(2, 1, 1)
    mask[1, 0, 0] = False
    together = ConstraintSet([AtMost(2, "advertiser"), AtMost(2, "new")], LISTS)
    with pytest.raises(ValueError, match="expected slots that all allow the same items for quotas by two attributes"):
        together.rules(replace(NOBODY, labels=CODES.expand(2, -1, -1)), mask)


def allowed(*constraints: Constraint, space: ItemSpace = SHOP) -> set[str]:
    """Returns the allowed configurations of named items, by what is open slot by slot and by what breaks nothing."""
    asked = Observation(context=torch.zeros(1, 1), labels=CODES[None] if space.labels else None)
    together = ConstraintSet(constraints, space)
    rules = together.rules(asked, None)
    every = torch.cartesian_prod(*[torch.arange(4)] * 3).unsqueeze(1)
    found = rules.allows(every).squeeze(1)
    assert torch.equal(found, together.allows(asked, every).squeeze(1))
    return {"".join("abcd"[item] for item in row) for row in every[found].squeeze(1).tolist()}


def test_kinds_mean_what_they_say() -> None:
    assert allowed(Fixed({"top": "c", 2: "a"})) == {"caa", "cba", "cca", "cda"}
    assert len(allowed(Distinct())) == 24 and len(allowed(Distinct(["top", "end"]))) == 48
    # One of three slots holds c, the others any of three.
    assert len(allowed(AtMost(1, "kind", "v"))) == 27 + 27 and len(allowed(AtLeast(1, "kind", "v"))) == 64 - 27
    assert allowed(Distinct(), AtMost(1, "kind", "v"), AtLeast(2, "new", 1), Fixed({0: "c"})) == {"cbd", "cdb"}
    # b and c never together: neither (2^3), or only one of the two (3^3 - 2^3 each).
    assert len(allowed(NotTogether([("b", "c")]))) == 8 + 19 + 19
    assert len(allowed(NotTogether([(("top", "b"), ("end", "c"))]))) == 64 - 4
    assert len(allowed(AtMost(0, {"top": ["a", "b"], "end": "d"}))) == 2 * 4 * 3


@pytest.mark.parametrize("form", [list, np.array, torch.tensor])
def test_groups_by_item_are_truth_values_or_numbers(form: Any) -> None:
    assert allowed(AtLeast(3, form([True, False, False, True]))) == {
        x + y + z for x in "ad" for y in "ad" for z in "ad"
    }
    # With every group at most once, the three slots are of the groups 0 (a), 5 (b and c) and 9 (d), in any order.
    assert len(allowed(AtMost(1, form([0, 5, 5, 9])))) == 6 * 2
    by_slot = form([[True] * 4, [False] * 4, [True, False, False, False]])
    assert len(allowed(AtMost(1, by_slot))) == 4 * 4 * 3 and len(allowed(AtLeast(2, by_slot))) == 4 * 4


def test_the_first_broken_constraint_is_named() -> None:
    asked = Observation(context=torch.zeros(1, 1), labels=CODES[None])
    constraints = [Distinct(), AtMost(1, "kind", "v"), Fixed({0: "a"}), NotTogether([("b", "d")])]
    for most in (constraints[:3], constraints):
        together = ConstraintSet(most, SHOP)
        choice = torch.tensor([[0, 1, 2], [0, 1, 1], [0, 2, 2], [1, 0, 2]]).unsqueeze(1)
        assert together.first_broken(asked, choice).flatten().tolist() == [-1, 0, 0, 2]
    assert together.first_broken(asked, torch.tensor([[0, 1, 3]])).tolist() == [3]


def test_a_function_is_not_asked_about_what_it_allows() -> None:
    calls = []

    def record(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        allowed = rows[:, 0] > 0
        rows.zero_()  # the rows are its own
        return allowed

    together = ConstraintSet([Feasible(record)], SHOP)
    assert calls == [64]
    asked = Observation(context=torch.zeros(1, 1))
    assert together.first_broken(asked, torch.tensor([[1, 0, 0]])).tolist() == [-1] and calls == [64]
    assert together.first_broken(asked, torch.tensor([[0, 1, 0]])).tolist() == [0]
    assert together.rows is not None and len(together.rows) == 48


ENCODING = TableEncoding("y", {"a": tuple("kl"), "b": tuple("opq")}, {"where": tuple("xyz"), "when": ("day", "night")})
HEADER = "where,when,a,b,note\n"


def row_problem() -> RowProblem:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(2, 4, (8,), (2, 3), (3, 2)))
    contexts = torch.cartesian_prod(torch.arange(3), torch.arange(2))
    return RowProblem(net, contexts, name="tiny", encoding=ENCODING)


def tabled(tmp_path: Path, text: str) -> RowProblem:
    path = tmp_path / "valid.csv"
    path.write_text(text)
    return row_problem().with_constraints([Feasible.from_table(path)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "expected rows in {path}, got a header alone"),
        ("where,when,a\nx,day,k\n", "'b'"),
        ("where,a,b\nx,k,o\n", "expected all context columns or none in {path}, got no 'when'"),
        ("a,b\nk,o\nk,w\n", "('o', 'p', 'q') in row 2 of {path}, got 'w'"),
        ("where,when,a,b\nelsewhere,day,k,o\n", "expected at least one row in Feasible.from_table('{path}'), got none"),
    ],
)
def test_unusable_tables_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message.format(path=tmp_path / "valid.csv"))):
        tabled(tmp_path, text)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'gone.csv'}")):
        row_problem().with_constraints([Feasible.from_table(tmp_path / "gone.csv")])


def test_two_tables_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path in paths:
        path.write_text("a,b\nk,o\n")
    with pytest.raises(ValueError, match="expected one table of allowed rows, got Feasible.* and Feasible"):
        row_problem().with_constraints([Feasible.from_table(path) for path in paths])


def of(problem: RowProblem, where: int, when: int) -> set[str]:
    """Returns what a context allows, by enumeration of what is open."""
    rules = problem.rules(Observation(context=torch.tensor([[where, when]])))
    assert isinstance(rules, TableRules)
    every = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    found = rules.allows(every.unsqueeze(1)).squeeze(1)
    return {"kl"[a] + "opq"[b] for a, b in every[found].tolist()}


def test_a_table_holds_for_its_contexts_and_rows_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["x,day,k,o", "x,day,k,o", "x,day,l,q", "x,night,l,q", "y,day,k,p", "elsewhere,day,k,q"]
    text = HEADER + "".join(f"{line},\n" for line in lines)
    with pytest.raises(Infeasible, match=re.escape("for context y, night, got none")):
        tabled(tmp_path, text)
    # Without the look at every context that is known, to ask about those that the table does not list.
    monkeypatch.setattr(RowProblem, "_try_constraints", lambda self: None)
    problem = tabled(tmp_path, text)
    assert of(problem, 0, 0) == {"ko", "lq"} and of(problem, 0, 1) == {"lq"} and of(problem, 1, 0) == {"kp"}
    assert problem.constraints is not None and problem.constraints.rows is not None
    assert problem.constraints.rows.tolist() == [[0, 0], [0, 1], [1, 2]]
    unlisted = Observation(context=torch.tensor([[0, 0], [2, 1]]))
    expected = f"a configuration that satisfies {problem.constraints.constraints[0]}"
    assert problem.impossible(unlisted) == {1: expected}
    with pytest.raises(Infeasible, match=re.escape(f"expected {expected} in request 1 of tiny, got none")):
        problem.rules(unlisted)


def test_a_table_without_contexts_holds_everywhere(tmp_path: Path) -> None:
    problem = tabled(tmp_path, "b,a\no,k\nq,l\no,k\n")
    assert all(of(problem, where, when) == {"ko", "lq"} for where in range(3) for when in range(2))


def test_a_table_holds_for_contexts_that_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = numeric_problem(tmp_path)
    path = tmp_path / "valid.csv"
    path.write_text("temperature,acid,ligand,equivalents\n90,a,L1,1\n90.0,a,L2,1.50\n9e1,b,L4,2\n77,a,L3,1\n")
    monkeypatch.setattr(RowProblem, "_try_constraints", lambda self: None)
    problem = plain.with_constraints([Feasible.from_table(path)])
    every = problem.evaluation_observations(100, generator_from(0))
    names = problem.request_names(every)
    assert names is not None
    impossible = problem.impossible(every)
    assert [name for row, name in enumerate(names.names) if row not in impossible] == ["a, 90", "b, 90"]
    rules = problem.rules(every[[row for row in range(len(every)) if row not in impossible]])
    assert rules is not None
    # Of the ligands L1 to L5.
    is_open = rules.open_items(torch.full((2, 2), OPEN), 0)
    assert is_open.tolist() == [[True, True, False, False, False], [False, False, False, True, False]]
    assert rules.allows(torch.tensor([[1, 1], [3, 2]])).tolist() == [True, True]
    assert rules.allows(torch.tensor([[1, 0], [2, 2]])).tolist() == [False, False]


def test_slots_with_named_items_read_tables(tmp_path: Path) -> None:
    path = tmp_path / "pages.csv"
    path.write_text("slot_1,slot_2\na,b\nc,a\n")
    problem = SlotProblem(
        lambda items: items.sum(dim=(-1, -2)),
        2,
        pool=torch.rand(3, 2),
        item_ids=list("abc"),
        constraints=[Feasible.from_table(path)],
    )
    assert problem.constraints is not None and problem.constraints.rows is not None
    assert problem.constraints.rows.tolist() == [[0, 1], [2, 0]]
    path.write_text("slot_1,slot_2\na,z\n")
    with pytest.raises(ValueError, match=re.escape(f"expected a known item in column 'slot_2' of {path}, got 'z'")):
        problem.with_constraints([Feasible.from_table(path)])
