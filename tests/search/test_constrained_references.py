"""What answers are compared with, under constraints: enumeration, constants, rankings, evaluations, further answers."""

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

import slot_rl.search.enumeration as module
from slot_rl.agents.serving import best_swaps
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.evaluation import Evaluation, EvaluationConfig, Row
from slot_rl.problems import Budget, Observation, RowProblem, SlotProblem
from slot_rl.problems.constraints import AtMost, Distinct, Feasible, Infeasible
from slot_rl.problems.truth_table import TruthTable
from slot_rl.search import (
    best_constant,
    check_enumerable,
    configurations,
    constant_choice,
    enumerate_landscape,
    exhaustive_search,
    guided_search,
    highest_score,
    mean_score,
    mean_scores,
    random_choice,
    ranked_choice,
    search_constant,
)
from slot_rl.seeding import generator_from, seeded_initialisation
from tests.helpers.limited_cases import Case, each_case, each_engine, make_case
from tests.helpers.rugged import refuse

TENS = torch.tensor([[100.0], [10.0], [1.0]])


def in_order(slots: int, items: int) -> SlotProblem:
    """Slot 0 counts most; what an item is worth is its number in the reversed list of items."""
    weights = 10.0 ** torch.arange(slots - 1, -1, -1)
    candidates = torch.arange(items, 0, -1).float().unsqueeze(1)
    return SlotProblem(lambda vectors: (vectors[..., 0] * weights).sum(dim=-1), slots, pool=candidates)


def constant_of(case: Case) -> tuple[tuple[int, ...], float] | None:
    """Returns the best of the rows that all requests allow, and its mean score; None without one."""
    scores = [case.scores(request) for request in range(len(case.observation))]
    common = [row for row in scores[0] if all(row in found for found in scores)]
    means = {row: sum(found[row] for found in scores) / len(scores) for row in common}
    top = max(means, key=lambda row: means[row], default=None)
    return None if top is None else (top, means[top])


@each_case
@pytest.mark.parametrize("chunk", [50, 65_536])
def test_the_landscape_is_that_of_the_allowed_rows(
    name: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    case = make_case(name, tmp_path)
    problem, observation = case.problem, case.observation
    score = case.free.score
    found = enumerate_landscape(problem, observation, score)
    torch.testing.assert_close(found.best, case.best(), atol=1e-5, rtol=1e-5)
    refuse(problem, observation, found.choice)
    means = [sum(one.values()) / len(one) for one in map(case.scores, range(len(observation)))]
    torch.testing.assert_close(found.mean, torch.tensor(means), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean_score(problem, observation, score).float(), found.mean)
    torch.testing.assert_close(highest_score(problem, observation, score), found.best)
    constant = best_constant(problem, observation, score)
    expected = constant_of(case)
    if expected is None:
        assert constant is None
    else:
        assert constant is not None and tuple(constant.tolist()) == tuple(found.constant.tolist()) == expected[0]
        assert float(found.constant_scores.mean()) == pytest.approx(expected[1], abs=1e-4)


@each_case
def test_exhaustive_search_scores_what_some_request_allows(name: str, tmp_path: Path) -> None:
    case = make_case(name, tmp_path)
    problem, observation = case.plain, case.observation
    found = exhaustive_search(problem, observation)
    torch.testing.assert_close(found.score, case.best(), atol=1e-5, rtol=1e-5)
    refuse(case.problem, observation, found.choice)
    rows = {row for request in range(len(observation)) for row in case.allowed(request)}
    assert problem.budget == Budget(len(rows) * len(observation), 0)
    assert len(rows) <= configurations(problem)


def listed_problem(folder: Path) -> tuple[RowProblem, Tensor]:
    """A problem with 262,144 configurations, of which a file allows 50."""
    rows = torch.unique(torch.randint(8, (50, 6), generator=generator_from(0)), dim=0)
    path = folder / "rows.csv"
    path.write_text("\n".join(["a,b,c,d,e,f", *(",".join(map("k{}".format, row)) for row in rows.tolist())]) + "\n")
    encoding = TableEncoding("y", {name: tuple(f"k{item}" for item in range(8)) for name in "abcdef"}, {})
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(6, 3, (8,), (8,) * 6))
    return RowProblem(net, encoding=encoding).with_constraints([Feasible.from_table(path)]), rows


def test_few_listed_rows_of_many_can_be_enumerated(tmp_path: Path) -> None:
    problem, rows = listed_problem(tmp_path)
    observation = problem.sample(2, generator_from(0))
    assert configurations(problem) == len(rows) == 50
    scores = problem.with_constraints([]).score(observation, rows.unsqueeze(1).expand(-1, 2, -1))
    found = enumerate_landscape(problem, observation, problem.score)
    torch.testing.assert_close(found.best, scores.amax(dim=0))
    torch.testing.assert_close(found.mean, scores.mean(dim=0))
    assert problem.budget.forwards == 2 * 50 + 2
    evaluation = Evaluation(problem, EvaluationConfig(0, 5))
    assert evaluation.best_is_exact and torch.allclose(evaluation.best, scores.amax())
    with pytest.raises(ValueError, match="expected at most 200,000 configurations to enumerate, got 262,144"):
        check_enumerable(problem.with_constraints([]))


def test_a_constant_that_no_request_shares_is_repaired() -> None:
    problem = SlotProblem(lambda vectors: (vectors * TENS[1:]).sum(dim=(-1, -2)), 2, 3, 1)
    problem = problem.with_constraints([Distinct()])
    mask = torch.tensor([[[True, False, False], [True] * 3], [[False, True, False], [True] * 3]])
    observation = Observation(torch.tensor([[[5.0], [3.0], [1.0]]] * 2), mask)
    assert best_constant(problem, observation, problem.score) is None
    found = enumerate_landscape(problem, observation, problem.score)
    answers = constant_choice(problem, observation, found.constant)
    # Slot 0 is settled; the best of slot 1 is item 1 in request 0 and item 0 in request 1, which item 1 is repaired to.
    assert answers.tolist() == [[0, 1], [1, 0]]
    assert found.constant_scores.tolist() == [53.0, 35.0]
    problem = problem.with_constraints([])
    with pytest.raises(ValueError, match="expected a configuration that all requests allow, got none"):
        enumerate_landscape(problem, observation, problem.score)


def test_enumeration_names_the_request_that_allows_nothing() -> None:
    problem = in_order(2, 3).with_constraints([Distinct()])
    observation = problem.sample(2, generator_from(0))
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    mask[1, :, 1:] = False
    with pytest.raises(Infeasible, match=r"satisfies Distinct\(\) in request 1 of slots"):
        mean_score(problem, replace(observation, mask=mask), problem.score)


def test_constants_are_repaired_as_by_hand(tmp_path: Path) -> None:
    case = make_case("distinct", tmp_path, batch=2)
    # Slot 0 keeps its item; the others get their first open items.
    assert constant_choice(case.problem, case.observation, torch.tensor([1, 1, 1])).tolist() == [[1, 0, 2]] * 2
    assert constant_choice(case.problem, case.observation, torch.tensor([3, 0, 3])).tolist() == [[3, 0, 1]] * 2
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 0, 3] = False
    observation = replace(case.observation, mask=mask)
    assert constant_choice(case.problem, observation, torch.tensor([3, 0, 2])).tolist() == [[3, 0, 2], [1, 0, 2]]
    # Of the rows with sum 3, (0, 3, 0) alone shares two items with (0, 0, 0).
    case = make_case("constant sum", tmp_path, batch=2)
    assert constant_choice(case.problem, case.observation, torch.tensor([0, 0, 0])).tolist() == [[0, 3, 0]] * 2


@each_engine
def test_repaired_constants_are_allowed_and_repeat(name: str, tmp_path: Path) -> None:
    case = make_case(name, tmp_path)
    for row in product(*map(range, case.problem.sizes)):
        answers = constant_choice(case.problem, case.observation, torch.tensor(row))
        refuse(case.problem, case.observation, answers)
        assert torch.equal(answers, constant_choice(case.problem, case.observation, torch.tensor(row)))
        for request, answer in enumerate(answers.tolist()):
            assert tuple(answer) == row or row not in case.allowed(request)


@each_engine
def test_the_best_constant_is_searched_among_repaired_ones(name: str, tmp_path: Path) -> None:
    case = make_case(name, tmp_path)
    problem, observation = case.plain, case.observation

    def mean(constant: Tensor) -> float:
        return float(case.free.score(observation, constant_choice(problem, observation, constant)).double().mean())

    exact = max(mean(torch.tensor(row)) for row in product(*map(range, problem.sizes)))
    found = search_constant(problem, observation, 2, 8, generator_from(0))
    assert mean(found) == pytest.approx(exact, abs=1e-4)


def test_a_constant_of_distinct_items_is_itself_allowed() -> None:
    problem = in_order(3, 4).with_constraints([Distinct()])
    observation = problem.sample(5, generator_from(0))
    constant = search_constant(problem, observation, 1)
    assert constant.tolist() == [0, 1, 2]
    # Four items a slot, and the exchanges of slot 0 with two slots and of slot 1 with one.
    assert problem.budget.forwards == 5 * (3 * 4 + 3)


def test_exchanges_improve_constants_of_permutations() -> None:
    problem = in_order(3, 3).with_constraints([Distinct()])
    observation = problem.sample(2, generator_from(0))
    backwards = torch.tensor([2, 1, 0])
    worth = problem.score(observation, backwards.expand(2, -1))
    assert worth.tolist() == [123.0, 123.0]
    found = search_constant(problem, observation, 1, 5, generator_from(0))
    assert problem.score(observation, found.expand(2, -1)).tolist() == [321.0, 321.0]


POOL = torch.tensor([[0.0], [3.0], [1.0], [2.0], [5.0]])


def paged(slots: int, items: int) -> SlotProblem:
    return SlotProblem(
        lambda vectors: vectors.sum(dim=(-1, -2)), slots, items=items, pool=POOL, item_labels={"of": list("xxyyx")}
    )


def test_the_ranking_takes_the_best_open_candidate() -> None:
    problem = paged(3, 4).with_constraints([AtMost(1, of="of", value="x"), Distinct()])
    observation = problem.sample(1, generator_from(0))
    places = torch.tensor([[0, 1, 2, 3]])
    labels = problem.labels.codes[places]
    observation = replace(observation, candidates=POOL[places], labels=labels)
    # Worth 0, 3, 1 and 2, of x, x, y and y: 3 first, then no other x.
    assert ranked_choice(problem, observation, POOL.squeeze(1).double()).tolist() == [[1, 3, 2]]


@pytest.mark.parametrize("items", [2, 3, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_rules_that_forbid_nothing_leave_the_ranking(items: int, masked: bool) -> None:
    free = paged(3, items)
    problem = free.with_constraints([AtMost(3, of="of")])
    observation = problem.sample(20, generator_from(0))
    if masked:
        mask = torch.rand(20, 1, items, generator=generator_from(1)) < 0.6
        mask[:, :, 0] = True
        observation = replace(observation, mask=mask.expand(-1, 3, -1))
    means = torch.randn(5, generator=generator_from(2)).double()
    assert torch.equal(ranked_choice(problem, observation, means), ranked_choice(free, observation, means))


def test_means_of_items_come_from_allowed_pages() -> None:
    problem = paged(3, 4).with_constraints([Distinct()])
    means = mean_scores(problem, generator_from(0), pages=16)
    assert torch.allclose(means - means[0], POOL.squeeze(1).double(), atol=1e-5)
    assert problem.budget.forwards == 5 * 16 and problem.constraints is not None


@pytest.fixture
def checked_rows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuses rows of references with answers that are not allowed; returns the list of the others' names."""
    names: list[str] = []
    row = Evaluation._row

    def checked(self: Evaluation, name: str, calls: int | None, backwards: int | None, choice: Tensor) -> Row:
        refuse(self.problem, self.observation, choice)
        names.append(name)
        return row(self, name, calls, backwards, choice)

    monkeypatch.setattr(Evaluation, "_row", checked)
    return names


@each_engine
def test_references_of_an_evaluation_are_allowed(
    name: str, tmp_path: Path, checked_rows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_case(name, tmp_path).plain
    exact = Evaluation(problem, EvaluationConfig(0, 12))
    assert exact.best_is_exact and exact.references[-1].figure("optimality") == pytest.approx(1)
    assert all(row.figure("score") <= exact.best_score + 1e-5 for row in exact.references)
    assert 0 < exact.references[0].figure("hit_rate") < 1
    assert ("best ranking" in checked_rows) == (problem.pool is not None)
    monkeypatch.setattr("slot_rl.evaluation.MOST_EVALUATIONS", 0)
    found = Evaluation(problem, EvaluationConfig(0, 12))
    assert not found.best_is_exact
    torch.testing.assert_close(found.best, exact.best, atol=1e-4, rtol=1e-4)
    if name in ("distinct", "permutation"):  # elsewhere draws slot by slot do not draw every row equally often
        assert found.random_score == pytest.approx(exact.random_score, abs=0.3)


def test_true_bests_are_those_of_allowed_rows(checked_rows: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    truth = in_order(3, 3)._estimator
    free = SlotProblem(
        lambda vectors: -vectors.sum(dim=(-1, -2)), 3, pool=torch.tensor([[1.0], [2.0], [3.0]]), truth=truth
    )
    problem = free.with_constraints([Distinct()])
    for most in (20_000_000, 0):
        monkeypatch.setattr("slot_rl.evaluation.MOST_EVALUATIONS", most)
        evaluation = Evaluation(problem, EvaluationConfig(0, 4))
        assert evaluation.true_bests is not None and evaluation.true_bests.tolist() == [321.0] * 4
    # Unconstrained, three times the best item.
    free_bests = Evaluation(free, EvaluationConfig(0, 4)).true_bests
    assert free_bests is not None and free_bests.tolist() == [333.0] * 4


@pytest.mark.parametrize("unmeasured", ["omit", "worst"])
@pytest.mark.parametrize("most", [20_000_000, 0])
def test_a_table_of_truth_is_read_for_allowed_rows(
    unmeasured: str, most: int, checked_rows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slot_rl.evaluation.MOST_EVALUATIONS", most)
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(2, 3, (8,), (3, 3), (2,), context_dim=2))
    cells = [(c, a, b) for c in range(2) for a in range(3) for b in range(3) if (a + b) % 4 != 1]
    score = {cell: 10.0 * cell[0] + (cell[0] + 1) * (2 * cell[1] - cell[2]) for cell in cells}
    known = torch.tensor(cells)
    truth = TruthTable(known[:, 1:], known[:, :1], torch.tensor(list(score.values())), (2, 3, 3), unmeasured)  # type: ignore[arg-type]
    problem = RowProblem(net, torch.arange(2).unsqueeze(1), truth)
    problem = problem.with_constraints([Feasible(lambda rows: rows[:, 0] <= rows[:, 1])])
    evaluation = Evaluation(problem, EvaluationConfig(0, 2))
    for context in range(2):
        rows = [(context, a, b) for a in range(3) for b in range(a, 3)]
        measured = [score[row] for row in rows if row in score]
        assert evaluation.true_bests is not None
        assert float(evaluation.true_bests[context]) == pytest.approx(max(measured))
        random = evaluation._random_scores
        assert random.true is not None and random.normalised is not None and random.measured is not None
        own = [value for (c, *_), value in score.items() if c == context]
        values = measured + [min(own)] * (len(rows) - len(measured)) * (unmeasured == "worst")
        places = [(value - min(own)) / (max(own) - min(own)) for value in values]
        assert float(random.true[context]) == pytest.approx(sum(values) / len(values))
        assert float(random.normalised[context]) == pytest.approx(sum(places) / len(places))
        assert float(random.measured[context]) == pytest.approx(len(measured) / len(rows))


def test_too_many_rows_of_a_table_leave_the_truth_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 3, (8,), (4, 4, 4)))
    cells = torch.cartesian_prod(*[torch.arange(4)] * 3)
    truth = TruthTable(cells, cells[:, :0], cells.float().sum(dim=1), (4, 4, 4))
    problem = RowProblem(net, truth=truth).with_constraints([Distinct()])
    best = Evaluation(problem, EvaluationConfig(0, 1)).true_bests
    assert best is not None and best.tolist() == [6.0]
    monkeypatch.setattr("slot_rl.evaluation.MOST_CONFIGURATIONS", 63)
    unknown = Evaluation(problem, EvaluationConfig(0, 1))
    assert unknown.true_bests is None and unknown.references[0].figures["true_optimality"] is None
    assert unknown.references[0].figure("true_score") == pytest.approx(4.5, abs=0.6)


@each_case
def test_further_answers_are_allowed_and_ranked(name: str, tmp_path: Path) -> None:
    case = make_case(name, tmp_path)
    problem, observation = case.problem, case.observation
    start = random_choice(problem, observation, generator_from(0))
    for found in (guided_search(problem, observation, start, 3), guided_search(problem, observation, start, 0)):
        ranked = best_swaps(problem, observation, found, 5)
        assert torch.equal(ranked.choice[:, 0], found.choice) or bool((ranked.score[:, 0] > found.score).any())
        for request in range(len(observation)):
            scores = case.scores(request)
            answers = [
                tuple(row)
                for row, score in zip(ranked.choice[request].tolist(), ranked.score[request].tolist(), strict=True)
                if score > -torch.inf
            ]
            assert len(set(answers)) == len(answers)
            assert ranked.score[request, : len(answers)].tolist() == pytest.approx(
                [scores[answer] for answer in answers], abs=1e-4
            )
            assert all(after <= before for before, after in pairwise(ranked.score[request].tolist()))
        refuse(problem, observation, ranked.choice.transpose(0, 1))
    if name == "permutation":
        assert bool((ranked.score > -torch.inf).all())
