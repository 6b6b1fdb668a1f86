"""Finds out whether a table has the same score for a sequence and its reverse complement.

That is the sequence read backwards, each letter replaced by another one. The two strands of DNA are an example: there A
stands for T and C for G.
"""

import torch
from torch import Tensor

FEWEST_PAIRS, EQUAL_SHARE = 20, 0.98
"""Pairs of rows that prove a rule, and how many of them must have the same score."""
MOST_CHANCE = 0.5
"""Where any two rows have the same score more often than that, equal scores prove nothing."""


def complement_of(sequences: Tensor, contexts: Tensor | None, score: Tensor, alphabet: int) -> tuple[int, ...] | None:
    """Returns the letter that stands for each letter when a sequence is read backwards; None without proof.

    Pairs of rows that alone share a score suggest which letters stand for each other; some share it by chance. Then the
    rows whose reverse complement is in the table must have its score.

    Args:
        sequences: The letters, ``(rows, positions)``.
        contexts: The rows' contexts ``(rows, columns)``; None without contexts.
        score: Their scores, ``(rows,)``.
        alphabet: How many letters there are.
    """
    context = torch.zeros(len(score), 1, dtype=torch.long) if contexts is None else contexts
    group, sizes = _grouped(torch.cat([context.double(), score.double().unsqueeze(1)], dim=1))
    order = group.argsort(stable=True)
    pairs = order[sizes[group[order]] == 2].view(-1, 2)
    votes = torch.zeros(alphabet, alphabet, dtype=torch.long)
    for one, other in (pairs.unbind(dim=1), pairs.flip(1).unbind(dim=1)):
        places = sequences[one].flip(1) * alphabet + sequences[other]
        votes += places.flatten().bincount(minlength=alphabet**2).view(alphabet, alphabet)
    complement = votes.argmax(dim=1)
    by_chance = float((sizes.double() / len(score)).square().sum())
    if by_chance > MOST_CHANCE or not torch.equal(complement[complement], torch.arange(alphabet)):
        return None
    equal = _equal_scores(sequences, complement[sequences.flip(1)], context, score)
    proven = len(equal) >= 2 * FEWEST_PAIRS and float(equal.double().mean()) >= EQUAL_SHARE
    return tuple(complement.tolist()) if proven else None


def _equal_scores(sequences: Tensor, reflected: Tensor, context: Tensor, score: Tensor) -> Tensor:
    """Says of each row whose reverse complement is another row of the table whether both have the same score."""
    group, _ = _grouped(torch.cat([torch.cat([context, each], dim=1) for each in (sequences, reflected)]))
    own, other = group[: len(score)], group[len(score) :]
    scores = torch.full((len(group),), torch.nan, dtype=score.dtype).index_copy(0, own, score)
    known = ~scores[other].isnan() & (own != other)
    return scores[other][known] == score[known]


def _grouped(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the number of the group of equal rows that each row is in, and how many rows each group has."""
    _, group, sizes = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    return group, sizes
