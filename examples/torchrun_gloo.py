"""REINFORCE on two processes that average their gradients, by torchrun and gloo.

Each process plays requests of its own; DistributedDataParallel averages the gradients, so the weights stay the same
to the last bit, which is checked at the end. Run it with

    torchrun --standalone --nproc_per_node 2 examples/torchrun_gloo.py --iterations 300
"""

import argparse
import time

import gymnasium as gym
import torch
from torch import distributed, nn

ID = "slot_rl:SlotRL/PickValue-v0"
ENVS = 128


def main() -> None:
    """Trains; the first process says what the last tenth of the training earned."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--iterations", type=int, default=300)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()

    torch.manual_seed(args.seed + rank)  # other draws in each process; its first weights are sent to all
    network = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 4 * 8))
    shared = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    envs = gym.make_vec(ID, num_envs=ENVS, vectorization_mode="vector_entry_point")
    observation, _ = envs.reset(seed=args.seed + rank)
    earned = []
    for _ in range(args.iterations):
        draws = torch.distributions.Categorical(
            logits=shared(torch.tensor(observation["candidates"][..., 0])).view(-1, 4, 8)
        )
        actions = draws.sample()
        observation, rewards, _, _, _ = envs.step(actions.numpy())
        advantage = torch.tensor((rewards - rewards.mean()) / rewards.std(), dtype=torch.float32)
        loss = -(advantage * draws.log_prob(actions).sum(1)).mean() - 0.01 * draws.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = torch.tensor(rewards.mean())
        distributed.all_reduce(mean)
        earned.append(float(mean) / ranks)

    weights = nn.utils.parameters_to_vector(network.parameters()).detach()
    others = [torch.empty_like(weights) for _ in range(ranks)]
    distributed.all_gather(others, weights)
    if not all(torch.equal(weights, other) for other in others):
        raise RuntimeError("expected the same weights in every process, got others")
    if rank == 0:
        last = sum(earned[-max(1, len(earned) // 10) :]) / max(1, len(earned) // 10)
        print(f"torchrun: mean reward {last:.3f}, where random choices get {-4 / 12:.3f}; {ranks} processes agree")
    # Gloo's threads may hold the last tensors for a moment. Where Python ends before, they abort: pytorch pull #179291.
    time.sleep(0.5)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
