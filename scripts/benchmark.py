"""Measures speed: ``benchmark.py answers``, ``ensemble``, ``env``, ``policy`` or ``selectors``; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from slot_rl.console import run

# The benchmarks are a folder of the repository and are not installed with the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.answer_speed import AnswerBenchmark, benchmark_answers  # noqa: E402
from benchmarks.ensemble_speed import EnsembleBenchmark, benchmark_ensemble  # noqa: E402
from benchmarks.policy_speed import PolicyBenchmark, benchmark_policy  # noqa: E402
from benchmarks.speed import EnvBenchmark, SelectorBenchmark, benchmark_env, benchmark_selectors  # noqa: E402


def main() -> None:
    """Parses the flags and measures."""
    kinds: dict[str, Callable[..., Any]] = {
        "answers": AnswerBenchmark,
        "ensemble": EnsembleBenchmark,
        "env": EnvBenchmark,
        "policy": PolicyBenchmark,
        "selectors": SelectorBenchmark,
    }
    config = tyro.extras.subcommand_cli_from_dict(kinds, description=__doc__)
    if isinstance(config, AnswerBenchmark):
        benchmark_answers(config)
    elif isinstance(config, EnsembleBenchmark):
        benchmark_ensemble(config)
    elif isinstance(config, EnvBenchmark):
        benchmark_env(config)
    elif isinstance(config, PolicyBenchmark):
        benchmark_policy(config)
    else:
        benchmark_selectors(config)


if __name__ == "__main__":
    sys.exit(run(main))
