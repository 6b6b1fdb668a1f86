"""Estimators: the network, its fitting on tables and ground truths, its files, and modules of other people."""

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
