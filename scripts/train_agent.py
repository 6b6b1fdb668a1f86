"""Trains an agent on an environment: ``train_agent.py --agent gumbel``; ``--agent NAME --help`` lists its flags.

``--preset`` uses the options that were tuned for the environment as the agent's defaults. ``--resume RUN`` goes on with
a training that was killed or stopped.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python imports: no traceback

import argparse
import sys

import tyro

from slot_rl.agents import AGENTS
from slot_rl.compare.presets import read_presets
from slot_rl.console import EXIT_CODES, run
from slot_rl.resuming import ResumeConfig, resume_run
from slot_rl.training import RunConfig, TrainFlags, train_run


def main() -> int:
    """Reads ``--agent``, parses that agent's flags, and trains; with ``--resume`` goes on with a training."""
    if any(flag.split("=")[0] == "--resume" for flag in sys.argv[1:]):
        _, _, summary = resume_run(tyro.cli(ResumeConfig, config=(tyro.conf.OmitArgPrefixes,)))
        return EXIT_CODES[summary["status"]]
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--agent", choices=sorted(AGENTS), default="gumbel")
    chooser.add_argument("--preset", action="store_true")
    chooser.add_argument("--env", default=RunConfig.env)
    chosen, rest = chooser.parse_known_args()
    options = read_presets(chosen.env).options(chosen.agent) if chosen.preset else AGENTS[chosen.agent].options
    flags = tyro.cli(
        TrainFlags,
        default=TrainFlags(RunConfig(), options),
        args=["--env", chosen.env, *rest],
        prog=f"train_agent.py --agent {chosen.agent}",
        description=f"Trains an agent; --agent is one of {', '.join(sorted(AGENTS))}. "
        "--preset uses the options that were tuned for the environment as the agent's defaults. "
        "--resume RUN goes on with a training that was killed or stopped; --resume RUN --help lists its flags.",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    _, _, summary = train_run(chosen.agent, flags.run, flags.agent)
    return EXIT_CODES[summary["status"]]


if __name__ == "__main__":
    sys.exit(run(main))
