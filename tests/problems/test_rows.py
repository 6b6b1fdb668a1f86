"""Row problems: scores against look-ups by hand, contexts drawn and listed, short vocabularies masked, and guards."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.estimators.described import ColumnKinds, Descriptors, NumberUnit
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableFit, network_for
from slot_rl.estimators.store import context_tensor
from slot_rl.estimators.table import read_table
from slot_rl.problems import Budget, Observation, RowProblem
from slot_rl.problems.truth_table import TruthTable
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors.categorical import one_hot
from tests.helpers.numbers import ligand_file, reactions, write

CONTEXTS = torch.tensor([[0, 0], [0, 2], [1, 1], [1, 2]])


def make_net(vocabulary: tuple[int, ...] = (2, 4, 3), contexts: tuple[int, ...] = ()) -> EstimatorNet:
    with seeded_initialisation(0):
        return EstimatorNet(EstimatorShape(len(vocabulary), 5, (8,), vocabulary, contexts, context_dim=3))


@pytest.mark.parametrize("contexts", [None, CONTEXTS])
def test_scores_are_the_networks_on_the_rows_looked_up_by_hand(contexts: Tensor | None) -> None:
    net = make_net(contexts=() if contexts is None else (2, 3))
    problem = RowProblem(net, contexts)
    observation = problem.sample(6, generator_from(0))
    choice = torch.stack([torch.randint(size, (6,), generator=generator_from(size)) for size in (2, 4, 3)], dim=-1)
    scores = problem.score(observation, choice)
    assert net.catalogue is not None and observation.context is not None
    for row in range(6):
        parts = [net.catalogue[slot, int(choice[row, slot])] for slot in range(3)]
        if contexts is not None:
            for column, table in enumerate(net.context_tables):
                parts.append(table(observation.context[row, column]))
        expected = net.head(net.body(torch.cat(parts))).item()
        assert float(scores[row]) == pytest.approx(expected, abs=1e-6)


def test_contexts_change_the_score_where_there_are_some() -> None:
    problem = RowProblem(make_net(contexts=(2, 3)), CONTEXTS)
    choice = torch.zeros(4, 3, dtype=torch.long)
    scores = problem.score(Observation(context=CONTEXTS), choice)
    assert len(set(scores.tolist())) == 4


def test_without_contexts_there_is_a_single_one() -> None:
    problem = RowProblem(make_net())
    assert problem.contexts.tolist() == [[0]] and problem.context_sizes == (1,)
    observation = problem.sample(3, generator_from(0))
    assert len(observation) == 3 and list(observation.tensors()) == ["context"]
    listed = problem.evaluation_observations(100, generator_from(0))
    assert listed.context is not None and listed.context.tolist() == [[0]]


def test_contexts_are_drawn_equally_often() -> None:
    problem = RowProblem(make_net(contexts=(2, 3)), CONTEXTS)
    assert problem.context_sizes == (2, 3)
    drawn = problem.sample(40_000, generator_from(0)).context
    assert drawn is not None
    counts = [int((drawn == row).all(dim=-1).sum()) for row in CONTEXTS]
    assert sum(counts) == 40_000
    assert max(abs(count - 10_000) for count in counts) < 5 * (40_000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("most", [4, 5, 1000])
def test_evaluation_lists_every_context_once(most: int) -> None:
    problem = RowProblem(make_net(contexts=(2, 3)), CONTEXTS)
    listed = problem.evaluation_observations(most, generator_from(0)).context
    assert listed is not None and torch.equal(listed, CONTEXTS)


def test_evaluation_draws_without_replacement() -> None:
    problem = RowProblem(make_net(contexts=(2, 3)), CONTEXTS)
    seen = set()
    for seed in range(20):
        listed = problem.evaluation_observations(3, generator_from(seed)).context
        assert listed is not None
        rows = {tuple(row) for row in listed.tolist()}
        assert len(rows) == 3 and rows <= {tuple(row) for row in CONTEXTS.tolist()}
        seen |= rows
    assert len(seen) == 4
    again = problem.evaluation_observations(3, generator_from(19)).context
    assert listed is not None and again is not None and torch.equal(again, listed)


def test_short_vocabularies_are_padded_with_zeros_and_masked() -> None:
    problem = RowProblem(make_net((2, 4, 3)))
    observation = problem.sample(2, generator_from(0))
    assert (problem.slots, problem.items, problem.sizes) == (3, 4, (2, 4, 3))
    mask, candidates = problem.mask(observation), problem.candidates(observation)
    assert mask is not None
    assert mask.tolist() == [[True, True, False, False], [True] * 4, [True, True, True, False]]
    assert candidates.shape == (3, 4, 5) and not candidates.requires_grad
    assert bool((candidates[~mask] == 0).all()) and bool((candidates[mask] != 0).any(dim=-1).all())


def test_vocabularies_of_one_length_have_no_mask() -> None:
    problem = RowProblem(make_net((3, 3)))
    assert problem.mask(problem.sample(1, generator_from(0))) is None


def test_the_truth_is_asked_with_choice_and_context() -> None:
    asked: list[tuple[Tensor, Tensor | None]] = []

    def truth(choice: Tensor, context: Tensor | None) -> Tensor:
        asked.append((choice, context))
        return choice.sum(dim=-1).float()

    choice = torch.tensor([[1, 3, 2], [0, 1, 0]])
    problem = RowProblem(make_net(contexts=(2, 3)), CONTEXTS, truth)
    observation = problem.sample(2, generator_from(0))
    assert problem.true_score(observation, choice).tolist() == [6.0, 1.0]
    assert asked[-1][0] is choice and asked[-1][1] is observation.context
    bare = RowProblem(make_net(), None, truth)
    bare.true_score(bare.sample(2, generator_from(0)), choice)
    assert asked[-1][1] is None


def test_measured_is_known_from_a_table_alone() -> None:
    choice = torch.tensor([[[1, 3, 2], [0, 0, 0]], [[1, 3, 2], [1, 3, 2]]])
    features, no_contexts = torch.tensor([[1, 3, 2]]), torch.zeros(1, 0, dtype=torch.long)
    table = TruthTable(features, no_contexts, torch.tensor([4.0]), (2, 4, 3))
    problem = RowProblem(make_net(), None, table)
    observation = problem.sample(2, generator_from(0))
    found = problem.true_scores(observation, choice).measured
    assert found is not None and found.tolist() == [[True, False], [True, True]]
    assert problem.unmeasured == "omit"
    random = problem.random_true_scores(observation)
    assert random is not None and random.true.tolist() == [4.0, 4.0]
    formula = RowProblem(make_net(), None, lambda choice, context: choice.sum(-1).float())
    known = formula.true_scores(observation, choice)
    assert (known.true.tolist(), known.normalised, known.measured) == ([[6, 0], [6, 6]], None, None)
    assert formula.best_true_scores(observation) is None
    assert formula.random_true_scores(observation) is None and formula.unmeasured is None


def test_true_scores_are_normalised_in_their_own_contexts() -> None:
    # Context (0, 1) holds 4 and 6, context (1, 2) holds 100, 140 and 110.
    contexts = torch.tensor([[0, 1], [0, 1], [1, 2], [1, 2], [1, 2]])
    features = torch.tensor([[0, 0, 0], [1, 3, 2], [0, 0, 0], [1, 3, 2], [1, 0, 1]])
    table = TruthTable(features, contexts, torch.tensor([4.0, 6.0, 100.0, 140.0, 110.0]), (2, 3, 2, 4, 3), "worst")
    problem = RowProblem(make_net(contexts=(2, 3)), CONTEXTS, table)
    observation = Observation(context=torch.tensor([[0, 1], [1, 2], [1, 2]]))
    choice = torch.tensor([[[1, 3, 2], [1, 3, 2], [1, 0, 1]], [[1, 0, 1], [0, 0, 0], [1, 0, 2]]])
    normalised = problem.true_scores(observation, choice).normalised
    assert normalised is not None and normalised.tolist() == [[1.0, 1.0, 0.25], [0.0, 0.0, 0.0]]
    assert problem.true_score(observation, choice).tolist() == [[6.0, 140.0, 110.0], [4.0, 100.0, 100.0]]
    assert problem.budget.forwards == 0


def test_a_row_problem_cannot_be_scored_by_its_truth() -> None:
    with pytest.raises(ValueError, match="expected a problem whose ground truth can be searched, got bare"):
        RowProblem(make_net(), name="bare").with_truth_as_estimator()


def test_an_estimator_of_given_vectors_is_refused() -> None:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(2, 3, (4,)))
    with pytest.raises(ValueError, match="expected an estimator with a vocabulary per feature, got one for given"):
        RowProblem(net)


def test_contexts_for_an_estimator_without_any_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected no contexts for an estimator without context, got \(4, 2\)"):
        RowProblem(make_net(), CONTEXTS)


@pytest.mark.parametrize(
    ("contexts", "found"),
    [
        (None, "None"),
        (torch.zeros(3, dtype=torch.long), r"\(3,\)"),
        (torch.zeros(3, 1, dtype=torch.long), r"\(3, 1\)"),
        (torch.zeros(0, 2, dtype=torch.long), r"\(0, 2\)"),
    ],
)
def test_contexts_of_the_wrong_shape_are_refused(contexts: Tensor | None, found: str) -> None:
    with pytest.raises(ValueError, match=r"expected contexts of shape \(contexts, 2\), got " + found):
        RowProblem(make_net(contexts=(2, 3)), contexts)


@pytest.mark.parametrize("row", [[2, 0], [0, 3], [-1, 0]])
def test_unknown_context_categories_are_refused(row: list[int]) -> None:
    contexts = torch.cat([CONTEXTS, torch.tensor([row])])
    found = contexts.amax(dim=0).tolist()
    with pytest.raises(ValueError) as caught:
        RowProblem(make_net(contexts=(2, 3)), contexts)
    assert str(caught.value) == f"expected context categories below (2, 3), got {found} at most"


class Foreign(nn.Module):
    """Somebody's module: a table per feature, one per context column, a head that is not ours."""

    def __init__(self, sizes: tuple[int, ...] = (2, 4, 3), contexts: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 3) for size in sizes + contexts)
        self.head = nn.Sequential(nn.Linear(3 * len(self.tables), 8), nn.Tanh(), nn.Linear(8, 1))

    def to_latent(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        index = features if context is None else torch.cat([features, context], dim=1)
        return torch.cat([table(index[:, i]) for i, table in enumerate(self.tables)], dim=1)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        score: Tensor = self.head(self.to_latent(features, context))
        return score


def make_foreign(contexts: tuple[int, ...] = ()) -> Foreign:
    with seeded_initialisation(0):
        return Foreign(contexts=contexts)


@pytest.mark.parametrize("contexts", [None, CONTEXTS])
def test_a_users_module_scores_choices_rows_and_indices(contexts: Tensor | None) -> None:
    module = make_foreign(() if contexts is None else (2, 3))
    problem = RowProblem(module, contexts, sizes=[2, 4, 3])
    assert (problem.sizes, problem.context_sizes) == ((2, 4, 3), (1,) if contexts is None else (2, 3))
    observation = problem.sample(5, generator_from(0))
    context = None if contexts is None else observation.context
    choice = torch.stack([torch.randint(size, (6, 5), generator=generator_from(size)) for size in (2, 4, 3)], dim=-1)
    score = problem.score(observation, choice)
    for lead in range(6):
        expected = module(choice[lead], context).squeeze(-1).detach()
        torch.testing.assert_close(score[lead], expected, atol=1e-6, rtol=0)
    rows = one_hot(choice, 4, torch.float32).requires_grad_()
    selected = problem.score_selection(observation, rows)
    assert torch.equal(selected, score)
    assert torch.equal(problem.gather(observation, choice), problem.mix(observation, rows))
    selected.sum().backward()
    assert rows.grad is not None and bool(rows.grad.isfinite().all()) and float(rows.grad.abs().max()) > 0
    assert problem.budget == Budget(60, 30)
    latent = problem.latent(observation, rows)
    assert latent.shape == (6, 5, 9 if contexts is None else 15) and problem.budget == Budget(90, 30)
    assert all(part.grad is None and part.requires_grad for part in module.parameters())


def test_scoring_one_selection_twice_leaves_no_hook_on_it() -> None:
    problem = RowProblem(make_foreign(), sizes=(2, 4, 3))
    observation = problem.sample(1, generator_from(0))
    rows = torch.full((1, 3, 4), 0.25, requires_grad=True)
    for _ in range(3):
        problem.score_selection(observation, rows)
    assert not rows._backward_hooks


def test_the_candidates_of_somebodys_module_are_one_hot_rows() -> None:
    problem = RowProblem(make_foreign(), sizes=(2, 4, 3))
    observation = problem.sample(2, generator_from(0))
    mask = problem.mask(observation)
    assert mask is not None and mask.sum(dim=1).tolist() == [2, 4, 3]
    assert torch.equal(problem.candidates(observation), torch.eye(4).expand(3, 4, 4))
    items = torch.arange(4).view(4, 1, 1).expand(4, 2, 3)
    assert torch.equal(problem.gather(observation, items)[:, 0, 0], torch.eye(4))


def test_sizes_come_from_the_encoding_or_the_contexts() -> None:
    features = {"a": ("u", "v"), "b": ("p", "q", "r", "s"), "c": ("x", "y", "z")}
    encoding = TableEncoding("score", features, {"k": ("l", "m"), "n": ("1", "2", "3", "4")})
    problem = RowProblem(make_foreign((2, 4)), CONTEXTS, encoding=encoding)
    assert (problem.sizes, problem.context_sizes, problem.encoding) == ((2, 4, 3), (2, 4), encoding)
    assert RowProblem(make_foreign((2, 3)), CONTEXTS, sizes=(2, 4, 3)).context_sizes == (2, 3)
    told = RowProblem(make_foreign((5, 5)), CONTEXTS, sizes=(2, 4, 3), context_sizes=(5, 5))
    assert told.context_sizes == (5, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "expected sizes or an encoding with a module that does not know its categories, got neither"),
        ({"sizes": (2, 5, 3)}, ValueError, r"expected Foreign to score indices below (2, 5, 3), got IndexError: index"),
        ({"sizes": (2, 4)}, ValueError, "expected Foreign to score indices below (2, 4), got IndexError: "),
        ({"sizes": ()}, ValueError, "expected at least one slot with at least one item each, got sizes ()"),
        (
            {"sizes": (2, 4, 3), "contexts": torch.zeros(3, dtype=torch.long)},
            ValueError,
            "expected contexts of shape (contexts, columns), got (3,)",
        ),
        (
            {"sizes": (2, 4, 3), "contexts": CONTEXTS, "context_sizes": (2, 2)},
            ValueError,
            "expected context categories below (2, 2), got [1, 2] at most",
        ),
        (
            {"sizes": (2, 4, 3), "encoding": TableEncoding("score", {"a": ("u", "v")}, {})},
            ValueError,
            "expected sizes (2,), which the estimator or its encoding says, got (2, 4, 3)",
        ),
    ],
)
def test_a_module_with_wrong_sizes_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        RowProblem(make_foreign(), **arguments)


def test_our_own_network_knows_its_sizes() -> None:
    assert RowProblem(make_net(), sizes=(2, 4, 3), context_sizes=()).sizes == (2, 4, 3)
    with pytest.raises(ValueError, match=r"expected sizes \(2, 4, 3\), which the estimator or its encoding says, got"):
        RowProblem(make_net(), sizes=(2, 4, 4))


def test_what_cannot_be_softened_is_refused_at_the_door() -> None:
    with pytest.raises(TypeError, match="expected an nn.Module to soften, got function"):
        RowProblem(make_net, sizes=(2,))  # type: ignore[arg-type]

    class Arithmetic(Foreign):
        def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
            return super().forward(features * 1)

    with pytest.raises(TypeError, match="got mul in layer 'Arithmetic'"):
        RowProblem(Arithmetic(), sizes=(2, 4, 3))


NUMERIC = TableEncoding("y", {"a": ("p", "q")}, {"t": ()}, {"t": NumberUnit(2, 4)})


def numeric_problem(folder: Path, truth: Path | None = None) -> RowProblem:
    """The reactions, described by numbers, with an estimator that was not fitted."""
    names = ("acid", "temperature")
    table = read_table(reactions(folder / "t.csv"), "yield", names)
    kinds = ColumnKinds(("temperature", "equivalents"), {}, {"ligand": ligand_file(folder / "l.csv")})
    encoding = TableEncoding.of(table, "yield", names, kinds)
    net, contexts = (
        network_for(encoding, TableFit(dim=4, hidden=(8,)), 0),
        context_tensor(encoding.encode_contexts(table)),
    )
    found = TruthTable.read(folder / "t.csv" if truth is None else truth, encoding)
    return RowProblem(net, contexts, found, "numbers", encoding)


def test_contexts_with_numbers_have_two_parts(tmp_path: Path) -> None:
    problem = numeric_problem(tmp_path)
    parts = problem.observation_parts()
    assert (parts["context"].sizes, parts["context_vector"].shape) == ((2,), (1,))
    assert problem.contexts.tolist() == [[acid, t] for acid in (0, 1) for t in (80, 90, 100, 110)]
    observation = problem.evaluation_observations(100, generator_from(0))
    assert observation.context is not None and observation.context_vector is not None
    assert observation.context.tolist() == [[0]] * 4 + [[1]] * 4
    torch.testing.assert_close(observation.context_vector[:4, 0] * 125**0.5 + 95, torch.tensor([80.0, 90, 100, 110]))
    drawn = problem.sample(50, generator_from(0))
    assert len(drawn) == 50 and drawn.context_vector is not None and drawn.context_vector.shape == (50, 1)
    names = problem.request_names(observation[:2])
    assert names is not None and (names.title, names.names) == ("acid, temperature", ["a, 80", "a, 90"])


def test_a_numeric_context_alone_needs_no_indices() -> None:
    net = network_for(NUMERIC, TableFit(dim=4, hidden=(8,)), 0)
    problem = RowProblem(net, torch.tensor([[1.0], [7.5]], dtype=torch.float64), None, "rows", NUMERIC)
    assert set(problem.observation_parts()) == {"context_vector"}
    observation = problem.evaluation_observations(9, generator_from(0))
    assert set(observation.tensors()) == {"context_vector"}
    scores = problem.score(observation, torch.zeros(2, 1, dtype=torch.long))
    assert scores[0] != scores[1]
    _, far = NUMERIC.context_parts(torch.tensor([[-1e308]], dtype=torch.float64))
    assert bool(problem.score(Observation(context_vector=far), torch.zeros(1, 1, dtype=torch.long)).isfinite())


def test_candidates_of_described_slots_are_encoded_numbers(tmp_path: Path) -> None:
    problem = numeric_problem(tmp_path)
    assert problem.sizes == (5, 3)  # a ligand of the file that the table does not have is an item too
    observation, choice = problem.sample(3, generator_from(0)), torch.tensor([[4, 0], [0, 2], [4, 2]])
    scores = problem.score(observation, choice)
    selection = one_hot(choice, problem.items, torch.float32)
    torch.testing.assert_close(problem.score_selection(observation, selection), scores)
    assert problem.catalogue is not None
    assert not problem.catalogue.requires_grad and bool((problem.catalogue[1, 3:] == 0).all())


def test_the_truth_of_numbers_is_looked_up_or_not_measured(tmp_path: Path) -> None:
    rows = ["a,80.0,L1,1,10", "a,80,L3,2.0,30", "b,95,L1,1,7"]
    truth = write(tmp_path / "truth.csv", "acid,temperature,ligand,equivalents,yield", rows)
    problem = numeric_problem(tmp_path, truth)
    assert problem.encoding is not None
    contexts = torch.tensor([[0, 80], [0, 80], [1, 95], [1, 80], [1, 96]], dtype=torch.float64)
    codes, vectors = problem.encoding.context_parts(contexts)
    observation = Observation(context=codes, context_vector=vectors)
    found = problem.true_scores(observation, torch.tensor([[0, 0], [2, 2], [0, 0], [0, 0], [0, 0]]))
    assert found.measured is not None and found.measured.tolist() == [True, True, True, False, False]
    assert found.true[:3].tolist() == [10, 30, 7]
    assert bool(found.true[3:].isnan().all())
    assert found.normalised is not None and found.normalised[:3].tolist() == [0, 1, 1]
    best = problem.best_true_scores(observation)
    assert best is not None and best[:3].tolist() == [30, 30, 7]
    unseen = problem.true_scores(observation[:1], torch.tensor([[4, 0]]))
    assert unseen.measured is not None and not bool(unseen.measured)


def test_logged_rows_have_their_numbers(tmp_path: Path) -> None:
    problem = numeric_problem(tmp_path)
    log = write(tmp_path / "log.csv", "ligand,equivalents,temperature,acid", ["L5,1.50,97.5,b", "L1,2,80,a"])
    observation, choice = problem.read_logged(log)
    assert choice.tolist() == [[4, 1], [0, 2]]
    assert observation.context is not None and observation.context.tolist() == [[1], [0]]
    assert observation.context_vector is not None
    torch.testing.assert_close(observation.context_vector[:, 0] * 125**0.5 + 95, torch.tensor([97.5, 80]))


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        (None, r"expected contexts of shape \(contexts, 1\), got None"),
        (torch.zeros(2, 2), r"expected contexts of shape \(contexts, 1\), got \(2, 2\)"),
        (torch.tensor([[torch.nan]]), "expected finite contexts, got NaN or infinity"),
    ],
)
def test_numeric_contexts_that_do_not_fit_are_refused(contexts: Tensor | None, message: str) -> None:
    net = network_for(NUMERIC, TableFit(dim=4, hidden=(8,)), 0)
    with pytest.raises(ValueError, match=message):
        RowProblem(net, contexts, encoding=NUMERIC)


def test_an_estimator_of_numbers_needs_its_encoding() -> None:
    net = network_for(NUMERIC, TableFit(dim=4, hidden=(8,)), 0)
    with pytest.raises(ValueError, match=r"expected an encoding whose context columns have \(1,\) numbers, got \(\)"):
        RowProblem(net, torch.ones(1, 1))


def test_a_module_has_no_encoding_with_numbers() -> None:
    module = nn.Sequential(nn.Embedding(2, 3), nn.Flatten(), nn.Linear(3, 1))
    encoding = TableEncoding("y", {"a": ("p", "q")}, {}, {}, {"a": Descriptors(("n",), ((1.0,), (2.0,)))})
    with pytest.raises(ValueError, match="expected an encoding of categories alone for a module, got one with numbers"):
        RowProblem(module, encoding=encoding)
