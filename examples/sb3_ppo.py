"""Stable-Baselines3's PPO or A2C, with the policy network that all agents of slot_rl share.

A step scores 256 requests in one estimator call. Run it with

    python examples/sb3_ppo.py --algorithm a2c --timesteps 20000
"""

import argparse

import numpy as np
from stable_baselines3 import A2C, PPO

from slot_rl.agents import SlotPolicy
from slot_rl.envs import SlotVecEnv

ID = "SlotRL/PickValue-v0"


def main() -> None:
    """Trains, and judges the answers to fresh requests."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--algorithm", choices=("ppo", "a2c"), default="ppo")
    flags.add_argument("--timesteps", type=int, default=20_480)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()

    env = SlotVecEnv(ID, num_envs=256, seed=args.seed)
    model: PPO | A2C
    if args.algorithm == "ppo":
        model = PPO(SlotPolicy, env, n_steps=2, batch_size=256, n_epochs=4, learning_rate=3e-3, seed=args.seed)
    else:
        model = A2C(SlotPolicy, env, n_steps=1, use_rms_prop=False, learning_rate=3e-3, seed=args.seed)
    model.learn(args.timesteps)

    fresh = SlotVecEnv(ID, num_envs=1_024, seed=args.seed + 1)
    answers, _ = model.predict(fresh.reset(), deterministic=True)
    score = fresh.step(answers)[1].mean()
    fresh.reset()
    items = np.random.default_rng(args.seed).integers(env.problem.items, size=answers.shape)
    print(f"{args.algorithm}: mean reward {score:.3f}, where random choices get {fresh.step(items)[1].mean():.3f}")


if __name__ == "__main__":
    main()
