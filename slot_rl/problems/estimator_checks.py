"""What the scores of a few requests tell of an estimator: misfits that are refused when a problem is built."""

import torch
from torch import Tensor


def check_scores(together: Tensor, alone: Tensor) -> None:
    """Refuses several scores a request, and scores that depend on the other requests or on chance."""
    if together.dim() != 1:
        raise ValueError(f"expected one score for each of 3 requests, got {tuple(together.shape)}")
    if not _close(together, alone):
        row = int((together - alone).abs().argmax())
        raise ValueError(
            f"expected the same score for a request among others and alone, got {float(together[row]):g} and "
            f"{float(alone[row]):g}"
        )


def check_encoding(parts: Tensor, whole: Tensor) -> None:
    """Refuses an encoding whose score is not the estimator's; both are scores ``(requests,)``."""
    if not _close(whole, parts):
        raise ValueError(
            "expected after_encoding(encode(items)) to be the estimator's score, "
            f"got {parts.tolist()} for {whole.tolist()}"
        )


def _close(score: Tensor, other: Tensor) -> bool:
    scale = float(score.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(score, other, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
