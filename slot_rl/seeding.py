"""Random numbers without global state: every draw in slot_rl comes from a generator that somebody seeded.

PyTorch initialises layers from its global generator and offers no other way, so networks are built inside
:func:`seeded_initialisation`, which borrows that generator and puts it back as it was.
"""

import operator
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsIndex

import torch

Seed = SupportsIndex | None
SEEDS = 2**32
"""Seeds lie below this number, which every generator takes."""


def as_seed(seed: Seed) -> int:
    """Returns a seed as a plain number; a new one for None, as Stable-Baselines3 takes it.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is negative or too large.
    """
    if seed is None:
        return secrets.randbelow(SEEDS)
    number = _whole(seed)
    if not 0 <= number < SEEDS:
        raise ValueError(f"expected 0 <= seed < 2**32, got {number}")
    return number


def whole_or_none(seed: Seed) -> int | None:
    """Returns a seed for Gymnasium, which takes Python's numbers alone; numpy's become those.

    Raises:
        TypeError: If it is no whole number.
    """
    return None if seed is None else _whole(seed)


def _whole(seed: SupportsIndex) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"expected a whole number as seed, got {type(seed).__name__}")
    return operator.index(seed)


def check_default_dtype() -> None:
    """Raises ValueError if torch's default type is not float32, in which observations, weights and scores are."""
    if torch.get_default_dtype() != torch.float32:
        raise ValueError(f"expected torch's default dtype float32, got {torch.get_default_dtype()}")


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Builds layers reproducibly and leaves the global generator as found.

    Args:
        seed: Seed of the initial weights.

    Yields:
        Nothing; layers constructed inside the block take their weights from ``seed``.

    Raises:
        ValueError: As :func:`check_default_dtype`.
    """
    check_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def generator_from(seed: int) -> torch.Generator:
    """Returns a CPU generator seeded with ``seed``."""
    return torch.Generator().manual_seed(seed)
