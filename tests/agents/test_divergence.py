"""The divergence of two distributions of choices, as TRPO asks for it: values and second derivatives."""

import pytest
import torch
from stable_baselines3.common.distributions import kl_divergence
from torch.distributions import Categorical
from torch.distributions import kl_divergence as of_torch

from slot_rl.agents import SlotPolicy
from slot_rl.agents.policy import SlotDistribution
from slot_rl.envs import SlotVecEnv
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.selectors.categorical import log_prob_of
from tests.helpers.limited import limited_rows

MASKED = torch.tensor([[True, True, True], [True, True, False]])


def independent(logits: torch.Tensor) -> SlotDistribution:
    return SlotDistribution(generator_from(0)).proba_distribution(logits.masked_fill(~MASKED, -torch.inf))


def test_it_is_the_sum_over_slots_without_masked_items() -> None:
    p, q = torch.randn(2, 5, 2, 3, generator=generator_from(0), dtype=torch.float64)
    expected = of_torch(Categorical(logits=p[:, 0]), Categorical(logits=q[:, 0]))
    expected += of_torch(Categorical(logits=p[:, 1, :2]), Categorical(logits=q[:, 1, :2]))
    torch.testing.assert_close(kl_divergence(independent(p), independent(q)), expected)


def test_its_gradient_is_finite_where_items_are_masked() -> None:
    p, q = torch.randn(2, 5, 2, 3, generator=generator_from(0), dtype=torch.float64)
    p.requires_grad_()
    (slope,) = torch.autograd.grad(kl_divergence(independent(p), independent(q)).sum(), p, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), p)
    assert torch.isfinite(slope).all() and torch.isfinite(curvature).all()
    assert (slope[:, 1, 2] == 0).all() and (slope[:, 0] != 0).all()


def test_under_rules_its_mean_along_draws_is_the_divergence() -> None:
    problem = limited_rows()
    observation = problem.sample(1, generator_from(0))
    rules = problem.rules(observation)
    assert rules is not None
    every = torch.cartesian_prod(*(torch.arange(size) for size in problem.sizes))
    rows = every[rules.allows(every.unsqueeze(1)).squeeze(1)]
    shape = (2, 1, problem.slots, problem.items)
    logits = torch.randn(shape, generator=generator_from(1), dtype=torch.float64).expand(-1, len(rows), -1, -1)
    many = problem.rules(observation[torch.zeros(len(rows), dtype=torch.long)])
    p, q = (SlotDistribution(generator_from(2), many).proba_distribution(part) for part in logits)
    chance = p.log_prob(rows).exp()
    found = float((chance * kl_divergence(p, q)).sum())
    assert many is not None
    log_p, log_q = (log_prob_of(many.conditional(part, rows), rows) for part in logits)
    assert found == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), rel=1e-9)
    assert found > 0.1


def test_a_policys_distribution_can_be_differentiated_twice() -> None:
    env = SlotVecEnv("SlotRL/PickValue-v0", 4, seed=0)
    with seeded_initialisation(0):
        policy = SlotPolicy(env.observation_space, env.action_space, lambda _: 1e-3)
    seen = policy.obs_to_tensor(env.reset())[0]
    with torch.no_grad():
        before = policy.get_distribution(seen)
    divergence = kl_divergence(policy.get_distribution(seen), before).mean()
    weights = list(policy.network.parameters())
    slopes = torch.autograd.grad(divergence, weights, create_graph=True, allow_unused=True)
    along = sum((slope.sum() for slope in slopes if slope is not None), torch.zeros(()))
    curved = torch.autograd.grad(along, weights, allow_unused=True)
    # The divergence is least here, so its slope is 0 and its curvature is not.
    assert float(along.detach()) == pytest.approx(0, abs=1e-4)
    assert max(float(part.abs().max()) for part in curved if part is not None) > 1e-4
