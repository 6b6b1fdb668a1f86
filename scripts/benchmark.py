"""Measures speed: ``benchmark.py answers``, ``ensemble``, ``env``, ``policy`` or ``selectors``; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slot_rl.cli.parsing import parse_one_of
from slot_rl.console import run

# The benchmarks are a folder of the repository and are not installed with the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.answer_speed import AnswerBenchmark, benchmark_answers  # noqa: E402
from benchmarks.ensemble_speed import EnsembleBenchmark, benchmark_ensemble  # noqa: E402
from benchmarks.policy_speed import PolicyBenchmark, benchmark_policy  # noqa: E402
from benchmarks.speed import EnvBenchmark, SelectorBenchmark, benchmark_env, benchmark_selectors  # noqa: E402

BENCHMARKS: dict[str, tuple[type, Callable[[Any], object]]] = {
    "answers": (AnswerBenchmark, benchmark_answers),
    "ensemble": (EnsembleBenchmark, benchmark_ensemble),
    "env": (EnvBenchmark, benchmark_env),
    "policy": (PolicyBenchmark, benchmark_policy),
    "selectors": (SelectorBenchmark, benchmark_selectors),
}


def main() -> None:
    """Parses the flags and measures."""
    config = parse_one_of({name: kind for name, (kind, _) in BENCHMARKS.items()}, "benchmark.py", sys.argv[1:])
    dict(BENCHMARKS.values())[type(config)](config)


if __name__ == "__main__":
    sys.exit(run(main))
