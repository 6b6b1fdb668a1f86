"""Reproduction: weights and losses by hand, an exact budget, what it learns beside controls, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slot_rl.agents import AGENTS, ReproductionAgent, load_agent
from slot_rl.agents.logged import LoggedRows, imitation_weights
from slot_rl.agents.reproduction import ReproductionOptions
from slot_rl.agents.scale import RunningScale
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.io import read_json
from slot_rl.networks import PointerSize
from slot_rl.problems import RowProblem, make_problem
from slot_rl.seeding import generator_from, seeded_initialisation
from tests.helpers.logged_table import ENCODING, ROWS, all_rows, optimality, row_problem, write_log

SMALL = PointerSize(width=16, hidden=32, rounds=1)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "log.csv")


def build(log: Path | None, seed: int = 0, **options: Any) -> ReproductionAgent:
    settings: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 64, "policy": SMALL, "logged": log, **options}
    return ReproductionAgent(SlotVecEnv(row_problem(), 2, seed=0), ReproductionOptions(**settings), seed=seed)


def weights(agent: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in agent.policy.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_inverse_weights_by_hand() -> None:
    options = ReproductionOptions(weighting="inverse", offset=0.5)
    # In units of 2 above the lowest, -1: 0, 1.5, and below it, which counts as 0.
    generated = torch.tensor([-1.0, 2.0, -9.0])
    found = imitation_weights(options, torch.tensor([5.0, 6.0, 7.0]), generated, lowest=-1.0, unit=2.0)
    raw = [1 / 0.5, 1 / 2.0, 1 / 0.5]
    assert found.tolist() == pytest.approx([3 * one / sum(raw) for one in raw])


def test_advantage_weights_by_hand() -> None:
    options = ReproductionOptions(temperature=0.5, clip=4.0)
    logged, generated = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0])
    found = imitation_weights(options, logged, generated, lowest=0.0, unit=2.0)
    # Advantages of 2, 0 and -1 in units of .5 * 2; e^2 is more than 4.
    raw = [4.0, 1.0, exp(-1.0)]
    assert found.tolist() == pytest.approx([3 * one / sum(raw) for one in raw])


def test_weights_stay_finite_at_extremes() -> None:
    for generated in (1e6, -1e6):
        for options in (ReproductionOptions(), ReproductionOptions(weighting="inverse")):
            found = imitation_weights(options, torch.tensor([1.0, 2.0]), torch.full((2,), generated), 1.0, 1.0)
            assert bool(found.isfinite().all()) and float(found.mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("weighting", ["advantage", "inverse"])
def test_an_update_follows_the_weighted_cross_entropy(weighting: str, log: Path) -> None:
    agent = build(log, weighting=weighting, entropy=0.5).learn(ROWS + 1)
    agent._current_progress_remaining = 0.5  # half of the bonus is left
    losses: list[Tensor] = []
    agent.optimizer_step = lambda loss: losses.append(loss) or 0.0  # type: ignore[method-assign,func-returns-value]
    state = agent.generator.get_state()
    agent.update()

    generator = torch.Generator()
    generator.set_state(state)
    drawn = torch.randint(ROWS, (64,), generator=generator)
    problem, (contexts, choices) = row_problem(), all_rows()
    observation = LoggedRows(*problem.read_logged(log)).observation
    assert observation.context is not None and torch.equal(observation.context, contexts)
    scores = problem.score(observation, choices)
    logits, _ = agent.policy.point(observation[drawn])
    distribution = torch.distributions.Categorical(logits=logits)
    generated = problem.score(observation[drawn], logits.argmax(dim=-1))
    if weighting == "advantage":
        weight = ((scores[drawn] - generated) / (0.1 * scores.std())).exp().clamp_max(20.0)
    else:
        weight = 1 / (((generated - scores.min()) / scores.std()).clamp_min(0) + 0.1)
    cross_entropy = -distribution.log_prob(choices[drawn]).sum(dim=1)
    expected = (weight * cross_entropy).mean() / weight.mean() - 0.25 * distribution.entropy().sum(dim=1).mean()
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-4)
    query = agent.policy.network.round.linear.weight
    (found,), (wanted,) = (torch.autograd.grad(loss, query) for loss in (losses[0], expected))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_the_budget_is_each_row_once_and_a_batch_an_update(log: Path) -> None:
    agent = build(log).learn(1_000)
    updates = -(-(1_000 - ROWS) // 64)
    assert agent.num_timesteps == agent.problem.budget.forwards == ROWS + 64 * updates
    assert agent.problem.budget.backwards == 0
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps == agent.problem.budget.forwards == ROWS + 64 * (updates + 1)


def test_the_unit_is_the_spread_of_the_logged_rows_scores(log: Path) -> None:
    agent = build(log).learn(ROWS + 200)
    contexts, choices = all_rows()
    score = row_problem().score(LoggedRows(*row_problem().read_logged(log)).observation, choices)
    expected = RunningScale()
    expected.update(score)
    assert agent.scale == expected and agent.scale.unit == pytest.approx(float(score.std()))


def test_advantage_weights_find_the_good_rows(log: Path) -> None:
    assert optimality(build(log).learn(10_000)) > 0.95
    # Equal weights, and weights that only know the request, lead to the log's average, in which all rows are as
    # frequent: what is left of a policy is chance.
    assert optimality(build(log, temperature=1e6).learn(10_000)) < 0.7
    assert optimality(build(log, weighting="inverse").learn(10_000)) < 0.7
    assert optimality(build(log)) < 0.7


def test_the_inverse_loss_learns_where_good_rows_are_frequent(log: Path, tmp_path: Path) -> None:
    problem, (_, choices) = row_problem(), all_rows()
    scores = problem.score(LoggedRows(*problem.read_logged(log)).observation, choices).view(3, -1)
    header, *lines = log.read_text().splitlines()
    best = [lines[48 * context + int(row)] for context, row in enumerate(scores.argmax(dim=1))]
    good = tmp_path / "good.csv"
    good.write_text("\n".join([header, *best, *best]))
    assert optimality(build(good, weighting="inverse").learn(10_000)) == pytest.approx(1.0, abs=1e-5)


def test_a_seed_repeats_its_weights(log: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (weights(build(log, seed).learn(600)) for seed in (3, 3, 4))
    assert equal(first, again) and not torch.equal(first["network.start"], other["network.start"])
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_goes_on_without_the_logged_file(log: Path, tmp_path: Path) -> None:
    agent = build(log).learn(600)
    agent.save(tmp_path / "checkpoint")
    log.unlink()
    again = load_agent(tmp_path / "checkpoint", SlotVecEnv(row_problem(), 2))
    assert isinstance(again, ReproductionAgent) and again.options == agent.options
    assert read_json(tmp_path / "checkpoint" / "manifest.json")["options"]["logged"] == str(log)
    assert equal(weights(again), weights(agent)) and again.scale == agent.scale
    observation = row_problem().evaluation_observations(3, generator_from(0))
    assert torch.equal(again.choose(observation), agent.choose(observation))
    before = again.num_timesteps
    again.learn(64, reset_num_timesteps=False)
    # The rows are not scored again.
    assert again.num_timesteps == before + 64 and again.problem.budget.forwards == 64


def test_missing_logged_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="expected --logged FILE with rows to imitate for 'reproduction', got none"):
        build(None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("where", "there"), "expected a column 'where' in .*log.csv"),
        (lambda text: text.replace("\ns,x,,k,p", "\ns,x,,K,p"), "known category of 'a' .* in row 4 of .*got 'K'"),
        (lambda text: text.replace("\ns,z,,k,o", "\ns,w,,k,o"), "known category of 'where' .* in row 97 of .*got 'w'"),
        (lambda text: "\n".join(text.splitlines()[:2]), "at least two logged rows in .*, got 1"),
        (lambda text: text.splitlines()[0] + "\n", "expected rows in .*, got a header alone"),
    ],
)
def test_a_log_that_does_not_fit_the_estimator_is_refused(
    change: Callable[[str], str], message: str, log: Path
) -> None:
    changed = change(log.read_text())
    assert changed != log.read_text()
    log.write_text(changed)
    with pytest.raises(ValueError, match=message):
        build(log)


def test_problems_without_rows_or_without_names_are_refused(log: Path) -> None:
    nameless = row_problem()
    nameless.encoding = None
    for problem in (make_problem("SlotRL/Slots-v0"), nameless):
        with pytest.raises(
            ValueError, match="expected a problem of table rows whose categories have names for --logged"
        ):
            ReproductionAgent(SlotVecEnv(problem, 2), ReproductionOptions(logged=log))


def test_a_log_without_contexts_answers_the_only_request(log: Path) -> None:
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(3, 4, (8,), (4, 4, 3)))
    observation, _ = RowProblem(net, encoding=replace(ENCODING, contexts={})).read_logged(log)
    assert observation.context is not None and observation.context.tolist() == [[0]] * ROWS


def test_a_budget_that_the_logged_rows_exhaust_is_refused(log: Path) -> None:
    agent = build(log)
    with pytest.raises(ValueError, match=f"the {ROWS} calls that scoring {ROWS} logged rows takes .*, got {ROWS}"):
        agent.learn(ROWS)
    assert agent.problem.budget.forwards == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"weighting": "square"}, "weighting advantage or inverse, got 'square'"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"offset": -1.0}, "offset > 0"),
        ({"clip": 0.5}, "clip >= 1.*got 0.1, 0.1 and 0.5"),
    ],
)
def test_options_refuse_what_no_training_could_use(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReproductionOptions(**option)


def test_the_agent_is_on_the_list() -> None:
    assert AGENTS["reproduction"].build is ReproductionAgent
