"""The problems that come with an id; the ids are those of the environments."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slot_rl.estimators.fitting import TruthFit
from slot_rl.estimators.net import EstimatorShape
from slot_rl.estimators.store import SHIPPED, StoredEstimator, load_estimator, load_shipped
from slot_rl.problems.base import Problem
from slot_rl.problems.rows import RowProblem
from slot_rl.problems.slots import SlotProblem, standard_normal, unit_uniform
from slot_rl.problems.truth_table import TruthTable
from slot_rl.problems.truths import PairwiseTruth, SaturatingTruth, pick_value

ROWS = "SlotRL/Rows-v0"
PICK_VALUE = "SlotRL/PickValue-v0"


@dataclass(frozen=True)
class Synthetic:
    """A slot problem with a known ground truth and an estimator of it that comes with the package.

    Attributes:
        shipped: Folder name of the estimator, also its name at the command line.
        slots: Slots of a configuration.
        items: Candidates in a request.
        dim: Length of a candidate's vector.
        truth: Builds the ground truth.
        fit: How the shipped estimator was fitted.
    """

    shipped: str
    slots: int
    items: int
    dim: int
    truth: Callable[[], SaturatingTruth | PairwiseTruth]
    fit: TruthFit

    @property
    def shape(self) -> EstimatorShape:
        """Shape of the shipped estimator."""
        return EstimatorShape(self.slots, self.dim)


SYNTHETIC = {
    "SlotRL/Slots-v0": Synthetic(
        "slots-v0", 4, 8, 4, lambda: SaturatingTruth(PairwiseTruth(4, 4, 1.0, 0.5)), TruthFit(6000, 1024, 6e-3)
    ),
    "SlotRL/SlotsLarge-v0": Synthetic(
        "slots-large-v0", 12, 64, 8, lambda: PairwiseTruth(12, 8, 0.5, 0.12), TruthFit(8000, 1024, 3e-3)
    ),
}
IDS = (*SYNTHETIC, PICK_VALUE, ROWS)


def make_problem(
    env_id: str,
    estimator: str | Path | None = None,
    truth: str | Path | None = None,
    fewest_items: int | None = None,
) -> Problem:
    """Builds a problem by its id.

    Args:
        env_id: One of :data:`IDS`.
        estimator: Folder of a pretrained estimator; needed by ``SlotRL/Rows-v0``, an alternative to the shipped one
            for the synthetic problems.
        truth: Table with the ground truth, for ``SlotRL/Rows-v0``.
        fewest_items: Shortest list of candidates, for slot problems whose lists shall vary in length.

    Returns:
        The problem, with a fresh budget.

    Raises:
        ValueError: If the id is unknown, or an argument is missing or has no meaning for this problem.
    """
    if env_id not in IDS:
        raise ValueError(f"expected one of {', '.join(IDS)}, got {env_id!r}")
    if env_id == ROWS:
        _refuse(env_id, fewest_items=fewest_items)
        return _rows(estimator, truth)
    _refuse(env_id, truth=truth)
    if env_id == PICK_VALUE:
        _refuse(env_id, estimator=estimator)
        return SlotProblem(pick_value, 4, 8, 1, unit_uniform, fewest_items, pick_value, env_id)
    synthetic = SYNTHETIC[env_id]
    stored = load_shipped(synthetic.shipped) if estimator is None else load_estimator(Path(estimator))
    _check_shape(env_id, stored, synthetic.shape)
    return SlotProblem(
        stored.net,
        synthetic.slots,
        synthetic.items,
        synthetic.dim,
        standard_normal,
        fewest_items,
        synthetic.truth(),
        env_id,
    )


def estimator_folder(env_id: str, estimator: str | Path | None) -> Path | None:
    """Returns the folder that :func:`make_problem` reads; None where the estimator is a formula."""
    if estimator is not None:
        return Path(estimator)
    return SHIPPED / SYNTHETIC[env_id].shipped if env_id in SYNTHETIC else None


def _rows(estimator: str | Path | None, truth: str | Path | None) -> RowProblem:
    if estimator is None:
        raise ValueError(f"expected estimator=FOLDER for {ROWS} (written by pretrain_estimator.py), got none")
    stored = load_estimator(Path(estimator))
    if stored.encoding is None:
        raise ValueError(f"expected an estimator of a table for {ROWS}, got {estimator}, an estimator of vectors")
    table = None if truth is None else TruthTable.read(Path(truth), stored.encoding)
    return RowProblem(stored.net, stored.contexts, table, ROWS, stored.encoding)


def _check_shape(env_id: str, stored: StoredEstimator, expected: EstimatorShape) -> None:
    shape = stored.net.shape
    if (shape.slots, shape.dim, shape.vocabulary, shape.contexts) != (expected.slots, expected.dim, (), ()):
        raise ValueError(
            f"expected an estimator of {expected.slots} vectors of length {expected.dim} for {env_id}, got {shape}"
        )


def _refuse(env_id: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"expected no {name} for {env_id}, got {value!r}")
