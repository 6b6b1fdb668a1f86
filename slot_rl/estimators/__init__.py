"""Floor 1: estimators, their fitting on tables and ground truths, and their files."""

from slot_rl.estimators.net import EstimatorNet, EstimatorShape
from slot_rl.estimators.soften import Softened, soften
from slot_rl.estimators.store import load_estimator, load_shipped, save_estimator
from slot_rl.estimators.trusted import RowEstimator

__all__ = [
    "EstimatorNet",
    "EstimatorShape",
    "RowEstimator",
    "Softened",
    "load_estimator",
    "load_shipped",
    "save_estimator",
    "soften",
]
