"""Which agent to take for what, for the help of ``slot-rl train``."""

from slot_rl.agents import AGENTS

GUIDE: dict[str, tuple[str, ...]] = {
    "The same requests again and again, as in tables": ("expert_iteration",),
    "Every request is new": ("multistart", "gumbel"),
    "Rewards alone, no gradient": ("learned_critic", "ppo", "reinforce", "a2c"),
    "One slot a step, under masks": ("maskable_ppo",),
    "Logged rows to imitate": ("reproduction", "aligned"),
    "Search for each answer, without training": (
        "guided_search",
        "multi_swap",
        "mean_field",
        "local_search",
        "genetic",
        "cross_entropy",
        "nevergrad",
        "exhaustive_search",
    ),
    "What has to be beaten": ("random", "best_constant", "best_seen"),
}
"""Agents by what they are for, the first one first; all others are single gradients."""


def guide() -> str:
    """Returns the description of the command that trains."""
    named = {name for names in GUIDE.values() for name in names}
    lines = [f"{what}: {', '.join(names)}." for what, names in GUIDE.items()]
    gradients = ", ".join(name for name in AGENTS if name not in named)
    return "\n\n".join(
        [
            "Trains an agent and leaves a run folder. Which --agent?",
            "\n\n".join([*lines, f"One gradient in particular (slot-rl diagnose says which): {gradients}."]),
            "--preset uses the options that were tuned for the environment as the agent's defaults. --resume RUN goes "
            "on with a training that was killed or stopped; --resume RUN --help lists its flags.",
        ]
    )
