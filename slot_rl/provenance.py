"""What a result depends on: the command, its flags, and the versions of the packages that shape it."""

import json
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

PACKAGES = ("slot_rl", "torch", "numpy", "gymnasium", "stable-baselines3", "wandb")


def command_line() -> str:
    """Returns the command as it was typed."""
    return " ".join(["python", *sys.argv])


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that shape a result."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def provenance(config: Any) -> dict[str, Any]:
    """Returns the command, its flags (a dataclass) and the versions, ready for JSON; paths become text."""
    flags = json.loads(json.dumps(asdict(config), default=str))
    return {"command": command_line(), "config": flags, "versions": versions()}
