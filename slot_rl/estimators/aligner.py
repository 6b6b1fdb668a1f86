"""The aligner: a projection of an estimator's latents. Rows that behave alike have a high cosine.

The number of equal attributes does not show whether two rows behave alike: rows that differ in one slot may have very
different scores, and rows without a common attribute may have equal scores. Here the behaviour of a row is its score
and, by one backward pass, the first-order effect of every single swap. With scores s and swap effects e of rows a, b:

    distance(a, b) = (1 - w) |s_a - s_b| / mean |s - s'| + w |e_a - e_b| / mean |e - e'|

Of two pairs, the one with the smaller distance must get the larger cosine. The loss is logistic in the difference of
the two cosines. Only the order of the distances matters, not their scale, which depends on a few high scores.

This loss was chosen by the rank correlation with score differences on held-out rows of GB1 and TFBind8. Squared error
on cosines or angles, correlation with ranks, and a contrastive loss were not better and mostly worse. Pairs one swap
apart helped on GB1. Measured scores, where the rows have them, are better than the estimator's scores.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slot_rl.seeding import seeded_initialisation

_CHUNK = 4_096
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class AlignerConfig:
    """Sizes and training settings of an aligner.

    Attributes:
        dim: Length of a projection.
        hidden: Width of the projection head's hidden layer.
        effects: Weight w of the swap effects in the distance; the scores have the weight 1 - w.
        swaps: Share of pairs that are one swap apart, if there are any.
        sharpness: Factor of the difference of two cosines in the logistic loss.
        steps: Gradient steps.
        batch_size: Pairs per step.
        learning_rate: Peak of the one-cycle schedule.
    """

    dim: int = 16
    hidden: int = 64
    effects: float = 0.3
    swaps: float = 0.5
    sharpness: float = 20.0
    steps: int = 600
    batch_size: int = 256
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        """Refuses sizes below 1, shares outside 0 to 1, and a sharpness or learning rate that is not positive."""
        if min(self.dim, self.hidden, self.steps) < 1 or self.batch_size < 2:
            raise ValueError(f"expected dim, hidden and steps >= 1 and batch_size >= 2, got {self}")
        if not (0 <= self.effects <= 1 and 0 <= self.swaps <= 1):
            raise ValueError(f"expected effects and swaps from 0 to 1, got {self.effects} and {self.swaps}")
        if not (self.sharpness > 0 and self.learning_rate > 0):
            raise ValueError(f"expected sharpness and learning_rate > 0, got {self.sharpness} and {self.learning_rate}")


@dataclass(frozen=True)
class Behaviour:
    """How an estimator behaves on some rows.

    Attributes:
        latents: Tensor of shape ``(rows, width)``.
        scores: Tensor of shape ``(rows,)``.
        effects: First-order effects of all single swaps, of shape ``(rows, slots, items)``; 0 for the row's own items
            and for masked items.
    """

    latents: Tensor
    scores: Tensor
    effects: Tensor


class Aligner(nn.Module):
    """Standardises latents, projects them, and compares projections by their cosine."""

    mean: Tensor
    spread: Tensor

    def __init__(self, latents: Tensor, config: AlignerConfig) -> None:
        """Builds an untrained head with weights from the global generator; see ``slot_rl.seeding``.

        Args:
            latents: Tensor of shape ``(rows, width)`` whose mean and spread are used to standardise.
            config: Sizes of the head.
        """
        super().__init__()
        spread = latents.detach().std(dim=0)
        self.register_buffer("mean", latents.detach().mean(dim=0))
        # Without this limit, a unit that is almost constant on these rows would dominate on other rows.
        self.register_buffer("spread", spread.clamp_min(_LEAST_SPREAD * float(spread.mean()) or 1.0))
        self.head = nn.Sequential(
            nn.Linear(latents.shape[-1], config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.dim)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Returns the projections ``(..., batch, dim)`` of latents ``(..., batch, width)``."""
        projected: Tensor = self.head((latents - self.mean) / self.spread)
        return projected

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns the cosines ``(..., batch)`` of the projections of two latents ``(..., batch, width)``."""
        return nn.functional.cosine_similarity(self(first), self(second), dim=-1)


def one_swap_pairs(choice: Tensor, context: Tensor | None = None) -> Tensor:
    """Returns all pairs of rows with the same context that differ in exactly one slot.

    Args:
        choice: Long tensor of shape ``(rows, slots)``.
        context: Long tensor of shape ``(rows, columns)``, or None.

    Returns:
        Long tensor of shape ``(pairs, 2)`` of row numbers; ``(0, 2)`` if there are none.
    """
    given = choice[:, :0] if context is None else context
    found = [torch.zeros(0, 2, dtype=torch.long)]
    for slot in range(choice.shape[1]):
        rest = torch.cat([given, choice[:, :slot], choice[:, slot + 1 :]], dim=1)
        _, group = torch.unique(rest, dim=0, return_inverse=True)
        order = torch.argsort(group, stable=True)
        # In this order the rows of a group are neighbours; each is paired with the later ones of its group.
        for apart in range(1, int(torch.bincount(group).max())):
            first, second = order[:-apart], order[apart:]
            pair = (group[first] == group[second]) & (choice[first, slot] != choice[second, slot])
            found.append(torch.stack([first[pair], second[pair]], dim=1))
    return torch.cat(found)


def fit_aligner(
    behaviour: Behaviour, swaps: Tensor, config: AlignerConfig, generator: torch.Generator
) -> tuple[Aligner, list[float]]:
    """Fits an aligner; the estimator does not change.

    Args:
        behaviour: Latents, scores and swap effects of the rows; the scores may be measured scores.
        swaps: Pairs of rows one swap apart, a long tensor of shape ``(pairs, 2)``; may be empty.
        config: Sizes and training settings.
        generator: Random generator of the initial weights and of the pairs.

    Returns:
        The frozen aligner and the loss of every step.

    Raises:
        ValueError: If the shapes do not fit, there are fewer than three rows, a value is not finite, or all rows
            behave alike.
    """
    _check(behaviour, swaps)
    latents, distance = behaviour.latents.detach(), _Distance(behaviour, config.effects, generator)
    with seeded_initialisation(int(torch.randint(2**62, (), generator=generator))):
        aligner = Aligner(latents, config)
    optimizer = torch.optim.Adam(aligner.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    losses = []
    for _ in range(config.steps):
        first, second = _draw_pairs(len(latents), swaps, config, generator)
        similarity = aligner.similarity(latents[first], latents[second])
        other = torch.randperm(len(first), generator=generator)
        loss = order_loss(similarity, distance(first, second), other, config.sharpness)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    optimizer.zero_grad()  # frees the gradients of the last step
    return aligner.requires_grad_(False), losses


def order_loss(similarity: Tensor, distance: Tensor, other: Tensor, sharpness: float) -> Tensor:
    """Returns the logistic loss of similarities whose order must be the reverse of the order of the distances.

    Args:
        similarity: Tensor of shape ``(pairs,)``.
        distance: Tensor of shape ``(pairs,)``.
        other: Long tensor of shape ``(pairs,)``: the index of the pair that each pair is compared with.
        sharpness: Factor of the difference of two similarities.
    """
    farther = torch.sign(distance - distance[other])
    return nn.functional.softplus(sharpness * farther * (similarity - similarity[other])).mean()


class _Distance:
    """The distance of the behaviour of two rows; each part is divided by its mean over random pairs."""

    def __init__(self, behaviour: Behaviour, weight: float, generator: torch.Generator) -> None:
        self._scores, self._effects = behaviour.scores.detach(), behaviour.effects.detach().flatten(1)
        self._units, self._weight = (1.0, 1.0), weight
        first = torch.randint(len(self._scores), (_CHUNK,), generator=generator)
        second = torch.randint(len(self._scores), (_CHUNK,), generator=generator)
        units = [float(part.mean()) for part in self._parts(first, second)]
        if max(units) == 0:
            raise ValueError("expected rows that behave differently to fit an aligner, got rows that all behave alike")
        # A part that is the same for all rows adds nothing, so its unit may be 1.
        self._units = (units[0] or 1.0, units[1] or 1.0)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns the distances ``(pairs,)`` of rows given by their numbers."""
        by_score, by_effect = self._parts(first, second)
        return (1 - self._weight) * by_score / self._units[0] + self._weight * by_effect / self._units[1]

    def _parts(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        by_score = (self._scores[first] - self._scores[second]).abs()
        return by_score, (self._effects[first] - self._effects[second]).norm(dim=1)


def _draw_pairs(rows: int, swaps: Tensor, config: AlignerConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    near = round(config.swaps * config.batch_size) if len(swaps) else 0
    anywhere = torch.randint(rows, (config.batch_size - near, 2), generator=generator)
    one_swap = swaps[torch.randint(max(1, len(swaps)), (near,), generator=generator)]
    first, second = torch.cat([anywhere, one_swap]).unbind(dim=1)
    return first, second


def _check(behaviour: Behaviour, swaps: Tensor) -> None:
    latents, scores, effects = behaviour.latents, behaviour.scores, behaviour.effects
    rows = len(latents)
    if latents.dim() != 2 or tuple(scores.shape) != (rows,) or effects.dim() != 3 or len(effects) != rows:
        raise ValueError(
            "expected latents (rows, width), scores (rows,) and effects (rows, slots, items), "
            f"got {tuple(latents.shape)}, {tuple(scores.shape)} and {tuple(effects.shape)}"
        )
    if rows < 3:
        raise ValueError(f"expected at least three rows to fit an aligner, of which two pairs differ, got {rows}")
    if swaps.dim() != 2 or swaps.shape[1] != 2 or (len(swaps) and not 0 <= int(swaps.min()) <= int(swaps.max()) < rows):
        raise ValueError(f"expected pairs (pairs, 2) of row numbers below {rows}, got {tuple(swaps.shape)}")
    for name, part in (("latents", latents), ("scores", scores), ("effects", effects)):
        if not bool(part.isfinite().all()):
            raise ValueError(f"expected finite {name} to fit an aligner, got NaN or infinity")
