"""Reproduces published figures and this project's toys: ``reproduce.py pick-value``; see --help."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slot_rl.cli.commands import PREFIXES
from slot_rl.cli.parsing import parse_one_of
from slot_rl.console import run

# The benchmarks are a folder of the repository and are not installed with the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.campaigns import CampaignsConfig, measure_campaigns  # noqa: E402
from benchmarks.gradient_advice import GradientAdviceConfig, measure_gradient_advice  # noqa: E402
from benchmarks.held_out_pairs import HeldOutPairsConfig, measure_held_out_pairs  # noqa: E402
from benchmarks.landscapes import LandscapesConfig, reproduce_landscapes  # noqa: E402
from benchmarks.prepare_landscapes import PrepareLandscapesConfig, prepare_landscapes  # noqa: E402
from benchmarks.pressure import PressureConfig, measure_pressure  # noqa: E402
from benchmarks.reproductions.aligner_report import AlignerReportConfig, report_aligner  # noqa: E402
from benchmarks.reproductions.intermediate_loss_toy import IntermediateLossConfig, reproduce_intermediate_loss  # noqa: E402
from benchmarks.reproductions.pick_value import PickValueConfig, reproduce_pick_value  # noqa: E402
from benchmarks.reproductions.polynomial import PolynomialConfig, reproduce_polynomial  # noqa: E402
from benchmarks.reproductions.quadratics import QuadraticsConfig, reproduce_quadratics  # noqa: E402
from benchmarks.slate_log import SlateLogConfig, write_slate_log  # noqa: E402
from benchmarks.table_models import TableModelsConfig, measure_table_models  # noqa: E402
from benchmarks.valid_kernels import ValidKernelsConfig, measure_valid_kernels  # noqa: E402

REPRODUCTIONS: dict[str, tuple[type, Callable[[Any], object]]] = {
    "aligner": (AlignerReportConfig, report_aligner),
    "campaigns": (CampaignsConfig, measure_campaigns),
    "gradient-advice": (GradientAdviceConfig, measure_gradient_advice),
    "held-out-pairs": (HeldOutPairsConfig, measure_held_out_pairs),
    "intermediate-loss": (IntermediateLossConfig, reproduce_intermediate_loss),
    "landscapes": (LandscapesConfig, reproduce_landscapes),
    "pick-value": (PickValueConfig, reproduce_pick_value),
    "poly": (PolynomialConfig, reproduce_polynomial),
    "prepare-landscapes": (PrepareLandscapesConfig, prepare_landscapes),
    "pressure": (PressureConfig, measure_pressure),
    "quadratics": (QuadraticsConfig, reproduce_quadratics),
    "slate-log": (SlateLogConfig, write_slate_log),
    "table-models": (TableModelsConfig, measure_table_models),
    "valid-kernels": (ValidKernelsConfig, measure_valid_kernels),
}


def main() -> None:
    """Parses the flags and reproduces."""
    kinds = {name: kind for name, (kind, _) in REPRODUCTIONS.items()}
    config = parse_one_of(kinds, "reproduce.py", sys.argv[1:], PREFIXES)
    dict(REPRODUCTIONS.values())[type(config)](config)


if __name__ == "__main__":
    sys.exit(run(main))
