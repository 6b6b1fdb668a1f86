"""The versions that a run depends on, for its config and an estimator's card."""

import platform
from importlib.metadata import version

PACKAGES = ("slot_rl", "torch", "numpy", "gymnasium", "stable-baselines3", "wandb")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that shape a result."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
