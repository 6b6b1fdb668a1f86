"""Shared by all tests: one torch thread, the real landscapes where they are, and small tables."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
LANDSCAPES = ROOT.parent / "shared" / "data"

torch.set_num_threads(1)


@pytest.fixture
def landscape() -> Callable[[str], Path]:
    """Returns a function that finds a real landscape by file name, or skips the test where it is absent."""

    def find(name: str) -> Path:
        path = LANDSCAPES / name
        if not path.is_file():
            pytest.skip(f"needs the landscape {name}")
        return path

    return find
