"""TorchRL's PPO on the environments: by id, around an environment object, and with masks.

`--form id` makes a GymEnv by its id. `--form object` wraps a batch of 64 environments that takes one estimator call a
step. `--form masked` fills one slot a step; no item may stand in two slots, and TorchRL's ActionMask and
MaskedCategorical read the mask that MaskInObservation puts into the observation. It needs
`pip install "slot_rl[examples]"`. Run it with

    python examples/torchrl_gym.py --form masked --frames 8192
"""

import argparse
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import ActionMask, EnvBase, GymEnv, GymWrapper, TransformedEnv
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss

from slot_rl.envs import MaskInObservation, SlotsVectorEnv
from slot_rl.problems.constraints import Distinct

PICK_VALUE, SLOTS, ITEMS = "SlotRL/PickValue-v0", 4, 8
FRAMES, EPOCHS, MINIBATCH = 1_024, 8, 256


def environment(form: str) -> EnvBase:
    """Returns TorchRL's environment; actions are numbers of items, not one-hot rows."""
    if form == "id":
        return GymEnv(PICK_VALUE, categorical_action_encoding=True)
    if form == "object":
        return GymWrapper(SlotsVectorEnv(PICK_VALUE, num_envs=64), categorical_action_encoding=True)
    env = gym.make("SlotRL/SlotsSequential-v0", constraints=[Distinct()])
    return TransformedEnv(GymWrapper(MaskInObservation(env), categorical_action_encoding=True), ActionMask())


def slots_at_once(logits: Tensor) -> torch.distributions.Distribution:
    """Returns independent slots from logits of all slots in one row."""
    rows = logits.unflatten(-1, (SLOTS, ITEMS))
    return torch.distributions.Independent(torch.distributions.Categorical(logits=rows), 1)


def open_items(logits: Tensor, mask: Tensor) -> torch.distributions.Distribution:
    """Returns the next slot's item among the open ones."""
    items: torch.distributions.Distribution = MaskedCategorical(logits=logits, mask=mask.bool())
    return items


def network(outputs: int) -> nn.Module:
    """Returns a small network that takes an observation of any shape."""
    return nn.Sequential(nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, outputs))


class Flat(nn.Module):
    """A network on PickValue's candidates ``(..., 8, 1)``, or on rows."""

    def __init__(self, outputs: int, flat: int) -> None:
        """Takes the number of outputs, and how many dimensions make up an observation."""
        super().__init__()
        self.inner, self.flat = network(outputs), flat

    def forward(self, observation: Tensor) -> Tensor:
        """Returns the outputs ``(..., outputs)``."""
        outputs: Tensor = self.inner(observation.flatten(-self.flat))
        return outputs


def main() -> None:
    """Trains; says what the last fifth of the training earned."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--form", choices=("id", "object", "masked"), default="object")
    flags.add_argument("--frames", type=int, default=16_384)
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    env, masked = environment(args.form), args.form == "masked"
    env.set_seed(args.seed)
    seen, flat, outputs = ("observations", 1, ITEMS) if masked else ("candidates", 2, SLOTS * ITEMS)
    asked: dict[str, Any] = {"distribution_class": open_items if masked else slots_at_once}
    keys = {"logits": "logits", "mask": "action_mask"} if masked else ["logits"]
    logits = TensorDictModule(Flat(outputs, flat), in_keys=[seen], out_keys=["logits"])
    actor = ProbabilisticActor(logits, in_keys=keys, spec=env.action_spec, return_log_prob=True, **asked)
    critic = ValueOperator(Flat(1, flat), in_keys=[seen])
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
    loss_of.make_value_estimator(gamma=1.0)
    first = env.rollout(8, actor)  # gives the networks their sizes
    critic(first)
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=1e-2)

    def scores(data: Any) -> Tensor:
        found: Tensor = data["next", "reward"][data["next", "done"]]
        return found

    earned = []
    batches = {"frames_per_batch": FRAMES, "total_frames": args.frames, "auto_register_policy_transforms": False}
    for data in Collector(env, actor, **batches):
        earned.append(float(scores(data).mean()))
        with torch.no_grad():
            loss_of.value_estimator(data)
        rows = data.reshape(-1)
        for _ in range(EPOCHS * len(rows) // MINIBATCH):
            losses = loss_of(rows[torch.randint(len(rows), (MINIBATCH,))])
            loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    last = earned[-max(1, len(earned) // 5) :]
    fresh = environment(args.form)
    fresh.set_seed(args.seed)
    chance = float(scores(fresh.rollout(2_048 // max(1, env.numel()), break_when_any_done=False)).mean())
    print(f"torchrl {args.form}: mean reward {sum(last) / len(last):.3f}, where random choices get {chance:.3f}")


if __name__ == "__main__":
    main()
