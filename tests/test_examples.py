"""Other people's code in examples/ learns: what each file prints beats random choices, and a collapsed policy.

A policy that gives the same answer to every request gets what random choices get, since items come in a random order.
Random choices get -1/3 on PickValue, whose scores are at most 0, and 0 on Slots.
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PICK_VALUE, SLOTS = -4 / 12, 0.0
"""What random choices get."""
RLLIB = "tree"
"""A package that RLlib needs and ray does not."""


def rewards(*command: str) -> tuple[float, float, str]:
    """Runs an example; returns the mean rewards of what was learned and of random choices, and all that is printed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ((learned, chance),) = re.findall(r"mean reward (-?[\d.]+), where random choices get (-?[\d.]+)", done.stdout)
    return float(learned), float(chance), done.stdout


def of(module: str) -> pytest.MarkDecorator:
    """Skips where a package is missing."""
    return pytest.mark.skipif(find_spec(module) is None, reason=f"needs {module}")


def heavy(name: str, flags: str, module: str, random: float, least: float) -> object:
    return pytest.param(name, flags, random, least, marks=(pytest.mark.slow, of(module)), id=f"{name} {flags}")


def light(name: str, flags: str, module: str, random: float, least: float) -> object:
    return pytest.param(name, flags, random, least, marks=of(module), id=f"{name} {flags}")


CASES = [
    light("sb3_algorithms.py", "--algorithm ppo --timesteps 5120", "stable_baselines3", PICK_VALUE, -0.1),
    light("sb3_algorithms.py", "--algorithm a2c --timesteps 10240", "stable_baselines3", PICK_VALUE, -0.1),
    light("sb3_maskable_ppo.py", "--timesteps 10240", "sb3_contrib", SLOTS, 0.08),
    light("cleanrl_ppo.py", "--timesteps 30720", "torch", SLOTS, 0.1),
    heavy("sb3_algorithms.py", "--algorithm trpo --timesteps 1280", "sb3_contrib", PICK_VALUE, -0.2),
    heavy("torchrl_gym.py", "--form id --frames 16384", "torchrl", PICK_VALUE, -0.25),
    heavy("torchrl_gym.py", "--form object --frames 16384", "torchrl", PICK_VALUE, -0.25),
    heavy("torchrl_gym.py", "--form masked --frames 8192", "torchrl", SLOTS, 0.08),
    heavy("rllib_ppo.py", "--iterations 8", RLLIB, PICK_VALUE, -0.2),
    heavy("rllib_ppo.py", "--masked --iterations 8", RLLIB, SLOTS, 0.15),
]


@pytest.mark.parametrize(("name", "flags", "random", "least"), CASES)
def test_an_example_learns(name: str, flags: str, random: float, least: float) -> None:
    learned, chance, _ = rewards(str(EXAMPLES / name), *flags.split())
    assert learned > least > random
    assert chance == pytest.approx(random, abs=0.12)


@pytest.mark.slow
def test_two_processes_learn_and_keep_the_same_weights() -> None:
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 2".split()
    learned, _, said = rewards(*launcher, str(EXAMPLES / "torchrun_gloo.py"), "--iterations", "300")
    assert learned > -0.23 > PICK_VALUE
    assert "2 processes agree" in said


def test_every_example_is_tried_and_described() -> None:
    tried = {str(case.values[0]) for case in CASES} | {"torchrun_gloo.py"}  # type: ignore[attr-defined]
    assert tried == {path.name for path in EXAMPLES.glob("*.py")}
    page = (ROOT / "docs" / "other_rl_code.md").read_text(encoding="utf-8")
    assert tried == set(re.findall(r"examples/(\w+\.py)", page))
