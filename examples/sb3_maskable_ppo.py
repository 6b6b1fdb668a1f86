"""sb3-contrib's MaskablePPO on a sequential environment: one slot a step, and masks that leave no dead end.

No item may stand in two slots. The environment has the masks in `action_masks()`, where MaskablePPO looks for them. It
needs `pip install "slot_rl[contrib]"`. Run it with

    python examples/sb3_maskable_ppo.py --timesteps 30000
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sb3_contrib import MaskablePPO

from slot_rl.envs import SequentialVecEnv
from slot_rl.problems.constraints import Distinct

ID = "SlotRL/SlotsSequential-v0"


def play(env: SequentialVecEnv, choose: Callable[[Any, npt.NDArray[np.bool_]], npt.NDArray[Any]]) -> tuple[float, int]:
    """Answers one request in each environment; returns the mean score, and how many answers name an item twice."""
    observation: Any = env.reset()
    for _ in range(env.problem.slots):
        observation, rewards, _, infos = env.step(choose(observation, env.action_masks()))
    answers = [info["terminal_observation"]["answer"] for info in infos]
    return float(rewards.mean()), sum(len(set(answer)) < len(answer) for answer in answers)


def main() -> None:
    """Trains, and judges the answers to fresh requests."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--timesteps", type=int, default=30_720)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()

    env = SequentialVecEnv(ID, num_envs=128, seed=args.seed, constraints=[Distinct()])
    settings: dict[str, Any] = {"n_steps": 8, "batch_size": 256, "n_epochs": 4, "gamma": 1.0, "learning_rate": 2e-3}
    model = MaskablePPO("MultiInputPolicy", env, seed=args.seed, **settings)
    model.learn(args.timesteps)

    fresh = SequentialVecEnv(ID, num_envs=1_024, seed=args.seed + 1, constraints=[Distinct()])
    score, repeats = play(fresh, lambda seen, masks: model.predict(seen, action_masks=masks, deterministic=True)[0])
    generator = np.random.default_rng(args.seed)
    # The largest of uniform numbers, where closed items have none, is a random open item.
    chance, _ = play(fresh, lambda _, masks: (generator.random(masks.shape) * masks).argmax(axis=1))
    print(
        f"maskable_ppo: mean reward {score:.3f}, where random choices get {chance:.3f}; answers that repeat: {repeats}"
    )


if __name__ == "__main__":
    main()
