"""MaskablePPO of sb3-contrib: allowed answers only, an exact budget, the contract of every agent, and learning."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from slot_rl.agents import AGENTS, load_agent
from slot_rl.agents.maskable_ppo import MaskablePPOAgent, MaskablePPOOptions, load_sb3_contrib
from slot_rl.agents.ppo import PPOOptions
from slot_rl.envs import SequentialEnv, SlotVecEnv
from slot_rl.envs.episodes import to_arrays
from slot_rl.io import read_json
from slot_rl.metrics_file import read_metrics
from slot_rl.networks import PointerSize
from slot_rl.problems import Observation, Problem, check_choice, make_problem
from slot_rl.problems.candidate_draws import unit_uniform
from slot_rl.problems.constraints import Distinct
from slot_rl.problems.slots import SlotProblem
from slot_rl.problems.truths import pick_value
from slot_rl.search import enumerate_landscape, random_choice
from slot_rl.seeding import generator_from
from tests.conftest import ROOT, Command
from tests.envs.test_single import global_states
from tests.helpers.limited import KINDS, SLOTS, allowed_answers, distinct_slots, one_request

MISSING = (
    'expected the extra [contrib] for --agent maskable_ppo (pip install "slot_rl[contrib]"), got no module sb3_contrib'
)
SMALL = MaskablePPOOptions(batch_size=64, minibatch_size=64, policy=PointerSize(16, 32))
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def contrib() -> Any:
    return pytest.importorskip("sb3_contrib")


def build(problem: Problem, options: MaskablePPOOptions = SMALL, seed: int = 0, **changes: Any) -> MaskablePPOAgent:
    return MaskablePPOAgent(problem, options, seed=seed, **changes)


def weights(agent: MaskablePPOAgent) -> list[torch.Tensor]:
    return [value.clone() for value in agent.policy.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_is_listed_whether_the_package_is_there_or_not() -> None:
    assert AGENTS["maskable_ppo"].build is MaskablePPOAgent
    assert AGENTS["maskable_ppo"].options == MaskablePPOOptions()


def test_without_the_package_building_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ValueError) as raised:
        build(one_request())
    assert str(raised.value) == MISSING


def test_a_broken_package_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sb3_contrib.py").write_text("import no_such_dependency_of_it\n")
    monkeypatch.delitem(sys.modules, "sb3_contrib", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency_of_it"):
        load_sb3_contrib()


def test_the_command_names_the_extra_where_it_is_missing(
    script: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    flags = ("--env", "SlotRL/PickValue-v0", "--timesteps", 100, "--eval-size", 10, "--wandb", "disabled")
    code, _, errors = script(
        ROOT / "scripts" / "train_agent.py", "--agent", "maskable_ppo", *flags, "--out", tmp_path / "run"
    )
    assert code == 2 and "pip install" in errors and "Traceback" not in errors


@pytest.mark.slow
def test_importing_the_agents_does_not_import_the_package() -> None:
    code = "import sys, slot_rl.agents; print('maskable_ppo' in slot_rl.agents.AGENTS, 'sb3_contrib' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@kinds
def test_answers_and_draws_are_allowed_trained_or_not(kind: str, contrib: Any) -> None:
    problem = KINDS[kind]()
    agent = build(problem)
    observation = problem.sample(50, generator_from(1))
    for _ in range(2):
        for choice in (agent.choose(observation), agent.policy.draw(observation, generator_from(2))):
            check_choice(problem, observation, choice)
        assert torch.equal(agent.choose(observation), agent.choose(observation))
        agent.learn(64)


@kinds
def test_an_answer_is_what_the_policy_plays_in_the_environment(kind: str, contrib: Any) -> None:
    problem = KINDS[kind]()
    agent = build(problem).learn(64)
    observation = problem.sample(5, generator_from(1))
    env, policy, arrays = SequentialEnv(problem), agent.policy, to_arrays(observation)
    answers: list[list[int]] = []
    for row in range(5):
        seen, _ = env.reset(options={"observation": {name: part[row] for name, part in arrays.items()}})
        answers.append([])
        for _ in range(problem.slots):
            masks: Any = {"action_masks": env.action_masks()}
            action, _ = policy.predict(seen, deterministic=True, **masks)
            answers[-1].append(int(action))
            seen = env.step(np.int64(action))[0]
    assert agent.choose(observation).tolist() == answers


def test_draws_have_the_policys_probabilities(contrib: Any) -> None:
    problem = one_request(Distinct(), items=3)
    policy: Any = build(problem, learning_rate=0.03).learn(256).policy
    request, draws = problem.sample(1, generator_from(0)), 20_000
    many = problem.sample(draws, generator_from(0))
    counts: dict[tuple[int, ...], int] = {}
    with torch.no_grad():
        for row in policy.draw(many, generator_from(3)).tolist():
            counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    rows = allowed_answers(problem, request)
    assert set(counts) <= set(rows) and len(rows) == 6
    env, total = SequentialEnv(problem), 0.0
    for row in rows:
        seen, _ = env.reset()
        probability = 1.0
        for item in row:
            obs = {name: torch.as_tensor(part)[None] for name, part in seen.items()}
            with torch.no_grad():
                probability *= float(policy.get_distribution(obs, env.action_masks()).distribution.probs[0, item])
            seen = env.step(np.int64(item))[0]
        deviation = (probability * (1 - probability) / draws) ** 0.5
        assert counts.get(row, 0) / draws == pytest.approx(probability, abs=5 * deviation)
        total += probability
    assert total == pytest.approx(1.0, abs=1e-6)


def test_the_network_sees_the_partial_answer(contrib: Any) -> None:
    problem = distinct_slots()
    policy: Any = build(problem).policy
    request = problem.sample(1, generator_from(0))
    with torch.no_grad():
        found = [policy.point(request, torch.tensor([[item, -1, -1, -1]]))[0][0, 1] for item in (0, 1)]
        assert torch.equal(policy.point(request)[0], policy.point(request, torch.full((1, 4), -1))[0])
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_a_timestep_is_a_complete_answer(contrib: Any) -> None:
    problem = distinct_slots()
    agent = build(problem)
    assert (agent.num_timesteps, problem.budget.forwards, agent.update_size) == (0, 0, 64)
    agent.learn(129)
    assert agent.num_timesteps == problem.budget.forwards == 192 and problem.budget.backwards == 0
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps == problem.budget.forwards == 256
    assert (agent.calls_per_context, agent.backwards_per_context) == (0, 0)
    assert agent.policy_parameters == sum(part.numel() for part in agent.policy.network.parameters()) > 0


def test_a_seed_repeats_everything_and_nothing_else_changes(contrib: Any) -> None:
    before = global_states()
    first, second, other = (build(distinct_slots(), seed=seed).learn(128) for seed in (3, 3, 4))
    assert same(weights(first), weights(second)) and not same(weights(first), weights(other))
    assert global_states() == before


def test_a_checkpoint_answers_as_the_agent_did(contrib: Any, tmp_path: Path) -> None:
    problem = distinct_slots()
    agent = build(problem, seed=7).learn(128)
    agent.save(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    again = load_agent(tmp_path, SlotVecEnv(problem, 2))
    assert type(again) is MaskablePPOAgent and (again.options, again.seed, again.num_timesteps) == (SMALL, 7, 128)
    assert same(weights(agent), weights(again))
    assert again.scale == agent.scale
    for name, generator in agent.generators().items():
        assert torch.equal(generator.get_state(), again.generators()[name].get_state())
    batch = SlotVecEnv(problem, 4, seed=3).reset()
    choices, state = again.predict(batch)
    assert state is None and np.array_equal(choices, agent.choose(Observation.of(batch)).numpy())
    assert again.predict({name: part[0] for name, part in batch.items()})[0].shape == (4,)
    with pytest.raises(ValueError, match="weights do not fit"):
        load_agent(tmp_path, SlotVecEnv(make_problem("SlotRL/PickValue-v0"), 2))


def test_wrong_options_and_environments_are_refused(contrib: Any) -> None:
    with pytest.raises(ValueError, match="expected minibatch_size >= 2, .* got 1, 4, 0.2 and 0.95"):
        MaskablePPOOptions(minibatch_size=1)
    with pytest.raises(ValueError, match="gae_lambda from 0 to 1, got 1024, 4, 0.2 and 2.0"):
        MaskablePPOOptions(gae_lambda=2.0)
    with pytest.raises(ValueError, match="expected value_coefficient >= 0, got -1"):
        MaskablePPOOptions(value_coefficient=-1)
    other: Any = PPOOptions()
    with pytest.raises(TypeError, match="expected MaskablePPOOptions for MaskablePPOAgent, got PPOOptions"):
        build(one_request(), other)
    with pytest.raises(ValueError, match="expected an environment with an estimator to ask for 'maskable_ppo'"):
        MaskablePPOAgent(gym.make("CartPole-v1"))


@pytest.mark.parametrize("env", [SLOTS, SequentialEnv(SLOTS)], ids=["id", "environment"])
def test_it_is_built_from_what_has_a_problem(env: Any, contrib: Any) -> None:
    agent = MaskablePPOAgent(env, SMALL).learn(64)
    assert agent.problem is not None and agent.problem.name == SLOTS and agent.num_timesteps == 64


@pytest.mark.slow
def test_it_learns_distinct_values_near_one_half(contrib: Any) -> None:
    problem = SlotProblem(pick_value, 3, 6, 1, unit_uniform, constraints=[Distinct()])
    observation = problem.sample(200, generator_from(1))
    evaluated = problem.with_fresh_budget()
    best = enumerate_landscape(evaluated, observation, evaluated.score).best.mean()
    random = evaluated.score(observation, random_choice(problem, observation, generator_from(2))).mean()

    def optimality(agent: MaskablePPOAgent) -> float:
        return float((evaluated.score(observation, agent.choose(observation)).mean() - random) / (best - random))

    options = MaskablePPOOptions(batch_size=128, minibatch_size=64, learning_rate=3e-3, policy=PointerSize(32, 64))
    agent = build(problem, options)
    assert optimality(agent) < 0.5
    assert optimality(agent.learn(128 * 16)) > 0.9


def test_the_command_trains_and_logs_it(contrib: Any, script: Command, tmp_path: Path) -> None:
    flags = ("--env", "SlotRL/PickValue-v0", "--timesteps", 256, "--batch-size", 64, "--eval-size", 10, "--wandb")
    run = tmp_path / "run"
    code, _, errors = script(
        ROOT / "scripts" / "train_agent.py", "--agent", "maskable_ppo", *flags, "disabled", "--out", run
    )
    assert code == 0, errors
    summary = read_json(run / "summary.json")
    assert (summary["agent"], summary["estimator_forwards"], summary["estimator_backwards"]) == ("maskable_ppo", 256, 0)
    rows = read_metrics(run / "metrics.jsonl")
    logged = {name for row in rows for name in row}
    assert {"rollout/ep_rew_mean", "train/loss", "train/learning_rate", "eval/score", "budget/forwards"} <= logged
    assert rows[-1]["global_step"] == 256
    few = ("--requests", 2, "--draws", 4, "--race-calls", 0, "--out", tmp_path / "diagnosis")
    code, shown, errors = script(ROOT / "scripts" / "diagnose_gradients.py", "--policy", run, *few)
    assert code == 0 and "true gradient" in shown, errors
