"""What an agent does with a critic's scores: swaps, sweeps over the slots, and the advantages of draws."""

from math import inf

import torch
from torch import Tensor

from slot_rl.agents.reward_critic import Critic
from slot_rl.problems import Observation
from slot_rl.selectors.categorical import one_hot
from slot_rl.selectors.rules import Rules


def swept(
    critic: Critic, observation: Observation, choice: Tensor, allowed: Tensor, rules: Rules | None, sweeps: int
) -> Tensor:
    """Returns choices after some sweeps, in which each slot takes the allowed item that a critic scores highest.

    Args:
        critic: The critic.
        observation: The requests.
        choice: The choices, ``(batch, slots)``.
        allowed: What is not masked, ``(batch, slots, items)``.
        rules: What the requests allow; None if everything that is not masked.
        sweeps: Passes over the slots.
    """
    items = torch.arange(allowed.shape[-1])
    for slot in [*range(choice.shape[1])] * sweeps:
        is_open = allowed[:, slot] if rules is None else allowed[:, slot] & rules.open_items(choice, slot)
        several = choice.repeat(len(items), 1, 1)
        # An item that is not open must not be looked up: it may not exist.
        several[:, :, slot] = torch.where(is_open.T, items.unsqueeze(1), choice[:, slot])
        score = critic.of_choices(observation, several).mean(dim=0).masked_fill(~is_open.T, -inf)
        best = score.argmax(dim=0)
        choice = choice.clone()
        choice[:, slot] = best
    return choice


def random_swap(choice: Tensor, allowed: Tensor, rules: Rules | None, generator: torch.Generator) -> Tensor:
    """Returns choices with one random swap that stays allowed; a choice without one stays as it is.

    Args:
        choice: The choices, ``(batch, slots)``.
        allowed: What is not masked, ``(batch, slots, items)``.
        rules: What the requests allow; None if everything that is not masked.
        generator: Source of the swaps.
    """
    is_open = allowed if rules is None else allowed & rules.open_items(choice)
    is_open = (is_open & ~one_hot(choice, allowed.shape[-1], torch.bool)).flatten(1)
    order = torch.rand(is_open.shape, generator=generator).masked_fill(~is_open, -1.0)
    best, place = order.max(dim=1)
    slot, item = place // allowed.shape[-1], place % allowed.shape[-1]
    swapped = choice.scatter(1, slot.unsqueeze(1), item.unsqueeze(1))
    return torch.where((best >= 0).unsqueeze(1), swapped, choice)


def better_than_others(score: Tensor) -> Tensor:
    """Returns by how much each of two or more draws scores above the request's others' mean, ``(draws, requests)``.

    Kool, van Hoof, Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!" (2019).
    """
    return (score - score.mean(dim=0)) * (len(score) / (len(score) - 1))
