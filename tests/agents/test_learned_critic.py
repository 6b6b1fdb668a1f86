"""The agent that learns a critic from rewards alone: what it may see, what it tries, and that it learns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slot_rl.agents import LearnedCriticAgent, RandomAgent, load_agent
from slot_rl.agents.critic_moves import better_than_others, random_swap, swept
from slot_rl.agents.learned_critic import LearnedCriticOptions
from slot_rl.agents.reward_critic import CriticFit
from slot_rl.envs import SequentialVecEnv, SlotVecEnv
from slot_rl.estimators import EstimatorNet, EstimatorShape, load_estimator, save_estimator
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.evaluation import Evaluation, EvaluationConfig
from slot_rl.io import BundleError
from slot_rl.networks import PointerSize
from slot_rl.problems import Budget, NonFiniteScore, Observation, Problem, SlotProblem
from slot_rl.search import enumerate_landscape, no_slopes
from slot_rl.seeding import generator_from, seeded_initialisation
from tests.helpers.limited import forbidden, pages
from tests.helpers.logged_table import ROWS, optimality, row_problem, write_log

SMALL = PointerSize(width=16, hidden=32, rounds=2)
QUICK: dict[str, Any] = {
    "batch_size": 50,
    "actor_steps": 2,
    "actor_batch": 16,
    "draws": 4,
    "policy": SMALL,
    "critic": CriticFit(50, 50),
}


WEIGHTS = np.array([[1.0, -1.0], [-0.5, 0.8], [0.3, 1.2]], dtype=np.float32)


def untouchable(items: Tensor) -> Tensor:
    """A score from numpy, which has no gradient."""
    total = (items.numpy() * WEIGHTS).sum(axis=(1, 2))
    return torch.from_numpy(total + 0.3 * np.sin(total))


def black_box() -> SlotProblem:
    return SlotProblem(untouchable, 3, 5, 2)


class Changing(SlotVecEnv):
    """Pays what ``paid`` makes of the scores and of the number of the step."""

    def paid(self, rewards: Any, step: int) -> Any:
        return rewards

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = super().step_wait()
        self.steps = getattr(self, "steps", 0) + 1
        return obs, np.asarray(self.paid(rewards, self.steps), dtype=np.float32), dones, infos


class Noisy(Changing):
    def paid(self, rewards: Any, step: int) -> Any:
        self.random = getattr(self, "random", np.random.default_rng(0))
        return rewards + self.random.normal(0, rewards.std(), len(rewards))


class Turning(Changing):
    """Pays the opposite for the first half of 1,500 calls."""

    def paid(self, rewards: Any, step: int) -> Any:
        return rewards if step > 15 else -rewards


def found(agent: Any, problem: Problem) -> float:
    """Its optimality on fresh requests."""
    twin = problem.with_fresh_budget()
    observation = twin.sample(100, generator_from(99))
    landscape = enumerate_landscape(twin, observation, twin.score)
    score, random = twin.score(observation, agent.choose(observation)).mean(), landscape.mean.mean()
    return float((score - random) / (landscape.best.mean() - random))


def test_it_learns_from_what_has_no_gradient_and_random_does_not() -> None:
    problem = black_box()
    assert found(RandomAgent(problem), problem) < 0.3
    problem.budget = Budget()
    agent = LearnedCriticAgent(SlotVecEnv(problem, 50), **QUICK).learn(1_500)
    assert found(agent, problem) > 0.9
    assert problem.budget.forwards == agent.num_timesteps == 1_500
    assert problem.budget.backwards == 0


def test_it_learns_from_noisy_rewards() -> None:
    problem = black_box()
    assert found(RandomAgent(problem), problem) < 0.3
    agent = LearnedCriticAgent(Noisy(problem, 50), **QUICK).learn(1_500)
    assert found(agent, problem) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "least", "most"), [(400, 0.8, 1.0), (200_000, -1.0, 0.7)])
def test_a_short_memory_follows_rewards_that_change(memory: int, least: float, most: float) -> None:
    problem = black_box()
    agent = LearnedCriticAgent(Turning(problem, 50), **QUICK, memory=memory).learn(1_500)
    assert least < found(agent, problem) <= most


def test_a_black_box_is_judged_without_a_gradient() -> None:
    problem = black_box()
    evaluation = Evaluation(problem, EvaluationConfig(eval_size=20))
    agent = LearnedCriticAgent(problem, **QUICK).learn(100)
    rows = {row.name: row for row in [*evaluation.judge_agent(agent), *evaluation.references]}
    assert {"policy and critic", "local search", "best"} <= set(rows) and "guided search" not in rows
    assert rows["policy, 31 calls"].figure("optimality") >= rows["policy and critic"].figure("optimality")
    assert evaluation.problem.budget.backwards == 0
    assert agent.answers_by == "policy and critic"
    assert LearnedCriticAgent(problem, **QUICK).answers_by == "policy, one pass"


def test_what_has_a_slope_and_what_has_none() -> None:
    assert no_slopes(row_problem()) is None
    assert "differentiable at rows, got: " in (no_slopes(black_box()) or "")
    problem = pages()
    assert no_slopes(problem) is None and problem.budget == Budget()


def test_a_slope_that_is_not_finite_weakens_no_competitor() -> None:
    # The root of 0 has an infinite slope, and 0 times that is NaN; the scores are finite.
    problem = SlotProblem(lambda items: items.sum((1, 2)) + (0 * items).sum((1, 2)).sqrt(), 3, 5, 2)
    assert no_slopes(problem) is None
    with pytest.raises(NonFiniteScore, match="expected finite gradients from the estimator"):
        Evaluation(problem, EvaluationConfig(eval_size=20))


def test_an_environment_without_a_problem_is_enough() -> None:
    class Blind(SlotVecEnv):
        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            if attr_name == "problem":
                raise AttributeError(attr_name)
            return super().get_attr(attr_name, indices)

    agent = LearnedCriticAgent(Blind(black_box(), 50), **QUICK).learn(100)
    assert agent.problem is None and agent.num_timesteps == 100


def test_a_reward_that_is_no_number_stops_the_training() -> None:
    class Broken(Changing):
        def paid(self, rewards: Any, step: int) -> Any:
            return np.where(np.arange(len(rewards)) == 3, np.nan, rewards)

    with pytest.raises(NonFiniteScore, match="expected finite rewards from the estimator, got 1 of 50") as caught:
        LearnedCriticAgent(Broken(black_box(), 50), **QUICK).learn(100)
    assert caught.value.rows.shape == (50, 3)


def test_episodes_of_several_steps_are_refused() -> None:
    with pytest.raises(TypeError, match="MultiDiscrete action of a slots environment"):
        LearnedCriticAgent(SequentialVecEnv(black_box(), 8), **QUICK)


def test_rows_of_a_table_have_a_critic_of_their_own() -> None:
    agent = LearnedCriticAgent(row_problem(), **QUICK)
    assert agent._shape.sizes == (4, 4, 3) and agent._shape.contexts == (3,)
    agent.learn(1_000)
    assert optimality(agent) > 0.8


def test_a_log_takes_the_place_of_random_tries(tmp_path: Path) -> None:
    problem = row_problem()
    agent = LearnedCriticAgent(problem, **QUICK, logged=write_log(tmp_path / "log.csv"))
    agent.learn(ROWS + 50)
    assert agent.num_timesteps == problem.budget.forwards == ROWS + 50
    assert len(agent.memory) == ROWS + 50
    assert optimality(agent) > 0.4
    agent.save(tmp_path / "checkpoint")
    (tmp_path / "log.csv").unlink()
    again = load_agent(tmp_path / "checkpoint", SlotVecEnv(row_problem(), 2))
    assert optimality(again) == optimality(agent)  # type: ignore[arg-type]


def test_a_log_that_leaves_no_call_is_refused(tmp_path: Path) -> None:
    agent = LearnedCriticAgent(row_problem(), **QUICK, logged=write_log(tmp_path / "log.csv"))
    with pytest.raises(ValueError, match=f"more timesteps than the {ROWS} logged rows for 'learned_critic'"):
        agent.check_timesteps(ROWS)
    with pytest.raises(ValueError, match="rows whose categories have names"):
        LearnedCriticAgent(black_box(), **QUICK, logged=tmp_path / "log.csv").learn(100)


def a_network(folder: Path) -> Path:
    """An estimator with random weights, whose scores are far from linear."""
    with seeded_initialisation(1):
        net = EstimatorNet(EstimatorShape(3, 2, (16,))).requires_grad_(False)
        net.get_parameter("body.0.weight").mul_(8.0)
        net.scale.fill_(5.0)
    save_estimator(folder, net, {})
    return folder


def error(agent: LearnedCriticAgent, problem: Problem) -> float:
    """How far the critic is from the rewards of random choices."""
    observation = problem.sample(500, generator_from(0))
    choice = torch.randint(5, (1, 500, 3), generator=generator_from(1))
    assert agent._whole_critic is not None
    return float(
        (agent._whole_critic.of_choices(observation, choice).mean(dim=0) - problem.score(observation, choice)).std()
    )


def test_with_a_prior_the_critic_learns_the_difference(tmp_path: Path) -> None:
    prior = a_network(tmp_path / "prior")
    known = load_estimator(prior).net
    problem = SlotProblem(lambda items: known(items) + 0.3 * items[..., 0, 0].sin(), 3, 5, 2)
    agent, without = (
        LearnedCriticAgent(SlotVecEnv(problem.with_fresh_budget(), 50), **QUICK, **more).learn(300)
        for more in ({"prior": prior}, dict[str, Any]())
    )
    assert 3 * error(agent, problem) < error(without, problem)
    # Only what the rewards differ by is kept: a sine of .3.
    assert float(agent.memory.rows(torch.arange(300))["reward"].abs().max()) <= 0.3 + 1e-4
    assert agent.problem is not None and agent.problem.budget.forwards == agent.num_timesteps == 300


def test_a_prior_is_asked_again_by_a_checkpoint(tmp_path: Path) -> None:
    problem, prior = black_box(), a_network(tmp_path / "prior")
    agent = LearnedCriticAgent(SlotVecEnv(problem, 50), **QUICK, prior=prior).learn(150)
    agent.save(tmp_path / "checkpoint")
    observation = problem.sample(30, generator_from(0))
    again = load_agent(tmp_path / "checkpoint", SlotVecEnv(problem, 50))
    assert torch.equal(again.choose(observation), agent.choose(observation))
    with seeded_initialisation(2):
        save_estimator(prior, EstimatorNet(EstimatorShape(3, 2, (16,))), {})
    with pytest.raises(BundleError, match=r"expected the prior of the training in .*prior, with SHA-256 .*, got"):
        load_agent(tmp_path / "checkpoint", SlotVecEnv(problem, 50))


def test_a_prior_of_something_else_is_refused(tmp_path: Path) -> None:
    prior = a_network(tmp_path / "prior")
    with pytest.raises(ValueError, match="expected a problem of items that requests bring or a pool holds, got"):
        LearnedCriticAgent(row_problem(), **QUICK, prior=prior)
    table = TableEncoding("score", {"one": ("a", "b")}, {})
    with seeded_initialisation(0):
        save_estimator(tmp_path / "table", EstimatorNet(EstimatorShape(1, 2, (4,), (2,))), {}, table)
    with pytest.raises(ValueError, match="expected a prior of items' vectors, got an estimator of a table in"):
        LearnedCriticAgent(black_box(), **QUICK, prior=tmp_path / "table")
    with pytest.raises(ValueError, match="expected scores from untouchable for slots, given items"):
        LearnedCriticAgent(SlotProblem(untouchable, 3, 5, 3), **QUICK, prior=prior)
    with pytest.raises(BundleError, match="expected"):
        LearnedCriticAgent(black_box(), **QUICK, prior=tmp_path / "nothing")


def test_a_checkpoint_has_the_critic(tmp_path: Path) -> None:
    problem = black_box()
    agent = LearnedCriticAgent(SlotVecEnv(problem, 50), **QUICK).learn(100)
    agent.save(tmp_path)
    again = load_agent(tmp_path, SlotVecEnv(problem, 2))
    assert isinstance(again, LearnedCriticAgent)
    assert agent.critic is not None and again.critic is not None
    observation = problem.sample(6, generator_from(0))
    selection = torch.eye(5).expand(6, -1, -1)[:, :3]
    assert torch.equal(agent.critic(observation, selection), again.critic(observation, selection))
    assert again.errors == agent.errors and again.remark == agent.remark
    assert agent.remark is not None and "errors on held-out rewards" in agent.remark
    LearnedCriticAgent(SlotVecEnv(problem, 50), **QUICK).save(tmp_path)  # untrained, without a critic
    assert load_agent(tmp_path, SlotVecEnv(problem, 2)).remark is None


def swaps(rules: bool) -> Iterator[tuple[Problem, Observation, Tensor, Tensor]]:
    problem = pages() if rules else pages(())
    observation = problem.sample(300, generator_from(1))
    agent = LearnedCriticAgent(problem, **QUICK)
    logits = agent.policy.point(observation)[0].detach()
    choice = agent.policy.draw(observation, generator_from(2))
    allowed = problem.rules(observation)
    yield problem, observation, choice, random_swap(choice, logits > -torch.inf, allowed, generator_from(3))


@pytest.mark.parametrize("rules", [True, False])
def test_random_swaps_change_one_slot_and_stay_allowed(rules: bool) -> None:
    for problem, observation, choice, swapped in swaps(rules):
        changed = (choice != swapped).sum(dim=1)
        # Under constraints a few answers have no swap, and stay.
        assert changed.max() == 1 and changed.double().mean() > (0.8 if rules else 0.999)
        if rules:
            assert forbidden(problem, observation, swapped) == 0
        else:
            assert observation.mask is not None
            assert bool(observation.mask.gather(2, swapped.unsqueeze(2)).all())


class Known(torch.nn.Module):
    """A critic that knows the scores."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem.with_fresh_budget()

    def of_choices(self, observation: Observation, choices: Tensor) -> Tensor:
        return self.problem.score(observation, choices).unsqueeze(0)


def test_sweeps_find_what_one_swap_at_a_time_finds() -> None:
    problem = black_box()
    critic: Any = Known(problem)
    observation = problem.sample(50, generator_from(1))
    choice, allowed = torch.zeros(50, 3, dtype=torch.long), torch.ones(50, 3, 5, dtype=torch.bool)
    # Each slot's item counts for itself, so one sweep finds the best.
    best = enumerate_landscape(critic.problem, observation, critic.problem.score).best
    found = critic.problem.score(observation, swept(critic, observation, choice, allowed, None, 1))
    assert torch.allclose(found, best.float(), atol=1e-5)
    assert torch.equal(swept(critic, observation, choice, allowed, None, 0), choice)


def test_sweeps_keep_the_rules() -> None:
    problem = pages()
    observation = problem.sample(200, generator_from(1))
    rules, mask = problem.rules(observation), observation.mask
    assert rules is not None and mask is not None
    choice = rules.draw(torch.zeros(mask.shape).masked_fill(~mask, -torch.inf), generator_from(2))[0]
    critic: Any = Known(problem)
    found = swept(critic, observation, choice, mask, rules, 2)
    assert forbidden(problem, observation, found) == 0
    assert float((problem.score(observation, found) - problem.score(observation, choice)).min()) >= 0


def test_a_draws_advantage_by_hand() -> None:
    # Above the mean of the others: 1 - 3 / 2, 2 - 2 / 2 and 1 - 3 / 2.
    assert better_than_others(torch.tensor([[1.0], [2.0], [1.0]])).flatten().tolist() == pytest.approx(
        [-0.5, 1.0, -0.5]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"random_first": 1.0}, "expected random_first from 0 to below 1"),
        ({"swaps": 1.5}, "swaps from 0 to 1 and spread >= 0, got 0.2, 1.5 and 1.0"),
        ({"spread": -1.0}, "got 0.2, 0.5 and -1.0"),
        ({"members": 1}, "expected members >= 2, got 1"),
        ({"draws": 1}, "expected draws >= 2, got 1"),
        ({"memory": 3}, "expected memory >= 4, got 3"),
        ({"actor_steps": 0}, "expected actor_steps >= 1, got 0"),
    ],
)
def test_options_without_use_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedCriticOptions(**changes)
