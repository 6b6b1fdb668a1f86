"""Rows of categorical features: each feature is a slot, its categories are the items, and a context may be given.

The vocabularies are fixed, so the candidates (the estimator's own embedding rows) and the mask that pads short
vocabularies are properties of the problem and stay out of the observation. A table without context columns has a
single context, a column with one category, so that an observation is never empty.
"""

import torch
from torch import Tensor

from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.net import EstimatorNet
from slot_rl.problems.base import Observation, Problem, Score
from slot_rl.problems.truth_table import TruthTable


class RowProblem(Problem):
    """Fixed vocabularies, one per feature; sizes may differ.

    Attributes:
        contexts: Long tensor of shape ``(contexts, columns)``: every context that is asked about, equally often.
        encoding: Names of the features, contexts and categories, for reading and writing tables; None if unknown.
    """

    def __init__(
        self,
        estimator: EstimatorNet,
        contexts: Tensor | None = None,
        truth: Score | None = None,
        name: str = "rows",
        encoding: TableEncoding | None = None,
    ) -> None:
        """Builds the problem.

        Args:
            estimator: A network with a vocabulary.
            contexts: Long tensor of shape ``(contexts, columns)``; None where the estimator has no context.
            truth: The ground truth, called with choice and context; None if unknown.
            name: The problem's id, for reports.
            encoding: Names of the features, contexts and categories; None if unknown.

        Raises:
            ValueError: If the estimator has no vocabulary, or the contexts do not fit it.
        """
        shape = estimator.shape
        if estimator.catalogue is None:
            raise ValueError("expected an estimator with a vocabulary per feature, got one for given vectors")
        super().__init__(name, shape.vocabulary, estimator, truth)
        self.context_sizes = shape.contexts or (1,)
        self.contexts = _checked_contexts(contexts, shape.contexts)
        self.encoding = encoding
        self._has_context = bool(shape.contexts)
        self._catalogue = estimator.catalogue.detach().clone()
        lengths = torch.tensor(self.sizes).unsqueeze(-1)
        self._mask = torch.arange(self.items) < lengths
        self._first = torch.arange(self.slots) * self.items

    def sample(self, batch: int, generator: torch.Generator) -> Observation:
        """Draws contexts with replacement."""
        rows = torch.randint(len(self.contexts), (batch,), generator=generator)
        return Observation(context=self.contexts[rows])

    def evaluation_observations(self, most: int, generator: torch.Generator) -> Observation:
        """Returns every context once where there are at most ``most``, otherwise draws without replacement."""
        rows = torch.arange(len(self.contexts))
        if len(rows) > most:
            rows = torch.randperm(len(rows), generator=generator)[:most]
        return Observation(context=self.contexts[rows])

    def candidates(self, observation: Observation) -> Tensor:
        """Returns the estimator's embedding rows, ``(slots, items, dim)``."""
        return self._catalogue

    def mask(self, observation: Observation) -> Tensor | None:
        """Returns the padding of short vocabularies, ``(slots, items)``; None if all have one length."""
        return None if bool(self._mask.all()) else self._mask

    def gather(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns the chosen embedding rows, ``(..., batch, slots, dim)``."""
        rows = self._catalogue.flatten(0, 1).index_select(0, (choice + self._first).flatten())
        return rows.view(*choice.shape, -1)

    def mix(self, observation: Observation, selection: Tensor) -> Tensor:
        """Returns selection-weighted embedding rows, ``(..., batch, slots, dim)``."""
        return torch.einsum("...sn,snd->...sd", selection, self._catalogue)

    def measured(self, observation: Observation, choice: Tensor) -> Tensor | None:
        """Returns whether the ground truth holds a measurement of each choice, ``(..., batch)``; None without one."""
        if not isinstance(self._truth, TruthTable):
            return None
        return self._truth.measured(choice, self._context(observation))

    def best_true_scores(self, observation: Observation) -> Tensor:
        """Returns the highest true score of each request, ``(batch,)``, read off a measured landscape.

        Raises:
            ValueError: If the ground truth is no :class:`TruthTable`.
        """
        if not isinstance(self._truth, TruthTable):
            raise ValueError(f"expected a table of true scores for {self.name}, got {type(self._truth).__name__}")
        return self._truth.best(self._context(observation), len(observation))

    def _context(self, observation: Observation) -> Tensor | None:
        return observation.context if self._has_context else None

    def _ask(self, observation: Observation, vectors: Tensor) -> Tensor:
        return self._estimator(vectors, self._context(observation))

    def _ask_truth(self, truth: Score, observation: Observation, choice: Tensor) -> Tensor:
        return truth(choice, self._context(observation))


def _checked_contexts(contexts: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
    if not sizes:
        if contexts is not None:
            raise ValueError(f"expected no contexts for an estimator without context, got {tuple(contexts.shape)}")
        return torch.zeros(1, 1, dtype=torch.long)
    if contexts is None or contexts.dim() != 2 or contexts.shape[1] != len(sizes) or len(contexts) == 0:
        found = None if contexts is None else tuple(contexts.shape)
        raise ValueError(f"expected contexts of shape (contexts, {len(sizes)}), got {found}")
    if bool(((contexts < 0) | (contexts >= torch.tensor(sizes))).any()):
        raise ValueError(f"expected context categories below {sizes}, got {contexts.amax(dim=0).tolist()} at most")
    return contexts
