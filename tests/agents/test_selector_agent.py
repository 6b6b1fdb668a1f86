"""An agent for every selector: each learns, pays for what it scores, follows its selector's gradient and is restored.

The problem is small enough to count by hand: 2 slots, 4 items, pick the values nearest to one half.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from slot_rl.agents import AGENTS, ReinforceAgent, SelectorAgent, load_agent
from slot_rl.agents import scale as scale_module
from slot_rl.agents.reinforce import ReinforceOptions
from slot_rl.agents.scale import RunningScale
from slot_rl.agents.selector_agent import SELECTOR_AGENTS, AnnealedSelectorOptions, SelectorOptions
from slot_rl.envs import SlotVecEnv
from slot_rl.io import BundleError, read_json
from slot_rl.networks import PointerSize
from slot_rl.problems import Observation, SlotProblem
from slot_rl.problems.candidate_draws import unit_uniform
from slot_rl.problems.truths import pick_value
from slot_rl.seeding import generator_from
from slot_rl.selectors import NAMES, SELECTORS, Estimate, Gumbel, Selector, StraightThrough, make
from tests.helpers.options import options_of

SMALL = PointerSize(width=16, hidden=32, rounds=1)
# Of one request with 2 slots of 4 items: 4^2 configurations; 4 draws; a draw and its 2 * 3 swaps, all of which the
# default m = 2 scores too; a draw and 2 relaxed rows.
FORWARDS = {"exact": 16, "rloo": 4, "local_expectation": 7, "screened_expectation": 7, "rebar": 3}
BACKWARDS = {"exact": 0, "rloo": 0, "local_expectation": 0, "rebar": 2}
UNUSUAL: dict[str, dict[str, Any]] = {
    "exact": {"limit": 1_000, "chunk": 8},
    "softmax": {"tau": 0.7},
    "straight_through": {"tau_forward": 1.5, "tau_backward": 0.75, "noise": False},
    "gumbel": {"tau": 0.8, "hard": False},
    "gumbel_rao": {"tau": 0.6, "k": 3},
    "reinmax": {"tau": 1.5},
    "gapped": {"gap": 2.0, "tau": 0.5},
    "intermediate_loss": {"step": 0.5, "normaliser": "sum", "faithful": True},
    "rloo": {"k": 3},
    "local_expectation": {"chunk": 8},
    "screened_expectation": {"m": 1, "chunk": 8},
    "rebar": {"eta": 0.5, "tau": 0.9},
}
names = pytest.mark.parametrize("name", SELECTOR_AGENTS)


def small_problem() -> SlotProblem:
    return SlotProblem(pick_value, 2, 4, 1, unit_uniform, truth=pick_value)


def build(name: str, seed: int = 0, **options: Any) -> SelectorAgent:
    settings: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 64, "policy": SMALL, **options}
    agent = AGENTS[name](SlotVecEnv(small_problem(), 2, seed=0), options_of(name, **settings), seed=seed)
    assert isinstance(agent, SelectorAgent)
    return agent


def weights(agent: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in agent.policy.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def mean_greedy_score(agent: SelectorAgent) -> float:
    problem = small_problem()
    observation = problem.sample(2_000, generator_from(99))
    return float(problem.score(observation, agent.choose(observation)).mean())


def losses_of(agent: SelectorAgent) -> list[Tensor]:
    """Returns a list that gets every loss from now on, in place of an optimiser's step."""
    captured: list[Tensor] = []
    agent.optimizer_step = lambda loss: captured.append(loss) or 0.0  # type: ignore[method-assign,func-returns-value]
    return captured


def gradient(value: Tensor, agent: SelectorAgent) -> Tensor:
    """Returns the gradient with respect to the whole pointer network, end to end."""
    parts = torch.autograd.grad(value, list(agent.policy.network.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def replay(agent: SelectorAgent, state: Tensor, selector: Selector, unit: float = 1.0) -> tuple[Tensor, Estimate]:
    """Returns the logits of the update that started from a generator's state, and a selector's estimate at them."""
    generator = torch.Generator()
    generator.set_state(state)
    forwards, _ = selector.cost(2, 4)
    observation = agent.problem.sample(agent.options.batch_size // forwards, generator)
    logits, _ = agent.policy.point(observation)
    return logits, selector(
        logits, lambda rows: agent.problem.score_selection(observation, rows) / unit, None, generator
    )


def test_every_selector_has_an_agent_with_that_selectors_options() -> None:
    assert set(AGENTS) >= {*NAMES, "ppo"}
    assert set(SELECTOR_AGENTS) == set(NAMES) - {"reinforce"}
    # Learning from rewards alone, reinforce has no use for the selector of its name.
    assert AGENTS["reinforce"].build is ReinforceAgent
    assert "selector" not in {option.name for option in fields(ReinforceOptions)}
    for name in SELECTOR_AGENTS:
        default = options_of(name)
        assert build(name).name == name
        assert isinstance(default, SelectorOptions)
        assert type(default.selector) is SELECTORS[name]
        assert (default.selector, default.score_function_share) == (
            (Gumbel(tau=0.5), 1.0) if name == "gumbel" else (make(name), 0.0)
        )


MISLED = ("softmax", "straight_through", "intermediate_loss")


@names
def test_each_agent_learns_and_an_untrained_one_does_not(name: str) -> None:
    # The best of four is E[min |u - 1/2|^2] = 1/60 off in each slot, a random one 1/12. Measured over seeds 0 to 5:
    # -0.035 to -0.037 after training and about -0.24 before, where the policy happens to prefer the extremes. Slopes
    # alone mislead here, since mixtures of extremes score best: -0.05 to -0.11.
    agent = build(name, batch_size=128)
    bar, random, best = -0.13 if name in MISLED else -0.045, -2 / 12, -2 / 60
    assert mean_greedy_score(agent) < random < bar
    assert bar < mean_greedy_score(agent.learn(12_800)) < best + 0.005


@names
@pytest.mark.parametrize("batch_size", [64, 12])
def test_timesteps_are_calls_and_pay_for_the_requests(name: str, batch_size: int) -> None:
    agent = build(name, batch_size=batch_size)
    drawn: list[int] = []
    sample = agent.problem.sample

    def watched(batch: int, generator: torch.Generator) -> Observation:
        # The environment opens requests of its own, from another generator.
        if generator is agent.generator:
            drawn.append(batch)
        return sample(batch, generator)

    agent.problem.sample = watched  # type: ignore[method-assign]
    agent.learn(100)
    forwards = FORWARDS.get(name, 1)
    # A batch of 12 does not pay for one row of exact, whose update still takes two.
    assert set(drawn) == {max(2, batch_size // forwards)}
    assert agent.num_timesteps == agent.problem.budget.forwards == sum(drawn) * forwards
    assert agent.problem.budget.backwards == sum(drawn) * BACKWARDS.get(name, 1)
    assert 100 <= agent.num_timesteps < 100 + drawn[0] * forwards


@pytest.mark.parametrize("earlier", [0, 3])
@pytest.mark.parametrize("name", ["reinmax", "rloo"])
def test_an_update_follows_the_selectors_mean_estimate(name: str, earlier: int) -> None:
    agent = build(name, entropy=4.0)
    for _ in range(earlier):
        agent.update()
    agent._current_progress_remaining = 0.5  # half of the bonus is left
    captured, state = losses_of(agent), agent.generator.get_state()
    agent.update()

    logits, estimate = replay(agent, state, make(name))
    if earlier == 0:
        assert agent.scale.unit == pytest.approx(float(estimate.score.std()))
    entropy = torch.distributions.Categorical(logits=logits).entropy().sum(dim=-1).mean()
    gain, bonus = gradient(estimate.surrogate.mean(), agent), gradient(2.0 * entropy, agent)
    found = -gradient(captured[0], agent)
    assert torch.allclose(found, gain / agent.scale.unit + bonus, rtol=1e-3, atol=1e-5)
    # Neither the scale nor the bonus is too small for this test to see; near-uniform policies need a large one.
    assert (found - gain - bonus).norm() > 0.2 * found.norm()
    assert (found - gain / agent.scale.unit).norm() > 0.03 * found.norm()


def test_a_step_in_units_of_score_is_scaled() -> None:
    agent = build("intermediate_loss", entropy=0.0, selector=make("intermediate_loss", step=5.0))
    agent.update()
    captured, state, unit = losses_of(agent), agent.generator.get_state(), agent.scale.unit
    agent.update()
    _, standardised = replay(agent, state, agent.selector, unit)
    _, raw = replay(agent, state, agent.selector)
    found = -gradient(captured[0], agent)
    wanted = gradient(standardised.surrogate.mean(), agent) * unit / agent.scale.unit
    unscaled = gradient(raw.surrogate.mean(), agent) / agent.scale.unit
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert (found - unscaled).norm() > 0.3 * found.norm()


def test_the_score_function_takes_over_as_training_ends() -> None:
    def at(done: float, score_function_share: float) -> Tensor:
        agent = build("reinmax", entropy=0.0, score_function_share=score_function_share, value_coefficient=0.0)
        agent._current_progress_remaining = 1 - done
        captured = losses_of(agent)
        agent.update()
        return gradient(captured[0], agent)

    selectors, scores = at(0.0, 1.0), at(1.0, 1.0)
    assert (selectors - scores).norm() > 0.3 * scores.norm()
    assert torch.allclose(at(0.25, 1.0), 0.75 * selectors + 0.25 * scores, atol=1e-5)
    assert torch.allclose(at(0.25, 2.0), 0.5 * selectors + 0.5 * scores, atol=1e-5)
    assert torch.equal(at(0.75, 2.0), scores)
    assert torch.equal(at(0.75, 0.0), selectors)


@pytest.mark.parametrize(
    ("name", "selector"),
    [
        ("softmax", make("softmax")),
        ("gumbel", Gumbel(hard=False)),
        ("straight_through", StraightThrough(noise=False)),
        ("straight_through", StraightThrough(tau_forward=2.0)),
    ],
)
def test_a_score_function_share_needs_true_draws(name: str, selector: Selector) -> None:
    kind: Any = partial(options_of, name)
    with pytest.raises(ValueError, match=r"score_function_share 0 for .*, which does not score true draws, got 0.5"):
        kind(selector=selector, score_function_share=0.5)
    assert kind(selector=selector, score_function_share=0.0, in_turn=False).selector == selector


@pytest.mark.parametrize("name", sorted(set(SELECTOR_AGENTS) - {"softmax"}))
def test_a_score_function_share_suits_other_selectors(name: str) -> None:
    kind: Any = partial(options_of, name)
    assert kind(score_function_share=0.5).score_function_share == 0.5


@pytest.mark.parametrize(("score_function_share", "trained"), [(0.0, False), (1.0, True)])
def test_the_value_head_is_trained_only_where_needed(score_function_share: float, trained: bool) -> None:
    agent = build("rloo", score_function_share=score_function_share)
    before = weights(agent)
    after = weights(agent.learn(256))
    assert not torch.equal(before["network.round.linear.weight"], after["network.round.linear.weight"])
    heads = [key for key in before if key.startswith("value_head.")]
    assert len(heads) == 4
    assert [torch.equal(before[key], after[key]) for key in heads] == [not trained] * 4


@names
def test_a_checkpoint_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    usual, selector = make(name), make(name, **UNUSUAL[name])
    assert all(getattr(selector, option) != value for option, value in asdict(usual).items())  # type: ignore[call-overload]
    annealed = isinstance(AGENTS[name].options, AnnealedSelectorOptions)
    moving: dict[str, Any] = {"tau_end": 0.3, "tau_schedule": "cosine"} if annealed else {}
    moving |= {"score_function_share": 0.0, "entropy": 0.2, "entropy_end": 0.1, "in_turn": selector.draws_once}
    agent = build(name, selector=selector, **moving).learn(256)
    agent.save(tmp_path / "checkpoint")
    again = load_agent(tmp_path / "checkpoint", SlotVecEnv(small_problem(), 2))
    assert isinstance(again, SelectorAgent) and type(again) is type(agent)
    assert again.options == agent.options
    assert again.selector == selector
    assert (again.num_timesteps, again.scale) == (agent.num_timesteps, agent.scale)
    saved = weights(agent)
    assert equal(weights(again), saved)
    for trained in (agent, again):
        trained.learn(256, reset_num_timesteps=False)
    assert equal(weights(again), weights(agent))
    assert not equal(weights(again), saved)


def test_an_unknown_selector_option_in_a_manifest_is_refused(tmp_path: Path) -> None:
    build("rloo").save(tmp_path)
    path = tmp_path / "manifest.json"
    document = read_json(path)
    assert document["options"]["selector"] == {"k": 4}
    document["options"]["selector"] = {"k": 5}
    path.write_text(json.dumps(document))
    options: Any = load_agent(tmp_path, SlotVecEnv(small_problem(), 2)).options
    assert options.selector == make("rloo", k=5)
    document["options"]["selector"] = {"tau": 0.5}
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="expected options of RLOO, got unknown ones: tau"):
        load_agent(tmp_path, SlotVecEnv(small_problem(), 2))
    for nothing in (None, 5, ["k"]):
        path.write_text(json.dumps({**document, "options": nothing}))
        with pytest.raises(BundleError, match="expected a mapping of texts at options of SelectorOptions, got "):
            load_agent(tmp_path, SlotVecEnv(small_problem(), 2))


@pytest.mark.parametrize(
    ("moving", "tau"),
    [
        ({"tau_end": 0.25, "tau_schedule": "exponential"}, lambda done: 0.25**done),
        ({"tau_end": 3.0, "tau_schedule": "linear"}, lambda done: 1 + 2 * done),
        ({}, lambda done: 1.0),
    ],
)
def test_updates_draw_at_the_present_temperature(
    moving: dict[str, Any], tau: Callable[[float], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    shown: list[float] = []
    estimate = Gumbel.estimate

    def watched(self: Gumbel, *arguments: Any) -> Any:
        used.append(self.tau)
        return estimate(self, *arguments)

    class Looking(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            assert isinstance(self.model, SelectorAgent) and isinstance(self.model.selector, Gumbel)
            shown.append(self.model.selector.tau)

    monkeypatch.setattr(Gumbel, "estimate", watched)
    build("gumbel", selector=Gumbel(tau=1.0), **moving).learn(640, callback=Looking())
    assert used == shown == pytest.approx([tau(i / 10) for i in range(10)])


@names
def test_a_seed_repeats_its_weights(name: str) -> None:
    first, second, other = (weights(build(name, seed=seed).learn(256)) for seed in (3, 3, 4))
    assert equal(first, second)
    assert not any(torch.equal(first[key], other[key]) for key in ("network.round.linear.weight", "network.start"))


def test_the_running_scale_is_that_of_a_calculation_by_hand() -> None:
    scale = RunningScale()
    assert (scale.mean, scale.unit, scale.seen) == (0.0, 1.0, 0)
    scale.update(torch.tensor([1.0, 3.0]))
    # Half of a difference of 2, squared, once on either side of the mean, over n - 1.
    assert (scale.mean, scale.variance, scale.seen) == (2.0, 2.0, 2)
    assert scale.standardise(torch.tensor([2.0, 4.0])).tolist() == pytest.approx([0.0, 2 / math.sqrt(2)])
    scale.update(torch.tensor([7.0, 7.0]))
    assert 2 < scale.mean < 7 and 0 < scale.variance < 2
    # Equal scores have no spread to divide by, and rounding errors are none.
    flat = RunningScale()
    flat.update(torch.full((8,), 3.0))
    assert flat.unit == pytest.approx(4e-6)


def test_the_running_scale_forgets_the_start_of_the_training() -> None:
    scale = RunningScale()
    scale.update(10 + 5 * torch.randn(512, generator=generator_from(0)))
    for batch in torch.randn(400, 512, generator=generator_from(1)):
        scale.update(batch)
    assert abs(scale.mean) < 0.1 and scale.unit == pytest.approx(1.0, abs=0.1)


def test_the_running_scale_is_right_for_small_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A shorter memory, so that few batches do.
    monkeypatch.setattr(scale_module, "HORIZON", 4_000)
    scores = 5 + 3 * torch.randn(20_480, generator=generator_from(0))
    pairs, hundreds = RunningScale(), RunningScale()
    for batch in scores.view(-1, 2):
        pairs.update(batch)
    for batch in scores.view(-1, 512):
        hundreds.update(batch)
    assert pairs.seen == hundreds.seen == 20_480
    assert pairs.unit == pytest.approx(3.0, rel=0.06)
    assert pairs.unit == pytest.approx(hundreds.unit, rel=0.06)
    # Two normal scores have a mean deviation of sqrt(2 / pi) = 0.80 of the distribution's.
    deviations = float(scores.view(-1, 2).std(dim=1).mean())
    assert deviations == pytest.approx(3 * math.sqrt(2 / math.pi), rel=0.03)
    assert deviations < (1 - 0.15) * pairs.unit


def test_a_hundred_batches_of_two_rows_outweigh_the_first() -> None:
    # One batch's variance is anything from 0 to several times the true one; that of a hundred is right within 30 %.
    units = []
    for seed in range(8):
        scale = RunningScale()
        for batch in torch.randn(100, 2, generator=generator_from(seed)):
            scale.update(batch)
        units.append(scale.unit)
    assert units == pytest.approx([1.0] * 8, rel=0.3)
