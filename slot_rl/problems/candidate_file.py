"""Requests that bring their own candidates, as a safetensors file."""

from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from slot_rl.io import write_atomically
from slot_rl.problems.observation import TYPES, Observation, ObservationPart
from slot_rl.problems.requests import PROPENSITY, TRUE, Answer, Requests


class CandidateRequests(Requests):
    """Requests of a safetensors file, held whole."""

    def __init__(self, observation: Observation) -> None:
        """Takes the requests."""
        self.observation, self.distinct = observation, len(observation)

    @classmethod
    def read(cls, path: Path | None, slots: int, dim: int, parts: Mapping[str, ObservationPart]) -> "CandidateRequests":
        """Reads a file.

        Args:
            path: A safetensors file with ``candidates``, float32 of shape ``(requests, items, dim)`` for any number of
                items, perhaps a boolean ``mask`` of shape ``(requests, slots, items)``, true where an item may be
                chosen, and the other parts that the problem's requests have.
            slots: The problem's slots.
            dim: Length of a candidate's vector.
            parts: The parts of the problem's requests.

        Raises:
            ValueError: If the file is no safetensors file, or its tensors are not those of the problem's requests.
        """
        if path is None or path.suffix.lower() != ".safetensors" or not path.is_file():
            raise ValueError(f"expected --requests FILE.safetensors with the requests' candidates, got {path}")
        try:
            tensors = safetensors.torch.load(path.read_bytes())
        except safetensors.SafetensorError as error:
            raise ValueError(f"expected safetensors in {path}, got: {error}") from error
        given = {name: part for name, part in parts.items() if name not in ("candidates", "mask")}
        needed = {"candidates", *given}
        if needed - tensors.keys() or tensors.keys() - needed - {"mask"}:
            expected = ", ".join(sorted(needed))
            raise ValueError(
                f"expected {expected} and perhaps mask in {path}, got {', '.join(sorted(tensors)) or 'nothing'}"
            )
        candidates, mask = tensors["candidates"], tensors.get("mask")
        _check_candidates(candidates, dim, path)
        if mask is not None:
            _check_mask(mask, (len(candidates), slots, candidates.shape[1]), path)
        for name, part in given.items():
            # What is said of each item follows the number of items.
            shape = (candidates.shape[1], *part.shape[1:]) if part.kind == "numbers" else part.shape
            _check_part(name, tensors[name], (len(candidates), *shape), part, path)
        return cls(Observation.of(tensors))

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
        if found.propensity is not None:
            tensors[PROPENSITY] = found.propensity
        shown = {name: part.squeeze(1).contiguous() for name, part in tensors.items()}
        write_atomically(out, safetensors.torch.save(shown))
        report(len(self))


def _check_candidates(candidates: Tensor, dim: int, path: Path) -> None:
    fits = candidates.dim() == 3 and candidates.shape[2] == dim and candidates.numel() > 0
    if candidates.dtype != torch.float32 or not fits:
        raise ValueError(
            f"expected float32 candidates (requests, items, {dim}) in {path}, "
            f"got {candidates.dtype} {tuple(candidates.shape)}"
        )
    _check_finite("candidates", candidates, path)


def _check_part(name: str, found: Tensor, shape: tuple[int, ...], part: ObservationPart, path: Path) -> None:
    kind = TYPES[part.kind]
    if found.dtype != kind or tuple(found.shape) != shape:
        raise ValueError(f"expected {kind} {name} {shape} in {path}, got {found.dtype} {tuple(found.shape)}")
    _check_finite(name, found, path)
    if part.sizes and bool(((found < 0) | (found >= torch.tensor(part.sizes))).any()):
        raise ValueError(f"expected {name} below {part.sizes} in {path}, got {found.amax(dim=0).tolist()} at most")


def _check_finite(name: str, found: Tensor, path: Path) -> None:
    if not bool(found.isfinite().all()):
        request = int(found.isfinite().flatten(1).all(dim=1).int().argmin())
        raise ValueError(f"expected finite {name} in {path}, got NaN or infinity in request {request}")


def _check_mask(mask: Tensor, shape: tuple[int, int, int], path: Path) -> None:
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise ValueError(f"expected a boolean mask {shape} in {path}, got {mask.dtype} {tuple(mask.shape)}")
    empty = ~mask.any(dim=-1)
    if bool(empty.any()):
        request, slot = empty.nonzero()[0].tolist()
        raise ValueError(
            f"expected an allowed item in every slot, got none in request {request}, slot {slot} of {path}"
        )
