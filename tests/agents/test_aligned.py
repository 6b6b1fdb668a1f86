"""The aligned agent: its loss by hand, an exact budget, what it learns beside controls, and how it is restored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl.agents import AGENTS, AlignedAgent, load_agent
from slot_rl.agents.aligned import AlignedOptions, study
from slot_rl.agents.logged import LoggedRows
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators.aligner import Aligner, AlignerConfig, fit_aligner, one_swap_pairs
from slot_rl.networks import PointerSize
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot
from tests.conftest import ROOT, Command
from tests.helpers.logged_table import ROWS, all_rows, optimality, row_problem, write_log

SMALL = PointerSize(width=16, hidden=32, rounds=1)
QUICK = AlignerConfig(effects=0.4, sharpness=8.0, steps=100)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "log.csv")


def build(log: Path | None, seed: int = 0, **options: Any) -> AlignedAgent:
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "batch_size": 128,
        "policy": SMALL,
        "logged": log,
        "aligner_effects": 0.4,
        "aligner_sharpness": 8.0,
        "aligner_steps": 100,
        **options,
    }
    return AlignedAgent(SlotVecEnv(row_problem(), 2, seed=0), AlignedOptions(**settings), seed=seed)


def weights(agent: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in agent.policy.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_an_update_follows_the_weighted_dissimilarity(log: Path) -> None:
    agent = build(log, entropy=0.5, weighting="inverse").learn(2 * ROWS + 1)
    agent._current_progress_remaining = 0.5  # half of the bonus is left
    losses: list[Tensor] = []
    agent.optimizer_step = lambda loss: losses.append(loss) or 0.0  # type: ignore[method-assign,func-returns-value]
    state = agent.generator.get_state()
    agent.update()

    generator = torch.Generator()
    generator.set_state(state)
    drawn = torch.randint(ROWS, (64,), generator=generator)
    problem, rows = row_problem(), LoggedRows(*row_problem().read_logged(log))
    behaviour = study(problem, rows.observation, rows.choice)
    swaps = one_swap_pairs(rows.choice, rows.observation.context)
    aligner, _ = fit_aligner(behaviour, swaps, QUICK, generator_from(0))
    logits, _ = agent.policy.point(rows.observation[drawn])
    generated = problem.score(rows.observation[drawn], logits.argmax(dim=-1))
    scores = behaviour.scores
    weight = 1 / (((generated - scores.min()) / scores.std()).clamp_min(0) + 0.1)
    soft = problem.latent(rows.observation[drawn], torch.softmax(logits, dim=-1))
    logged = problem.latent(rows.observation[drawn], one_hot(rows.choice[drawn], 4, torch.float32))
    cosine = torch.cosine_similarity(aligner(soft), aligner(logged), dim=-1)
    entropy = torch.distributions.Categorical(logits=logits).entropy().sum(dim=1).mean()
    expected = (weight * (1 - cosine)).mean() / weight.mean() - 0.25 * entropy
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-4)
    query = agent.policy.network.round.linear.weight
    (found,), (wanted,) = (torch.autograd.grad(loss, query) for loss in (losses[0], expected))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_the_budget_is_two_calls_for_each_row(log: Path) -> None:
    agent = build(log).learn(1_000)
    updates = -(-(1_000 - 2 * ROWS) // 128)
    assert agent.update_size == 128
    assert agent.num_timesteps == agent.problem.budget.forwards == 2 * ROWS + 128 * updates
    assert agent.problem.budget.backwards == ROWS + 64 * updates


def test_it_learns_where_equal_weights_do_not(log: Path) -> None:
    assert optimality(build(log).learn(15_000)) > 0.85
    assert optimality(build(log, temperature=1e6).learn(15_000)) < 0.5
    assert optimality(build(log)) < 0.5


def test_a_checkpoint_holds_rows_and_aligner(log: Path, tmp_path: Path) -> None:
    agent = build(log).learn(800)
    agent.save(tmp_path / "checkpoint")
    log.unlink()
    again = load_agent(tmp_path / "checkpoint", SlotVecEnv(row_problem(), 2))
    assert isinstance(again, AlignedAgent)
    assert again.options == agent.options and agent.options.aligner == QUICK
    observation = row_problem().evaluation_observations(3, generator_from(0))
    assert torch.equal(again.choose(observation), agent.choose(observation))
    assert isinstance(again.aligner, Aligner) and agent.aligner is not None
    assert equal(again.aligner.state_dict(), agent.aligner.state_dict())


def test_a_seed_repeats_its_weights(log: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (weights(build(log, seed).learn(800)) for seed in (3, 3, 4))
    assert equal(first, again) and not torch.equal(first["network.start"], other["network.start"])
    assert torch.equal(before, torch.get_rng_state())


def test_missing_logged_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="expected --logged FILE with rows to imitate for 'aligned', got none"):
        build(None)


def test_a_budget_that_the_logged_rows_exhaust_is_refused(log: Path) -> None:
    agent = build(log)
    with pytest.raises(ValueError, match=f"the {2 * ROWS} calls that scoring {ROWS} logged rows takes for 'aligned'"):
        agent.learn(2 * ROWS)
    assert agent.problem.budget.forwards == 0


def test_what_no_aligner_could_use_is_refused() -> None:
    with pytest.raises(ValueError, match="dim, hidden and steps >= 1"):
        AlignedOptions(aligner_steps=0)


def test_the_command_line_has_every_flag_of_its_own(script: Command) -> None:
    code, shown, _ = script(ROOT / "scripts" / "train_agent.py", "--agent", "aligned", "--help")
    assert code == 0
    for flag in ("logged", "weighting", "temperature", "clip", "offset", "aligner-effects", "aligner-steps"):
        assert f"--{flag} " in shown


def test_the_smallest_batch_has_two_rows(log: Path) -> None:
    assert build(log, batch_size=2).update_size == 4
    assert AGENTS["aligned"].build is AlignedAgent
    assert len(all_rows()[0]) == ROWS
