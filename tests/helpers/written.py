"""Small files of every kind that the program reads back, and what reading them gives."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from slot_rl.agents import AGENTS, load_agent, make_agent
from slot_rl.agents.base import to_json
from slot_rl.campaign import Campaign
from slot_rl.checkpoints import newest_checkpoint, write_checkpoint
from slot_rl.compare.dashboard import read_comparison
from slot_rl.compare.one_run import complete
from slot_rl.compare.presets import AgentPreset, Presets, Tuning, read_presets, write_presets
from slot_rl.compare.results import read_results
from slot_rl.compare.study import Run, Tracking
from slot_rl.compare.task import parse_task
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape, load_estimator, save_estimator
from slot_rl.estimators.seen_rows import SeenRows
from slot_rl.estimators.slate_store import load_slates
from slot_rl.estimators.store import SHIPPED
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import BundleError, write_json
from slot_rl.problems import make_problem
from slot_rl.problems.constraints.written import ConstraintFlags
from slot_rl.runs import load
from slot_rl.seeding import generator_from, seeded_initialisation
from slot_rl.training import RunConfig, train_run
from tests.helpers.logged_table import ENCODING, all_rows, row_problem
from tests.helpers.options import options_of
from tests.helpers.small_agents import TINY


@dataclass(frozen=True)
class Written:
    """A kind of file.

    Attributes:
        name: What it is called.
        write: Writes it into an empty folder.
        read: Reads the folder as the program does; returns values that can be compared.
        patterns: The files that may be damaged.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    patterns: tuple[str, ...]

    def files(self, folder: Path) -> list[Path]:
        return sorted(path for pattern in self.patterns for path in folder.glob(pattern))


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def _agent(found: Any) -> Any:
    tensors, document = found.state()
    problem = found.problem
    choice = found.choose(problem.sample(3, generator_from(0)))
    assert bool(((choice >= 0) & (choice < torch.tensor(problem.sizes))).all())
    return _digest(tensors), document, to_json(found.options), found.seed, found.num_timesteps, choice.tolist()


def _small_agent() -> Any:
    agent = make_agent("gumbel", row_problem(), options_of("gumbel", batch_size=32, **TINY["policy"], **TINY["gumbel"]))
    return agent.learn(64)


def _write_training(folder: Path) -> None:
    watch = {
        "calls": [0.0, 32.0],
        "rows": [{"name": "policy", "calls": 0, "backwards": 0, "figures": {"score": 0.5, "gap": None}}],
        "next": 40.0,
        "wall_seconds": 1.5,
        "cpu_seconds": 1.25,
    }
    state = {"watch": watch, "budget": {"forwards": 64, "backwards": 64}, "pending": {"train/loss": 0.5, "x": None}}
    write_checkpoint(folder, _small_agent(), {**state, "metrics_lines": 3, "skipped": 0})


def _read_training(folder: Path) -> Any:
    said: list[str] = []
    found = newest_checkpoint(folder, said.append)
    if found is None:
        raise BundleError(" ".join(said))
    return found.training


def _write_estimator(folder: Path) -> None:
    with seeded_initialisation(5):
        net = EstimatorNet(EstimatorShape(3, 4, (8,), (4, 4, 3), (3,)))
    contexts, choices = all_rows()
    known = torch.arange(3).unsqueeze(1)
    seen = SeenRows.of(choices, contexts, torch.arange(len(choices), dtype=torch.float64), known, False, 0.25)
    card = {"command": "none", "seed": 0, "test": {"r2": 0.5}, "table": "table.csv"}
    save_estimator(folder, net, card, ENCODING, known, seen)


def _estimator(folder: Path) -> Any:
    found, problem = load_estimator(folder), make_problem("SlotRL/Rows-v0", folder)
    observation = problem.sample(2, generator_from(0))
    problem.score(observation, torch.zeros(2, problem.slots, dtype=torch.long))
    assert found.encoding is not None and found.contexts is not None and found.seen is not None
    seen = {name: getattr(found.seen, name) for name in ("choice", "score", "counts")}
    parts = {**found.net.state_dict(), "contexts": found.contexts, **seen}
    return _digest(parts), dict(found.card), found.encoding.to_json(), found.seen.censored, found.seen.error


def _write_slates(folder: Path) -> None:
    shutil.copytree(SHIPPED / "slate-v0", folder, dirs_exist_ok=True)


def _slates(folder: Path) -> Any:
    found = load_slates(folder)
    make_problem("SlotRL/Slate-v0", folder)
    columns = found.item_columns.to_json(), found.request_columns.to_json()
    return _digest(dict(found.net.state_dict())), dict(found.card), found.slots, found.item_ids, columns


def _write_run(folder: Path) -> None:
    run = RunConfig(
        env="SlotRL/PickValue-v0",
        timesteps=64,
        out=folder / "run",
        wandb="disabled",
        constraints=ConstraintFlags(fixed=("slot_1=3",)),
        evaluation=EvaluationConfig(eval_size=3),
    )
    train_run("random", run, AGENTS["random"].options)


def _run(folder: Path) -> Any:
    found = load(folder / "run")
    # What the summary says of the training, and what the config says of the problem.
    choice = found.agent.choose(found.problem.sample(2, generator_from(0)))
    return found.problem.name, choice.tolist(), found.agent.seed, found.summary


def _write_campaign(folder: Path) -> None:
    rows = pd.DataFrame({"base": ["KOH", "NaH", "-"], "time": ["1", "2", "1"], "yield": [1.0, 2.5, None]})
    listed = pd.DataFrame({"base": ["KOH", "NaH", "-", "KOH"], "time": ["1", "2", "1", "2"]})
    campaign = Campaign.start(rows, "yield", candidates=listed, folder=folder)
    campaign.tell([{"base": "KOH", "time": "2"}], [4.0])


def _campaign(folder: Path) -> Any:
    found = Campaign.load(folder)
    assert found._candidates is not None
    rows = found.measured.fillna(-1).to_dict("list"), found.named(found._candidates).to_dict("list")
    return rows, found.encoding.to_json(), found._seed, found.rounds


STUDY_RUN = Run(
    parse_task("SlotRL/PickValue-v0"),
    "random",
    "random",
    to_json(options_of("random")),
    0,
    64,
    EvaluationConfig(eval_size=3),
    tracking=Tracking("disabled"),
)


def _write_comparison(folder: Path) -> None:
    complete(STUDY_RUN, folder, lambda progress: None)
    write_json(STUDY_RUN.folder(folder) / "serving.json", {"search": [[0, 0.5], [2, 0.75]]})
    times = {"call": {"forward": 1e-6, "both": 3e-6}, "ways": {"search": [[0, 0.5, 0.5, 0.0], [2, 0.75, 0.7, 2.0]]}}
    write_json(STUDY_RUN.folder(folder) / "serving_times.json", times)


def _comparison(folder: Path) -> Any:
    found = read_results([STUDY_RUN], folder)
    return [frame.to_json() for frame in (found.runs, found.serving)]


def _write_document(folder: Path) -> None:
    tasks = [{"label": "one", "env": "SlotRL/Slots-v0", "timesteps": 500, "group": "one 500", "unmeasured": None}]
    known = {"agents": ["gumbel", "ppo"], "seeds": [1, 2, 3], "wandb_project": "p", "command": "c", "versions": {}}
    write_json(folder / "comparison.json", {**known, "tasks": tasks})
    (folder / "comparison").mkdir()
    published = {"name": "n", "tables": ["tables/runs"], "pictures": ["pictures/ranks"]}
    write_json(folder / "comparison" / "published.json", published)


def _write_presets(folder: Path) -> None:
    trials: tuple[dict[str, Any], ...] = ({}, {"entropy": 0.1, "policy": {"width": 16}}, {"batch_size": 64})
    tuning = Tuning(("SlotRL/Slots-v0",), (0, 1), 1_000, "python scripts/tune_presets.py")
    presets = Presets("SlotRL/Slots-v0", 3, tuning, {"gumbel": AgentPreset(trials, (0.5, 0.75, 0.25))})
    write_presets(folder / "Slots-v0.yaml", presets)


WRITTEN = (
    Written(
        "checkpoint",
        lambda folder: _small_agent().save(folder),
        lambda folder: _agent(load_agent(folder, SlotVecEnv(row_problem(), 2))),
        ("manifest.json", "*.safetensors"),
    ),
    Written("training", _write_training, _read_training, ("*/*.json",)),
    Written("estimator", _write_estimator, _estimator, ("card.json", "*.safetensors")),
    Written(
        "slate estimator",
        _write_slates,
        _slates,
        ("card.json", "*.safetensors"),
    ),
    Written("run", _write_run, _run, ("run/config.json", "run/summary.json")),
    Written("campaign", _write_campaign, _campaign, ("campaign.json", "*.csv")),
    Written("comparison", _write_comparison, _comparison, ("runs/*/s*.json",)),
    Written("comparison's document", _write_document, read_comparison, ("comparison.json", "comparison/*.json")),
    Written("presets", _write_presets, lambda folder: read_presets("SlotRL/Slots-v0", folder), ("Slots-v0.yaml",)),
)
