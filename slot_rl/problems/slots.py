"""Slots and items: fill each of S slots from a list of N candidate vectors that is new with every request.

The same item may serve several slots. N may vary between requests: lists are padded with zeros to the longest and the
padding is masked.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slot_rl.estimators.freezing import Score
from slot_rl.problems.base import Budget, Observation, ObservationPart, Problem
from slot_rl.problems.candidate_file import CandidateRequests

CandidateSampler = Callable[[tuple[int, ...], torch.Generator], Tensor]


def standard_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws candidates i.i.d. N(0, 1)."""
    return torch.randn(shape, generator=generator)


def unit_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws candidates i.i.d. U[0, 1)."""
    return torch.rand(shape, generator=generator)


class SlotProblem(Problem):
    """Candidates vary per request; the estimator sees the chosen vectors.

    Attributes:
        dim: Length D of a candidate's vector.
        fewest_items: The shortest list that is drawn; below ``items`` the number varies and observations have a mask.
    """

    def __init__(
        self,
        estimator: Score,
        slots: int,
        items: int,
        dim: int,
        draw: CandidateSampler = standard_normal,
        fewest_items: int | None = None,
        truth: Score | None = None,
        name: str = "slots",
    ) -> None:
        """Builds the problem.

        Args:
            estimator: Scores vectors of shape ``(..., batch, slots, dim)`` as ``(..., batch)``.
            slots: Slots of a configuration, S.
            items: Longest list of candidates, N.
            dim: Length D of a candidate's vector.
            draw: Draws candidates of a given shape from a generator.
            fewest_items: Shortest list that is drawn; ``items`` if None.
            truth: The ground truth, called as the estimator is; None if unknown.
            name: The problem's id, for reports.

        Raises:
            ValueError: If a size is below 1, or ``fewest_items`` is not within 1 and ``items``.
        """
        super().__init__(name, (items,) * slots, estimator, truth)
        fewest = items if fewest_items is None else fewest_items
        if not 1 <= fewest <= items:
            raise ValueError(f"expected fewest_items from 1 to items = {items}, got {fewest}")
        if dim < 1:
            raise ValueError(f"expected dim >= 1, got {dim}")
        self.dim, self.fewest_items, self._draw = dim, fewest, draw

    request_suffixes = (".safetensors",)

    def observation_parts(self) -> dict[str, ObservationPart]:
        """Returns the candidates, and the mask where the number of items varies."""
        parts = {"candidates": ObservationPart((self.items, self.dim), "real")}
        if self.fewest_items < self.items:
            parts["mask"] = ObservationPart((self.slots, self.items), "boolean")
        return parts

    def sample(self, batch: int, generator: torch.Generator) -> Observation:
        """Draws requests: candidates, and a mask where the number of items varies."""
        candidates = self._draw((batch, self.items, self.dim), generator)
        if self.fewest_items == self.items:
            return Observation(candidates)
        count = torch.randint(self.fewest_items, self.items + 1, (batch, 1), generator=generator)
        present = torch.arange(self.items) < count
        mask = present.unsqueeze(1).repeat(1, self.slots, 1)
        return Observation(candidates * present.unsqueeze(-1), mask)

    def candidates(self, observation: Observation) -> Tensor:
        """Returns the request's candidates, ``(batch, items, dim)``."""
        if observation.candidates is None:
            raise ValueError(f"expected an observation with candidates for {self.name}, got one without")
        return observation.candidates

    def mask(self, observation: Observation) -> Tensor | None:
        """Returns the request's mask, ``(batch, slots, items)`` or None."""
        return observation.mask

    def gather(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns the chosen vectors, ``(..., batch, slots, dim)``."""
        candidates = self.candidates(observation)
        # Flat rows and index_select: several times faster than indexing with a pair of broadcast tensors.
        first = torch.arange(len(candidates)).unsqueeze(-1) * self.items
        rows = candidates.reshape(-1, self.dim).index_select(0, (choice + first).flatten())
        return rows.view(*choice.shape, self.dim)

    def mix(self, observation: Observation, selection: Tensor) -> Tensor:
        """Returns selection-weighted vectors, ``(..., batch, slots, dim)``."""
        return selection @ self.candidates(observation)

    def with_truth_as_estimator(self) -> "SlotProblem":
        """Returns the same requests scored by the ground truth, with a budget of its own, to search for its best.

        Raises:
            ValueError: If no ground truth is known.
        """
        if self._truth is None:
            raise ValueError(f"expected a problem with a ground truth, got {self.name} without one")
        twin = copy.copy(self)
        twin.budget, twin._estimator = Budget(), self._truth
        return twin

    def read_requests(
        self, path: Path | None, folder: Path, skip_unknown: bool = False, report: Callable[[int], None] | None = None
    ) -> CandidateRequests:
        """Reads a safetensors file with candidates; see :meth:`Problem.read_requests`."""
        return CandidateRequests.read(path, self.slots, self.items, self.dim)

    def _ask(self, estimator: Score, observation: Observation, vectors: Tensor) -> Tensor:
        return estimator(vectors)

    def _ask_truth(self, truth: Score, observation: Observation, choice: Tensor) -> Tensor:
        return truth(self.gather(observation, choice))
