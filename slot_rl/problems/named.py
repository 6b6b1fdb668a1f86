"""The problems that come with an id; the ids are those of the environments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from slot_rl.estimators.fitting import TruthFit
from slot_rl.estimators.freezing import Score
from slot_rl.estimators.net import EstimatorNet, EstimatorShape
from slot_rl.estimators.pessimism import MemberObjective, Pessimism
from slot_rl.estimators.slate_store import KIND as SLATE_KIND
from slot_rl.estimators.slate_store import load_slates
from slot_rl.estimators.store import CARD, SHIPPED, StoredEstimator, load_estimator
from slot_rl.estimators.trusted import (
    Reference,
    RowEstimator,
    load_row_estimator,
    load_trusted,
    load_vector_score,
    parse_reference,
)
from slot_rl.io import read_document, weights_hash
from slot_rl.problems.base import Problem, Unmeasured
from slot_rl.problems.candidate_draws import standard_normal, unit_uniform
from slot_rl.problems.constraints import AtMost, Constraint, Distinct
from slot_rl.problems.constraints.written import ConstraintFlags, Entry, constraints_of
from slot_rl.problems.rows import RowProblem
from slot_rl.problems.simulated_user import (
    DIM,
    FEWEST,
    GROUP,
    MOST,
    MOST_OF_A_GROUP,
    SLOTS,
    PageTruth,
    slate_catalogue,
    slate_groups,
)
from slot_rl.problems.slates import SlateProblem
from slot_rl.problems.slots import SlotProblem
from slot_rl.problems.truth_table import TruthTable
from slot_rl.problems.truths import PairwiseTruth, SaturatingTruth, pick_value
from slot_rl.spelling import unknown

ROWS, OWN = "SlotRL/Rows-v0", "SlotRL/Own-v0"
SLATE, SLATES = "SlotRL/Slate-v0", "SlotRL/Slates-v0"
SHIPPED_SLATE = "slate-v0"
PICK_VALUE = "SlotRL/PickValue-v0"


OWN_CONSTRAINTS: dict[str, tuple[Constraint, ...]] = {SLATE: (Distinct(), AtMost(MOST_OF_A_GROUP, GROUP))}
"""Constraints of the problems with an id that have some."""


@dataclass(frozen=True)
class Synthetic:
    """A slot problem with a known ground truth and an estimator of it that comes with the package.

    Attributes:
        shipped: Folder name of the estimator, also its name at the command line.
        items: Candidates in a request.
        truth: Builds the ground truth.
        shape: Shape of the shipped estimator.
        fit: How it was fitted.
    """

    shipped: str
    items: int
    truth: Callable[[], SaturatingTruth | PairwiseTruth]
    shape: EstimatorShape
    fit: TruthFit


SYNTHETIC = {
    "SlotRL/Slots-v0": Synthetic(
        "slots-v0",
        8,
        lambda: SaturatingTruth(PairwiseTruth(4, 4, 1.0, 0.5)),
        EstimatorShape(4, 4, (128, 128), product_widths=(32, 16)),
        TruthFit(6000, 1024, 6e-3),
    ),
    "SlotRL/SlotsLarge-v0": Synthetic(
        "slots-large-v0",
        64,
        lambda: PairwiseTruth(12, 8, 0.5, 0.12),
        EstimatorShape(12, 8),
        TruthFit(8000, 1024, 3e-3),
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
        problem: ``path.py:function`` of a function that builds the user's own problem.
        unmeasured: What choices count as that the ground truth has not measured.
        own_constraints: Whether the problem's own constraints hold.
        objective: What is maximised, where the estimator is an ensemble.
    """

    env_id: str
    estimator: str | Path | None = None
    truth: str | Path | None = None
    fewest_items: int | None = None
    trust: bool = False
    problem: str | Path | None = None
    unmeasured: Unmeasured = "omit"
    own_constraints: bool = True
    objective: Pessimism = Pessimism()


def short_name(env: str) -> str:
    """Returns an environment's id without its namespace: ``Slots-v0`` for ``SlotRL/Slots-v0``."""
    return env.rsplit("/", maxsplit=1)[-1]


def make_problem(
    env_id: str,
    estimator: str | Path | None = None,
    truth: str | Path | None = None,
    fewest_items: int | None = None,
    trust: bool = False,
    problem: str | Path | None = None,
    unmeasured: Unmeasured = "omit",
    constraints: Sequence[Entry | Constraint] = (),
    own_constraints: bool = True,
    pessimism: MemberObjective = Pessimism.pessimism,
    beta: float = Pessimism.beta,
) -> Problem:
    """Builds a problem by its id.

    Args:
        env_id: One of :data:`IDS`, or ``path.py:function`` for ``SlotRL/Own-v0`` with this ``problem``.
        estimator: Folder of a pretrained estimator, or ``path.py:function`` (see ``slot_rl.estimators.trusted``);
            needed by ``SlotRL/Rows-v0``, an alternative to their own for the other problems.
        truth: Table with the ground truth, for ``SlotRL/Rows-v0``.
        fewest_items: Shortest list of candidates, for slot problems whose lists shall vary in length.
        trust: Whether a ``path.py`` may be executed.
        problem: ``path.py:function`` of a function that builds a problem, for ``SlotRL/Own-v0``.
        unmeasured: What choices count as that the ground truth has not measured: "omit" for nothing, "worst" for their
            context's minimum.
        constraints: Further constraints, as objects or as entries (see ``slot_rl.problems.constraints.written``).
        own_constraints: Whether the problem's own constraints hold too.
        pessimism: What is maximised where the estimator is an ensemble: "mean", "minimum" or "lower", for
            ``SlotRL/Rows-v0``.
        beta: Standard deviations that "lower" subtracts from the mean.

    Returns:
        The problem, with a fresh budget.

    Raises:
        TypeError: If the estimator is a module that cannot be softened.
        ValueError: If the id is unknown, an argument is missing or has no meaning for this problem, the estimator is
            code that is not trusted, fails, or builds something else, the constraints cannot be satisfied, or there is
            no ensemble to be pessimistic with.
    """
    if problem is None and parse_reference(env_id) is not None:
        env_id, problem = OWN, env_id
    if env_id not in IDS:
        raise ValueError(unknown("expected one of", (*IDS, "or path.py:function"), env_id))
    if env_id != OWN:
        _refuse(env_id, problem=problem)
    check_unmeasured(unmeasured, truth)
    if not isinstance(own_constraints, bool):
        raise TypeError(f"expected own_constraints True or False, got {own_constraints!r}")
    objective = Pessimism(pessimism, beta)
    if env_id != ROWS and objective.pessimism != "mean":
        raise ValueError(f"expected pessimism mean for {env_id}, whose estimator has no members, got {pessimism}")
    built = BUILDERS[env_id](
        Arguments(env_id, estimator, truth, fewest_items, trust, problem, unmeasured, own_constraints, objective)
    )
    return constrained(built, constraints, own_constraints, trust)


def constrained(
    problem: Problem, constraints: Sequence[Entry | Constraint], own_constraints: bool = True, trust: bool = False
) -> Problem:
    """Returns a problem with further constraints, or without its own; arguments and errors as of :func:`make_problem`.

    It is the same object where nothing changes.
    """
    own = () if problem.constraints is None else problem.constraints.constraints
    if not constraints and (own_constraints or not own):
        return problem
    return problem.with_constraints([*(own if own_constraints else ()), *constraints_of(constraints, trust)])


def own_reference(problem: str | Path) -> Reference:
    """Returns the reference of a user's own problem.

    Raises:
        ValueError: If it is not ``path.py:function``.
    """
    reference = parse_reference(problem)
    if reference is None:
        raise ValueError(f"expected problem path.py:function for {OWN}, got {str(problem)!r}")
    return reference


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
    shipped = {SLATE: SHIPPED_SLATE, **{name: known.shipped for name, known in SYNTHETIC.items()}}
    if estimator is None:
        if env_id not in shipped:
            return None
        estimator = SHIPPED / shipped[env_id]
    reference = parse_reference(estimator)
    if reference is not None:
        return reference.sha256()
    kind = SLATE_KIND if env_id in (SLATE, SLATES) else "estimator"
    return weights_hash(read_document(Path(estimator), kind, CARD))


def resolved_estimator(estimator: str | Path) -> str:
    """Returns the same folder or ``path.py:function``, for any working directory."""
    reference = parse_reference(estimator)
    return str(Path(estimator).resolve() if reference is None else reference.resolved())


def own_env(env: str, problem: str | None, default: str) -> str:
    """Returns the env to use: ``SlotRL/Own-v0`` with a user's own problem, otherwise the one given.

    Raises:
        ValueError: If another env than the default is given together with an own problem.
    """
    if problem is None:
        return env
    if env not in (default, OWN):
        raise ValueError(f"expected either --env or --problem, got {env} and {problem}")
    return OWN


def sources(
    env: str,
    estimator: str | Path | None,
    truth: Path | None,
    problem: str | Path | None,
    constraints: ConstraintFlags,
) -> dict[str, Any]:
    """Returns from what :func:`make_problem` builds a problem, with the hashes of code and weights, ready for JSON."""
    own = None if problem is None else own_reference(problem)
    return {
        "env": env,
        "problem": None if own is None else str(own.resolved()),
        "problem_sha256": None if own is None else own.sha256(),
        "estimator": None if estimator is None else resolved_estimator(estimator),
        "estimator_sha256": estimator_hash(env, estimator),
        "truth": None if truth is None else str(truth.resolve()),
        "constraints": constraints.entries(),
        "own_constraints": constraints.own_constraints,
    }


def _synthetic(asked: Arguments) -> SlotProblem:
    _refuse(asked.env_id, truth=asked.truth)
    known = SYNTHETIC[asked.env_id]
    score = _vector_score(asked, asked.estimator or SHIPPED / known.shipped, known.shape)
    sizes = (known.shape.slots, known.items, known.shape.dim)
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
        raise ValueError(f"expected estimator=FOLDER for {ROWS} (written by slot-rl pretrain), got none")
    reference = parse_reference(estimator)
    if reference is None:
        stored = load_estimator(Path(estimator))
        if stored.encoding is None:
            raise ValueError(f"expected an estimator of a table for {ROWS}, got {estimator}, an estimator of vectors")
        found, seen = RowEstimator(stored.net, stored.encoding, stored.contexts), stored.seen
    else:
        found, seen = load_row_estimator(_trusted(reference, asked.trust)), None
    table = None if truth is None else TruthTable.read(Path(truth), found.encoding, asked.unmeasured)
    return RowProblem(asked.objective.of_model(found.module), found.contexts, table, ROWS, found.encoding, seen=seen)


def _own(asked: Arguments) -> Problem:
    _refuse(asked.env_id, estimator=asked.estimator, truth=asked.truth, fewest_items=asked.fewest_items)
    if asked.problem is None:
        raise ValueError(f"expected --problem path.py:function (problem=...) for {OWN}, got none")
    reference = _trusted(own_reference(asked.problem), asked.trust)
    found = load_trusted(reference, "a problem")
    if not isinstance(found, Problem):
        raise ValueError(f"expected {reference} to return a Problem, got {type(found).__name__}")
    found.name = OWN
    found.try_out()
    return found


def _slate(asked: Arguments) -> SlotProblem:
    _refuse(asked.env_id, truth=asked.truth)
    stored = load_slates(Path(asked.estimator or SHIPPED / SHIPPED_SLATE))
    shape = stored.net.shape
    if (shape.slots, shape.dim, shape.context_dim) != (SLOTS, DIM, DIM):
        raise ValueError(
            f"expected an estimator of {SLOTS} items of {DIM} numbers and a context of {DIM} for {asked.env_id}, "
            f"got {shape.slots}, {shape.dim} and {shape.context_dim}"
        )
    return SlotProblem(
        stored.net,
        SLOTS,
        MOST,
        fewest_items=asked.fewest_items or FEWEST,
        truth=PageTruth(),
        name=asked.env_id,
        pool=slate_catalogue(),
        context_dim=DIM,
        item_labels={GROUP: slate_groups().tolist()},
        constraints=OWN_CONSTRAINTS[SLATE] if asked.own_constraints else (),
    )


def _slates(asked: Arguments) -> SlateProblem:
    _refuse(asked.env_id, truth=asked.truth, fewest_items=asked.fewest_items)
    if asked.estimator is None:
        raise ValueError(f"expected estimator=FOLDER for {SLATES} (slot-rl pretrain --log), got none")
    return SlateProblem(load_slates(Path(asked.estimator)), SLATES)


def _vector_score(asked: Arguments, estimator: str | Path, shape: EstimatorShape) -> Score:
    reference = parse_reference(estimator)
    if reference is None:
        stored = load_estimator(Path(estimator))
        return _of_shape(asked.env_id, stored, shape)
    return load_vector_score(_trusted(reference, asked.trust))


def _trusted(reference: Reference, trust: bool) -> Reference:
    if not trust:
        raise ValueError(f"expected --trust (trust=True) with {reference}, which would be executed, got none")
    return reference


def _of_shape(env_id: str, stored: StoredEstimator, expected: EstimatorShape) -> EstimatorNet:
    if not isinstance(stored.net, EstimatorNet):
        raise ValueError(f"expected an estimator of vectors for {env_id}, got {type(stored.net).__name__}, of a table")
    shape = stored.net.shape
    if (shape.slots, shape.dim, shape.vocabulary, shape.contexts) != (expected.slots, expected.dim, (), ()):
        raise ValueError(
            f"expected an estimator of {expected.slots} vectors of length {expected.dim} for {env_id}, got {shape}"
        )
    return stored.net


def _refuse(env_id: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"expected no {name} for {env_id}, got {str(value) if isinstance(value, Path) else value!r}"
            )


BUILDERS: dict[str, Callable[[Arguments], Problem]] = {
    **dict.fromkeys(SYNTHETIC, _synthetic),
    PICK_VALUE: _pick_value,
    ROWS: _rows,
    OWN: _own,
    SLATE: _slate,
    SLATES: _slates,
}
"""What builds each problem, by its id."""
IDS = tuple(BUILDERS)
"""The id of each problem, which is that of its one-step environment."""
