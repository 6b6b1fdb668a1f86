"""Functions of categorical slots: masks, one-hot rows, Gumbel noise, draws, and the Jacobian of the softmax."""

import torch
from torch import Tensor


def masked_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Replaces the logits of masked items by minus infinity.

    Args:
        logits: Tensor of shape ``(..., slots, items)``.
        mask: Boolean tensor that broadcasts to the logits' shape, true where an item is allowed; or None.

    Raises:
        ValueError: If the shapes do not fit, or if a slot has no allowed item.
    """
    if logits.dim() < 2:
        raise ValueError(f"expected logits of shape (..., slots, items), got {tuple(logits.shape)}")
    if mask is None:
        _refuse_empty_slots(logits)
        return logits
    if mask.dtype != torch.bool:
        raise ValueError(f"expected a boolean mask, got {mask.dtype}")
    try:
        mask.expand(logits.shape)
    except RuntimeError as error:
        raise ValueError(
            f"expected a mask that broadcasts to the logits' shape {tuple(logits.shape)}, got {tuple(mask.shape)}"
        ) from error
    masked = logits.masked_fill(~mask, -torch.inf)
    _refuse_empty_slots(masked)
    return masked


def _refuse_empty_slots(logits: Tensor) -> None:
    if not bool((logits.detach().amax(dim=-1) > -torch.inf).all()):
        raise ValueError("expected at least one allowed item in every slot, got a slot whose items are all masked")


def one_hot(choice: Tensor, items: int, dtype: torch.dtype) -> Tensor:
    """Returns the one-hot rows ``(..., slots, items)`` of indices ``(..., slots)``."""
    rows = torch.zeros(*choice.shape, items, dtype=dtype, device=choice.device)
    return rows.scatter_(-1, choice.unsqueeze(-1), 1.0)


def exponential_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws standard exponential noise in the shape of ``like``, in float32 or better, never exactly 0."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    noise = torch.empty(like.shape, dtype=dtype, device=like.device).exponential_(generator=generator)
    # A draw of exactly 0 is infinite Gumbel noise, and infinity plus the -inf of a masked item is NaN.
    return noise.clamp_(min=torch.finfo(dtype).tiny)


def gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws standard Gumbel noise in the shape of ``like``, in float32 or better.

    Half precision has too few distinct numbers for the tail, which decides rare draws.
    """
    return exponential_noise(like, generator).log_().neg_()


def draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws a choice ``(..., slots)`` from ``softmax(logits)``; an item at minus infinity is never drawn."""
    return (logits + gumbel_noise(logits, generator)).argmax(dim=-1)


def log_prob_of(logits: Tensor, choice: Tensor) -> Tensor:
    """Returns the log-probability ``(...)`` of choices ``(..., slots)`` from logits ``(..., slots, items)``."""
    log_p = torch.log_softmax(logits, dim=-1)
    return log_p.gather(-1, choice.unsqueeze(-1)).squeeze(-1).sum(dim=-1)


def conditional_gumbel(logits: Tensor, choice: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draws noisy logits given their argmax: logits plus Gumbel noise, on the condition that the choice is largest.

    With ``p = softmax(logits)`` and independent standard exponentials E, the noisy logit of the choice d is
    ``-log E_d`` and that of any other item n is ``-log(E_n / p_n + E_d)``, both up to the same constant.

    Paulus, Maddison, Krause, "Rao-Blackwellizing the Straight-Through Gumbel-Softmax Gradient Estimator" (2021).

    Args:
        logits: Tensor of shape ``(..., slots, items)``.
        choice: Long tensor of shape ``(..., slots)``; additional leading dimensions draw several noises per slot.
        generator: Random generator; None is the global one.

    Returns:
        The noisy logits, and their derivatives with respect to the log-probabilities, both of shape
        ``(*choice.shape, items)``.
    """
    chosen = choice.unsqueeze(-1)
    noise = exponential_noise(logits.expand(*choice.shape, logits.shape[-1]), generator)
    chosen_noise = noise.gather(-1, chosen)
    # For an item with p = 0 the total is infinite, the noisy logit -inf, and the derivative 1.
    total = (noise / torch.softmax(logits, dim=-1) + chosen_noise).scatter_(-1, chosen, chosen_noise)
    return -total.log(), 1 - chosen_noise / total


def swap_effects(slope: Tensor, choice: Tensor) -> Tensor:
    """Returns the first-order effect of each single swap of a choice ``(..., slots)``; 0 for the chosen items.

    The slope is the gradient with respect to the choice's one-hot rows, of shape ``(..., slots, items)``.
    """
    return slope - slope.gather(-1, choice.unsqueeze(-1))


def jacobian_product(probabilities: Tensor, slope: Tensor) -> Tensor:
    """Multiplies the softmax's Jacobian ``diag(p) - p p^T`` by a slope, both of shape ``(..., slots, items)``."""
    return (slope - (probabilities * slope).sum(dim=-1, keepdim=True)).mul_(probabilities)
