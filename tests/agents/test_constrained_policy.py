"""The policy's distribution under rules equals enumeration: support, log-probabilities, entropy and gradients."""

import pytest
import torch
from torch import Tensor

from slot_rl.agents import SlotPolicy
from slot_rl.agents.policy import SlotDistribution, entropy_of, given, most_probable, policy_kwargs
from slot_rl.envs.episodes import action_space, observation_space
from slot_rl.networks import PointerSize
from slot_rl.problems import Observation, Problem
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors.categorical import log_prob_of
from slot_rl.selectors.rules import Rules
from tests.helpers.limited import forbidden, limited_rows, pages

PROBLEMS = {"pages": pages, "rows": limited_rows}
kinds = pytest.mark.parametrize("kind", PROBLEMS)


def one_request(problem: Problem, seed: int = 0) -> tuple[Observation, Tensor]:
    """A request, and every configuration that it allows ``(rows, slots)``."""
    observation = problem.sample(1, generator_from(seed))
    rows = torch.cartesian_prod(*(torch.arange(size) for size in problem.sizes))
    allowed = [row for row in rows if forbidden(problem, observation, row.unsqueeze(0)) == 0]
    return observation, torch.stack(allowed)


def logits_for(problem: Problem, observation: Observation, count: int) -> Tensor:
    mask = problem.mask(observation)
    logits = torch.randn(1, problem.slots, problem.items, generator=generator_from(7), dtype=torch.float64)
    return (logits if mask is None else logits.masked_fill(~mask, -torch.inf)).expand(count, -1, -1)


def distribution(problem: Problem, observation: Observation, logits: Tensor) -> tuple[SlotDistribution, Rules]:
    rules = problem.rules(observation[torch.zeros(len(logits), dtype=torch.long)])
    assert rules is not None
    return SlotDistribution(generator_from(1), rules).proba_distribution(logits), rules


@kinds
@pytest.mark.parametrize("seed", range(3))
def test_log_probabilities_are_those_of_an_enumeration(kind: str, seed: int) -> None:
    problem = PROBLEMS[kind]()
    observation, rows = one_request(problem, seed)
    logits = logits_for(problem, observation, len(rows))
    chances = distribution(problem, observation, logits)[0].log_prob(rows).exp()
    assert float(chances.sum()) == pytest.approx(1, abs=1e-9)
    # By hand: each slot's softmax over the items that some allowed row continues the beginning with.
    for row, chance in zip(rows, chances, strict=True):
        expected = 1.0
        for slot in range(problem.slots):
            same = rows[(rows[:, :slot] == row[:slot]).all(dim=1)][:, slot].unique()
            weights = logits[0, slot, same].exp()
            expected *= float(weights[same == row[slot]].sum() / weights.sum())
        assert float(chance) == pytest.approx(expected, rel=1e-9)


@kinds
def test_every_allowed_row_is_drawn_and_no_other(kind: str) -> None:
    problem = PROBLEMS[kind]()
    observation, rows = one_request(problem)
    logits = torch.zeros_like(logits_for(problem, observation, 20_000))
    mask = problem.mask(observation)
    drawn = distribution(problem, observation, logits if mask is None else logits.masked_fill(~mask, -torch.inf))[0]
    assert torch.equal(drawn.sample().unique(dim=0), rows)


@kinds
def test_the_mean_of_the_entropy_along_draws_is_the_entropy(kind: str) -> None:
    problem = PROBLEMS[kind]()
    observation, rows = one_request(problem)
    found, rules = distribution(problem, observation, logits_for(problem, observation, len(rows)))
    log_prob = found.log_prob(rows)
    exact = -(log_prob.exp() * log_prob).sum()
    assert float((log_prob.exp() * found.entropy()).sum()) == pytest.approx(float(exact), rel=1e-9)
    assert torch.equal(found.entropy(), entropy_of(given(logits_for(problem, observation, len(rows)), rows, rules)))


def test_an_entropy_that_nothing_was_drawn_for_draws_by_itself() -> None:
    problem = pages()
    observation, _ = one_request(problem)
    found, _ = distribution(problem, observation, logits_for(problem, observation, 5))
    assert found.entropy().shape == (5,)


@kinds
def test_gradients_of_log_probabilities_are_those_of_differences(kind: str) -> None:
    problem = PROBLEMS[kind]()
    observation, rows = one_request(problem)
    mask = problem.mask(observation)
    masked = torch.tensor(False) if mask is None else ~mask
    rules = problem.rules(observation)

    def value(logits: Tensor) -> Tensor:
        return log_prob_of(given(logits.masked_fill(masked, -torch.inf), rows[:1], rules), rows[:1])

    start = torch.randn(1, problem.slots, problem.items, generator=generator_from(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(value, start.requires_grad_())


@kinds
def test_the_answer_is_never_less_probable_than_either_way(kind: str) -> None:
    problem = PROBLEMS[kind]()
    observation = problem.sample(300, generator_from(3))
    mask, rules = problem.mask(observation), problem.rules(observation)
    assert rules is not None
    logits = 2 * torch.randn(300, problem.slots, problem.items, generator=generator_from(4))
    logits = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
    answer, mode, ordered = most_probable(logits, rules), rules.mode(logits), rules.in_order(logits)[0]
    chance, by_mode, by_order = (log_prob_of(given(logits, one, rules), one) for one in (answer, mode, ordered))
    assert torch.equal(chance, torch.maximum(by_mode, by_order))
    assert bool((by_mode > by_order).any()) and bool((by_order > by_mode).any())
    assert forbidden(problem, observation, answer) == 0


def test_the_policy_keeps_rules_that_its_spaces_do_not_say() -> None:
    problem = pages()
    with seeded_initialisation(0):
        policy = SlotPolicy(
            observation_space(problem),
            action_space(problem),
            lambda _: 1e-3,
            **policy_kwargs(problem, PointerSize(8, 16)),
        )
    observation = problem.sample(100, generator_from(0))
    with torch.no_grad():
        actions, _, log_prob = policy(observation.tensors())
        _, again, entropy = policy.evaluate_actions(observation.tensors(), actions)
    assert forbidden(problem, observation, actions) == 0
    assert torch.equal(log_prob, again)
    assert entropy is not None and bool((entropy >= 0).all())
