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
    items, slots = envs.single_action_space.n, len(envs.single_observation_space["answer"].nvec)

    def rows(observation: dict[str, np.ndarray]) -> Tensor:
        numbers = torch.tensor(observation["candidates"]).flatten(1)
        answer = nn.functional.one_hot(torch.tensor(observation["answer"]), items + 1).flatten(1)
        return torch.cat([numbers, answer, nn.functional.one_hot(torch.tensor(observation["slot"]), slots + 1)], dim=1)

    observation, infos = envs.reset(seed=args.seed)
    chance = []
    for _ in range(64):
        items_at_random = torch.multinomial(torch.tensor(infos["action_mask"], dtype=torch.float32), 1).squeeze(1)
        observation, reward, ended, _, infos = envs.step(items_at_random.numpy())
        chance += reward[ended].tolist()

    network = Network(rows(observation).shape[1], items)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, eps=1e-5)
    earned = []
    for _ in range(args.timesteps // (ENVS * STEPS)):
        kept = []
        for _ in range(STEPS):
            seen, masks = rows(observation), torch.tensor(infos["action_mask"], dtype=torch.bool)
            with torch.no_grad():
                draws, value = network(seen, masks)
                action = draws.sample()
            observation, reward, ended, _, infos = envs.step(action.numpy())
            kept.append((seen, masks, action, draws.log_prob(action), value, torch.tensor(reward), torch.tensor(ended)))
        seen, masks, action, before, value, reward, ended = (torch.stack(part) for part in zip(*kept, strict=True))
        earned.append(float(reward[ended].mean()))

        # All environments end their episodes together, and STEPS holds whole episodes: nothing is bootstrapped.
        returns, following = torch.zeros_like(value), torch.zeros(ENVS)
        for step in reversed(range(STEPS)):
            following = reward[step].float() + following * ~ended[step]
            returns[step] = following
        advantage = (returns - value - (returns - value).mean()) / (returns - value).std()
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
    last = np.mean(earned[-max(1, len(earned) // 10) :])
    print(f"cleanrl_ppo: mean reward {last:.3f}, where random choices get {np.mean(chance):.3f}")


if __name__ == "__main__":
    main()
