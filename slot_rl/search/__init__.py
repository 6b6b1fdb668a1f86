"""Floor 1: search, which is the oracle, the rival and the partner of a policy."""

from slot_rl.search.constant import search_constant
from slot_rl.search.enumeration import MOST_CONFIGURATIONS, Landscape, configurations, enumerate_landscape
from slot_rl.search.guided import Found, best_of, guided_search, random_choice, restarted_search
from slot_rl.search.sweeps import local_search

__all__ = [
    "MOST_CONFIGURATIONS",
    "Found",
    "Landscape",
    "best_of",
    "configurations",
    "enumerate_landscape",
    "guided_search",
    "local_search",
    "random_choice",
    "restarted_search",
    "search_constant",
]
