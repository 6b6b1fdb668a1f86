"""Measures speed: ``benchmark.py env`` or ``benchmark.py selectors``; see --help."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from slot_rl.console import run

# The benchmarks stand beside the package and are not installed with it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed.environments import EnvBenchmark, benchmark_env  # noqa: E402
from benchmarks.speed.selectors import SelectorBenchmark, benchmark_selectors  # noqa: E402

BENCHMARKS: dict[type, Callable[[Any], object]] = {
    EnvBenchmark: benchmark_env,
    SelectorBenchmark: benchmark_selectors,
}
NAMES = ("env", "selectors")


def main() -> None:
    """Parses the flags and measures."""
    config: Any = tyro.extras.subcommand_cli_from_dict(dict(zip(NAMES, BENCHMARKS, strict=True)), description=__doc__)
    BENCHMARKS[type(config)](config)


if __name__ == "__main__":
    sys.exit(run(main))
