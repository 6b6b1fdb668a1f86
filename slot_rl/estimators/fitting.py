"""Fits an estimator network on a table, or on fresh samples of a ground truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.kept_fit import KeptFit, KeptLoop, one_cycle
from slot_rl.estimators.net import EstimatorNet, EstimatorShape
from slot_rl.estimators.table import Table, read_table, refuse_narrow
from slot_rl.saved_state import weights_of
from slot_rl.seeding import seeded_initialisation

WEIGHT_AVERAGE_DECAY = 0.995

EPOCH_ROWS = 131_072
"""Maximum number of rows of an epoch: a pass over a million rows takes minutes."""
STEPS_BETWEEN_REPORTS = 50

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Draws so many vectors ``(batch, slots, dim)`` and their true scores ``(batch,)``."""
FitProgress = Callable[[int, float | None], None]


def counted_from(before: int, report: Callable[[int], None]) -> Callable[[int], None]:
    """Returns what reports the steps of a fit after so many steps of earlier ones."""
    return lambda step: report(before + step)


@dataclass(frozen=True)
class TruthFit:
    """Settings for fitting an estimator on fresh samples of a ground truth.

    Attributes:
        steps: Gradient steps.
        batch_size: Fresh configurations per step.
        learning_rate: Peak of the one-cycle schedule.
    """

    steps: int = 6000
    batch_size: int = 1024
    learning_rate: float = 3e-3


def fit_on_truth(
    net: EstimatorNet,
    draw: Draw,
    fit: TruthFit,
    generator: torch.Generator,
    report: FitProgress,
    kept: KeptFit | None = None,
) -> None:
    """Fits a network by squared error on fresh samples, with Adam under a one-cycle schedule.

    Args:
        net: The network, changed in place.
        draw: Draws samples.
        fit: Steps, batch size and learning rate.
        generator: Random generator of the samples.
        report: Called with the step and its loss after each step.
        kept: Where the state of the fit is kept; one that is there is gone on with.
    """
    net.scale.fill_(draw(16_384, generator)[1].std())
    optimizer = torch.optim.Adam(net.parameters(), lr=fit.learning_rate)
    loop = KeptLoop(kept, net.state_dict(), generator, optimizer)
    schedule = one_cycle(optimizer, fit.learning_rate, fit.steps, loop.done)
    for step in loop.steps(fit.steps):
        vectors, target = draw(fit.batch_size, generator)
        loss = nn.functional.mse_loss(net(vectors) / net.scale, target / net.scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report(step + 1, loss.item())


def r_squared(predicted: Tensor, target: Tensor) -> float:
    """Returns the share of the target's variance that is explained; 1 is perfect, predicting the mean has 0."""
    predicted, target = predicted.double(), target.double()
    residual = (target - predicted).square().sum()
    return float(1 - residual / (target - target.mean()).square().sum())


@dataclass(frozen=True)
class TableFit:
    """Settings for fitting an estimator on a table.

    Attributes:
        train: Share of the rows to fit on.
        validation: Share of the rows that decide when to stop; the rest is the test split.
        epochs: Maximum number of passes over the training rows. A pass uses at most 131,072 random training rows and
            as many validation rows, so that the time stays limited for tables of millions of rows.
        patience: Passes without a better validation error before stopping.
        batch_size: Rows per gradient step.
        learning_rate: Adam's step size.
        weight_decay: Decoupled weight decay.
        dim: Length of a category's embedding.
        hidden: Widths of the hidden layers.
        swap_linearity: Weight of a penalty on scores that are not linear between a row and a row one swap away. With
            it the gradient predicts the effect of swaps, which search and policies need; 0 turns it off.
    """

    train: float = 0.8
    validation: float = 0.1
    epochs: int = 400
    patience: int = 40
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.2
    dim: int = 16
    hidden: tuple[int, ...] = (256, 256)
    swap_linearity: float = 10.0

    def __post_init__(self) -> None:
        """Refuses splits with an empty part, sizes below 1, and a negative weight."""
        if not (0 < self.train < 1 and 0 < self.validation < 1 and self.train + self.validation < 1):
            raise ValueError(
                "expected train > 0, validation > 0 and train + validation < 1, "
                f"got train {self.train} and validation {self.validation}"
            )
        if min(self.epochs, self.patience, self.batch_size, self.dim, len(self.hidden), *self.hidden) < 1:
            raise ValueError(f"expected epochs, patience, batch_size, dim and hidden >= 1, got {self}")
        if not self.swap_linearity >= 0:
            raise ValueError(f"expected swap_linearity >= 0, got {self.swap_linearity}")

    def steps_per_epoch(self, rows: int) -> int:
        """Returns the number of gradient steps of a pass over ``rows`` training rows."""
        return ceil(min(rows, EPOCH_ROWS) / self.batch_size)


@dataclass(frozen=True)
class TableRows:
    """Encoded rows.

    Attributes:
        features: Long tensor of shape ``(rows, features)``.
        contexts: Indices of the contexts, a long tensor of shape ``(rows, plain columns)``, or None.
        score: Float tensor of shape ``(rows,)``.
        context_vectors: Numbers of the contexts, a float tensor of shape ``(rows, numbers)``, or None.
    """

    features: Tensor
    contexts: Tensor | None
    score: Tensor
    context_vectors: Tensor | None = None

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.score)

    def __getitem__(self, rows: Tensor) -> "TableRows":
        """Returns some rows by index."""
        contexts, vectors = (None if part is None else part[rows] for part in (self.contexts, self.context_vectors))
        return TableRows(self.features[rows], contexts, self.score[rows], vectors)

    def by_context(self) -> list[Tensor]:
        """Returns the numbers of the rows of each context, of contexts of categories in their sorted order."""
        if self.contexts is None:
            return [torch.arange(len(self))]
        _, place = torch.unique(self.contexts, dim=0, return_inverse=True)
        return [(place == context).nonzero().squeeze(1) for context in range(int(place.max()) + 1)]


def read_rows(
    path: Path, score: str, contexts: Sequence[str], features: Sequence[str] | None = None
) -> tuple[TableRows, TableEncoding]:
    """Reads a table and encodes it by its own categories; arguments and errors as in ``read_table``."""
    table = read_table(path, score, contexts, features)
    encoding = TableEncoding.of(table, score, contexts)
    return encode_rows(table, encoding), encoding


def encode_rows(table: Table, encoding: TableEncoding) -> TableRows:
    """Returns the rows of a table that was read with its score.

    Raises:
        TableError: If a category is unknown, or the scores differ by too little of their size.
    """
    assert table.score is not None
    refuse_narrow(table.score, encoding.score, table.path)
    codes, vectors = encoding.context_parts(encoding.encode_contexts(table))
    return TableRows(encoding.encode_features(table), codes, torch.tensor(table.score).float(), vectors)


def network_for(encoding: TableEncoding, fit: TableFit, seed: int) -> EstimatorNet:
    """Builds the untrained network of a table with weights from a seed."""
    features, contexts = (tuple(map(len, part.values())) for part in (encoding.features, encoding.plain_contexts))
    numbers = [encoding.item_numbers(name) for name in encoding.features]
    described = tuple(0 if found is None else found.shape[1] for found in numbers)
    with seeded_initialisation(seed):
        net = EstimatorNet(
            EstimatorShape(
                len(features),
                fit.dim,
                fit.hidden,
                features,
                contexts,
                described=described if any(described) else (),
                context_numbers=encoding.context_widths,
            )
        )
    for slot, found in enumerate(numbers):
        if found is not None:
            net.describe(slot, found)
    return net


def with_categories(net: EstimatorNet, encoding: TableEncoding) -> EstimatorNet:
    """Returns a fitted network for an encoding that differs in the levels or described categories to choose from."""
    with seeded_initialisation(0):  # replaced by the fitted weights
        twin = EstimatorNet(replace(net.shape, vocabulary=tuple(map(len, encoding.features.values()))))
    for slot, name in enumerate(encoding.features):
        numbers = encoding.item_numbers(name)
        if numbers is not None:
            twin.describe(slot, numbers)
    fitted, state = net.state_dict(), twin.state_dict()
    kept = min(fitted["catalogue"].shape[1], state["catalogue"].shape[1])
    catalogue = torch.zeros_like(state["catalogue"])
    catalogue[:, :kept] = fitted["catalogue"][:, :kept]
    described = {name: value for name, value in state.items() if name.startswith("numbers_")}
    twin.load_state_dict({**fitted, **described, "catalogue": catalogue})
    return twin


def split_places(rows: int, fit: TableFit, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Splits the numbers of rows at random into those of training, validation and test rows.

    Raises:
        ValueError: If a part would have fewer than two rows.
    """
    order = torch.randperm(rows, generator=generator)
    ends = round(fit.train * rows), round((fit.train + fit.validation) * rows)
    train, validation, test = parts = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]
    if min(map(len, parts)) < 2:
        raise ValueError(
            f"expected enough rows for two in each of training, validation and test, got {rows} rows, "
            f"split into {' + '.join(str(len(part)) for part in parts)}"
        )
    return train, validation, test


def predict_rows(net: EstimatorNet, rows: TableRows) -> Tensor:
    """Scores encoded rows, ``(rows,)``, without gradient."""
    with torch.no_grad():
        catalogue = _catalogue(net)
        parts = [rows[part] for part in torch.arange(len(rows)).split(16_384)]
        return torch.cat(
            [net(_vectors(catalogue, part.features), part.contexts, part.context_vectors) for part in parts]
        )


def fit_on_table(
    net: EstimatorNet,
    train: TableRows,
    validation: TableRows,
    fit: TableFit,
    generator: torch.Generator,
    report: FitProgress,
    kept: KeptFit | None = None,
) -> int:
    """Fits a network by squared error with AdamW; keeps the averaged weights with the best validation error.

    The weights are averaged exponentially. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
    Generalization" (2018), use an equal average.

    Args:
        net: A network with a vocabulary, changed in place.
        train: Rows to fit on.
        validation: Rows that decide when to stop.
        fit: Epochs, patience and step sizes.
        generator: Random generator of the order of the rows.
        report: Called with the number of gradient steps and the validation RMSE after each epoch, and with the number
            of steps and None every 50 steps.
        kept: Where the state of the fit is kept; one that is there is gone on with.

    Returns:
        The epoch whose weights were kept.

    Raises:
        ValueError: If the validation error is finite after no epoch.
    """
    net.offset.fill_(train.score.mean())
    net.scale.fill_(train.score.std().clamp_min(1e-12))
    running, steps = _RunningFit(net, fit), fit.steps_per_epoch(len(train))
    for epoch in KeptLoop(kept, running.tensors(), generator, running.optimizer).steps(fit.epochs):
        if epoch - running.best_epoch >= fit.patience:
            break
        visited = torch.randperm(len(train), generator=generator)[:EPOCH_ROWS]
        for step, part in enumerate(visited.split(fit.batch_size), start=epoch * steps + 1):
            running.step(table_loss(net, train[part], fit.swap_linearity, generator))
            if step % STEPS_BETWEEN_REPORTS == 0:
                report(step, None)
        error = _validation_error(running.averaged, validation)
        running.end_epoch(epoch + 1, error)
        report((epoch + 1) * steps, error)
    if not running.best_epoch:
        raise ValueError("expected a finite validation error after one of the epochs, got none: lower the step size")
    net.load_state_dict(running.best)
    return running.best_epoch


class _RunningFit:
    """A fit between two of its epochs: the network, the average of its weights, and the best average so far."""

    def __init__(self, net: EstimatorNet, fit: TableFit) -> None:
        self._net = net
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay)
        self._average = AveragedModel(net, avg_fn=_running_average)
        self.best = {name: value.clone() for name, value in net.state_dict().items()}
        self._best_error = torch.tensor(float("inf"), dtype=torch.float64)
        self._best_epoch = torch.tensor(0)

    @property
    def averaged(self) -> EstimatorNet:
        """The network with averaged weights."""
        return cast(EstimatorNet, self._average.module)

    @property
    def best_epoch(self) -> int:
        """The epoch after which the averaged weights had the lowest validation error."""
        return int(self._best_epoch)

    def step(self, loss: Tensor) -> None:
        """Takes a step down the loss."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._average.update_parameters(self._net)

    def end_epoch(self, epoch: int, error: float) -> None:
        """Keeps the averaged weights if their validation error is the lowest."""
        if error < self._best_error:
            for name, value in self.averaged.state_dict().items():
                self.best[name].copy_(value)
            self._best_error.fill_(error)
            self._best_epoch.fill_(epoch)

    def tensors(self) -> dict[str, Tensor]:
        """Returns all tensors that the fit changes."""
        found = weights_of(self._net, "net") | weights_of(self._average, "average")
        found |= {f"best.{name}": value for name, value in self.best.items()}
        return found | {"best_error": self._best_error, "best_epoch": self._best_epoch}


def swapped_rows(features: Tensor, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
    """Returns rows of which one random feature has a random category, ``(rows, features)``."""
    slot = torch.randint(len(sizes), (len(features),), generator=generator)
    category = torch.rand(len(features), generator=generator) * torch.tensor(sizes)[slot]
    swapped = features.clone()
    swapped[torch.arange(len(features)), slot] = category.long()
    return swapped


def _validation_error(net: EstimatorNet, rows: TableRows) -> float:
    # The split was random, so the first rows are a random sample.
    measured = rows if len(rows) <= EPOCH_ROWS else rows[torch.arange(EPOCH_ROWS)]
    return float((predict_rows(net, measured) - measured.score).square().mean().sqrt())


def _running_average(averaged: Tensor, current: Tensor, steps: int | Tensor) -> Tensor:
    # The decay grows from 0.1, since the first weights are random and small tables take few steps.
    decay = min(WEIGHT_AVERAGE_DECAY, float((1 + steps) / (10 + steps)))
    return torch.lerp(current, averaged, decay)


def _catalogue(net: EstimatorNet) -> Tensor:
    catalogue = net.candidates()
    assert catalogue is not None
    return catalogue


def _vectors(catalogue: Tensor, features: Tensor) -> Tensor:
    return catalogue[torch.arange(len(catalogue)), features]


def table_loss(net: EstimatorNet, batch: TableRows, swap_linearity: float, generator: torch.Generator) -> Tensor:
    """Returns the squared error in standard deviations plus the penalty on scores that are not linear along swaps."""
    swapped = swapped_rows(batch.features, net.shape.vocabulary, generator)
    catalogue = _catalogue(net)
    vectors, others = _vectors(catalogue, batch.features), _vectors(catalogue, swapped)
    share = torch.rand(len(batch), generator=generator)
    between = torch.lerp(vectors, others, share[:, None, None])
    stacked = torch.stack([vectors, others, between])
    scores, other_scores, between_scores = net(stacked, batch.contexts, batch.context_vectors) / net.scale
    straight = torch.lerp(scores, other_scores, share).detach()
    error = nn.functional.mse_loss(scores, batch.score / net.scale)
    return error + swap_linearity * nn.functional.mse_loss(between_scores, straight)
