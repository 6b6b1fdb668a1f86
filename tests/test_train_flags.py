"""The flags of ``slot-rl train``: an agent shows and takes its selector's own, and refuses bad ones in time."""

import re
from pathlib import Path
from typing import Any

import pytest

from slot_rl.agents.ppo import PPOOptions
from slot_rl.agents.selector_agent import AnnealedSelectorOptions, SelectorOptions
from slot_rl.cli.entry import run_command
from slot_rl.selectors import RLOO, Gumbel, IntermediateLoss, Selector, StraightThrough


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any]]:
    """What ``train`` would have been called with."""
    calls: list[tuple[str, Any, Any]] = []

    def record(*arguments: Any) -> tuple[None, None, dict[str, str]]:
        calls.append(arguments)
        return None, None, {"status": "finished"}

    monkeypatch.setattr("slot_rl.training.train_run", record)
    return calls


def exit_code(*arguments: str) -> Any:
    try:
        return run_command("train", "slot-rl train", arguments)
    except SystemExit as exit:
        return exit.code


def flags_in(help_text: str) -> set[str]:
    return set(re.findall(r"(?<!\S)--[a-z][a-z-]*", help_text))


OWN_FLAGS = {
    "rloo": {"--k"},
    "gumbel": {"--tau", "--hard", "--no-hard"},
    "straight_through": {"--tau-forward", "--tau-backward", "--noise", "--no-noise"},
    "intermediate_loss": {"--step", "--normaliser", "--faithful", "--no-faithful"},
    "reinforce": set[str](),
}


@pytest.mark.parametrize("agent", OWN_FLAGS)
def test_help_lists_the_selectors_own_options(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--agent", agent, "--help") == 0
    # All flags at once: where the terminal is wide, the help stands in columns.
    shown = flags_in(capsys.readouterr().out)
    assert shown & set().union(*OWN_FLAGS.values()) == OWN_FLAGS[agent]
    assert {"--batch-size", "--learning-rate", "--timesteps"} <= shown
    # Only a selector with one temperature can anneal it.
    assert ("--tau-schedule" in shown) == (agent == "gumbel")


@pytest.mark.parametrize(
    ("command", "selector"),
    [
        ("--agent rloo --k 3", RLOO(k=3)),
        ("--tau 0.9 --no-hard --score-function-share 0 --no-in-turn", Gumbel(tau=0.9, hard=False)),
        ("--agent straight_through --tau-forward 2 --no-noise", StraightThrough(tau_forward=2.0, noise=False)),
        ("--agent intermediate_loss --normaliser simplex", IntermediateLoss(normaliser="simplex")),
    ],
)
def test_flags_reach_the_selector(
    command: str, selector: Selector, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code(*command.split()) == 0
    ((name, _, options),) = trained
    assert isinstance(options, SelectorOptions)
    assert (name, options.selector) == (selector.name, selector)


def test_flags_reach_schedules_and_other_agents(trained: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    command = "--tau 4 --tau-end 1 --tau-schedule exponential --entropy 0.2 --entropy-schedule constant"
    assert exit_code(*command.split()) == 0
    assert exit_code("--agent", "ppo", "--epochs", "2") == 0
    (_, _, moving), (_, _, ppo) = trained
    assert isinstance(moving, AnnealedSelectorOptions)
    assert moving.selector_at(0.5) == Gumbel(tau=2.0)
    assert moving.entropy_over_time.at(1.0) == 0.2
    assert ppo == PPOOptions(epochs=2)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--agent gumbel --tau 0", "expected tau > 0, got 0.0"),
        ("--agent rloo --k 1", "expected k >= 2, got 1"),
        (
            "--agent softmax --score-function-share 1",
            "expected score_function_share 0 for Softmax(tau=1.0), which does not score true draws, got 1.0",
        ),
        ("--agent gumbel --tau-schedule linear", "expected an end for the linear schedule, got none"),
        ("--agent gumbel --tau-end 0 --tau-schedule cosine", "expected tau > 0, got 0.0"),
        ("--agent rloo --tau 1", "expected flags of slot-rl train --agent rloo (--help lists them), got --tau"),
        ("--timestep 3", "got --timestep; did you mean '--timesteps'?"),
        ("--agent gumble", "got 'gumble'; did you mean 'gumbel'?"),
        ("--env SlotRL/Slot-v0", "got 'SlotRL/Slot-v0'; did you mean 'SlotRL/Slots-v0'?"),
        ("--wandb onlin", "expected --wandb to be one of disabled, offline, online, got 'onlin'; did you mean"),
        ("--timesteps 1e5", "expected --timesteps INT: invalid literal for int() with base 10: '1e5'"),
        ("--timesteps", "expected --timesteps INT, got no value"),
        ("--agent", "expected a value of --agent, got none"),
        ("run", "expected no further word after the flags of slot-rl train --agent gumbel, got run"),
    ],
)
def test_bad_flags_exit_with_2_and_leave_no_folder(
    command: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(*command.split()) == 2
    assert capsys.readouterr().err.count(message) == 1
    assert not any(tmp_path.iterdir())


def test_a_problem_too_large_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = "--agent exact --limit 4095 --env SlotRL/PickValue-v0 --wandb disabled --eval-size 2"
    assert exit_code(*command.split()) == 2
    assert capsys.readouterr().err == "error: expected at most 4,095 configurations to enumerate, got 8^4\n"
    assert not any(tmp_path.iterdir())
