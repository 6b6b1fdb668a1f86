"""Stable-Baselines3's PPO and A2C, or sb3-contrib's TRPO, with the policy network that all agents of slot_rl share.

A step scores 256 requests in one estimator call. TRPO differentiates the divergence of two policies twice, so its
updates cost far more than PPO's; it needs `pip install "slot_rl[contrib]"`. Run it with

    python examples/sb3_algorithms.py --algorithm a2c --timesteps 20000
"""

import argparse
from typing import Any

import numpy as np
from stable_baselines3 import A2C, PPO

from slot_rl.agents import SlotPolicy
from slot_rl.envs import SlotVecEnv

ID = "SlotRL/PickValue-v0"
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 2, "batch_size": 256, "n_epochs": 4},
    "a2c": {"n_steps": 1, "use_rms_prop": False},
    "trpo": {"n_steps": 1, "batch_size": 256, "target_kl": 0.1, "cg_max_steps": 8, "n_critic_updates": 4},
}


def algorithm(name: str) -> Any:
    """Returns an algorithm's class; that of sb3-contrib is an optional package."""
    if name == "trpo":
        from sb3_contrib import TRPO

        return TRPO
    return {"ppo": PPO, "a2c": A2C}[name]


def main() -> None:
    """Trains, and judges the answers to fresh requests."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--algorithm", choices=SETTINGS, default="ppo")
    flags.add_argument("--timesteps", type=int, default=20_480)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()

    env = SlotVecEnv(ID, num_envs=256, seed=args.seed)
    settings = SETTINGS[args.algorithm]
    model = algorithm(args.algorithm)(SlotPolicy, env, learning_rate=3e-3, seed=args.seed, **settings)
    model.learn(args.timesteps)

    fresh = SlotVecEnv(ID, num_envs=1_024, seed=args.seed + 1)
    answers, _ = model.predict(fresh.reset(), deterministic=True)
    score = fresh.step(answers)[1].mean()
    fresh.reset()
    items = np.random.default_rng(args.seed).integers(env.problem.items, size=answers.shape)
    print(f"{args.algorithm}: mean reward {score:.3f}, where random choices get {fresh.step(items)[1].mean():.3f}")


if __name__ == "__main__":
    main()
