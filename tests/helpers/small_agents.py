"""Options with which every agent that learns makes an update in milliseconds, and what such a training leaves."""

from pathlib import Path
from typing import Any

from slot_rl.io import read_json
from slot_rl.metrics_file import read_metrics
from tests.helpers.options import options_of

TINY: dict[str, dict[str, Any]] = {
    "policy": {"width": 8, "hidden": 16, "rounds": 1},
    "learned_critic": {"actor_steps": 1, "actor_batch": 8, "fit_steps": 4, "fewest_steps": 2},
    "ppo": {"minibatch_size": 16},
    "maskable_ppo": {"minibatch_size": 16},
    "multistart": {"rank_starts": 2},
    "expert_iteration": {"replay_size": 5},
    "aligned": {"aligner_steps": 3},
    "gumbel": {"tau_end": 0.1, "tau_schedule": "linear"},
}
"""By the agent's name, and the sizes of the policy. Some are chosen so that a state holds more."""


def tiny(name: str, **changes: Any) -> Any:
    """Returns an agent's options for updates of 32 calls."""
    return options_of(name, batch_size=32, **TINY["policy"], **TINY.get(name, {}), **changes)


def left_in(run: Path) -> dict[str, Any]:
    """Returns what a run left in its folder, without times and checksums."""
    points = read_metrics(run / "metrics.jsonl")
    summary = read_json(run / "summary.json")
    return {
        "metrics": [{key: value for key, value in point.items() if not key.startswith("time/")} for point in points],
        "summary": {key: value for key, value in summary.items() if not key.endswith("_seconds")},
        "weights": sorted(path.name for path in (run / "checkpoint").iterdir()),
        "curve": (run / "learning_curve.png").read_bytes(),
    }
