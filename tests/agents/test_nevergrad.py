"""Nevergrad as an agent: with the package its promises are a reference's, and without it the agent says what to do."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slot_rl.agents import AGENTS, load_agent
from slot_rl.agents.nevergrad import NevergradAgent, NevergradOptions, load_nevergrad, variables
from slot_rl.agents.searches import LocalSearchOptions
from slot_rl.envs import SlotVecEnv
from slot_rl.problems import Budget, Observation, Problem, check_choice, make_problem
from slot_rl.problems.candidate_draws import unit_uniform
from slot_rl.problems.truths import pick_value
from slot_rl.search import best_of, enumerate_landscape, random_choice
from slot_rl.search.base import SearchResult
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command
from tests.helpers.limited_cases import make_case
from tests.helpers.rugged import CheckedRows, Watched, arbitrary_mask, refuse, row_problem

MISSING = (
    'expected the extra [nevergrad] for --agent nevergrad (pip install "slot_rl[nevergrad]"), got no module nevergrad'
)
KINDS = ("array", "transition", "choice")
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def ng() -> Any:
    return pytest.importorskip("nevergrad")


def slot_problem(slots: int = 3, items: int = 5) -> Watched:
    return Watched(pick_value, slots, items, 1, unit_uniform)


def masked(problem: Problem, batch: int, seed: int) -> Observation:
    """Requests with any masks; some slots have a single item, and some requests the same number in each slot."""
    mask = arbitrary_mask(batch, problem.slots, problem.items, seed)
    mask[0], mask[1] = False, True
    mask[0, :, 3] = True
    mask[2, 1:] = False
    mask[2, 1:, 0] = True
    return Observation(problem.sample(batch, generator_from(seed)).candidates, mask)


def build(problem: Problem, options: NevergradOptions | None = None, seed: int = 0) -> NevergradAgent:
    return NevergradAgent(SlotVecEnv(problem, 2, seed=0), options, seed=seed)


def test_it_is_listed_whether_the_package_is_there_or_not() -> None:
    assert AGENTS["nevergrad"].build is NevergradAgent
    assert NevergradOptions() == NevergradOptions(31, "DiscreteLenglerOnePlusOne", "array")


def test_without_the_package_building_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    with pytest.raises(ValueError) as raised:
        build(slot_problem())
    assert str(raised.value) == MISSING
    with pytest.raises(ValueError, match="got no module nevergrad"):
        load_nevergrad()


def test_a_broken_package_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nevergrad.py").write_text("import no_such_dependency_of_it\n")
    monkeypatch.delitem(sys.modules, "nevergrad", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency_of_it"):
        load_nevergrad()


@pytest.mark.slow
def test_importing_the_agents_does_not_import_the_package() -> None:
    code = "import sys; import slot_rl.agents; print('nevergrad' in slot_rl.agents.AGENTS, 'nevergrad' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@kinds
def test_answers_are_the_best_of_exactly_as_many_allowed_rows(kind: Any, ng: Any) -> None:
    problem = slot_problem()
    agent = build(problem, NevergradOptions(9, variables=kind), seed=4)
    for observation in (problem.sample(6, generator_from(1)), masked(problem, 6, 2)):
        problem.asked = []
        problem.budget = Budget()
        choice = agent.choose(observation)
        assert problem.budget == Budget(6 * 9, 0) and len(problem.asked) == 9
        check_choice(problem, observation, choice)
        best = torch.stack([score for _, score in problem.asked]).max(dim=0).values
        assert torch.equal(problem.score(observation, choice), best)
    assert (agent.calls_per_context, agent.backwards_per_context) == (9, 0)


@kinds
@pytest.mark.parametrize("name", ["permutation", "masked", "parity"])
def test_proposals_are_repaired_under_constraints(kind: Any, name: str, tmp_path: Path, ng: Any) -> None:
    case = make_case(name, tmp_path)
    agent = build(case.problem, NevergradOptions(9, variables=kind))
    choice = agent.choose(case.observation)
    assert case.problem.budget == Budget(6 * 9, 0)
    refuse(case.problem, case.observation, choice)
    assert torch.equal(agent.choose(case.observation), choice)
    found = case.free.score(case.observation, choice)
    first = build(case.problem, NevergradOptions(1, variables=kind)).choose(case.observation)
    assert float(found.mean()) > float(case.free.score(case.observation, first).mean())


@kinds
def test_short_vocabularies_are_searched_within_their_sizes(kind: Any, ng: Any) -> None:
    problem = row_problem(0, CheckedRows)
    observation = problem.evaluation_observations(4, generator_from(0))
    # Nearly all of 30 rows are seen in 200 calls; a choice's distribution may settle before.
    agent = build(problem, NevergradOptions(200 if kind == "array" else 20, variables=kind))
    score = problem.score(observation, agent.choose(observation))
    if kind == "array":
        torch.testing.assert_close(score, enumerate_landscape(problem, observation, problem.score).best)


@kinds
def test_a_seed_repeats_its_answers_and_nothing_else_changes(kind: Any, ng: Any) -> None:
    problem = slot_problem()
    observation = problem.sample(10, generator_from(1))
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    options = NevergradOptions(5, variables=kind)
    first, second = build(problem, options, seed=3), build(problem, options, seed=3)
    answer = first.choose(observation)
    assert torch.equal(first.choose(observation), answer) and torch.equal(second.choose(observation), answer)
    assert not torch.equal(build(problem, options, seed=4).choose(observation), answer)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]  # noqa: NPY002


def test_it_beats_as_many_random_rows(ng: Any) -> None:
    problem = make_problem("SlotRL/SlotsLarge-v0")
    observation, generator = problem.sample(24, generator_from(11)), generator_from(0)
    draws = [random_choice(problem, observation, generator) for _ in range(60)]
    at_random = best_of([SearchResult(row, problem.score(observation, row)) for row in draws]).score
    found = problem.score(observation, build(problem, NevergradOptions(60)).choose(observation))
    margin = found - at_random
    assert float(margin.mean()) > 3 * float(margin.std()) / 24**0.5


def test_the_array_names_every_item_alike(ng: Any) -> None:
    array = variables(ng, "array", [2, 5, 8])
    array.random_state = np.random.RandomState(0)
    optimizer = ng.optimizers.registry["RandomSearch"](parametrization=array, budget=800, num_workers=1)
    rows = np.array([optimizer.ask().value for _ in range(800)]).astype(int)
    for slot, size in enumerate((2, 5, 8)):
        shares = np.bincount(rows[:, slot]) / 800
        assert shares.shape == (size,) and np.allclose(shares, 1 / size, atol=0.06)


def test_slots_of_one_size_are_one_variable(ng: Any) -> None:
    for kind, categorical in (("choice", ng.p.Choice), ("transition", ng.p.TransitionChoice)):
        same = variables(ng, kind, [4, 4, 4])
        assert type(same) is categorical and len(same) == 4 and len(same.value) == 3
        several = variables(ng, kind, [4, 2])
        assert type(several) is ng.p.Tuple and [len(part) for part in several] == [4, 2]
    assert type(variables(ng, "array", [4, 2])) is ng.p.Array


def test_a_slots_numbers_count_its_allowed_items_from_the_first(ng: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed:
        """An optimizer that always proposes the last item of one slot and the first of another."""

        value = (2, 0)

        def __init__(self, parametrization: Any, **_: Any) -> None:
            assert parametrization.dimension == 2

        def ask(self) -> "Fixed":
            return self

        def tell(self, proposal: "Fixed", loss: float) -> None:
            told.append(loss)

    told: list[float] = []
    monkeypatch.setitem(ng.optimizers.registry, "DiscreteLenglerOnePlusOne", Fixed)
    problem = slot_problem()
    mask = torch.zeros(1, 3, 5, dtype=torch.bool)
    for slot, items in enumerate(([1, 3, 4], [2], [0, 3])):
        mask[0, slot, items] = True
    observation = Observation(problem.sample(1, generator_from(0)).candidates, mask)
    choice = build(problem, NevergradOptions(2)).choose(observation)
    assert choice.tolist() == [[4, 2, 0]]
    assert told == [-float(problem.score(observation, choice))] * 2


def test_unknown_optimizers_and_variables_are_refused(ng: Any) -> None:
    message = r"expected --optimizer among the \d+ names in nevergrad.optimizers.registry, got 'Newton'"
    with pytest.raises(ValueError, match=message):
        build(slot_problem(), NevergradOptions(optimizer="Newton"))
    wrong: Any = "integers"
    with pytest.raises(ValueError, match="expected variables array, transition or choice, got 'integers'"):
        NevergradOptions(variables=wrong)
    with pytest.raises(ValueError, match="expected calls_per_context >= 1, got 0"):
        NevergradOptions(0)
    other: Any = LocalSearchOptions()
    with pytest.raises(TypeError, match="expected NevergradOptions for NevergradAgent, got LocalSearchOptions"):
        build(slot_problem(), other)


@pytest.mark.parametrize(
    "optimizer", ["NGOpt", "DiscreteOnePlusOne", "PortfolioDiscreteOnePlusOne", "TwoPointsDE", "RandomSearch"]
)
def test_other_optimizers_do_as_well(optimizer: str, ng: Any) -> None:
    problem = slot_problem()
    observation = masked(problem, 4, 0)
    agent = build(problem, NevergradOptions(6, optimizer))
    check_choice(problem, observation, agent.choose(observation))
    assert problem.budget == Budget(24, 0)


def test_a_checkpoint_answers_as_the_agent_did(ng: Any, tmp_path: Path) -> None:
    problem = slot_problem()
    agent = build(problem, NevergradOptions(5, "PortfolioDiscreteOnePlusOne", "transition"), seed=7).learn(100)
    assert agent.num_timesteps == 0 and problem.budget == Budget(0, 0)
    agent.save(tmp_path)
    again = load_agent(tmp_path, SlotVecEnv(problem, 2))
    assert type(again) is NevergradAgent and (again.options, again.seed) == (agent.options, 7)
    batch = SlotVecEnv(problem, 4, seed=3).reset()
    choices, state = again.predict(batch)
    assert state is None and np.array_equal(choices, agent.choose(Observation.of(batch)).numpy())
    assert np.array_equal(agent.predict({name: part[0] for name, part in batch.items()})[0].shape, (3,))


def test_the_command_names_the_extra_where_it_is_missing(
    script: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    flags = ("--env", "SlotRL/PickValue-v0", "--timesteps", 100, "--eval-size", 10, "--wandb", "disabled")
    code, _, errors = script(
        ROOT / "scripts" / "train_agent.py", "--agent", "nevergrad", *flags, "--out", tmp_path / "run"
    )
    assert code == 2 and "pip install" in errors and "Traceback" not in errors
