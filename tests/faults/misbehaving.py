"""Estimators of four items of one number, well-behaved but for one thing each: every function builds one.

The file is also given to commands as ``misbehaving.py:NAME``, so it imports nothing of the tests.
"""

from collections.abc import Callable
from functools import partial, wraps
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Score = Callable[[Tensor], Any]
LATER = 20
"""After so many calls an estimator begins to misbehave that is well-behaved at first."""


def total(items: Tensor) -> Tensor:
    return (items * torch.tensor([1.0, -2.0, 3.0, 0.5]).unsqueeze(-1)).sum(dim=(-1, -2))


class Net(nn.Module):
    """In training mode, its answer is another one each time, and it keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, items: Tensor) -> Tensor:
        score: Tensor = self.body(items.flatten(1)).squeeze(-1)
        return score


NET = Net()
"""The caller's module, which everything below leads to; it is in training mode."""


def good() -> Score:
    return total


def after(change: Score) -> Score:
    """Returns an estimator whose answers are changed after some calls."""
    calls = count()

    def score(items: Tensor) -> Any:
        return total(items) if next(calls) < LATER else change(items)

    return score


def raised(error: Exception) -> Any:
    raise error


def rare(value: float) -> Score:
    """Returns an estimator with one bad row in 100,000."""
    seen = [0]

    def score(items: Tensor) -> Tensor:
        found, place = total(items), 12_345 - seen[0]
        seen[0] += len(items)
        return torch.where(torch.arange(len(items)) == place, value, found)

    return score


def nan_once() -> Score:
    return rare(torch.nan)


def infinite_once() -> Score:
    return rare(torch.inf)


def scalar() -> Score:
    return lambda items: total(items).sum()


def two_columns() -> Score:
    return lambda items: torch.stack([total(items)] * 2, dim=-1)


def two_columns_later() -> Score:
    return after(lambda items: torch.stack([total(items)] * 2, dim=-1))


def column_later() -> Score:
    return after(lambda items: total(items).unsqueeze(-1))


def too_few_later() -> Score:
    return after(lambda items: total(items)[1:])


def whole_numbers() -> Score:
    return lambda items: total(items).long()


def numbers() -> Score:
    return lambda items: total(items).tolist()


def numbers_later() -> Score:
    return after(lambda items: total(items).tolist())


def other_device() -> Score:
    return lambda items: total(items).to("meta")


def double() -> Score:
    return lambda items: total(items.double())


def raises() -> Score:
    return lambda items: raised(RuntimeError("no\nweights"))


def raises_later() -> Score:
    return after(lambda items: raised(KeyError("no such row")))


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, items: Tensor) -> Tensor:
        return total(items)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("no backward")


def backward_raises() -> Score:
    return lambda items: NoBackward.apply(items)  # type: ignore[no-untyped-call]


def backward_raises_later() -> Score:
    return after(lambda items: NoBackward.apply(items))  # type: ignore[no-untyped-call]


def noise() -> Score:
    return lambda items: total(items) + torch.randn(len(items))


def noise_later() -> Score:
    return after(lambda items: total(items) + torch.randn(len(items)))


def drift() -> Score:
    calls = count()
    return lambda items: total(items) + 1e-4 * next(calls)


def training_mode() -> Score:
    return lambda items: total(nn.functional.dropout(items, 0.5))


def by_the_batch() -> Score:
    return lambda items: total(items - items.mean(dim=0))


def by_the_batch_later() -> Score:
    return after(lambda items: total(items - items.mean(dim=0)))


def in_place() -> Score:
    return lambda items: total(items.mul_(2))


def in_place_by_numpy() -> Score:
    def score(items: Tensor) -> Tensor:
        values = items.detach().numpy()
        np.multiply(values, 2, out=values)
        return total(items)

    return score


def in_place_by_numpy_later() -> Score:
    return after(in_place_by_numpy())


def in_place_later() -> Score:
    return after(lambda items: total(items.mul_(1)))


def huge() -> Score:
    return lambda items: total(items) * 1e30


def huge_slope() -> Score:
    return lambda items: (total(items) * 1e20).sin()


def constant() -> Score:
    return lambda items: total(items) * 0 + 3


def trainable() -> Score:
    weight = nn.Parameter(torch.ones(1))
    return lambda items: total(items) * weight


def module() -> Score:
    return NET


def by_closure() -> Score:
    net = NET
    return lambda items: net(items)


def by_global() -> Score:
    def score(items: Tensor) -> Any:
        return NET(items)

    return score


def by_default() -> Score:
    def score(items: Tensor, net: nn.Module = NET) -> Any:
        return net(items)

    return score


def by_partial() -> Score:
    return partial(lambda net, items: net(items), NET)


def by_decorator() -> Score:
    score = by_global()

    @wraps(score)
    def decorated(items: Tensor) -> Any:
        return score(items)

    return decorated


def by_bound_method() -> Score:
    return NET.forward


class Around:
    def __init__(self) -> None:
        self.parts = {"nets": [NET]}

    def __call__(self, items: Tensor) -> Any:
        return self.parts["nets"][0](items)

    def score(self, items: Tensor) -> Any:
        return self(items)


def by_object() -> Score:
    return Around()


def by_method_of_an_object() -> Score:
    return Around().score


class Held:
    net = NET

    def __call__(self, items: Tensor) -> Any:
        return self.net(items)


def by_class() -> Score:
    return Held()
