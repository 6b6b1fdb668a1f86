"""slot_rl: policies that name a high-scoring configuration of a frozen estimator in one forward pass.

Importing the package registers its environments with Gymnasium and nothing more: torch, Stable-Baselines3 and wandb
load where they are used.
"""

import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if any(Path(program).stem == "slot-rl" for program in sys.argv[:1]):  # an embedded Python has no arguments
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the command imports: no traceback

from slot_rl.envs.registration import register_envs

if TYPE_CHECKING:
    from slot_rl.example_tables import example
    from slot_rl.problems import Observation, Problem, RowProblem, SlotProblem, make_problem
    from slot_rl.recommending import Recommender
    from slot_rl.runs import TrainedRun, fit_table, load, train

__version__ = "0.1.0"
__all__ = [
    "Observation",
    "Problem",
    "Recommender",
    "RowProblem",
    "SlotProblem",
    "TrainedRun",
    "example",
    "fit_table",
    "load",
    "make_problem",
    "train",
]

_HOMES = {
    "example": "example_tables",
    "fit_table": "runs",
    "train": "runs",
    "load": "runs",
    "TrainedRun": "runs",
    "Recommender": "recommending",
}

register_envs()


def __getattr__(name: str) -> Any:
    if name == "compare":
        return import_module("slot_rl.compare")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'problems')}"), name)
