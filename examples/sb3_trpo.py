"""sb3-contrib's TRPO, with the policy network that all agents of slot_rl share.

TRPO differentiates the divergence of two policies twice, so its updates cost far more than PPO's. It needs
`pip install "slot_rl[contrib]"`. Run it with

    python examples/sb3_trpo.py --timesteps 2560
"""

import argparse
from typing import Any

import numpy as np
from sb3_contrib import TRPO

from slot_rl.agents import SlotPolicy
from slot_rl.envs import SlotVecEnv

ID = "SlotRL/PickValue-v0"


def main() -> None:
    """Trains, and judges the answers to fresh requests."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--timesteps", type=int, default=2_560)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()

    env = SlotVecEnv(ID, num_envs=256, seed=args.seed)
    steps: dict[str, Any] = {"target_kl": 0.1, "cg_max_steps": 8, "n_critic_updates": 4, "learning_rate": 3e-3}
    model = TRPO(SlotPolicy, env, n_steps=1, batch_size=256, seed=args.seed, **steps)
    model.learn(args.timesteps)

    fresh = SlotVecEnv(ID, num_envs=1_024, seed=args.seed + 1)
    answers, _ = model.predict(fresh.reset(), deterministic=True)
    score = fresh.step(answers)[1].mean()
    fresh.reset()
    items = np.random.default_rng(args.seed).integers(env.problem.items, size=answers.shape)
    print(f"trpo: mean reward {score:.3f}, where random choices get {fresh.step(items)[1].mean():.3f}")


if __name__ == "__main__":
    main()
