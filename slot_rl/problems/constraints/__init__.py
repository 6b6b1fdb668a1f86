"""Constraints: what configurations a problem allows. One file a kind; see :mod:`slot_rl.problems.constraints.base`."""

from slot_rl.problems.constraints.base import Constraint, Infeasible, ItemSpace
from slot_rl.problems.constraints.conjunction import ConstraintSet
from slot_rl.problems.constraints.distinct import Distinct
from slot_rl.problems.constraints.feasible import Feasible
from slot_rl.problems.constraints.fixed import Fixed
from slot_rl.problems.constraints.not_together import NotTogether
from slot_rl.problems.constraints.quotas import AtLeast, AtMost
from slot_rl.problems.constraints.written import ConstraintFlags

__all__ = [
    "AtLeast",
    "AtMost",
    "Constraint",
    "ConstraintFlags",
    "ConstraintSet",
    "Distinct",
    "Feasible",
    "Fixed",
    "Infeasible",
    "ItemSpace",
    "NotTogether",
]
