"""A fit that is under way, kept on disk, so that the same command goes on with it after a kill."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from slot_rl.io import BundleError, read_bundle, write_bundle

KIND, DOCUMENT = "fit", "fit.json"
FitState = tuple[dict[str, Tensor], dict[str, Any]]


class KeptFit:
    """The folder of a fit's state.

    Attributes:
        folder: The folder; it is there while the fit is under way.
    """

    def __init__(self, folder: Path, key: str, seconds: float = 60.0) -> None:
        """Takes what tells fits apart.

        Args:
            folder: The folder.
            key: A hash of all that the fit depends on; the state of another fit is left out.
            seconds: Seconds between two writes.
        """
        self.folder, self._key, self._seconds = folder, key, seconds
        self._written = time.monotonic()

    def read(self) -> FitState | None:
        """Returns what was written of this fit, tensors by name and JSON-ready values; None if there is nothing."""
        try:
            tensors, document = read_bundle(self.folder, KIND, DOCUMENT)
        except BundleError:
            return None
        return (tensors, document) if document.get("key") == self._key else None

    def write(self, make: Callable[[], FitState]) -> None:
        """Writes a state, if it is time to."""
        if time.monotonic() - self._written >= self._seconds:
            tensors, document = make()
            with suppress(OSError):  # a full disk does not end the fit
                write_bundle(self.folder, KIND, tensors, {**document, "key": self._key}, DOCUMENT)
            self._written = time.monotonic()

    def remove(self) -> None:
        """Removes the state of a fit that is over."""
        shutil.rmtree(self.folder, ignore_errors=True)
