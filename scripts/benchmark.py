"""Measures speed: ``benchmark.py env`` or ``benchmark.py selectors``; see --help."""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from slot_rl.experiments.benchmarks.environments import EnvBenchmark, benchmark_env
from slot_rl.experiments.benchmarks.selectors import SelectorBenchmark, benchmark_selectors
from slot_rl.experiments.console import run

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
