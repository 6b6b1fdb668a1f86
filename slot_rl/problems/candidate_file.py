"""Requests that bring their own candidates, as a safetensors file."""

from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from slot_rl.io import write_atomically
from slot_rl.problems.observation import Observation
from slot_rl.problems.requests import TRUE, Answer, Requests


class CandidateRequests(Requests):
    """Requests of a safetensors file, held whole."""

    def __init__(self, observation: Observation) -> None:
        """Takes the requests."""
        self.observation, self.distinct = observation, len(observation)

    @classmethod
    def read(cls, path: Path | None, slots: int, items: int, dim: int) -> "CandidateRequests":
        """Reads a file.

        Args:
            path: A safetensors file with ``candidates``, float32 of shape ``(requests, items, dim)``, and optionally a
                boolean ``mask`` of shape ``(requests, slots, items)``, true where an item may be chosen.
            slots: The problem's slots.
            items: The problem's items.
            dim: Length of a candidate's vector.

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
        _check_candidates(candidates, items, dim, path)
        if mask is not None:
            _check_mask(mask, (len(candidates), slots, items), path)
        return cls(Observation(candidates, mask))

    def __len__(self) -> int:
        """Returns the number of requests."""
        return len(self.observation)

    def figures(self) -> dict[str, str]:
        """Returns the number of requests."""
        return {"requests": f"{len(self):,}"}

    def write(self, out: Path, answer: Answer, report: Callable[[int], None]) -> None:
        """Writes ``choice``, ``score`` and, with a ground truth, ``true_score`` as safetensors.

        Their shapes are ``(requests, slots)`` and ``(requests,)``; several answers add a dimension behind the first.
        """
        found = answer(self.observation)
        tensors = {"choice": found.choice, "score": found.estimated}
        if found.true is not None:
            tensors[TRUE] = found.true
        shown = {name: part.squeeze(1).contiguous() for name, part in tensors.items()}
        write_atomically(out, safetensors.torch.save(shown))
        report(len(self))


def _check_candidates(candidates: Tensor, items: int, dim: int, path: Path) -> None:
    shape = (len(candidates) if candidates.dim() else 0, items, dim)
    if candidates.dtype != torch.float32 or tuple(candidates.shape) != shape or not len(candidates):
        raise ValueError(
            f"expected float32 candidates (requests, {items}, {dim}) in {path}, "
            f"got {candidates.dtype} {tuple(candidates.shape)}"
        )
    if not bool(candidates.isfinite().all()):
        request = int(candidates.isfinite().flatten(1).all(dim=1).int().argmin())
        raise ValueError(f"expected finite candidates in {path}, got NaN or infinity in request {request}")


def _check_mask(mask: Tensor, shape: tuple[int, int, int], path: Path) -> None:
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise ValueError(f"expected a boolean mask {shape} in {path}, got {mask.dtype} {tuple(mask.shape)}")
    empty = ~mask.any(dim=-1)
    if bool(empty.any()):
        request, slot = empty.nonzero()[0].tolist()
        raise ValueError(
            f"expected an allowed item in every slot, got none in request {request}, slot {slot} of {path}"
        )
