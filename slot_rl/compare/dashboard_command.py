"""The command that publishes a comparison's dashboard, or writes down what it would publish.

Nothing is sent without a login, a dry run needs none, and neither ever stands in for the other.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from slot_rl.compare.dashboard import (
    ComparisonDocument,
    Dashboard,
    build_dashboard,
    read_comparison,
)
from slot_rl.compare.plan import COMPARISON
from slot_rl.compare.wandb import sync_command
from slot_rl.console import say
from slot_rl.io import check_out, write_json

SPECIFICATION = "dashboard.json"
NO_LOGIN = "expected a login to Weights & Biases (`wandb login`, or an API key in WANDB_API_KEY)"


@dataclass(frozen=True)
class DashboardConfig:
    """Publishes a comparison's dashboard on Weights & Biases; every call adds new workspaces and a new report.

    Attributes:
        folder: The comparison's folder.
        entity: Who the project belongs to; WANDB_ENTITY if left out, else whoever is logged in.
        project: The project; the comparison's own if left out.
        dry_run: Send nothing, and write what would be sent to a file; needs no login.
        out: The file of a dry run; dashboard.json in the comparison's folder if left out.
    """

    folder: Path
    entity: str | None = None
    project: str | None = None
    dry_run: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuses a file that nothing would be written to."""
        if self.out is not None and not self.dry_run:
            raise ValueError(f"expected --dry-run with --out, got --out {self.out} alone")


def publish_dashboard(config: DashboardConfig) -> None:
    """Builds a comparison's dashboard, saves it or writes it down, and prints how to send the runs it shows.

    Raises:
        ValueError: If the folder holds no comparison, wandb-workspaces is missing, or nobody is logged in; then nothing
            was sent. Also if Weights & Biases refuses.
    """
    comparison = read_comparison(config.folder)
    project = config.project or comparison.project
    if config.dry_run:
        dashboard = build_dashboard(comparison, config.entity or "", project)
        _write(dashboard, config, project)
    else:
        build_dashboard(comparison, "", project)  # whatever is wrong with the input shows before anything is asked
        _check_login()
        _save(build_dashboard(comparison, config.entity or _own_entity(), project))
    _print_sync(config, comparison)


def _write(dashboard: Dashboard, config: DashboardConfig, project: str) -> None:
    out = config.out or config.folder / SPECIFICATION
    check_out(out, force=True, suffixes=(".json",), inputs=(config.folder / COMPARISON,))
    write_json(out, {"entity": config.entity, "project": project, **dashboard.specification()})
    say(f"specification: {out}")


def _check_login() -> None:
    import wandb

    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        raise ValueError(f"expected WANDB_MODE to be online or unset for a dashboard that is sent, got {mode!r}")
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise ValueError(f"{NO_LOGIN}, got: {error}") from error
    if not known:
        raise ValueError(f"{NO_LOGIN}, got neither; nothing was sent")


def _own_entity() -> str:
    import wandb

    entity = os.environ.get("WANDB_ENTITY")
    try:
        entity = entity or wandb.Api().default_entity
    except Exception as error:
        raise _refused(error) from error
    if not entity:
        raise ValueError("expected --entity, since this login has no entity of its own, got none")
    return entity


def _save(dashboard: Dashboard) -> None:
    # The report first: saving it makes the project if nothing was synced yet. The library prints where each part is.
    for part in (dashboard.report, *dashboard.workspaces):
        try:
            part.save()
        except Exception as error:
            raise _refused(error) from error


def _refused(error: Exception) -> ValueError:
    # The library raises whatever its layers raise, plain Exception included.
    return ValueError(f"expected Weights & Biases to take the dashboard, got {type(error).__name__}: {error}")


def _print_sync(config: DashboardConfig, comparison: ComparisonDocument) -> None:
    elsewhere = config.project if config.project != comparison.project else None
    flags = [
        f"--{name} {shlex.quote(value)}" for name, value in (("entity", config.entity), ("project", elsewhere)) if value
    ]
    command = sync_command(config.folder, flags)
    if command is None:
        say(f"no offline runs in {config.folder}: nothing to sync")
        return
    say("the dashboard is empty until the runs are on the server; send them once with")
    say(command)
