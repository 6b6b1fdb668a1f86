"""Other people's code runs on the sequential environment: MaskablePPO, a CleanRL-style loop, TorchRL and RLlib.

The items must be distinct. Each learner finishes a thousand answers or so, and none of them repeats an item.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from slot_rl.envs import MaskInObservation, SequentialEnv, SequentialVecEnv, SequentialVectorEnv, SlotsVectorEnv
from slot_rl.problems.constraints import Distinct
from slot_rl.seeding import seeded_initialisation
from tests.helpers.limited import distinct_slots


def repeats(answers: npt.NDArray[Any]) -> int:
    """Counts the answers ``(rows, slots)``, items plus 1, that are not complete or name an item twice."""
    return sum(len(set(row)) < len(row) or 0 in row for row in answers.tolist())


def test_sb3_contribs_maskable_ppo_learns() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env: Any = SequentialVecEnv(distinct_slots(), 64, seed=0)
    answers: list[Any] = []
    step_wait = env.step_wait

    def watched() -> Any:
        found = step_wait()
        answers.extend(info["terminal_observation"]["answer"] for info in found[3] if "terminal_observation" in info)
        return found

    env.step_wait = watched
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 256, "n_epochs": 4, "gamma": 1.0, "learning_rate": 1e-3}
    with torch.random.fork_rng(devices=[]):  # SB3 draws from the global generator
        torch.manual_seed(0)
        agent = contrib.MaskablePPO("MultiInputPolicy", env, device="cpu", **settings)
        agent.learn(64 * 16 * 6)
        observation, masks = env.reset(), []
        for _ in range(4):
            masks.append(env.action_masks())
            actions, _ = agent.predict(observation, action_masks=masks[-1], deterministic=True)
            observation, rewards, dones, infos = env.step(actions)
    assert len(answers) == 64 * 4 * 6 + 64 == env.problem.budget.forwards and repeats(np.array(answers)) == 0
    assert dones.all() and masks[-1].sum(axis=1).tolist() == [5] * 64
    # Random answers have .03 on average, with a standard deviation of .04 for the mean of 64.
    assert rewards.mean() > 0.1


def test_without_masks_it_names_closed_items() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        agent = contrib.MaskablePPO("MultiInputPolicy", SequentialVecEnv(distinct_slots(), 64, seed=0), n_steps=4)
        with pytest.raises(ValueError, match="expected an item that is open to slot"):
            agent.learn(256, use_masking=False)


class Masked(nn.Module):
    """CleanRL's actor and critic, with logits of closed items set to a large negative number."""

    def __init__(self, inputs: int, items: int) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, items))
        self.critic = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, rows: Tensor, masks: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        logits = self.actor(rows).masked_fill(~masks, -1e8)
        return torch.distributions.Categorical(logits=logits), self.critic(rows).squeeze(-1)


def cleanrl_ppo(envs: SequentialVectorEnv, updates: int, steps: int, count: int) -> tuple[list[float], list[Any]]:
    """Runs a masked PPO in the style of CleanRL; returns the mean score of each update and all finished answers."""
    flat = envs.single_observation_space

    def rows(observation: dict[str, Any]) -> Tensor:
        each = [{name: part[i] for name, part in observation.items()} for i in range(count)]
        flattened: list[Any] = [spaces.flatten(flat, one) for one in each]
        return torch.tensor(np.stack(flattened), dtype=torch.float32)

    network = Masked(spaces.flatdim(flat), envs.single_action_space.n)  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, eps=1e-5)
    observation, infos = envs.reset(seed=0)
    means, answers = [], []
    for _ in range(updates):
        kept: list[tuple[Tensor, ...]] = []
        for _ in range(steps):
            seen, masks = rows(observation), torch.tensor(infos["action_mask"], dtype=torch.bool)
            with torch.no_grad():
                draws, value = network(seen, masks)
                action = draws.sample()
            observation, earned, ended, _, infos = envs.step(action.numpy())
            answers += [final["answer"] for final in infos.get("final_obs", []) if final is not None]
            kept.append((seen, masks, action, draws.log_prob(action), value, torch.tensor(earned), torch.tensor(ended)))
        seen, masks, action, before, value, reward, done = (torch.stack(part) for part in zip(*kept, strict=True))
        returns, following = torch.zeros_like(value), torch.zeros(count)
        for step in reversed(range(steps)):
            following = reward[step].float() + following * ~done[step]
            returns[step] = following
        means.append(float(returns.mean()))
        for _ in range(4):
            draws, now = network(seen, masks)
            advantage = (returns - value) / (returns - value).std()
            ratio = (draws.log_prob(action) - before).exp()
            policy = -torch.min(advantage * ratio, advantage * ratio.clamp(0.8, 1.2)).mean()
            loss = policy + 0.5 * (now - returns).square().mean() - 0.01 * draws.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return means, answers


def test_a_masked_ppo_in_the_style_of_cleanrl_learns() -> None:
    problem = distinct_slots()
    with seeded_initialisation(0):
        means, answers = cleanrl_ppo(SequentialVectorEnv(problem, 64), 20, 8, 64)
    assert len(answers) == 64 * 2 * 20 == problem.budget.forwards and repeats(np.array(answers)) == 0
    assert np.mean(means[-3:]) > np.mean(means[:3]) + 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchrls_gym_env_draws_under_the_mask() -> None:
    envs, data = pytest.importorskip("torchrl.envs"), pytest.importorskip("torchrl.data")

    def base() -> Any:
        env = envs.GymEnv("SlotRL/SlotsSequential-v0", categorical_action_encoding=True, constraints=[Distinct()])
        mask = data.Binary(8, dtype=torch.int8)
        return env.set_info_dict_reader(envs.default_info_dict_reader(["action_mask"], spec=[mask]))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rollout = envs.TransformedEnv(base(), envs.ActionMask()).rollout(400, break_when_any_done=False)
        with pytest.raises(ValueError, match="expected an item that is open to slot"):
            base().rollout(400, break_when_any_done=False)
    done = rollout["next", "done"].flatten()
    assert done.nonzero().flatten().tolist() == list(range(3, 400, 4))
    assert repeats(rollout["next", "answer"][done].numpy()) == 0
    assert (rollout["next", "reward"].flatten() != 0).tolist() == done.tolist()


class Recorded(MaskInObservation):
    """Keeps the answers that are complete, as items plus 1."""

    finished: list[list[int]] = []

    def __init__(self, config: Any = None) -> None:
        super().__init__(SequentialEnv(distinct_slots()))
        self.answer: list[int] = []

    def step(self, action: np.int64) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        found = super().step(action)
        self.answer.append(int(action) + 1)
        if found[2]:
            self.finished.append(self.answer)
            self.answer = []
        return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("face", [SlotsVectorEnv, SequentialVectorEnv])
def test_torchrl_takes_a_batch_whose_requests_have_masks(face: Any) -> None:
    envs = pytest.importorskip("torchrl.envs")
    batch = face("SlotRL/Slots-v0", 3, fewest_items=5, infeasible="penalise")
    env = envs.GymWrapper(batch, categorical_action_encoding=True)
    rollout = env.rollout(8, break_when_any_done=False)
    assert rollout["next", "mask"].shape == (3, 8, 4, 8) and rollout["mask"].sum(dim=-1).min() >= 5
    assert (rollout["next", "reward"].squeeze(-1) != 0).tolist() == rollout["next", "done"].squeeze(-1).tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rllibs_ppo_with_its_masked_module_runs() -> None:
    # Ray may be installed without what its RLlib needs.
    ppo = pytest.importorskip("ray.rllib.algorithms.ppo", exc_type=ImportError)
    examples = pytest.importorskip("ray.rllib.examples.rl_modules.classes.action_masking_rlm", exc_type=ImportError)
    ray, modules = pytest.importorskip("ray"), pytest.importorskip("ray.rllib.core.rl_module.rl_module")
    masked = examples.ActionMaskingTorchRLModule
    module = modules.RLModuleSpec(module_class=masked, model_config={"fcnet_hiddens": [32]})
    config = (
        ppo.PPOConfig()
        .environment(Recorded)
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .training(train_batch_size=256, minibatch_size=128, num_epochs=1, gamma=1.0)
        .rl_module(rl_module_spec=module)
        .debugging(seed=0)
    )
    Recorded.finished.clear()
    try:
        algorithm = config.build_algo()
        returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(2)]
        algorithm.stop()
    finally:
        ray.shutdown()
    assert len(Recorded.finished) == 128 and repeats(np.array(Recorded.finished)) == 0
    assert np.isfinite(returns).all()
