"""A trained policy alone: what answers, without what only a training needs, and without the estimator."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from slot_rl.agents import LearningAgent, load_agent
from slot_rl.agents.base import BUNDLE_KIND, MANIFEST, read_agent
from slot_rl.console import print_figures, say
from slot_rl.io import CHECKPOINT, read_config, write_bundle
from slot_rl.places import check_free, claimed, fresh_folder


@dataclass(frozen=True)
class ExportConfig:
    """Writes a run's policy alone: ``slot_rl.agents.load_agent(FOLDER)`` answers with it, without the estimator.

    The folder holds safetensors and JSON. Answers are numbers of items; ``recommend`` gives names.

    Attributes:
        run: The run's folder.
        out: Folder to write.
        force: Replace the policy that is already there.
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Path
    force: bool = False


def export(config: ExportConfig) -> None:
    """Writes the policy, reads it again, and says what it takes.

    Raises:
        ValueError: If the run has no whole checkpoint, its agent asks the estimator for each answer, or the folder is
            taken.
    """
    read_config(config.run)  # a folder that is no run has a message of its own
    tensors, document = read_agent(config.run / CHECKPOINT)
    agent = load_agent(config.run / CHECKPOINT)  # refused before anything is written
    assert isinstance(agent, LearningAgent)  # others need an environment
    of_training = {name.split(".")[0] for name in tensors} - agent.answers_from
    kept = {name: part for name, part in tensors.items() if name.split(".")[0] not in of_training}
    # A memory has its length in the document.
    said = {name: value for name, value in document.items() if name not in of_training | {"kind", "files"}}
    with claimed(config.out):
        check_free(config.out, config.force, MANIFEST)
        with fresh_folder(config.out, MANIFEST):
            write_bundle(config.out, BUNDLE_KIND, kept, said, MANIFEST)
    load_agent(config.out)
    _report(config, tensors, kept, said)


def _report(config: ExportConfig, tensors: dict[str, Tensor], kept: dict[str, Tensor], said: dict[str, Any]) -> None:
    figures = {"agent": str(said["agent"]), "problem": str(said["problem"]["name"])}
    figures |= {name: f"{part['kind']} {tuple(part['shape'])}" for name, part in said["problem"]["parts"].items()}
    figures |= {"weights": _size(kept), "weights of the run": _size(tensors)}
    print_figures("policy alone", figures)
    say(f"written: {config.out}; slot_rl.agents.load_agent({str(config.out)!r}) answers with it")


def _size(tensors: dict[str, Tensor]) -> str:
    return f"{sum(part.numel() * part.element_size() for part in tensors.values()):,} bytes"
