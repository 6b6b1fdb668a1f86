"""The requests that a slot problem is told beforehand: their parts in its types, checked."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from slot_rl.problems.observation import KINDS, TYPES, Observation, TensorLike, as_tensor


def known_requests(
    contexts: TensorLike | None, requests: Observation | None, dim: int, sizes: tuple[int, ...], slots: int
) -> Observation | None:
    """Returns the known requests, checked; None if they are drawn."""
    if contexts is not None:
        if requests is not None:
            raise ValueError("expected either contexts or requests, got both")
        requests = Observation(context_vector=real_part("contexts", contexts, 2))
    if requests is None:
        return None
    if dim or sizes:
        raise ValueError(f"expected no context_dim and context_sizes with known requests, got {dim} and {sizes}")
    parts, ranks = requests.tensors(), {"context": 2, "context_vector": 2, "slot_features": 3}
    if not parts or set(parts) - set(ranks):
        raise ValueError(f"expected known requests with {', '.join(ranks)} only, got {', '.join(parts) or 'nothing'}")
    checked = {name: real_part(name, part, ranks[name]) for name, part in parts.items()}
    if len({len(part) for part in parts.values()}) > 1 or not len(requests):
        raise ValueError(
            f"expected equally many known requests in every part, got {shown_shapes(list(parts.values()))}"
        )
    if requests.context is not None and bool((requests.context < 0).any()):
        raise ValueError(f"expected context categories from 0 on, got {int(requests.context.min())}")
    return Observation(**checked)


def category_counts(
    known: Tensor | None, sizes: tuple[int, ...], named: Mapping[str, Sequence[str]] | None
) -> tuple[int, ...]:
    """Returns how many categories each context column has: those with names, or those that occur or are said."""
    said = sizes if known is None else tuple((known.amax(dim=0) + 1).tolist())
    if named is None:
        return said
    found = tuple(map(len, named.values()))
    # Known requests may lack a category that has a name.
    fits = len(found) == len(said) and all(map(operator.ge, found, said))
    if not fits or (known is None and found != said):
        raise ValueError(f"expected context_categories with {said} categories, got {found}")
    return found


def real_part(name: str, given: TensorLike | None, rank: int) -> Any:
    """Returns a part of requests in the problem's type; refuses another rank, and numbers that are not finite."""
    if given is None:
        return None
    values = as_tensor(name, given)
    if values.dim() != rank or values.numel() == 0:
        raise ValueError(f"expected {name} with {rank} dimensions, got shape {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"expected finite {name}, got NaN or infinity in row {int((~values.isfinite()).nonzero()[0, 0])}"
        )
    return values.detach().to(TYPES[KINDS.get(name, "real")])


def shown_shapes(arguments: list[Any]) -> str:
    """Returns the shapes of an estimator's arguments, for messages."""
    flat = [part for each in arguments if each is not None for part in (each if isinstance(each, tuple) else (each,))]
    return " and ".join(f"{tuple(part.shape)}" for part in flat)
