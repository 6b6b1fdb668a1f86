"""Reproduces published figures and this project's toys: ``reproduce.py pick-value``; see --help."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from slot_rl.console import run

# The benchmarks stand beside the package and are not installed with it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.landscapes.command import LandscapesConfig, reproduce_landscapes  # noqa: E402
from benchmarks.reproductions.aligner_report import AlignerReportConfig, report_aligner  # noqa: E402
from benchmarks.reproductions.intermediate_loss_toy import IntermediateLossConfig, reproduce_intermediate_loss  # noqa: E402
from benchmarks.reproductions.pick_value import PickValueConfig, reproduce_pick_value  # noqa: E402
from benchmarks.reproductions.polynomial import PolynomialConfig, reproduce_polynomial  # noqa: E402
from benchmarks.reproductions.quadratics import QuadraticsConfig, reproduce_quadratics  # noqa: E402

REPRODUCTIONS: dict[type, Callable[[Any], object]] = {
    AlignerReportConfig: report_aligner,
    IntermediateLossConfig: reproduce_intermediate_loss,
    LandscapesConfig: reproduce_landscapes,
    PickValueConfig: reproduce_pick_value,
    PolynomialConfig: reproduce_polynomial,
    QuadraticsConfig: reproduce_quadratics,
}
NAMES = ("aligner", "intermediate-loss", "landscapes", "pick-value", "poly", "quadratics")


def main() -> None:
    """Parses the flags and reproduces."""
    config: Any = tyro.extras.subcommand_cli_from_dict(
        dict(zip(NAMES, REPRODUCTIONS, strict=True)), description=__doc__, config=(tyro.conf.OmitArgPrefixes,)
    )
    REPRODUCTIONS[type(config)](config)


if __name__ == "__main__":
    sys.exit(run(main))
