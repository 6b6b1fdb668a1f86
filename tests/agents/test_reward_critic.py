"""The critic of rewards: products by hand, which kind of network is chosen, and the units of rewards."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from slot_rl.agents.recent import Recent
from slot_rl.agents.reward_critic import (
    NETWORK_KINDS,
    CriticFit,
    CriticShape,
    RewardCritic,
    fit_critic,
    rewarded_rows,
    with_products,
)
from slot_rl.problems import Observation
from slot_rl.seeding import generator_from, seeded_initialisation

VECTORS = CriticShape(2, (), 3, 0, ())
FIT = CriticFit(150, 150)


def remembered(score: Callable[[Tensor], Tensor], rows: int = 1_500) -> Recent:
    memory, vectors = Recent(rows), torch.randn(rows, 2, 3, generator=generator_from(1))
    memory.add({"vectors": vectors, "reward": score(vectors)})
    return memory


def test_products_by_hand() -> None:
    found = with_products(torch.tensor([[2.0, -0.5, 1.5]]))
    # The numbers; 2 * -.5, 2 * 1.5, -.5 * 1.5; and all three.
    assert torch.allclose(found, torch.tensor([[2.0, -0.5, 1.5, -1.0, 3.0, -0.75, -1.5]]))


def test_products_stay_few_and_bounded() -> None:
    # Of 16 numbers there are 120 pairs, of 8 numbers 28 pairs and 56 triples.
    assert with_products(torch.zeros(1, 16)).shape == (1, 16)
    assert with_products(torch.zeros(1, 8)).shape == (1, 36)
    assert with_products(torch.zeros(1, 1)).shape == (1, 1)
    assert with_products(torch.full((1, 2), 10.0)).tolist() == [[4.0, 4.0, 4.0]]


@pytest.mark.parametrize(
    ("score", "kind"),
    [
        (lambda vectors: vectors.clamp(-2, 2).prod(dim=-1).sum(dim=-1), "products"),
        (lambda vectors: vectors.flatten(1).sum(dim=1).sin(), "plain"),
    ],
)
def test_held_out_rewards_choose_the_kind(score: Callable[[Tensor], Tensor], kind: str) -> None:
    critic, errors = fit_critic(remembered(score), VECTORS, FIT, NETWORK_KINDS, generator_from(0))
    assert critic.kind == kind
    assert errors[kind] < 0.1 and 2 * errors[kind] < max(errors.values())
    assert not any(weight.requires_grad for weight in critic.parameters())


def test_a_shuffled_log_teaches_nothing() -> None:
    memory = remembered(lambda vectors: vectors.flatten(1).sum(dim=1).sin())
    rows = memory.rows(torch.arange(len(memory)))
    shuffled = Recent(len(memory))
    shuffled.add({**rows, "reward": rows["reward"][torch.randperm(len(memory), generator=generator_from(3))]})
    _, errors = fit_critic(shuffled, VECTORS, FIT, ("plain",), generator_from(0))
    assert errors["plain"] > 0.9


def test_scores_are_in_the_units_of_the_reward() -> None:
    memory = remembered(lambda vectors: 1_000 + 50 * vectors[:, 0, 0])
    critic, _ = fit_critic(memory, VECTORS, FIT, ("plain",), generator_from(0))
    observation = Observation(candidates=torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0]]]))
    selection = torch.tensor([[[1.0, 0], [0, 1]]])
    assert critic(observation, selection).mean().item() == pytest.approx(1_050, abs=10)
    assert critic(observation, selection.flip(1)).mean().item() == pytest.approx(950, abs=10)


def test_equal_rewards_are_no_differences() -> None:
    critic, _ = fit_critic(
        remembered(lambda vectors: torch.full((len(vectors),), 7.0)), VECTORS, FIT, NETWORK_KINDS, generator_from(0)
    )
    assert critic.errors({"vectors": torch.zeros(1, 2, 3), "reward": torch.tensor([7.0])}).isfinite().all()
    assert critic.spread.item() == pytest.approx(8e-6)


def test_a_memory_holds_what_a_call_sees() -> None:
    shape = CriticShape(2, (3, 2), 0, 3, (4,))
    observation = Observation(
        context=torch.tensor([[1], [3]]), context_vector=torch.randn(2, 1), slot_features=torch.randn(2, 2, 1)
    )
    choice = torch.tensor([[2, 1], [0, 0]])
    with seeded_initialisation(0):
        critic = RewardCritic(shape, "products")
    rows = rewarded_rows(shape, observation, choice, torch.zeros(2))
    assert torch.equal(rows["vectors"], choice) and rows["numbers"].shape == (2, 3)
    selection = torch.nn.functional.one_hot(choice, 3).float()
    assert torch.allclose(critic.standardised(rows), critic(observation, selection), atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"fit_steps": 10}, {"fewest_steps": 0}, {"rewards_a_step": 0}, {"fit_batch": 0}, {"fit_rate": 0.0}]
)
def test_fits_that_cannot_be_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 1 <= fewest_steps <= fit_steps"):
        CriticFit(**changes)  # type: ignore[arg-type]


def test_steps_grow_with_the_rewards_between_two_ends() -> None:
    assert [CriticFit().steps_for(rewards) for rewards in (100, 5_000, 1_000_000)] == [300, 1_000, 2_000]
