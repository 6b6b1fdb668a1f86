"""Searches: what a policy is compared with, and what helps it to learn and to answer."""

from slot_rl.search.base import SearchResult, allowed_items, best_of, is_allowed, random_choice
from slot_rl.search.constant import constant_choice, search_constant
from slot_rl.search.cross_entropy import check_fit, cross_entropy_search
from slot_rl.search.enumeration import (
    MOST_CONFIGURATIONS,
    EnumerationResult,
    best_constant,
    check_enumerable,
    configurations,
    enumerate_landscape,
    exhaustive_search,
    highest_score,
    mean_score,
)
from slot_rl.search.genetic import check_breeding, genetic_search
from slot_rl.search.guided import guided_search, multi_swap_search, no_slopes, single_swap_search
from slot_rl.search.mean_field import mean_field_search, no_mixtures
from slot_rl.search.moves import moves_of
from slot_rl.search.ranking import mean_scores, ranked_choice
from slot_rl.search.sweeps import local_search

__all__ = [
    "MOST_CONFIGURATIONS",
    "SearchResult",
    "EnumerationResult",
    "allowed_items",
    "best_constant",
    "best_of",
    "check_breeding",
    "check_enumerable",
    "check_fit",
    "configurations",
    "constant_choice",
    "cross_entropy_search",
    "enumerate_landscape",
    "exhaustive_search",
    "genetic_search",
    "guided_search",
    "highest_score",
    "is_allowed",
    "local_search",
    "mean_field_search",
    "mean_scores",
    "mean_score",
    "moves_of",
    "multi_swap_search",
    "no_mixtures",
    "no_slopes",
    "random_choice",
    "ranked_choice",
    "search_constant",
    "single_swap_search",
]
