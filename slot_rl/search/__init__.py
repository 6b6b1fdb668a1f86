"""Floor 1: search, which is the oracle, the rival and the partner of a policy."""

from slot_rl.search.allowed import allowed_items
from slot_rl.search.constant import search_constant
from slot_rl.search.cross_entropy import check_fit, cross_entropy_search
from slot_rl.search.enumeration import MOST_CONFIGURATIONS, Landscape, configurations, enumerate_landscape
from slot_rl.search.genetic import check_breeding, genetic_search
from slot_rl.search.guided import SearchResult, best_of, guided_search, random_choice, restarted_search
from slot_rl.search.sweeps import local_search

__all__ = [
    "MOST_CONFIGURATIONS",
    "SearchResult",
    "Landscape",
    "allowed_items",
    "best_of",
    "check_breeding",
    "check_fit",
    "configurations",
    "cross_entropy_search",
    "enumerate_landscape",
    "genetic_search",
    "guided_search",
    "local_search",
    "random_choice",
    "restarted_search",
    "search_constant",
]
