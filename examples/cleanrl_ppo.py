"""PPO with masks in one file, in the style of CleanRL, on a sequential environment with one slot a step.

It uses nothing of slot_rl but the registered id. No item may stand in two slots: the masks are in
`infos["action_mask"]`. An episode that ends is reset within the same step. Run it with

    python examples/cleanrl_ppo.py --timesteps 80000
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from slot_rl.problems.constraints import Distinct

ENVS, STEPS, EPOCHS, CLIP, VALUE_SHARE, ENTROPY_SHARE = 128, 8, 4, 0.2, 0.5, 0.01


def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """Returns a layer with orthogonal weights."""
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, gain)
    nn.init.zeros_(made.bias)
    return made


class Network(nn.Module):
    """Actor and critic on flat observations."""

    def __init__(self, inputs: int, items: int) -> None:
        """Takes the sizes of an observation and of an action."""
        super().__init__()
        self.actor = nn.Sequential(layer(inputs, 128), nn.Tanh(), layer(128, 128), nn.Tanh(), layer(128, items, 0.01))
        self.critic = nn.Sequential(layer(inputs, 128), nn.Tanh(), layer(128, 128), nn.Tanh(), layer(128, 1, 1.0))

    def forward(self, rows: Tensor, masks: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        """Returns the distribution over open items, and the values."""
        logits = self.actor(rows).masked_fill(~masks, torch.finfo(torch.float32).min)
        return torch.distributions.Categorical(logits=logits), self.critic(rows).squeeze(-1)


def rows(observation: dict[str, np.ndarray], items: int) -> Tensor:
    """Returns each request with its answer so far as one row."""
    answer, slot = torch.tensor(observation["answer"]), torch.tensor(observation["slot"])
    parts = torch.tensor(observation["candidates"]), nn.functional.one_hot(answer, items + 1)
    return torch.cat([*(part.flatten(1) for part in parts), nn.functional.one_hot(slot, answer.shape[1] + 1)], dim=1)


def random_reward(envs: Any, masks: np.ndarray, steps: int = 64) -> float:
    """Plays random open items; returns the mean reward of an answer."""
    rewards: list[float] = []
    for _ in range(steps):
        items = torch.multinomial(torch.tensor(masks, dtype=torch.float32), 1).squeeze(1)
        _, reward, ended, _, infos = envs.step(items.numpy())
        masks, rewards = infos["action_mask"], [*rewards, *reward[ended]]
    return float(np.mean(rewards))


def returns_of(reward: Tensor, ended: Tensor) -> Tensor:
    """Returns what is earned from each step ``(steps, envs)`` on; episodes are whole, so nothing is bootstrapped."""
    returns, following = torch.zeros_like(reward), torch.zeros(reward.shape[1])
    for step in reversed(range(len(reward))):
        following = reward[step] + following * ~ended[step]
        returns[step] = following
    return returns


def update(network: Network, optimizer: torch.optim.Optimizer, kept: list[tuple[Tensor, ...]]) -> float:
    """Makes one update of PPO; returns the mean reward of an answer."""
    seen, masks, action, before, value, reward, ended = (torch.stack(part) for part in zip(*kept, strict=True))
    returns = returns_of(reward, ended)
    advantage = returns - value
    advantage = (advantage - advantage.mean()) / advantage.std()
    for _ in range(EPOCHS):
        draws, now = network(seen, masks)
        ratio = (draws.log_prob(action) - before).exp()
        policy_loss = -torch.min(advantage * ratio, advantage * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
        value_loss = (now - returns).square().mean()
        loss = policy_loss + VALUE_SHARE * value_loss - ENTROPY_SHARE * draws.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
    return float(reward[ended].mean())


def main() -> None:
    """Trains; says what the last tenth of the training earned."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--timesteps", type=int, default=81_920)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    made: dict[str, Any] = {"num_envs": ENVS, "vectorization_mode": "vector_entry_point", "constraints": [Distinct()]}
    envs: Any = gym.make_vec("slot_rl:SlotRL/SlotsSequential-v0", **made)
    items = envs.single_action_space.n
    observation, infos = envs.reset(seed=args.seed)
    network = Network(rows(observation, items).shape[1], items)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, eps=1e-5)
    earned = []
    for _ in range(args.timesteps // (ENVS * STEPS)):
        kept: list[tuple[Tensor, ...]] = []
        for _ in range(STEPS):
            seen, masks = rows(observation, items), torch.tensor(infos["action_mask"], dtype=torch.bool)
            with torch.no_grad():
                draws, value = network(seen, masks)
                action = draws.sample()
            observation, reward, ended, _, infos = envs.step(action.numpy())
            numbers = torch.tensor(reward, dtype=torch.float32), torch.tensor(ended)
            kept.append((seen, masks, action, draws.log_prob(action), value, *numbers))
        earned.append(update(network, optimizer, kept))
    _, infos = envs.reset(seed=args.seed + 1)
    chance = random_reward(envs, infos["action_mask"])
    last = np.mean(earned[-max(1, len(earned) // 10) :])
    print(f"cleanrl_ppo: mean reward {last:.3f}, where random choices get {chance:.3f}")


if __name__ == "__main__":
    main()
