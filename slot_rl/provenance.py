"""What a result depends on: the command, its flags, and the versions of the packages that shape it."""

import json
import os
import platform
import subprocess
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


def git_state() -> dict[str, Any] | None:
    """Returns the commit of the working folder, and whether tracked files differ from it; None if there is none."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit, or it takes too long
        return None


def provenance(config: Any) -> dict[str, Any]:
    """Returns the command, its flags (a dataclass), the versions and the commit, ready for JSON; paths become text."""
    flags = json.loads(json.dumps(asdict(config), default=str))
    return {"command": command_line(), "config": flags, "versions": versions(), "git": git_state()}


def _git(*words: str) -> str:
    # Without what a repository's own config would have executed, and without a lock in it.
    command = ["git", "-c", "core.fsmonitor=false", *words]
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5, env=variables)
    return found.stdout.strip()
