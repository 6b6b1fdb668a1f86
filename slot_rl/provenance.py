"""What a result depends on: versions, for configs and cards, and the whole provenance of a file of figures."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slot_rl.console import command_line

PACKAGES = ("slot_rl", "torch", "numpy", "gymnasium", "stable-baselines3", "wandb")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that shape a result."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def provenance(config: Any) -> dict[str, Any]:
    """Returns the command, its flags (a dataclass) and the versions, ready for JSON."""
    return {"command": command_line(), "config": _without_paths(asdict(config)), "versions": versions()}


def _without_paths(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_paths(value) if isinstance(value, dict) else str(value) if isinstance(value, Path) else value
        for key, value in values.items()
    }
