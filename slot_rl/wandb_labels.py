"""Where a run goes on Weights & Biases, and what it is found by: flags, then variables, then names of our own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slot_rl.documents import as_declared

PROJECT = "slot_rl"
RUN_LABELS = "labels"
"""The key of a run's config that holds its :class:`WandbLabels`."""
VARIABLES = ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_NAME", "WANDB_TAGS", "WANDB_RUN_GROUP")
LONGEST_TAG = 64
NO_PROJECT, NO_GROUP = "/\\#?%:", "=<>"
"""Letters that Weights & Biases refuses in a project's name, and that a dashboard cannot filter a group by."""


@dataclass(frozen=True)
class WandbLabels:
    """What Weights & Biases finds and groups a run by.

    Attributes:
        name: The run's name.
        group: Runs that belong together.
        job_type: What the run does: an agent's name, or ``"comparison"``.
        tags: Further words to filter by.
        project: The project.
        entity: The user or team that has the project; None for the one who is logged in.
    """

    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    project: str = PROJECT
    entity: str | None = None


@dataclass(frozen=True)
class WandbFlags:
    """What a user says of a run on Weights & Biases.

    Attributes:
        wandb_project: The project; WANDB_PROJECT if left out, slot_rl without it.
        wandb_entity: The user or team that has the project; WANDB_ENTITY if left out.
        wandb_name: The run's name; WANDB_NAME if left out. In a comparison, of the run with the tables and pictures.
        wandb_tags: Tags besides the agent and the version; WANDB_TAGS, separated by commas, if left out.
        wandb_group: The group; WANDB_RUN_GROUP if left out, <env>@<timesteps> without it. A comparison of several tasks
            has a group for each, <group>__<task>.
    """

    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_name: str | None = None
    wandb_tags: tuple[str, ...] = ()
    wandb_group: str | None = None

    def __post_init__(self) -> None:
        """Refuses what Weights & Biases or a dashboard would refuse later."""
        for sign in NO_PROJECT:
            if sign in (self.wandb_project or ""):
                raise ValueError(f"expected a project without {' '.join(NO_PROJECT)}, got {self.wandb_project!r}")
        for sign in NO_GROUP:
            if sign in (self.wandb_group or ""):
                raise ValueError(f"expected a group without {' '.join(NO_GROUP)}, got {self.wandb_group!r}")
        for tag in self.wandb_tags:
            if not 1 <= len(tag) <= LONGEST_TAG:
                raise ValueError(f"expected tags of 1 to {LONGEST_TAG} characters, got {tag!r}")

    def with_variables(self) -> "WandbFlags":
        """Returns the flags, those that are left out from the variables.

        Raises:
            ValueError: If a variable holds what a flag may not hold.
        """
        tags = tuple(tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip())
        return WandbFlags(
            self.wandb_project or os.environ.get("WANDB_PROJECT") or None,
            self.wandb_entity or os.environ.get("WANDB_ENTITY") or None,
            self.wandb_name or os.environ.get("WANDB_NAME") or None,
            self.wandb_tags or tags,
            self.wandb_group or os.environ.get("WANDB_RUN_GROUP") or None,
        )

    def over(self, labels: WandbLabels) -> WandbLabels:
        """Returns labels with what is given here in place of what they have; tags come to theirs."""
        return WandbLabels(
            self.wandb_name or labels.name,
            self.wandb_group or labels.group,
            labels.job_type,
            tuple(dict.fromkeys((*labels.tags, *self.wandb_tags))),
            self.wandb_project or labels.project,
            self.wandb_entity or labels.entity,
        )


NO_FLAGS = WandbFlags()
"""Nothing is said."""


def labels_of_run(config: Mapping[str, Any], where: str) -> WandbLabels:
    """Returns the labels that a run began with; what an earlier version left out comes from the variables.

    Raises:
        ValueError: If the config has none.
    """
    labels = config.get(RUN_LABELS)
    if not isinstance(labels, dict):
        raise ValueError(f"expected the config of a run in {where} with {RUN_LABELS}, got one of an earlier version")
    found = as_declared(WandbLabels, labels, f"{RUN_LABELS} in {where}")
    return found if "project" in labels else WandbFlags().with_variables().over(found)
