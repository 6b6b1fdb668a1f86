"""How different the members of an ensemble are, and what this tells: figures on rows whose true scores are known."""

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

CHOSEN_SHARE, FEWEST_CHOSEN = 0.1, 10
"""The rows that an ensemble would choose among others: a tenth with the highest means, and no fewer than these."""


@dataclass(frozen=True)
class Spread:
    """What the members of an ensemble tell on unseen rows.

    Attributes:
        given: For each member and each other one, see :func:`given_another`; of shape ``(members, members)``.
        errors: Correlations of the members' errors, of the same shape.
        of_chosen: Rank correlation of spread and error over the chosen rows, see :func:`spread_against_error`.
    """

    given: Tensor
    errors: Tensor
    of_chosen: float

    @classmethod
    def of(cls, members: Tensor, true: Tensor) -> "Spread":
        """Measures members' scores ``(members, rows)`` of rows with true scores ``(rows,)``.

        Raises:
            ValueError: If there are fewer than two members or three rows.
        """
        if len(members) < 2 or len(true) < 3:
            raise ValueError(f"expected two members and three rows at least, got {len(members)} and {len(true)}")
        errors = torch.corrcoef((members - true).double())
        return cls(given_another(members, true), errors, spread_against_error(members, true))


def given_another(members: Tensor, true: Tensor) -> Tensor:
    """Returns each member's accuracy given another's output, ``(members, members)``; NaN on the diagonal.

    It is the squared partial correlation: of what the other member (column), in the best straight line, leaves
    unexplained of the true scores, the share that this member (row) explains. 0: it tells nothing new.

    Args:
        members: Scores, ``(members, rows)``.
        true: True scores, ``(rows,)``.
    """
    count = len(members)
    found = torch.corrcoef(torch.cat([members, true.unsqueeze(0)]).double())
    between, with_true = found[:count, :count], found[:count, count]
    unexplained = (1 - between.square()) * (1 - with_true.square()).unsqueeze(0)
    partial = (with_true.unsqueeze(1) - between * with_true.unsqueeze(0)).square() / unexplained
    return partial.fill_diagonal_(torch.nan)


def accuracy_given(classes: Tensor, given: Tensor, true: Tensor, count: int) -> Tensor:
    """Returns a classifier's accuracy given another one's output, ``(classes,)``.

    Args:
        classes: What it says, ``(rows,)``.
        given: What the other one says, ``(rows,)``.
        true: The true classes, ``(rows,)``.
        count: Classes.

    Returns:
        The share of right answers among the rows where the other one says 0, 1, ...; NaN where it never does.
    """
    right = torch.bincount(given[classes == true], minlength=count)
    return right / torch.bincount(given, minlength=count)


def spread_against_error(members: Tensor, true: Tensor, share: float = CHOSEN_SHARE) -> float:
    """Returns Spearman's correlation of the members' standard deviation and their mean's error over the chosen rows.

    Args:
        members: Scores, ``(members, rows)``.
        true: True scores, ``(rows,)``.
        share: The share of the rows with the highest means that is chosen.

    Returns:
        It is 0 where one of the two is the same for all chosen rows.
    """
    mean = members.mean(dim=0)
    chosen = mean.topk(min(len(true), max(FEWEST_CHOSEN, round(share * len(true))))).indices
    spread, error = members[:, chosen].std(dim=0), (mean - true)[chosen].abs()
    if bool((spread == spread[0]).all() | (error == error[0]).all()):
        return 0.0
    return float(stats.spearmanr(spread.numpy(), error.numpy()).statistic)
