"""Configurations that differ from a choice in a single slot: scores and probabilities, in parts of limited size."""

import torch
from torch import Tensor

from slot_rl.selectors.base import Probe
from slot_rl.selectors.categorical import log_prob_of, one_hot
from slot_rl.selectors.rules import Rules


def score_swaps(probe: Probe, vertex: Tensor, slot: Tensor, item: Tensor, chunk: int) -> Tensor:
    """Scores single swaps of a choice.

    Args:
        probe: The objective.
        vertex: One-hot rows of the choice, of shape ``(..., slots, items)``.
        slot: Long tensor of shape ``(swaps,)``: the slot that each swap changes.
        item: Long tensor of shape ``(swaps, ...)``: the new item of that slot, for each row.
        chunk: Maximum number of configurations per call of the objective, but at least one swap per row.

    Returns:
        Scores of shape ``(swaps, ...)``, in the vertex's precision.
    """
    if not len(slot):
        return vertex.new_zeros(item.shape)
    slots, items = vertex.shape[-2:]
    ones = [1] * (vertex.dim() - 2)
    all_slots = torch.arange(slots, device=vertex.device)
    together = max(1, chunk // max(1, vertex[..., 0, 0].numel()))
    parts = []
    for slot_part, item_part in zip(slot.split(together), item.split(together), strict=True):
        changed = (all_slots == slot_part.unsqueeze(-1)).view(-1, *ones, slots, 1)
        put_in = one_hot(item_part, items, vertex.dtype).unsqueeze(-2)
        parts.append(probe.value(torch.where(changed, put_in, vertex)))
    return torch.cat(parts).to(vertex.dtype)


def swap_probabilities(rules: Rules, logits: Tensor, choice: Tensor, chunk: int) -> Tensor:
    """Returns how probable each item of a slot is under rules, given what all other slots hold.

    Without rules this is the softmax of the logits. Under rules, an item also counts by what it leaves open to the
    slots after it.

    Args:
        rules: What the requests allow.
        logits: Tensor of shape ``(..., batch, slots, items)``.
        choice: An allowed choice ``(..., batch, slots)``.
        chunk: Maximum number of configurations at a time, but at least one swap per row.

    Returns:
        Tensor of the logits' shape; 0 where a swap is not allowed.
    """
    slots, items = logits.shape[-2:]
    is_open = rules.open_items(choice).movedim((-2, -1), (0, 1))
    slot, item = torch.cartesian_prod(torch.arange(slots), torch.arange(items)).unbind(dim=1)
    together = max(1, chunk // max(1, choice[..., 0].numel()))
    parts = []
    for slot_part, item_part in zip(slot.split(together), item.split(together), strict=True):
        swaps, allowed = torch.arange(len(slot_part)), is_open[slot_part, item_part]
        swapped = choice.expand(len(swaps), *choice.shape).clone()
        # Instead of a swap that is not allowed, of which rules cannot be asked, the choice itself.
        new = item_part.view(-1, *[1] * (choice.dim() - 1))
        swapped[swaps, ..., slot_part] = torch.where(allowed, new, choice.movedim(-1, 0)[slot_part])
        conditional = rules.conditional(logits.expand(len(swaps), *logits.shape), swapped)
        parts.append(log_prob_of(conditional, swapped).masked_fill(~allowed, -torch.inf))
    return torch.softmax(torch.cat(parts).unflatten(0, (slots, items)).movedim((0, 1), (-2, -1)), dim=-1)


def mean_of_others(score: Tensor) -> Tensor:
    """Returns the mean score of all other rows, in the scores' shape; 0 for a single row.

    A baseline under rules must not depend on a row's own draw, not even on its other slots: slots drawn later depend
    on the slot that the baseline is for.
    """
    rows = score.numel()
    return (score.sum() - score) / (rows - 1) if rows > 1 else torch.zeros_like(score)
