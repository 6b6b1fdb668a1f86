"""Random numbers without global state: every draw in slot_rl comes from a generator that somebody seeded.

PyTorch initialises layers from its global generator and offers no other way, so networks are built inside
:func:`seeded_initialisation`, which borrows that generator and puts it back as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Builds layers reproducibly and leaves the global generator as found.

    Args:
        seed: Seed of the initial weights.

    Yields:
        Nothing; layers constructed inside the block take their weights from ``seed``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def generator_from(seed: int) -> torch.Generator:
    """Returns a CPU generator seeded with ``seed``."""
    return torch.Generator().manual_seed(seed)
