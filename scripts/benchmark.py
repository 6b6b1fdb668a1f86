"""Measures speed: ``benchmark.py env``; see --help."""

import sys

import tyro

from slot_rl.experiments.benchmarks import EnvBenchmark, benchmark_env
from slot_rl.experiments.console import run


def main() -> None:
    """Parses the flags and measures."""
    benchmark_env(tyro.extras.subcommand_cli_from_dict({"env": EnvBenchmark}, description=__doc__))


if __name__ == "__main__":
    sys.exit(run(main))
