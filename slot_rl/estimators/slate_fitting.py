"""Fits the slate estimator on logged slates; whole requests are held out, so that its figures are of new requests."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn

from slot_rl.estimators.columns import UNSEEN, Encoded
from slot_rl.estimators.fitting import FitProgress
from slot_rl.estimators.kept_fit import KeptFit, KeptLoop, one_cycle
from slot_rl.estimators.slate import FORGOTTEN, SlateNet, SlateShape, forgetful
from slot_rl.estimators.slate_log import SlateLog
from slot_rl.estimators.units import mean_and_spread
from slot_rl.seeding import seeded_initialisation

MOST_WEIGHT = 10.0
"""Largest weight of a slate by its propensity, as a multiple of the median weight."""
PREDICTED_TOGETHER = 16_384


@dataclass(frozen=True)
class SlateFit:
    """Settings for fitting an estimator on logged slates.

    Clicks are noisy, so the network is small and its decay is strong: of the settings that were tried on the log of
    ``SlotRL/Slate-v0``, these led to pages with the highest true scores. Held-out R2 hardly told them apart.

    Attributes:
        passes: Passes over the training slates.
        batch: Slates per gradient step.
        step_size: Peak of Adam's step size; it rises, then falls to zero along a cosine.
        decay: Decoupled weight decay.
        id_dim: Length of each item's own embedding; 0 for items that only their columns describe.
        width: Width of an item on the page.
        inverse_propensity: Weigh slates by the inverse of the log's propensities, at most 10 times the median.
    """

    passes: int = 12
    batch: int = 512
    step_size: float = 2e-3
    decay: float = 0.3
    id_dim: int = 8
    width: int = 32
    inverse_propensity: bool = False

    def __post_init__(self) -> None:
        """Refuses settings with which nothing could be fitted."""
        if min(self.passes, self.batch, self.width) < 1 or self.id_dim < 0 or not self.step_size > 0:
            raise ValueError(f"expected passes, batch and width >= 1, id_dim >= 0 and step_size > 0, got {self}")


@dataclass(frozen=True)
class SlateData:
    """A log with the cells of its items and requests.

    Attributes:
        log: The slates.
        items: The items' cells.
        requests: The requests' cells.
    """

    log: SlateLog
    items: Encoded
    requests: Encoded


def split_by_request(log: SlateLog, test: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns the slates to fit on and those of the requests that are held out.

    Raises:
        ValueError: If one of both would have fewer than two slates.
    """
    requests = log.request.unique()
    order = requests[torch.randperm(len(requests), generator=generator)]
    held_out = torch.isin(log.request, order[: ceil(test * len(requests))])
    train, tested = (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)
    if min(len(train), len(tested)) < 2:
        raise ValueError(
            f"expected slates of several requests to fit on and to hold out, got {len(log)} slates of {len(requests)} "
            "requests"
        )
    return train, tested


def fit_slates(
    shape: SlateShape,
    data: SlateData,
    train: Tensor,
    fit: SlateFit,
    seed: int,
    generator: torch.Generator,
    report: FitProgress,
    kept: KeptFit | None = None,
) -> SlateNet:
    """Fits a network by squared error, or by cross-entropy where scores are 0 or 1.

    Args:
        shape: The network's shape.
        data: The log.
        train: The slates to fit on.
        fit: The settings.
        seed: Seeds the weights.
        generator: Source of the slates' order, and of what is hidden.
        report: Called with the number of gradient steps and the loss.
        kept: Where the state of the fit is kept; one that is there is gone on with.
    """
    with seeded_initialisation(seed):
        net = SlateNet(shape)
    _standardise(net, data, train)
    weights = _weights(data.log, train, fit)
    optimizer = torch.optim.AdamW(net.parameters(), lr=fit.step_size, weight_decay=fit.decay)
    order, parts = torch.arange(len(train)), ceil(len(train) / fit.batch)
    loop = KeptLoop(kept, {**net.state_dict(), "order": order}, generator, optimizer)
    schedule = one_cycle(optimizer, fit.step_size, fit.passes * parts, loop.done)
    for step in loop.steps(fit.passes * parts):
        if step % parts == 0:
            order.copy_(torch.randperm(len(train), generator=generator))
        part = order[step % parts * fit.batch :][: fit.batch]
        loss = (_losses(net, data, train[part], generator) * weights[part]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report(step + 1, loss.item())
    return net.eval().requires_grad_(False)


def predict_slates(net: SlateNet, data: SlateData, slates: Tensor) -> Tensor:
    """Returns the estimated scores ``(slates,)`` of some slates."""
    with torch.no_grad():
        parts = [net(*_vectors(net, data, part, None)) for part in slates.split(PREDICTED_TOGETHER)]
    return torch.cat(parts)


def log_loss(predicted: Tensor, true: Tensor) -> float:
    """Returns the mean negative log-likelihood in nats of scores 0 and 1 under predicted probabilities."""
    return float(nn.functional.binary_cross_entropy(predicted.clamp(1e-7, 1 - 1e-7), true))


def is_binary(score: Tensor) -> bool:
    """Returns whether every score is 0 or 1."""
    return bool(((score == 0) | (score == 1)).all())


def _losses(net: SlateNet, data: SlateData, slates: Tensor, generator: torch.Generator) -> Tensor:
    logits, true = net.logits(*_vectors(net, data, slates, generator)), data.log.score[slates]
    if net.shape.binary:
        return nn.functional.binary_cross_entropy_with_logits(logits, true, reduction="none")
    return (logits - (true - net.offset) / net.scale).square()


def _vectors(
    net: SlateNet, data: SlateData, slates: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Returns the vectors of the slates' items and requests; with a generator, some cells are hidden."""
    rows = data.log.items[slates]
    items, requests, ids = data.items[rows], data.requests[data.log.request[slates]], rows + 1
    if generator is not None:
        items, requests = forgetful(items, generator), forgetful(requests, generator)
        ids = ids.masked_fill(torch.rand(ids.shape, generator=generator) < FORGOTTEN, UNSEEN)
    return net.item_vectors(items, ids), net.context_vectors(requests)


def _standardise(net: SlateNet, data: SlateData, train: Tensor) -> None:
    """Sets the units of items, contexts and scores from the training slates."""
    with torch.no_grad():
        ids = torch.zeros(len(data.items.numbers), dtype=torch.long)
        for name, vectors in (
            ("item", net.item_vectors(data.items, ids)),
            ("context", net.context_vectors(data.requests[data.log.request[train].unique()])),
        ):
            # An item's own embedding is zero at first, and keeps its units.
            mean, spread = mean_and_spread(vectors)
            getattr(net, f"{name}_mean").copy_(mean)
            getattr(net, f"{name}_spread").copy_(spread)
        if not net.shape.binary:
            net.offset.fill_(data.log.score[train].mean())
            net.scale.fill_(data.log.score[train].std().clamp_min(1e-12))


def _weights(log: SlateLog, train: Tensor, fit: SlateFit) -> Tensor:
    if not fit.inverse_propensity:
        return torch.ones(len(train))
    if log.propensity is None:
        raise ValueError("expected a column 'propensity' in the log for --inverse-propensity, got none")
    inverse = 1 / log.propensity[train].double()
    inverse = inverse.clamp_max(MOST_WEIGHT * float(np.median(inverse.numpy())))
    return (inverse / inverse.mean()).float()
