"""RLlib's PPO on the environments, by id with all slots at once, or with one slot a step and masks.

RLlib has no encoder for Dict observations: by id, its own FlattenObservations makes a row of them; with `--masked`,
MaskInObservation gives its masked module what it reads. It needs `pip install "slot_rl[examples]"`. Run it with

    python examples/rllib_ppo.py --masked --iterations 8
"""

import argparse
import logging
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule
from ray.tune.registry import register_env

from slot_rl.envs import MaskInObservation
from slot_rl.problems.constraints import Distinct

SETTINGS: dict[str, Any] = {
    "train_batch_size": 2_048,
    "minibatch_size": 256,
    "num_epochs": 8,
    "lr": 1e-2,
    "gamma": 1.0,
    "lambda_": 1.0,
}
MODEL = {"fcnet_hiddens": [128], "fcnet_activation": "relu", "vf_share_layers": False}


def masked(_: Any = None) -> gym.Env[Any, Any]:
    """Returns the sequential environment, in which no item may stand in two slots."""
    return MaskInObservation(gym.make("slot_rl:SlotRL/SlotsSequential-v0", constraints=[Distinct()]))


def chance(env: gym.Env[Any, Any], episodes: int = 1_000) -> float:
    """Returns what random choices get, of open items where there are masks."""
    total = 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        env.action_space.seed(episode)
        over = False
        while not over:
            mask = observation.get("action_mask")
            action = env.action_space.sample(None if mask is None else mask.astype(np.int8))
            observation, reward, over, _, _ = env.step(action)
            total += float(reward)
    return total / episodes


def main() -> None:
    """Trains; says what the last iteration earned."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--masked", action="store_true")
    flags.add_argument("--iterations", type=int, default=8)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    config = (
        PPOConfig()  # type: ignore[no-untyped-call]
        .training(use_kl_loss=False, **SETTINGS)
        .learners(num_learners=0)
        .debugging(seed=args.seed, log_level="ERROR")
    )
    runners: dict[str, Any] = {"num_env_runners": 0, "num_envs_per_env_runner": 16}
    if args.masked:
        register_env("masked", masked)
        module = RLModuleSpec(module_class=ActionMaskingTorchRLModule, model_config=MODEL)
        config = config.environment("masked").env_runners(**runners).rl_module(rl_module_spec=module)
    else:
        flat: dict[str, Any] = {"env_to_module_connector": lambda env, spaces, device: FlattenObservations()}
        config = config.environment("slot_rl:SlotRL/PickValue-v0").env_runners(**runners, **flat)
        config = config.rl_module(model_config=MODEL)
    algorithm: Any = config.build_algo()
    for _ in range(args.iterations):
        reward = algorithm.train()["env_runners"]["episode_return_mean"]
    algorithm.stop()
    ray.shutdown()
    random = chance(masked() if args.masked else gym.make("slot_rl:SlotRL/PickValue-v0"))
    form = "masked" if args.masked else "by id"
    print(f"rllib {form}: mean reward {reward:.3f}, where random choices get {random:.3f}")


if __name__ == "__main__":
    main()
