"""A fit that is under way, kept on disk, so that the same command goes on with it after a kill."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slot_rl.io import BundleError, read_bundle, write_bundle
from slot_rl.saved_state import optimizer_state, parts_of, restore_optimizer

KIND, DOCUMENT = "fit", "fit.json"


class KeptFit:
    """The folder of a fit's states: one for each of its loops, by their order.

    Attributes:
        folder: The folder; it is there while the fit is under way.
        seconds: Seconds between two writes of a loop.
    """

    def __init__(self, folder: Path, key: str, seconds: float = 60.0) -> None:
        """Takes what tells fits apart.

        Args:
            folder: The folder.
            key: A hash of all that the fit depends on; the states of another fit are left out.
            seconds: Seconds between two writes of a loop.
        """
        self.folder, self.seconds, self._key = folder, seconds, key
        self._loops = 0

    def next_loop(self) -> int:
        """Returns the number of the loop that begins now, which is the same whenever the fit is begun again."""
        self._loops += 1
        return self._loops

    def read(self, loop: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns what was written of a loop, tensors by name and JSON-ready values; None if there is nothing."""
        try:
            tensors, document = read_bundle(self.folder / str(loop), KIND, DOCUMENT)
        except BundleError:
            return None
        return (tensors, document) if document.get("key") == self._key else None

    def write(self, loop: int, tensors: Mapping[str, Tensor], step: int) -> None:
        """Writes the state of a loop after a step."""
        with suppress(OSError, BundleError):  # neither a full disk nor a weight that is not finite ends the fit
            write_bundle(self.folder / str(loop), KIND, tensors, {"step": step, "key": self._key}, DOCUMENT)

    def remove(self) -> None:
        """Removes the states of a fit that is over."""
        shutil.rmtree(self.folder, ignore_errors=True)


class KeptLoop:
    """A loop of a fit that goes on from its last state, with the same results bit for bit.

    Attributes:
        done: Steps that are over.
    """

    def __init__(
        self,
        kept: KeptFit | None,
        tensors: Mapping[str, Tensor],
        generator: torch.Generator,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Takes back the last state, if there is one.

        Args:
            kept: Where states are; None for a fit that is not kept.
            tensors: All tensors that a step changes, by name; they are changed in place.
            generator: The generator that steps draw from.
            optimizer: The optimiser, if there is one. Its step size is the caller's to set.
        """
        self._kept, self._tensors, self._generator, self._optimizer = kept, tensors, generator, optimizer
        self.done, self._number, self._written = 0, 0, time.monotonic()
        if kept is not None:
            self._number = kept.next_loop()
            if (found := kept.read(self._number)) is not None and self._fits(found[0]):
                self._restore(*found)

    def steps(self, total: int) -> Iterator[int]:
        """Yields the numbers, from 0, of the steps that are left; now and then, and after the last one, writes."""
        for step in range(self.done, total):
            yield step
            self.done = step + 1
            if self._kept is None:
                continue
            if self.done == total or time.monotonic() - self._written >= self._kept.seconds:
                self._kept.write(self._number, self._state(), self.done)
                self._written = time.monotonic()

    def _state(self) -> dict[str, Tensor]:
        tensors = {f"tensors.{name}": value for name, value in self._tensors.items()}
        moments = {} if self._optimizer is None else optimizer_state(self._optimizer, "optimizer")
        return tensors | moments | {"generator": self._generator.get_state()}

    def _fits(self, tensors: dict[str, Tensor]) -> bool:
        """Returns whether a state is of this loop; that of other code may not be."""
        shapes = {name: value.shape for name, value in parts_of(tensors, "tensors").items()}
        return shapes == {name: value.shape for name, value in self._tensors.items()}

    def _restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        found = parts_of(tensors, "tensors")
        with torch.no_grad():
            for name, value in self._tensors.items():
                value.copy_(found[name])
        if self._optimizer is not None:
            restore_optimizer(self._optimizer, tensors, "optimizer")
        self._generator.set_state(tensors["generator"])
        self.done = document["step"]


def one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, total: int, done: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Returns a one-cycle schedule of a loop of which some steps are done."""
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=total)
    if done:
        # Its numbers are those of the optimiser by now.
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=total, last_epoch=done - 1)
    return schedule
