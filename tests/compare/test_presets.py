"""Presets: files that say which options an agent has, how they were chosen, and nothing that an agent does not know."""

from pathlib import Path
from typing import Any

import pytest

from slot_rl.agents.base import to_json
from slot_rl.compare.presets import (
    SHIPPED_PRESETS,
    AgentPreset,
    Presets,
    Tuning,
    read_presets,
    write_presets,
)

SHIPPED = sorted(SHIPPED_PRESETS.glob("*.yaml"))
HEAD = "format: slot_rl presets 1\nenv: SlotRL/Slots-v0\nversion: 1\n"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_presets_were_tuned_fairly_and_say_how(path: Path) -> None:
    presets = read_presets(f"SlotRL/{path.stem}")
    assert presets.tuning is not None and presets.version >= 1
    assert presets.tuning.seeds and max(presets.tuning.seeds) < 100
    assert "tune_presets.py" in presets.tuning.command
    assert len({len(preset.trials) for preset in presets.agents.values()}) == 1
    for name, preset in presets.agents.items():
        assert preset.scores is not None
        assert to_json(presets.options(name)) == to_json(presets.trials(name)[preset.chosen])
        assert preset.scores[preset.chosen] == max(preset.scores)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    tuning = Tuning(("SlotRL/Slots-v0",), (0, 1), 1_000, "python scripts/tune_presets.py")
    trials: tuple[dict[str, Any], ...] = ({}, {"entropy": 0.1, "policy": {"width": 16}}, {"batch_size": 64})
    presets = Presets("SlotRL/Slots-v0", 3, tuning, {"gumbel": AgentPreset(trials, (0.5, 0.75, 0.25))})
    write_presets(tmp_path / "Slots-v0.yaml", presets)
    assert read_presets("SlotRL/Slots-v0", tmp_path) == presets
    options = to_json(presets.options("gumbel"))
    assert (options["entropy"], options["policy"]["width"], options["batch_size"]) == (0.1, 16, 128)


def test_an_agent_without_a_preset_has_its_defaults(tmp_path: Path) -> None:
    presets = read_presets("SlotRL/Slots-v0", tmp_path)
    assert (presets.tuning, dict(presets.agents)) == (None, {})
    assert to_json(presets.options("guided_search"))["calls_per_context"] == 31


def test_the_first_of_equals_is_chosen() -> None:
    assert AgentPreset(({}, {"entropy": 0.1}), (0.5, 0.5)).chosen == 0
    assert AgentPreset(({}, {"entropy": 0.1})).chosen == 0


@pytest.mark.parametrize(
    "text, found",
    [
        ("[1, 2]", "something else"),
        ("format: other\n", "something else"),
        (HEAD, "without agents"),
        (HEAD + "agents: {nobody: [{options: {}}]}", "known agents in .*, got nobody"),
        (HEAD + "agents: {gumbel: [{options: {speed: 1}}]}", "speed"),
        (HEAD + "agents: {gumbel: [{options: {entropy: -1}}]}", "entropy bonuses >= 0"),
        (HEAD + "agents: {gumbel: [{options: {learning_rate: fast}}]}", "expected float at learning_rate, got 'fast'"),
        (HEAD + "agents: {gumbel: []}", "none at all"),
        (HEAD + "agents: {gumbel: [{options: {}, optimality: 1}, {options: {}}]}", "some do not"),
        (HEAD + "agents: {gumbel: [", "expected the node content"),
        ("format: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        (HEAD.replace("Slots", "Rows") + "agents: {}", "those of SlotRL/Rows-v0"),
    ],
)
def test_what_is_no_preset_is_refused(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "Slots-v0.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"{found}.*Slots-v0.yaml|Slots-v0.yaml.*{found}"):
        read_presets("SlotRL/Slots-v0", tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a folder of presets"):
        read_presets("SlotRL/Slots-v0", tmp_path / "none")
