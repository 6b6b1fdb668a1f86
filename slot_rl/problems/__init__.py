"""Problems: requests to answer, and a frozen estimator that scores the answers."""

from slot_rl.problems.base import (
    Budget,
    Problem,
    RequestNames,
    TrueScores,
    Unmeasured,
    check_choice,
)
from slot_rl.problems.best_seen import BestSeen
from slot_rl.problems.guard import BadScore, FaultyEstimator, NonFiniteScore
from slot_rl.problems.mixtures import mixture_error
from slot_rl.problems.named import IDS, make_problem
from slot_rl.problems.observation import Observation, ObservationPart
from slot_rl.problems.requests import Answers, RequestFiles, Requests
from slot_rl.problems.rows import RowProblem
from slot_rl.problems.slots import SlotProblem

__all__ = [
    "IDS",
    "Answers",
    "BadScore",
    "BestSeen",
    "Budget",
    "FaultyEstimator",
    "NonFiniteScore",
    "Observation",
    "ObservationPart",
    "Problem",
    "RequestNames",
    "RequestFiles",
    "Requests",
    "RowProblem",
    "SlotProblem",
    "TrueScores",
    "Unmeasured",
    "check_choice",
    "make_problem",
    "mixture_error",
]
