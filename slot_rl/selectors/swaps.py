"""Scores configurations that differ from a choice in a single slot, in calls of limited size."""

import torch
from torch import Tensor

from slot_rl.selectors.base import Probe
from slot_rl.selectors.categorical import one_hot


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
