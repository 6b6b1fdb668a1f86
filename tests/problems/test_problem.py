"""What every problem promises: one number for both ways of scoring, an exact count of all that was asked, and guards.

Choices and selections must be scored bit for bit alike, the caller's modules must stay as they were, and whatever is
not finite must be caught with the batch that caused it.
"""

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.estimators.freezing import frozen
from slot_rl.problems import Budget, NonFiniteScore, Observation, Problem, RowProblem, SlotProblem, check_choice
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors.categorical import one_hot


def net(shape: EstimatorShape, seed: int = 0) -> EstimatorNet:
    with seeded_initialisation(seed):
        return EstimatorNet(shape)


def slot_problem(slots: int = 3, items: int = 5, dim: int = 2, fewest: int | None = None, seed: int = 0) -> SlotProblem:
    return SlotProblem(net(EstimatorShape(slots, dim, (16,)), seed), slots, items, dim, fewest_items=fewest)


def row_problem(contexts: bool, seed: int = 0) -> RowProblem:
    sizes = (2, 3) if contexts else ()
    shape = EstimatorShape(3, 4, (16,), vocabulary=(2, 5, 3), contexts=sizes, context_dim=2)
    table = torch.tensor([[0, 0], [1, 2], [0, 1]]) if contexts else None
    return RowProblem(net(shape, seed), table)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "slots": slot_problem,
    "varying slots": lambda: slot_problem(fewest=2),
    "rows": lambda: row_problem(contexts=False),
    "rows in context": lambda: row_problem(contexts=True),
}


def draw_choice(problem: Problem, leading: tuple[int, ...], seed: int) -> Tensor:
    """Draws any item of each slot, masked or not."""
    columns = [
        torch.randint(size, leading, generator=generator_from(seed + slot)) for slot, size in enumerate(problem.sizes)
    ]
    return torch.stack(columns, dim=-1)


def total(vectors: Tensor) -> Tensor:
    return vectors.sum(dim=(-1, -2))


@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), max_size=2), st.integers(1, 9), st.integers(0, 10_000), st.booleans())
def test_a_choice_and_its_one_hot_rows_score_alike(
    build: Callable[[], Problem], leading: list[int], batch: int, seed: int, with_gradient: bool
) -> None:
    problem = build()
    observation = problem.sample(batch, generator_from(seed))
    choice = draw_choice(problem, (*leading, batch), seed)
    score = problem.score(observation, choice)
    rows = one_hot(choice, problem.items, torch.float32).requires_grad_(with_gradient)
    selected = problem.score_selection(observation, rows)
    assert score.shape == (*leading, batch)
    assert torch.equal(selected, score)
    assert not score.requires_grad and selected.requires_grad is with_gradient
    assert torch.equal(problem.gather(observation, choice), problem.mix(observation, rows))


@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS)
def test_leading_dimensions_are_scored_as_their_parts_are(build: Callable[[], Problem]) -> None:
    problem = build()
    observation = problem.sample(4, generator_from(0))
    choice = draw_choice(problem, (3, 2, 4), 0)
    scores = problem.score(observation, choice)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(scores[i, j], problem.score(observation, choice[i, j]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS)
def test_the_budget_counts_forwards_and_backwards(build: Callable[[], Problem]) -> None:
    problem = build()
    assert problem.budget == Budget(0, 0)
    observation = problem.sample(4, generator_from(0))
    choice = draw_choice(problem, (3, 4), 0)
    problem.score(observation, choice)
    assert problem.budget == Budget(12, 0)
    rows = one_hot(choice[0], problem.items, torch.float32).requires_grad_()
    score = problem.score_selection(observation, rows)
    assert problem.budget == Budget(16, 0)
    score.sum().backward(retain_graph=True)
    assert problem.budget == Budget(16, 4)
    torch.autograd.grad(score.sum(), rows)
    assert problem.budget == Budget(16, 8)
    with torch.no_grad():
        problem.score_selection(observation, rows)
    problem.score_selection(observation, rows.detach())
    assert problem.budget == Budget(24, 8)
    problem.sample(10, generator_from(1))
    problem.evaluation_observations(10, generator_from(1))
    assert problem.budget == Budget(24, 8)


@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS)
def test_a_latent_is_the_estimators_own_and_is_counted(build: Callable[[], Problem]) -> None:
    problem = build()
    observation = problem.sample(4, generator_from(0))
    choice = draw_choice(problem, (3, 4), 0)
    rows = one_hot(choice, problem.items, torch.float32).requires_grad_()
    latent = problem.latent(observation, rows)
    assert latent.shape == (3, 4, 16) and problem.budget == Budget(12, 0)
    estimator = problem._estimator
    assert isinstance(estimator, EstimatorNet)
    score = estimator.head(latent).squeeze(-1) * estimator.scale + estimator.offset
    assert torch.equal(score, problem.score_selection(observation, rows))
    latent.sum().backward()
    assert problem.budget == Budget(24, 12)
    assert rows.grad is not None and float(rows.grad.abs().max()) > 0
    assert not problem.latent(observation, rows.detach()).requires_grad
    with torch.no_grad():
        problem.latent(observation, rows)
    assert problem.budget == Budget(48, 12)


class Latent(nn.Module):
    """Whose latent is the square root of two sums, so that it or its gradient may not be finite."""

    def to_latent(self, vectors: Tensor) -> Tensor:
        return vectors.sum(dim=-1).sqrt()

    def forward(self, vectors: Tensor) -> Tensor:
        return self.to_latent(vectors).sum(dim=-1)


@pytest.mark.parametrize(
    ("value", "gradient", "message"),
    [(-1.0, False, "finite latents from the estimator, got 1 of 2"), (0.0, True, "finite gradients .*, got 1 of 2")],
)
def test_a_latent_that_is_not_finite_is_caught_with_its_batch(value: float, gradient: bool, message: str) -> None:
    problem = SlotProblem(Latent(), 2, 2, 1)
    observation = Observation(torch.tensor([[[1.0], [4.0]], [[value], [1.0]]]))
    rows = one_hot(torch.tensor([[0, 1], [1, 0]]), 2, torch.float32).requires_grad_()
    with pytest.raises(NonFiniteScore, match=f"expected {message} NaN") as caught:
        problem.latent(observation, rows).sum().backward()
    assert caught.value.observation is observation and torch.equal(caught.value.rows, rows)
    assert caught.value.score.shape == (2, 2) and bool(caught.value.score.isfinite().all()) is gradient


def test_an_estimator_without_latent_is_named() -> None:
    observation = Observation(torch.zeros(1, 3, 1))
    rows = torch.zeros(1, 2, 3)
    for estimator, name in ((total, "total"), (nn.Sequential(nn.Flatten(), nn.Linear(2, 1)), "Sequential")):
        problem = SlotProblem(estimator, 2, 3, 1, name="bare")
        with pytest.raises(TypeError, match=f"expected an estimator with to_latent for bare, got {name} without one"):
            problem.latent(observation, rows)
    problem = SlotProblem(Latent(), 2, 3, 1)
    problem._estimator.to_latent = lambda vectors: torch.zeros(1, 2)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="expected a differentiable estimator for slots, got one that gives no gradi"):
        problem.latent(observation, rows.requires_grad_())


def test_looking_at_the_truth_is_not_counted() -> None:
    problem = SlotProblem(total, 2, 3, 1, truth=lambda vectors: -total(vectors))
    observation = problem.sample(4, generator_from(0))
    choice = draw_choice(problem, (5, 4), 0)
    assert problem.has_truth
    truth = problem.true_score(observation, choice)
    assert truth.shape == (5, 4) and problem.budget == Budget(0, 0)
    assert torch.equal(truth, -problem.score(observation, choice))


def test_without_a_truth_there_is_no_true_score() -> None:
    problem = slot_problem()
    assert not problem.has_truth
    observation = problem.sample(1, generator_from(0))
    with pytest.raises(ValueError, match="expected a problem with a ground truth, got slots without one"):
        problem.true_score(observation, torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS)
def test_a_fresh_budget_is_apart_from_the_old_one(build: Callable[[], Problem]) -> None:
    problem = build()
    observation = problem.sample(4, generator_from(0))
    rows = one_hot(draw_choice(problem, (4,), 0), problem.items, torch.float32).requires_grad_()
    pending = problem.score_selection(observation, rows)
    twin = problem.with_fresh_budget()
    assert type(twin) is type(problem) and twin.budget == Budget(0, 0)
    score = twin.score_selection(observation, rows)
    assert torch.equal(score, pending)
    score.sum().backward()
    assert (twin.budget, problem.budget) == (Budget(4, 4), Budget(4, 0))
    pending.sum().backward()
    assert (twin.budget, problem.budget) == (Budget(4, 4), Budget(4, 4))


def test_the_callers_module_stays_as_it_was() -> None:
    module = net(EstimatorShape(3, 2, (16,))).train()
    module.body[0].eval()
    module.head.bias.requires_grad_(False)
    flags = {name: part.training for name, part in module.named_modules()}
    wanted = {name: part.requires_grad for name, part in module.named_parameters()}
    weights = copy.deepcopy(module.state_dict())
    problem = SlotProblem(module, 3, 5, 2, truth=module)
    observation = problem.sample(4, generator_from(0))
    choice = draw_choice(problem, (4,), 0)
    rows = one_hot(choice, 5, torch.float32).requires_grad_()
    problem.score_selection(observation, rows).sum().backward()
    assert rows.grad is not None and float(rows.grad.abs().max()) > 0
    assert {name: part.training for name, part in module.named_modules()} == flags
    assert {name: part.requires_grad for name, part in module.named_parameters()} == wanted
    assert all(part.grad is None for part in module.parameters())
    assert all(torch.equal(part, weights[name]) for name, part in module.state_dict().items())
    before = problem.score(observation, choice), problem.true_score(observation, choice)
    with torch.no_grad():
        module.head.weight.fill_(7.0)
    assert torch.equal(problem.score(observation, choice), before[0])
    assert torch.equal(problem.true_score(observation, choice), before[1])


def test_a_row_problem_keeps_its_own_copy_of_the_vocabulary() -> None:
    module = net(EstimatorShape(2, 3, (8,), vocabulary=(2, 3)))
    problem = RowProblem(module)
    observation = problem.sample(2, generator_from(0))
    choice = torch.tensor([[0, 2], [1, 1]])
    before = problem.score(observation, choice)
    assert module.catalogue is not None and module.catalogue.requires_grad
    with torch.no_grad():
        module.catalogue.zero_()
    assert torch.equal(problem.score(observation, choice), before)


def test_frozen_copies_are_in_eval_mode_and_not_trainable() -> None:
    module = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5)).train()
    copied = frozen(module)
    assert copied is not module
    assert not any(part.training for part in copied.modules())
    assert not any(part.requires_grad for part in copied.parameters())
    assert frozen(total) is total


def test_the_estimator_answers_in_eval_mode() -> None:
    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, vectors: Tensor) -> Tensor:
            return total(self.dropout(vectors))

    problem = SlotProblem(Scored().train(), 2, 3, 1)
    observation = problem.sample(50, generator_from(0))
    choice = draw_choice(problem, (50,), 0)
    assert torch.equal(problem.score(observation, choice), total(problem.gather(observation, choice)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_score_that_is_not_finite_is_caught_with_its_batch(value: float) -> None:
    def broken(vectors: Tensor) -> Tensor:
        sums = total(vectors)
        return torch.where(sums > 5, value, sums)

    problem = SlotProblem(broken, 1, 2, 1)
    observation = Observation(torch.tensor([[[1.0], [2.0]], [[9.0], [3.0]], [[4.0], [5.0]]]))
    choice = torch.tensor([[0], [0], [1]])
    for rows in (choice, one_hot(choice, 2, torch.float32).requires_grad_()):
        ask = problem.score_selection if rows.is_floating_point() else problem.score
        with pytest.raises(NonFiniteScore, match="expected finite scores from the estimator, got 1 of 3 NaN") as caught:
            ask(observation, rows)
        assert isinstance(caught.value, ArithmeticError)
        assert caught.value.observation is observation
        assert torch.equal(caught.value.rows, rows) and not caught.value.rows.requires_grad
        expected = torch.tensor([1.0, value, 5.0])
        torch.testing.assert_close(caught.value.score, expected, equal_nan=True, atol=0, rtol=0)
        assert not caught.value.score.requires_grad
    assert torch.equal(problem.score(observation, torch.tensor([[0], [1], [1]])), torch.tensor([1.0, 3.0, 5.0]))


def test_a_gradient_that_is_not_finite_is_caught() -> None:
    problem = SlotProblem(lambda vectors: vectors.square().sum(dim=(-1, -2)).sqrt(), 2, 2, 1)
    observation = Observation(torch.tensor([[[3.0], [4.0]], [[0.0], [1.0]], [[6.0], [8.0]]]))
    choice = torch.tensor([[0, 1], [0, 0], [1, 1]])
    rows = one_hot(choice, 2, torch.float32).requires_grad_()
    score = problem.score_selection(observation, rows)
    assert bool(score.isfinite().all())
    with pytest.raises(NonFiniteScore, match="expected finite gradients from the estimator, got 1 of 3 NaN") as caught:
        score.sum().backward()
    assert caught.value.observation is observation
    assert torch.equal(caught.value.rows, rows) and not caught.value.rows.requires_grad
    assert torch.equal(caught.value.score, score) and not caught.value.score.requires_grad
    assert rows.grad is None
    # Away from zero the same problem works, and its gradient is that of a norm.
    fine = one_hot(torch.tensor([[0, 1], [1, 1], [1, 1]]), 2, torch.float32).requires_grad_()
    problem.score_selection(observation, fine).sum().backward()
    assert fine.grad is not None
    torch.testing.assert_close(fine.grad[0], torch.tensor([[9.0, 12.0], [12.0, 16.0]]) / 5)


def test_an_infinite_gradient_in_one_row_is_caught() -> None:
    problem = SlotProblem(lambda vectors: vectors.sum(dim=(-1, -2)).sqrt(), 1, 2, 1)
    observation = Observation(torch.tensor([[[0.0], [4.0]], [[1.0], [9.0]]]))
    rows = one_hot(torch.tensor([[[1], [0]], [[0], [1]]]), 2, torch.float32).requires_grad_()
    score = problem.score_selection(observation, rows)
    with pytest.raises(NonFiniteScore, match="got 1 of 4"):
        score.sum().backward()


def test_a_single_infinite_gradient_entry_is_caught() -> None:
    problem = SlotProblem(lambda vectors: vectors[..., 0, 0].sqrt() + vectors[..., 1, 1], 2, 2, 2)
    observation = Observation(torch.tensor([[[0.0, 1.0], [4.0, 1.0]]]))
    rows = one_hot(torch.tensor([[0, 1]]), 2, torch.float32).requires_grad_()
    score = problem.score_selection(observation, rows)
    with pytest.raises(NonFiniteScore, match="expected finite gradients from the estimator, got 1 of 1"):
        score.sum().backward()


def test_an_estimator_without_a_gradient_is_refused() -> None:
    problem = SlotProblem(lambda vectors: total(vectors.detach()), 2, 3, 1, name="numpy-like")
    observation = problem.sample(2, generator_from(0))
    rows = one_hot(torch.zeros(2, 2, dtype=torch.long), 3, torch.float32)
    assert problem.score_selection(observation, rows).shape == (2,)
    with torch.no_grad():
        assert problem.score_selection(observation, rows.clone().requires_grad_()).shape == (2,)
    message = "expected a differentiable estimator for numpy-like, got one that gives no gradient"
    with pytest.raises(TypeError, match=message):
        problem.score_selection(observation, rows.clone().requires_grad_())


@pytest.mark.parametrize("sizes", [(), (0,), (3, 0, 2), (-1, 2)])
def test_sizes_below_one_are_refused(sizes: tuple[int, ...]) -> None:
    class Bare(SlotProblem):
        def __init__(self) -> None:
            Problem.__init__(self, "bare", sizes, total, None)

    with pytest.raises(ValueError, match="expected at least one slot with at least one item each, got sizes"):
        Bare()


def test_observations_can_be_cut_by_rows() -> None:
    candidates, mask = torch.arange(12.0).view(3, 2, 2), torch.ones(3, 1, 2, dtype=torch.bool)
    observation = Observation(candidates, mask)
    assert list(observation.tensors()) == ["candidates", "mask"]
    assert len(observation) == 3
    for rows, expected in (
        (slice(1, 3), [1, 2]),
        (torch.tensor([2, 0, 2]), [2, 0, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
    ):
        part = observation[rows]
        assert len(part) == len(expected) and part.context is None
        assert part.candidates is not None and torch.equal(part.candidates, candidates[expected])
        assert part.mask is not None and torch.equal(part.mask, mask[expected])
    assert list(Observation(context=torch.zeros(5, 1)).tensors()) == ["context"]


def test_check_choice_passes_every_allowed_choice() -> None:
    problem = slot_problem(slots=2, items=3)
    mask = torch.tensor([[[True, False, True], [True, True, True]]])
    observation = Observation(torch.zeros(1, 3, 2), mask)
    for first in (0, 2):
        for second in range(3):
            check_choice(problem, observation, torch.tensor([[first, second]]))


@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 3), (2, 2, 1), (1, 2, 2)])
def test_check_choice_refuses_wrong_shapes(shape: tuple[int, ...]) -> None:
    problem = slot_problem(slots=2)
    observation = problem.sample(2, generator_from(0))
    with pytest.raises(ValueError, match=r"expected a choice of shape \(2, 2\), got \(" + str(shape[0])):
        check_choice(problem, observation, torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize(("slot", "item", "last"), [(0, 2, 1), (0, -1, 1), (1, 5, 4), (2, 3, 2), (2, 4, 2)])
def test_check_choice_refuses_items_that_a_slot_does_not_have(slot: int, item: int, last: int) -> None:
    problem = row_problem(contexts=True)
    observation = problem.sample(2, generator_from(0))
    choice = torch.zeros(2, 3, dtype=torch.long)
    check_choice(problem, observation, choice)
    choice[1, slot] = item
    with pytest.raises(ValueError, match=f"expected an item from 0 to {last} in slot {slot}, got {item}"):
        check_choice(problem, observation, choice)


def test_check_choice_refuses_masked_items() -> None:
    problem = slot_problem(slots=2, items=3)
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    mask[1, 0, 2] = False
    observation = Observation(torch.zeros(2, 3, 2), mask)
    check_choice(problem, observation, torch.tensor([[2, 2], [1, 2]]))
    with pytest.raises(ValueError, match="expected an allowed item in slot 0, got masked item 2"):
        check_choice(problem, observation, torch.tensor([[2, 2], [2, 2]]))


class WithCircle(SlotProblem):
    """Whose hook holds the graph that holds the hook."""

    def score_selection(self, observation: Observation, selection: Tensor) -> Tensor:
        vectors = self.mix(observation, selection)
        score = total(vectors.square())
        vectors.register_hook(lambda _: None if score.isfinite().all() else _)
        return score


@pytest.mark.parametrize("ask", ["score_selection", "latent", "a hook in a circle"])
def test_what_was_differentiated_is_freed_at_once(ask: str) -> None:
    problem = WithCircle(total, 3, 5, 2) if ask == "a hook in a circle" else slot_problem()
    observation = problem.sample(4, generator_from(0))
    gc.collect()
    gc.disable()
    try:
        selection = one_hot(draw_choice(problem, (4,), 0), 5, torch.float32).requires_grad_()
        score = (problem.latent if ask == "latent" else problem.score_selection)(observation, selection)
        (gradient,) = torch.autograd.grad(score.sum(), selection)
        held = [weakref.ref(selection), weakref.ref(score)]
        del selection, score
        alive = [reference() is not None for reference in held]
        assert float(gradient.abs().max()) > 0
        assert alive == [ask == "a hook in a circle"] * 2
    finally:
        gc.enable()
    # Not even the collector sees a circle through the graph.
    gc.collect()
    assert [reference() is not None for reference in held] == alive
