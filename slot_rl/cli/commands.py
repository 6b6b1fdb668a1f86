"""The commands: what each one is for, and what it calls. Modules load when their command is called."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from slot_rl.cli.parsing import parse

PREFIXES: Any = tyro.conf.OmitArgPrefixes
POSITIONAL: Any = tyro.conf.PositionalRequiredArgs


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        summary: What it is for.
        call: Parses what was typed after the command, which is named first, and does it; returns the exit code.
    """

    summary: str
    call: Callable[[str, Sequence[str]], int | None]


def _train(prog: str, arguments: Sequence[str]) -> int:
    from slot_rl.agents import AGENTS
    from slot_rl.cli.guide import guide
    from slot_rl.compare.presets import read_presets
    from slot_rl.console import EXIT_CODES
    from slot_rl.resuming import ResumeConfig, resume_run
    from slot_rl.spelling import unknown
    from slot_rl.training import RunConfig, TrainFlags, train_run

    if any(word.split("=")[0] == "--resume" for word in arguments):
        return EXIT_CODES[resume_run(parse(ResumeConfig, prog, arguments, PREFIXES))[2]["status"]]
    chooser = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False, exit_on_error=False)
    chooser.add_argument("--agent", default="gumbel")
    chooser.add_argument("--preset", action="store_true")
    chooser.add_argument("--env", default=RunConfig.env)
    try:
        chosen, rest = chooser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"expected a value of {error.argument_name}, got none") from error
    if chosen.agent not in AGENTS:
        raise ValueError(unknown("expected --agent to be one of", sorted(AGENTS), chosen.agent))
    options = read_presets(chosen.env).options(chosen.agent) if chosen.preset else AGENTS[chosen.agent].options
    flags = parse(
        TrainFlags,
        f"{prog} --agent {chosen.agent}",
        ["--env", chosen.env, *rest],
        PREFIXES,
        default=TrainFlags(RunConfig(), options),
        description=guide(),
    )
    return EXIT_CODES[train_run(chosen.agent, flags.run, flags.agent)[2]["status"]]


def _compare(prog: str, arguments: Sequence[str]) -> int:
    from slot_rl.compare.command import CompareConfig, run_comparison

    return run_comparison(parse(CompareConfig, prog, arguments, PREFIXES))


def _pretrain(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.pretraining import PretrainConfig, pretrain

    pretrain(parse(PretrainConfig, prog, arguments, PREFIXES))


def _recommend(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.recommending import RecommendConfig, recommend

    recommend(parse(RecommendConfig, prog, arguments))


def _evaluate(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.reevaluation import ReevaluationConfig, reevaluate

    reevaluate(parse(ReevaluationConfig, prog, arguments, POSITIONAL))


def _diagnose(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.diagnosis import DiagnosisConfig, diagnose

    diagnose(parse(DiagnosisConfig, prog, arguments, PREFIXES))


def _campaign(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.campaign_command import CampaignConfig, run_campaign

    run_campaign(parse(CampaignConfig, prog, arguments, PREFIXES))


def _export(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.exporting import ExportConfig, export

    export(parse(ExportConfig, prog, arguments))


def _init(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.cli.init import InitConfig, init

    init(parse(InitConfig, prog, arguments))


def _dashboard(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.compare.dashboard import DashboardConfig, publish_dashboard

    publish_dashboard(parse(DashboardConfig, prog, arguments, POSITIONAL))


def _resync(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.resyncing import ResyncConfig, resync

    resync(parse(ResyncConfig, prog, arguments, POSITIONAL))


def _tune(prog: str, arguments: Sequence[str]) -> None:
    from slot_rl.compare.tuning import TuneConfig, tune

    tune(parse(TuneConfig, prog, arguments, PREFIXES))


COMMANDS = {
    "init": Command("writes a commented problem.py and study.yaml to begin with", _init),
    "train": Command("trains an agent and leaves a run folder", _train),
    "recommend": Command("answers a file of requests with a trained run", _recommend),
    "evaluate": Command("judges a trained run again, or draws what more calls for each answer buy", _evaluate),
    "compare": Command("compares agents at equal budget, with intervals and a verdict", _compare),
    "pretrain": Command("fits an estimator to a table, to logged pages, or to a shipped problem", _pretrain),
    "diagnose": Command("says which gradient suits an estimator", _diagnose),
    "campaign": Command("proposes which rows of a table to measure next, round by round", _campaign),
    "export": Command("writes a run's policy alone, which answers without the estimator", _export),
    "dashboard": Command("publishes a comparison's dashboard on Weights & Biases", _dashboard),
    "resync": Command("rebuilds the Weights & Biases run of run folders", _resync),
    "tune": Command("tunes the presets of an environment", _tune),
}
"""By name, in the order of the help."""
