"""Pessimism: an objective made of an ensemble's members that is low where they disagree.

A search or a policy finds the configurations whose estimate errs upwards. An objective that is low where members
disagree gives up a part of the estimate for fewer such errors. `docs/ensembles.md` says what it is worth.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from torch import Tensor, nn

from slot_rl.estimators.row_scorer import MemberScorer, RowScorer

MemberObjective = Literal["mean", "minimum", "lower"]


@dataclass(frozen=True)
class Pessimism:
    """What agents and searches maximise, where the estimator is an ensemble.

    Attributes:
        pessimism: The mean of the members, their minimum, or their mean less --beta standard deviations (lower).
        beta: Standard deviations that lower subtracts.
    """

    pessimism: MemberObjective = "mean"
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Refuses an unknown objective, and a number of standard deviations that is none or is not used."""
        if self.pessimism not in get_args(MemberObjective):
            raise ValueError(
                f"expected pessimism to be one of {', '.join(get_args(MemberObjective))}, got {self.pessimism!r}"
            )
        if not (isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"expected a finite beta >= 0, got {self.beta}")
        if self.pessimism != "lower" and self.beta != type(self).beta:
            raise ValueError(f"expected beta with pessimism lower alone, got {self.beta} with {self.pessimism}")

    def of_members(self, scores: Tensor) -> Tensor:
        """Returns the objective ``(...)`` of members' scores ``(members, ...)``.

        Where all members agree the standard deviation has no slope, and its gradient is 0.

        Raises:
            ValueError: If there is a single member, and the objective is not the mean.
        """
        if len(scores) < 2 and self.pessimism != "mean":
            raise ValueError(f"expected two members at least for pessimism {self.pessimism}, got {len(scores)}")
        if self.pessimism == "minimum":
            return scores.amin(dim=0)
        mean = scores.mean(dim=0)
        return mean - self.beta * scores.std(dim=0) if self.pessimism == "lower" else mean

    def of_model(self, model: nn.Module) -> nn.Module:
        """Returns a model that scores by the objective; the same model for the mean.

        Raises:
            ValueError: If it is not an ensemble.
        """
        if self.pessimism == "mean":
            return model
        if not isinstance(model, MemberScorer):
            raise ValueError(
                f"expected an estimator with members for pessimism {self.pessimism} (slot-rl pretrain --model "
                f"nets or blend), got {type(model).__name__} without"
            )
        return Pessimistic(model, self)


class Pessimistic(RowScorer):
    """Scores configurations by an objective of an ensemble's members.

    Attributes:
        model: The ensemble.
        objective: The objective.
    """

    def __init__(self, model: MemberScorer, objective: Pessimism) -> None:
        """Takes an ensemble and the objective."""
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the objective; see :meth:`RowScorer.forward`."""
        return self.objective.of_members(self.model.member_scores(features, context))
