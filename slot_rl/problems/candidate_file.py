"""Requests that bring their own candidates, as a safetensors file."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from slot_rl.problems import Observation, SlotProblem


def read_candidates(path: Path | None, problem: SlotProblem) -> Observation:
    """Reads requests that bring their own candidates, whole.

    Args:
        path: A safetensors file with ``candidates``, float32 of shape ``(requests, items, dim)``, and perhaps a boolean
            ``mask`` of shape ``(requests, slots, items)``, true where an item may be chosen.
        problem: What the requests are for.

    Raises:
        ValueError: If the file is no safetensors file, or its tensors are not those of the problem's requests.
    """
    if path is None or path.suffix.lower() != ".safetensors" or not path.is_file():
        raise ValueError(f"expected --contexts FILE.safetensors with the requests' candidates, got {path}")
    try:
        tensors = safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"expected safetensors in {path}, got: {error}") from error
    if "candidates" not in tensors or tensors.keys() - {"candidates", "mask"}:
        raise ValueError(
            f"expected candidates and perhaps mask in {path}, got {', '.join(sorted(tensors)) or 'nothing'}"
        )
    candidates, mask = tensors["candidates"], tensors.get("mask")
    shape = (len(candidates) if candidates.dim() else 0, problem.items, problem.dim)
    if candidates.dtype != torch.float32 or tuple(candidates.shape) != shape or not len(candidates):
        raise ValueError(
            f"expected float32 candidates (requests, {problem.items}, {problem.dim}) in {path}, "
            f"got {candidates.dtype} {tuple(candidates.shape)}"
        )
    if not bool(candidates.isfinite().all()):
        request = int(candidates.isfinite().flatten(1).all(dim=1).int().argmin())
        raise ValueError(f"expected finite candidates in {path}, got NaN or infinity in request {request}")
    if mask is not None:
        _check_mask(mask, (len(candidates), problem.slots, problem.items), path)
    return Observation(candidates, mask)


def _check_mask(mask: Tensor, shape: tuple[int, int, int], path: Path) -> None:
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise ValueError(f"expected a boolean mask {shape} in {path}, got {mask.dtype} {tuple(mask.shape)}")
    empty = ~mask.any(dim=-1)
    if bool(empty.any()):
        request, slot = empty.nonzero()[0].tolist()
        raise ValueError(
            f"expected an allowed item in every slot, got none in request {request}, slot {slot} of {path}"
        )
