"""The genetic algorithm and the cross-entropy method as agents: their flags reach the searches, bad ones are refused.

``test_searches.py`` tests of these two as well what every search promises.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from slot_rl.agents import AGENTS, load_agent, searches
from slot_rl.agents.base import Options
from slot_rl.agents.searches import CrossEntropyOptions, GeneticOptions, LocalSearchOptions, SearchOptions
from slot_rl.envs import SlotVecEnv
from slot_rl.io import read_json
from slot_rl.problems import Budget, Problem, SlotProblem
from slot_rl.problems.candidate_draws import unit_uniform
from slot_rl.problems.truths import pick_value
from slot_rl.search import cross_entropy_search, genetic_search
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command

GENETIC = GeneticOptions(calls_per_context=17, population=6, tournament=2, mutations=0.5)
CROSS_ENTROPY = CrossEntropyOptions(calls_per_context=17, draws=5, elite=0.3, smoothing=0.6)


def slot_problem() -> SlotProblem:
    return SlotProblem(pick_value, 3, 5, 1, unit_uniform, fewest_items=2)


def build(name: str, problem: Problem, options: Options | None = None, seed: int = 0) -> Any:
    return AGENTS[name](SlotVecEnv(problem, 2, seed=0), options, seed=seed)


def test_their_defaults_are_those_of_every_search() -> None:
    problem = slot_problem()
    assert build("genetic", problem).options == GeneticOptions(31, None, 3, 1.0)
    assert build("cross_entropy", problem).options == CrossEntropyOptions(31, None, 0.1, 0.3)
    for name in ("genetic", "cross_entropy"):
        agent = build(name, problem)
        assert AGENTS[name].build is type(agent) and isinstance(agent.options, SearchOptions)
        assert (agent.calls_per_context, agent.backwards_per_context) == (31, 0)


def test_answers_are_those_of_the_searches() -> None:
    problem = slot_problem()
    observation = problem.sample(15, generator_from(1))
    bred = genetic_search(problem, observation, 17, generator_from(5), 6, 2, 0.5).choice
    problem.budget = Budget()
    agent = build("genetic", problem, GENETIC, seed=5)
    assert torch.equal(agent.choose(observation), bred) and problem.budget == Budget(15 * 17, 0)
    fitted = cross_entropy_search(problem, observation, 17, generator_from(5), 5, 0.3, 0.6).choice
    problem.budget = Budget()
    agent = build("cross_entropy", problem, CROSS_ENTROPY, seed=5)
    assert torch.equal(agent.choose(observation), fitted) and problem.budget == Budget(15 * 17, 0)
    assert not torch.equal(bred, fitted)


@pytest.mark.parametrize(
    ("name", "search", "options", "settings"),
    [
        ("genetic", "genetic_search", GENETIC, (6, 2, 0.5)),
        ("genetic", "genetic_search", GeneticOptions(9), (None, 3, 1.0)),
        ("cross_entropy", "cross_entropy_search", CROSS_ENTROPY, (5, 0.3, 0.6)),
        ("cross_entropy", "cross_entropy_search", CrossEntropyOptions(9), (None, 0.1, 0.3)),
    ],
)
def test_every_flag_reaches_the_search_in_its_place(
    name: str, search: str, options: SearchOptions, settings: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, ...]] = []

    def watched(problem: Problem, observation: Any, calls: int, generator: torch.Generator, *settings: Any) -> Any:
        given.append((calls, *settings))
        return genetic_search(problem, observation, 1, generator)

    monkeypatch.setattr(searches, search, watched)
    problem = slot_problem()
    build(name, problem, options).choose(problem.sample(2, generator_from(0)))
    assert given == [(options.calls_per_context, *settings)]


@pytest.mark.parametrize(("name", "options"), [("genetic", GENETIC), ("cross_entropy", CROSS_ENTROPY)])
def test_a_checkpoint_keeps_the_flags(name: str, options: Options, tmp_path: Path) -> None:
    problem = slot_problem()
    for flags in (options, type(options)()):
        agent = build(name, problem, flags, seed=3)
        agent.save(tmp_path)
        again = load_agent(tmp_path, SlotVecEnv(problem, 2))
        assert type(again) is type(agent) and again.options == flags
        observation = problem.sample(8, generator_from(1))
        assert torch.equal(again.choose(observation), agent.choose(observation))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (GeneticOptions, {"calls_per_context": 0}, "expected calls_per_context >= 1, got 0"),
        (GeneticOptions, {"population": 0}, "expected population >= 1, got 0"),
        (GeneticOptions, {"tournament": 0}, "expected tournament >= 1 and mutations >= 0, got 0 and 1.0"),
        (GeneticOptions, {"mutations": -1.0}, "expected tournament >= 1 and mutations >= 0, got 3 and -1.0"),
        (CrossEntropyOptions, {"calls_per_context": 0}, "expected calls_per_context >= 1, got 0"),
        (CrossEntropyOptions, {"draws": 0}, "expected draws >= 1, got 0"),
        (CrossEntropyOptions, {"elite": 0.0}, "expected elite and smoothing above 0 and at most 1, got 0.0 and 0.3"),
        (CrossEntropyOptions, {"smoothing": 2.0}, "expected elite and smoothing above 0 .* got 0.1 and 2.0"),
    ],
)
def test_flags_of_no_use_are_refused(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize(
    ("name", "other", "wanted"),
    [
        ("genetic", CrossEntropyOptions(), "GeneticOptions"),
        ("genetic", SearchOptions(), "GeneticOptions"),
        ("cross_entropy", LocalSearchOptions(), "CrossEntropyOptions"),
    ],
)
def test_options_of_another_agent_are_refused(name: str, other: Options, wanted: str) -> None:
    with pytest.raises(TypeError, match=f"expected {wanted} for .*, got {type(other).__name__}"):
        build(name, slot_problem(), other)


@pytest.mark.parametrize(
    ("name", "flags", "options"),
    [
        (
            "genetic",
            ("--population", 5, "--mutations", 2),
            {"calls_per_context": 7, "population": 5, "tournament": 3, "mutations": 2.0},
        ),
        (
            "cross_entropy",
            ("--draws", 3, "--elite", 0.5),
            {"calls_per_context": 7, "draws": 3, "elite": 0.5, "smoothing": 0.3},
        ),
    ],
)
def test_a_whole_run_takes_the_flags(
    name: str,
    flags: tuple[object, ...],
    options: dict[str, Any],
    script: Command,
    tmp_path: Path,
) -> None:
    common = ("--env", "SlotRL/PickValue-v0", "--timesteps", 100, "--eval-size", 20, "--wandb", "disabled")
    code, _, errors = script(
        ROOT / "scripts" / "train_agent.py",
        *("--agent", name, "--calls-per-context", 7, *flags, *common, "--out", tmp_path / "run"),
    )
    assert code == 0, errors
    summary = read_json(tmp_path / "run" / "summary.json")
    assert (summary["calls_per_context"], summary["backwards_per_context"], summary["timesteps"]) == (7, 0, 0)
    assert 0.2 < summary["optimality"] < 1
    assert read_json(tmp_path / "run" / "config.json")["options"] == options
