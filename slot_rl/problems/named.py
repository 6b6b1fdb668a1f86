"""The problems that come with an id; the ids are those of the environments."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from slot_rl.estimators.fitting import TruthFit
from slot_rl.estimators.freezing import Score
from slot_rl.estimators.net import EstimatorShape
from slot_rl.estimators.store import CARD, SHIPPED, StoredEstimator, load_estimator
from slot_rl.estimators.trusted import Reference, RowEstimator, load_row_estimator, load_vector_score, parse_reference
from slot_rl.io import read_document, weights_hash
from slot_rl.problems.base import Problem, Unmeasured
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


@dataclass(frozen=True)
class Arguments:
    """The arguments of :func:`make_problem`.

    Attributes:
        env_id: The id.
        estimator: Folder or ``path.py:function``; None for the problem's own.
        truth: Table with the ground truth.
        fewest_items: Shortest list of candidates.
        trust: Whether a ``path.py`` may be executed.
        unmeasured: What choices count as that the ground truth has not measured.
    """

    env_id: str
    estimator: str | Path | None = None
    truth: str | Path | None = None
    fewest_items: int | None = None
    trust: bool = False
    unmeasured: Unmeasured = "omit"


def short_name(env: str) -> str:
    """Returns an environment's id without its namespace: ``Slots-v0`` for ``SlotRL/Slots-v0``."""
    return env.rsplit("/", maxsplit=1)[-1]


def make_problem(
    env_id: str,
    estimator: str | Path | None = None,
    truth: str | Path | None = None,
    fewest_items: int | None = None,
    trust: bool = False,
    unmeasured: Unmeasured = "omit",
) -> Problem:
    """Builds a problem by its id.

    Args:
        env_id: One of :data:`IDS`.
        estimator: Folder of a pretrained estimator, or ``path.py:function`` (see ``slot_rl.estimators.trusted``);
            needed by ``SlotRL/Rows-v0``, an alternative to their own for the other problems.
        truth: Table with the ground truth, for ``SlotRL/Rows-v0``.
        fewest_items: Shortest list of candidates, for slot problems whose lists shall vary in length.
        trust: Whether a ``path.py`` may be executed.
        unmeasured: What choices count as that the ground truth has not measured: "omit" for nothing, "worst" for their
            context's minimum.

    Returns:
        The problem, with a fresh budget.

    Raises:
        TypeError: If the estimator is a module that cannot be softened.
        ValueError: If the id is unknown, an argument is missing or has no meaning for this problem, or the estimator is
            code that is not trusted, fails, or builds something else.
    """
    if env_id not in IDS:
        raise ValueError(f"expected one of {', '.join(IDS)}, got {env_id!r}")
    check_unmeasured(unmeasured, truth)
    return BUILDERS[env_id](Arguments(env_id, estimator, truth, fewest_items, trust, unmeasured))


def check_unmeasured(unmeasured: str, truth: object) -> Unmeasured:
    """Returns the first argument.

    Raises:
        ValueError: If it is neither "omit" nor "worst", or "worst" without a table with the ground truth.
    """
    known: tuple[Unmeasured, ...] = get_args(Unmeasured)
    if unmeasured not in known:
        raise ValueError(f"expected unmeasured to be {' or '.join(known)}, got {unmeasured!r}")
    if unmeasured != "omit" and truth is None:
        raise ValueError(f"expected a table with the ground truth with unmeasured={unmeasured}, got none")
    return known[known.index(unmeasured)]


def estimator_hash(env_id: str, estimator: str | Path | None) -> str | None:
    """Returns the SHA-256 of what :func:`make_problem` scores with: a folder's weights, or a Python file.

    Nothing is executed. None where the estimator is a formula.

    Raises:
        ValueError: If there is no such folder or file.
    """
    if estimator is None:
        if env_id not in SYNTHETIC:
            return None
        estimator = SHIPPED / SYNTHETIC[env_id].shipped
    reference = parse_reference(estimator)
    if reference is not None:
        return reference.sha256()
    return weights_hash(read_document(Path(estimator), "estimator", CARD))


def resolved_estimator(estimator: str | Path) -> str:
    """Returns the same folder or ``path.py:function``, for any working directory."""
    reference = parse_reference(estimator)
    return str(Path(estimator).resolve() if reference is None else reference.resolved())


def _synthetic(asked: Arguments) -> SlotProblem:
    _refuse(asked.env_id, truth=asked.truth)
    known = SYNTHETIC[asked.env_id]
    score = _vector_score(asked, asked.estimator or SHIPPED / known.shipped, known.shape)
    sizes = (known.slots, known.items, known.dim)
    return SlotProblem(score, *sizes, standard_normal, asked.fewest_items, known.truth(), asked.env_id)


def _pick_value(asked: Arguments) -> SlotProblem:
    _refuse(asked.env_id, truth=asked.truth)
    if asked.estimator is not None and parse_reference(asked.estimator) is None:
        _refuse(asked.env_id, estimator=asked.estimator)
    score = pick_value if asked.estimator is None else _vector_score(asked, asked.estimator, EstimatorShape(4, 1))
    return SlotProblem(score, 4, 8, 1, unit_uniform, asked.fewest_items, pick_value, asked.env_id)


def _rows(asked: Arguments) -> RowProblem:
    _refuse(asked.env_id, fewest_items=asked.fewest_items)
    estimator, truth = asked.estimator, asked.truth
    if estimator is None:
        raise ValueError(f"expected estimator=FOLDER for {ROWS} (written by pretrain_estimator.py), got none")
    reference = parse_reference(estimator)
    if reference is None:
        stored = load_estimator(Path(estimator))
        if stored.encoding is None:
            raise ValueError(f"expected an estimator of a table for {ROWS}, got {estimator}, an estimator of vectors")
        found = RowEstimator(stored.net, stored.encoding, stored.contexts)
    else:
        found = load_row_estimator(_trusted(reference, asked.trust))
    table = None if truth is None else TruthTable.read(Path(truth), found.encoding, asked.unmeasured)
    return RowProblem(found.module, found.contexts, table, ROWS, found.encoding)


def _vector_score(asked: Arguments, estimator: str | Path, shape: EstimatorShape) -> Score:
    reference = parse_reference(estimator)
    if reference is None:
        stored = load_estimator(Path(estimator))
        _check_shape(asked.env_id, stored, shape)
        return stored.net
    return load_vector_score(_trusted(reference, asked.trust), shape.slots, shape.dim)


def _trusted(reference: Reference, trust: bool) -> Reference:
    if not trust:
        raise ValueError(f"expected --trust (trust=True) with {reference}, which would be executed, got none")
    return reference


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


BUILDERS: dict[str, Callable[[Arguments], Problem]] = {
    **dict.fromkeys(SYNTHETIC, _synthetic),
    PICK_VALUE: _pick_value,
    ROWS: _rows,
}
"""What builds each problem, by its id."""
IDS = tuple(BUILDERS)
