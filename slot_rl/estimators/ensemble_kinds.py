"""How the members of an ensemble come about: what makes several networks, fitted to the same table, differ.

`independent` members differ in their first weights alone. `bootstrap` and `folds` members see other rows. `joint`
members are kept apart by a diversity term while all are fitted; `sequential` ones are fitted one after another, each
kept apart from those before it, which are frozen. `snapshot` members are states of one network, whose step size falls
to zero again and again. `mixed` members are networks and functions drawn from a Gaussian process.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from slot_rl.estimators.blend import Blend
from slot_rl.estimators.diversity import DIVERSITY, DiversityTerm, TermName, among, to_frozen
from slot_rl.estimators.drawn_functions import DrawnFunctions
from slot_rl.estimators.fitting import TableRows, counted_from
from slot_rl.estimators.kept_fit import KeptFit
from slot_rl.estimators.net_ensemble import (
    EnsembleFit,
    NetEnsemble,
    NetEnsembleShape,
    StepRows,
    Variation,
    fit_ensemble,
)
from slot_rl.estimators.product_gp import fit_gp
from slot_rl.estimators.row_scorer import MemberScorer

EnsembleKind = Literal["independent", "bootstrap", "folds", "sequential", "joint", "snapshot", "mixed"]
_KEPT_APART = ("sequential", "joint")


@dataclass(frozen=True)
class EnsembleMaking:
    """How the members of --model nets come about.

    Attributes:
        ensemble: Members with other first weights (independent), with other rows (bootstrap, folds), kept apart by
            --diversity while all are fitted (joint) or from those before them (sequential), states of one network
            (snapshot), or networks and functions drawn from a Gaussian process (mixed).
        diversity: The term that keeps joint and sequential members apart.
        diversity_weight: The term's weight in the loss; a weight for each term if left out.
    """

    ensemble: EnsembleKind = "independent"
    diversity: TermName | None = None
    diversity_weight: float | None = None

    def __post_init__(self) -> None:
        """Refuses a term that would not be used, a missing one, and a weight that says nothing."""
        apart = self.ensemble in _KEPT_APART
        if apart != (self.diversity is not None):
            expected = "a diversity term" if apart else "no diversity term"
            raise ValueError(f"expected {expected} with ensemble {self.ensemble}, got {self.diversity}")
        weight = self.diversity_weight
        if weight is not None and (self.diversity is None or not 0 < weight < float("inf")):
            term = self.diversity or "no diversity term"
            raise ValueError(
                f"expected a finite diversity weight above 0, for a diversity term, got {weight} for {term}"
            )

    @property
    def weight(self) -> float:
        """The weight of the diversity term."""
        assert self.diversity is not None
        return DIVERSITY[self.diversity].weight if self.diversity_weight is None else self.diversity_weight

    def steps(self, fit: EnsembleFit, rows: int, members: int) -> int:
        """Returns how many gradient steps a fit reports."""
        return fit.steps_for(rows) * (members if self.ensemble == "sequential" else 1)


INDEPENDENT = EnsembleMaking()


@dataclass(frozen=True)
class _Fit:
    """What the members are fitted to and how."""

    making: EnsembleMaking
    shape: NetEnsembleShape
    rows: TableRows
    settings: EnsembleFit
    generator: torch.Generator
    report: Callable[[int], None]
    kept: KeptFit | None = None

    def fitted(
        self, nets: NetEnsemble, variation: Variation, report: Callable[[int], None] | None = None
    ) -> NetEnsemble:
        rows = self.rows
        data = (rows.features, rows.contexts, rows.score)
        fit_ensemble(nets, *data, self.settings, self.generator, report or self.report, variation, self.kept)
        return nets

    def built(self, members: int | None = None) -> NetEnsemble:
        return NetEnsemble(replace(self.shape, members=members or self.shape.members), self.generator)


def make_members(
    making: EnsembleMaking,
    shape: NetEnsembleShape,
    rows: TableRows,
    fit: EnsembleFit,
    generator: torch.Generator,
    report: Callable[[int], None] = lambda step: None,
    kept: KeptFit | None = None,
) -> MemberScorer:
    """Fits an ensemble to all rows.

    Args:
        making: How its members come about.
        shape: Their sizes and number; mixed ensembles have as many networks and as many drawn functions.
        rows: The rows.
        fit: Steps and step size.
        generator: Source of first weights, of the order of the rows and of draws.
        report: Called with the number of each step, of :meth:`EnsembleMaking.steps`.
        kept: Where the states of the fit are kept; it goes on from those that are there.

    Returns:
        One :class:`~slot_rl.estimators.net_ensemble.NetEnsemble`; for `mixed` a blend of it and drawn functions.

    Raises:
        ValueError: If there are too few steps for snapshots, or too many rows or combinations for drawn functions.
    """
    return _KINDS[making.ensemble](_Fit(making, shape, rows, fit, generator, report, kept))


def stacked(parts: list[NetEnsemble]) -> NetEnsemble:
    """Returns one ensemble of the members of several, which were fitted to the same rows."""
    members = sum(part.shape.members for part in parts)
    # The weights are replaced at once; the generator keeps torch's global one untouched.
    joined = NetEnsemble(replace(parts[0].shape, members=members), torch.Generator())
    states = [part.state_dict() for part in parts]
    single = ("offset", "spread")
    joined.load_state_dict(
        {
            name: state if name in single else torch.cat([each[name] for each in states])
            for name, state in states[0].items()
        }
    )
    return joined


def _independent(fit: _Fit) -> NetEnsemble:
    return fit.fitted(fit.built(), Variation())


def _bootstrap(fit: _Fit) -> NetEnsemble:
    """Draws how often a member sees a row from Poisson's distribution of mean 1, as resampling does for many rows."""
    nets = fit.built()
    counts = torch.poisson(torch.ones(nets.shape.members, len(fit.rows)), generator=fit.generator)
    return fit.fitted(nets, Variation(row_weights=_of_mean_one(counts)))


def _folds(fit: _Fit) -> NetEnsemble:
    """Hides another fold of the rows from each member."""
    nets = fit.built()
    fold = torch.randperm(len(fit.rows), generator=fit.generator) % nets.shape.members
    shown = fold != torch.arange(nets.shape.members).unsqueeze(1)
    return fit.fitted(nets, Variation(row_weights=_of_mean_one(shown.float())))


def _of_mean_one(counts: Tensor) -> Tensor:
    return counts / counts.mean(dim=1, keepdim=True).clamp_min(1 / counts.shape[1])


def _joint(fit: _Fit) -> NetEnsemble:
    """Adds the term between each member and the others."""
    nets, term = fit.built(), _term(fit.making)

    def penalty(seen: StepRows) -> Tensor:
        return fit.making.weight * among(term.compare, _read(term, nets, seen))

    return fit.fitted(nets, Variation(penalty=penalty))


def _sequential(fit: _Fit) -> NetEnsemble:
    """Fits one member after another, with the term between it and those before it."""
    term, parts = _term(fit.making), list[NetEnsemble]()
    steps = fit.settings.steps_for(len(fit.rows))
    for member in range(fit.shape.members):
        nets, frozen = fit.built(members=1), stacked(parts) if parts else None
        penalty = None if frozen is None else partial(_apart_from, frozen, nets, term, fit.making.weight)
        fit.fitted(nets, Variation(penalty=penalty), counted_from(member * steps, fit.report))
        parts.append(nets)
    return stacked(parts)


def _apart_from(frozen: NetEnsemble, nets: NetEnsemble, term: DiversityTerm, weight: float, seen: StepRows) -> Tensor:
    with torch.no_grad():
        hidden = frozen.hidden(frozen.vectors(seen.features, seen.context))
        known = replace(seen, hidden=hidden, scores=frozen.read_out(hidden))
        old = _read(term, frozen, known)
    return weight * to_frozen(term.compare, _read(term, nets, seen), old)


def _term(making: EnsembleMaking) -> DiversityTerm:
    assert making.diversity is not None
    return DIVERSITY[making.diversity]


def _read(term: DiversityTerm, nets: NetEnsemble, seen: StepRows) -> Tensor:
    if term.reads == "parameters":
        return nets.flat_parameters()
    return seen.scores if term.reads == "scores" else seen.hidden


def _snapshot(fit: _Fit) -> NetEnsemble:
    """Keeps the states of one network where its step size has fallen to zero, at the price of one fit.

    Huang, Li, Pleiss, Liu, Hopcroft, Weinberger, "Snapshot Ensembles: Train 1, get M for free" (2017).
    """
    members, steps = fit.shape.members, fit.settings.steps_for(len(fit.rows))
    if steps < members:
        raise ValueError(f"expected a step at least for each of {members} snapshots, got {steps}")
    nets = fit.built(members=1)
    taken = stacked([nets] * members).state_dict()

    def keep(step: int) -> None:
        over = step * members // steps
        if over > (step - 1) * members // steps:
            for name, value in nets.state_dict().items():
                (taken[name][over - 1 : over] if value.dim() else taken[name]).copy_(value)
        fit.report(step)

    fit.fitted(nets, Variation(cycles=members, taken={f"taken.{name}": value for name, value in taken.items()}), keep)
    snapshots = stacked([nets] * members)
    snapshots.load_state_dict(taken)
    return snapshots


def _mixed(fit: _Fit) -> Blend:
    """Adds as many functions that are drawn from a Gaussian process as there are networks."""
    rows, shape, nets = fit.rows, fit.shape, _independent(fit)
    columns = rows.features if rows.contexts is None else torch.cat([rows.contexts, rows.features], dim=1)
    gp = fit_gp(columns, rows.score, shape.sizes, shape.context_sizes, fit.generator, fit.kept)
    return Blend([DrawnFunctions.of(gp, shape.members, fit.generator), nets])


_KINDS: dict[EnsembleKind, Callable[[_Fit], MemberScorer]] = {
    "independent": _independent,
    "bootstrap": _bootstrap,
    "folds": _folds,
    "sequential": _sequential,
    "joint": _joint,
    "snapshot": _snapshot,
    "mixed": _mixed,
}
