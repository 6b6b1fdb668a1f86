"""What the answers of an estimator to a few rows tell of it: the one check of an estimator when a problem is built."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SAME = 1e-3
"""Scores are the same that differ by at most this share of the largest score beside them: kernels round differently."""
SAME_NEAR_0 = 1e-6
"""They may differ by this in any case: a score near 0 may be a difference of larger numbers."""


def same_scores(score: Tensor, other: Tensor, size: float | None = None) -> bool:
    """Returns whether scores differ by no more than rounding; NaN is the same as NaN.

    Args:
        score: Scores of any shape.
        other: Scores of this shape.
        size: The largest score beside them, without its sign; of ``score`` if None.
    """
    size = float(score.nan_to_num(0, 0, 0).abs().amax()) if size is None else size
    return torch.allclose(score.double(), other.double(), rtol=0, atol=SAME * size + SAME_NEAR_0, equal_nan=True)


def check_answers(name: str, ask: Callable[[Sequence[int]], Tensor], rows: int) -> Tensor:
    """Refuses scores that depend on chance, on earlier calls or on the other rows.

    Args:
        name: The estimator's name, for messages.
        ask: Returns the scores of some rows, by their numbers.
        rows: How many rows there are.

    Returns:
        The scores ``(rows,)``.

    Raises:
        ValueError: If a row does not have one score, or not always the same.
    """
    every = range(rows)
    with torch.no_grad():
        together, again = ask(every), ask(every)
        if together.shape != (rows,):
            raise ValueError(f"expected one score for each of {rows} rows from {name}, got {tuple(together.shape)}")
        alone = torch.cat([ask([row]) for row in every])
    for other, how in ((again, "when asked twice"), (alone, "for a row among others and alone")):
        check_same(f"the same score {how} from {name}", together, other)
    return together


def check_same(what: str, scores: Tensor, others: Tensor) -> None:
    """Raises ValueError, which says what was expected, if scores ``(rows,)`` differ by more than rounding."""
    if not same_scores(scores, others):
        row = int((scores - others).abs().nan_to_num(torch.inf).argmax())
        raise ValueError(f"expected {what}, got {float(scores[row]):g} and {float(others[row]):g}")


def check_gradient(name: str, score: Tensor, given: Tensor) -> None:
    """Refuses a score whose backward pass fails, or reaches anything trainable but what was given.

    A score without a gradient is left to the agents that want one.

    Args:
        name: The estimator's name, for messages.
        score: The scores.
        given: What they were made of, a leaf that requires a gradient.

    Raises:
        ValueError: If the gradient is of no use.
    """
    if not score.requires_grad:
        return
    kept = [leaf for leaf in _leaves(score) if leaf is not given]
    if kept:
        raise ValueError(
            f"expected {name} to use frozen parameters, got a trainable one of shape {tuple(kept[0].shape)}: call "
            "requires_grad_(False) on it"
        )
    try:
        torch.autograd.grad(score.sum(), given)
    except Exception as error:  # code of the user may raise anything
        said = " ".join(str(error).split())
        found = f"{type(error).__name__}: {said}"
        raise ValueError(f"expected {name} to give a gradient, or detached scores, got {found}") from error


def described(answer: object) -> str:
    """Returns the type and shape of an answer, for messages."""
    if not isinstance(answer, Tensor):
        return type(answer).__name__
    return f"{answer.dtype} {tuple(answer.shape)}{'' if answer.is_cpu else f' on {answer.device}'}"


def _leaves(score: Tensor) -> list[Tensor]:
    """Returns the tensors that a backward pass would give a gradient to."""
    waiting, known, found = [score.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting.extend(each for each, _ in node.next_functions)
    return found
