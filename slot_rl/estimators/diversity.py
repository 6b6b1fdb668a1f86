"""Terms of a loss that are low where a model in training differs from others: one model's parameters in another's loss.

Each term compares a new model with an old one by one thing that both have: their parameters, their scores of the same
rows, or their hidden layers on the same rows. It is low where they differ, so it is added to the new model's loss. The
old model is a constant. Each docstring says what fools the term: what changes it although the function stays as it is,
or the reverse. Leading dimensions are pairs of models.

The question: "train a second network like the first but different". `docs/ensembles.md` says what came of it: no term
makes members whose choices are better than those of independent members.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

SOFTENING = 0.01
"""Added before an inverse is taken of outputs' differences, so that two equal models have a finite term."""


def weight_distance(new: Tensor, old: Tensor) -> Tensor:
    """Returns ``1 / sum |old - new|`` of parameters ``(..., parameters)``.

    Fooled by rescaling: a layer of ReLU or linear units times c and the next one divided by c is the same function at
    another distance. Permuting hidden units does the same for every activation.
    """
    return 1 / (old - new).abs().sum(dim=-1)


def weight_correlation(new: Tensor, old: Tensor) -> Tensor:
    """Returns Pearson's correlation of parameters ``(..., parameters)``.

    Fooled by permuting hidden units: the same function at a correlation near 0. Two networks with independent first
    weights have none to begin with. Since weights are 0 on average, the cosine is nearly the same.
    """
    return functional.cosine_similarity(_centred(new, -1), _centred(old, -1), dim=-1)


def negative_correlation(new: Tensor, old: Tensor) -> Tensor:
    """Returns the mean of ``(new - m) (old - m)`` over scores ``(..., rows)``, where m is the mean of the two.

    This is ``-(new - old)^2 / 4``: it subtracts the new network's squared error against the old one's outputs. It has
    no lower bound, so a weight of 4 or more lets two models run away from each other. Fooled by a wrong answer, which
    differs from a right one as well as another right one could.

    Liu, Yao, "Ensemble learning via negative correlation" (1999).
    """
    mean = (new + old) / 2
    return ((new - mean) * (old - mean)).mean(dim=-1)


def inverse_difference(new: Tensor, old: Tensor) -> Tensor:
    """Returns the inverse of the mean squared difference of scores ``(..., rows)``, plus :data:`SOFTENING`.

    The term for "of two equally good predictions take the one that differs" where scores are numbers. Fooled by a
    single row with a large difference: the others may be equal.
    """
    return 1 / ((new - old).square().mean(dim=-1) + SOFTENING)


def linear_cka(new: Tensor, old: Tensor) -> Tensor:
    """Returns the linear centred kernel alignment of hidden layers ``(..., rows, units)``, from 0 to 1.

    It is ``|old' new|^2 / (|new' new| |old' old|)`` with Frobenius norms of centred columns. Rotations and a common
    factor do not change it. Fooled by a hidden unit of large values that the read-out ignores: the same function at an
    alignment near 0. In reverse, two read-outs of one layer have an alignment of 1 and may score anything.

    Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited" (2019).
    """
    new, old = _centred(new, -2), _centred(old, -2)
    shared, own, other = (_squared_norm(first, second) for first, second in ((old, new), (new, new), (old, old)))
    return shared / (own * other).sqrt()


def minus_cross_entropy(new: Tensor, old: Tensor) -> Tensor:
    """Returns minus the cross-entropy of the new model's classes against the old one's outputs.

    Args:
        new: Logits ``(..., rows, classes)``.
        old: Logits of the same shape.

    It has no lower bound: a new model that is certain of another class gains without end. Fooled by a calibrated old
    model: on the rows of the loss, the two then add up to the same loss times 1 less the weight, which moves nothing.
    On rows whose classes are unknown it takes, of two equally good models, the one that differs.
    """
    agreed = torch.softmax(old, dim=-1) * torch.log_softmax(new, dim=-1)
    return agreed.sum(dim=-1).mean(dim=-1)


def inverse_cross_entropy(new: Tensor, old: Tensor) -> Tensor:
    """Returns the inverse of the same cross-entropy, plus :data:`SOFTENING`; arguments of :func:`minus_cross_entropy`.

    It is bounded. Fooled by uncertainty: a new model that agrees on every class, but less surely, lowers it.
    """
    return 1 / (SOFTENING - minus_cross_entropy(new, old))


@dataclass(frozen=True)
class DiversityTerm:
    """A term by name.

    Attributes:
        compare: Compares a new model with an old one, for any leading dimensions.
        reads: What of a member it compares.
        weight: A weight that changes the members without spoiling their fit.
    """

    compare: Callable[[Tensor, Tensor], Tensor]
    reads: Literal["parameters", "scores", "hidden"]
    weight: float


TermName = Literal["weight_distance", "weight_correlation", "negative_correlation", "inverse_difference", "linear_cka"]
DIVERSITY: dict[TermName, DiversityTerm] = {
    "weight_distance": DiversityTerm(weight_distance, "parameters", 1_000.0),
    "weight_correlation": DiversityTerm(weight_correlation, "parameters", 1.0),
    "negative_correlation": DiversityTerm(negative_correlation, "scores", 1.0),
    "inverse_difference": DiversityTerm(inverse_difference, "scores", 0.001),
    "linear_cka": DiversityTerm(linear_cka, "hidden", 0.1),
}
"""The terms for members that score; :func:`minus_cross_entropy` and its inverse are for models that classify."""


def to_frozen(compare: Callable[[Tensor, Tensor], Tensor], new: Tensor, old: Tensor) -> Tensor:
    """Returns the mean of a term between a model in training and frozen ones, which get no gradient.

    Args:
        compare: The term.
        new: What it reads of the model in training, ``(1, ...)``.
        old: The same of the frozen ones, ``(models, ...)``.
    """
    return compare(new.expand_as(old), old.detach()).mean()


def among(compare: Callable[[Tensor, Tensor], Tensor], members: Tensor) -> Tensor:
    """Returns the sum over members of a term's mean between the member and the others.

    Each member is compared with the others as they are, so that its gradient is the one that it would have if they were
    frozen.

    Args:
        compare: The term.
        members: What it reads of them, ``(members, ...)``, two at least.
    """
    first, second = (~torch.eye(len(members), dtype=torch.bool)).nonzero().unbind(dim=1)
    return compare(members[first], members[second].detach()).mean() * len(members)


def _centred(values: Tensor, dim: int) -> Tensor:
    return values - values.mean(dim=dim, keepdim=True)


def _squared_norm(first: Tensor, second: Tensor) -> Tensor:
    return (first.mT @ second).square().sum(dim=(-2, -1))
