"""States of modules, optimisers and memories as tensors by name, as checkpoints hold them."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from slot_rl.io import BundleError


class Memory(Protocol):
    """Rows that a training remembers."""

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Returns the rows by name, and how many were added in all."""
        ...

    def restore(self, parts: Mapping[str, Tensor], added: int) -> None:
        """Takes back what :meth:`state` gave."""
        ...


def weights_of(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Returns a module's weights and buffers by names that begin with its own."""
    return {f"{name}.{part}": value for part, value in module.state_dict().items()}


def restore_weights(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Takes back what :func:`weights_of` gave; raises :class:`BundleError` if it does not fit."""
    try:
        module.load_state_dict(parts_of(tensors, name))
    except RuntimeError as error:
        raise BundleError(
            "expected a checkpoint of an agent for this environment, got one whose weights do not fit: "
            + " ".join(str(error).split())[:300]
        ) from error


def optimizer_state(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """Returns an optimiser's moments by names that begin with its own."""
    moments: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{name}.{i}.{part}": value for i, entry in moments.items() for part, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], name: str) -> None:
    """Takes back what :func:`optimizer_state` gave."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in parts_of(tensors, name).items():
        i, part = key.split(".")
        moments.setdefault(int(i), {})[part] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def with_memory(
    tensors: dict[str, Tensor], document: dict[str, Any], name: str, memory: Memory
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns a state with that of a memory added, under its name."""
    parts, added = memory.state()
    return tensors | {f"{name}.{part}": rows for part, rows in parts.items()}, {**document, name: added}


def restore_memory(tensors: dict[str, Tensor], document: dict[str, Any], name: str, memory: Memory) -> None:
    """Takes back what :func:`with_memory` gave; without it the memory stays empty."""
    if name in document:
        memory.restore(parts_of(tensors, name), document[name])


def parts_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a name and a dot, without both."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
