"""Reproduces published figures and this project's toys: ``reproduce.py pick-value``; see --help."""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from slot_rl.experiments.console import run
from slot_rl.experiments.reproductions.aligner_report import AlignerReportConfig, report_aligner
from slot_rl.experiments.reproductions.intermediate_loss_toy import IntermediateLossConfig, reproduce_intermediate_loss
from slot_rl.experiments.reproductions.landscapes.command import LandscapesConfig, reproduce_landscapes
from slot_rl.experiments.reproductions.pick_value import PickValueConfig, reproduce_pick_value
from slot_rl.experiments.reproductions.polynomial import PolynomialConfig, reproduce_polynomial
from slot_rl.experiments.reproductions.quadratics import QuadraticsConfig, reproduce_quadratics

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
