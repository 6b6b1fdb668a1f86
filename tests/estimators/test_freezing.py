"""Freezing: whatever leads to a module is called as a copy in eval mode, and the caller's module stays as it was."""

import copy
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slot_rl.estimators.freezing import estimator_name, frozen

NET = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
FILE = ModuleType("somebodys_file")
FILE.net = NET  # type: ignore[attr-defined]


def by_global(items: Tensor) -> Any:
    return NET(items)


def again(items: Tensor, times: int = 2) -> Any:
    return again(items, times - 1) if times else NET(items)


def by_file(items: Tensor) -> Any:
    return FILE.net(items)


class Around:
    """Holds a module, a method of its own, and itself."""

    def __init__(self) -> None:
        self.nets, self.itself, self.method = [{"net": NET}], self, self.score

    def score(self, items: Tensor) -> Any:
        return self.nets[0]["net"](items)

    def __call__(self, items: Tensor) -> Any:
        return self.itself.method(items)


class InSlots:
    __slots__ = ("net",)

    def __init__(self) -> None:
        self.net = NET

    def __call__(self, items: Tensor) -> Any:
        return self.net(items)


class InClass:
    net = NET

    def __call__(self, items: Tensor) -> Any:
        return self.net(items)


class Unregistered(nn.Module):
    """Whose module is in a plain list, where ``eval()`` does not reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [NET]

    def forward(self, items: Tensor) -> Any:
        return self.parts[0](items)


class ByGlobal(nn.Module):
    def forward(self, items: Tensor) -> Any:
        return by_global(items)


FOUND: dict[str, Callable[[], Any]] = {
    "a module": lambda: NET,
    "a bound method": lambda: NET.forward,
    "a global": lambda: by_global,
    "a function that calls itself": lambda: again,
    "a function of a function": lambda: lambda items: by_global(items),
    "a closure": lambda: (lambda net: lambda items: net(items))(NET),
    "a partial call": lambda: partial(lambda net, items: net(items), NET),
    "a decorator": lambda: torch.no_grad()(by_global),
    "an object": Around,
    "a method of an object": lambda: Around().score,
    "an object with slots": InSlots,
    "a list in a module": Unregistered,
}


@pytest.mark.parametrize("build", FOUND.values(), ids=FOUND)
def test_modules_are_found_and_frozen(build: Callable[[], Any]) -> None:
    items, before = torch.randn(5, 3, 2), copy.deepcopy(NET.state_dict())
    expected = copy.deepcopy(NET).eval()(items).detach()
    twin = frozen(build())
    for _ in range(2):
        score = twin(items)
        assert torch.equal(score, expected) and not score.requires_grad
    with torch.no_grad():
        NET.get_parameter("1.bias").add_(1)  # what the caller does to the module later is not seen
    assert torch.equal(twin(items), expected)
    with torch.no_grad():
        NET.get_parameter("1.bias").copy_(before["1.bias"])
    assert NET.training and all(part.requires_grad and part.grad is None for part in NET.parameters())
    assert all(torch.equal(part, before[name]) for name, part in NET.state_dict().items())


@pytest.mark.parametrize("score", [InClass(), by_file, ByGlobal()])
def test_what_cannot_be_copied_along_must_be_frozen_already(score: Any) -> None:
    with pytest.raises(ValueError, match=f"expected {estimator_name(score)} to use frozen modules, got a Seq"):
        frozen(score)
    NET.eval().requires_grad_(False)
    try:
        assert frozen(score)(torch.zeros(2, 3, 2)).shape == (2, 1)
    finally:
        NET.train().requires_grad_(True)


def test_a_trainable_tensor_gets_no_gradient() -> None:
    weight = nn.Parameter(torch.tensor(2.0))
    twin = frozen(lambda items: items * weight)
    items = torch.ones(3, requires_grad=True)
    twin(items).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None and weight.requires_grad
    assert items.grad is not None and items.grad.tolist() == [2.0] * 3


def test_what_leads_to_no_module_is_returned_unchanged() -> None:
    known = {"rows": torch.zeros(3)}
    for score in (lambda items: items + known["rows"], torch.sum, partial(torch.sum, dim=-1), known.get):
        assert frozen(score) is score


def test_messages_name_functions_methods_and_types() -> None:
    assert estimator_name(by_global) == estimator_name(partial(by_global)) == "by_global"
    assert estimator_name(NET) == "Sequential" and estimator_name(Around().score) == "Around.score"
    assert estimator_name(lambda items: items).startswith("the lambda at test_freezing.py:")
