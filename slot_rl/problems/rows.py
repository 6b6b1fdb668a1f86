"""Rows of categorical features: each feature is a slot, its categories are the items, and a context may be given.

The vocabularies are fixed, so the candidates and the mask that pads short vocabularies are properties of the problem
and stay out of the observation. The candidates are the rows of our own network, embeddings or computed from numbers; of
somebody else's module nothing is known but that it can be softened, so there they are one-hot rows. A context's
categories are indices in the observation; its numbers, and the numbers that describe categories, are a vector. A table
without context columns has a single context, a column with one category, so that an observation is never empty.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import index
from pathlib import Path

import torch
from torch import Tensor, nn

from slot_rl.estimators.encoding import TableEncoding, places_of
from slot_rl.estimators.fitting import with_categories
from slot_rl.estimators.freezing import Score
from slot_rl.estimators.net import EstimatorNet
from slot_rl.estimators.row_scorer import RowScorer
from slot_rl.estimators.seen_rows import SeenRows
from slot_rl.estimators.soften import Softened, check_softened, soften
from slot_rl.estimators.table import read_table
from slot_rl.estimators.table_files import column_names
from slot_rl.problems.base import Problem, RequestNames, TrueScores, Unmeasured
from slot_rl.problems.best_seen import BestSeen
from slot_rl.problems.constraints import Infeasible, ItemSpace
from slot_rl.problems.constraints.base import ListedRows
from slot_rl.problems.constraints.conjunction import context_key
from slot_rl.problems.context_rows import ContextDesk, ContextRequests
from slot_rl.problems.observation import Observation, ObservationPart, TensorLike, as_tensor
from slot_rl.problems.requests import Desk, RequestFiles
from slot_rl.problems.truth_table import TruthTable
from slot_rl.selectors.categorical import one_hot

_WIDEST_NAME = 26


class RowProblem(Problem):
    """Fixed vocabularies, one per feature; sizes may differ.

    Attributes:
        contexts: Every context that is asked about, equally often: a long tensor of shape ``(contexts, columns)``, or
            float64 where the encoding has columns of numbers.
        encoding: Names of the features, contexts and categories, for reading and writing tables; None if unknown.
    """

    def __init__(
        self,
        estimator: nn.Module,
        contexts: TensorLike | None = None,
        truth: Score | None = None,
        name: str = "rows",
        encoding: TableEncoding | None = None,
        sizes: Sequence[int] | None = None,
        context_sizes: Sequence[int] | None = None,
        seen: SeenRows | None = None,
    ) -> None:
        """Builds the problem.

        Args:
            estimator: A network with a vocabulary, another model of a table, or any module that
                :func:`slot_rl.estimators.soften` can soften.
            contexts: Tensor, array or lists of shape ``(contexts, columns)``, as :meth:`TableEncoding.encode_contexts`
                gives it; None where the estimator has no context.
            truth: The ground truth, called with choice and context; None if unknown.
            name: The problem's id, for reports.
            encoding: Names of the features, contexts and categories; None if unknown.
            sizes: Categories of each feature, for a module; those of the encoding if None.
            context_sizes: Categories of each context column, for a module; if None, those of the encoding, or as many
                as occur in ``contexts``.
            seen: The best rows that were measured in each of the contexts; None if unknown.

        Raises:
            TypeError: If the estimator is no module, or one that cannot be softened.
            ValueError: If there is no vocabulary, or the estimator, the contexts and the sizes do not fit one another.
        """
        estimator = estimator if isinstance(estimator, EstimatorNet | RowScorer) else soften(estimator)
        contexts = None if contexts is None else as_tensor("contexts", contexts)
        known_sizes, known_columns = _known_sizes(estimator, encoding)
        width = _vector_width(estimator, encoding)
        if context_sizes is None and known_columns is None:
            context_sizes = _occurring(contexts)
        columns = _agreed("context_sizes", context_sizes, known_columns)
        super().__init__(name, _agreed("sizes", sizes, known_sizes), estimator, truth)
        self.contexts, self._known = _known_contexts(contexts, columns, encoding if width else None)
        self.context_sizes = columns if columns or width else (1,)
        if seen is not None:
            seen.check(len(self.contexts), self.sizes)
        self.encoding, self._seen = encoding, seen
        self._has_context, self._vector_width = bool(columns), width
        self._catalogue: Tensor | None = None
        if isinstance(estimator, EstimatorNet) and estimator.catalogue is not None:
            rows = estimator.candidates()
            assert rows is not None
            self._catalogue = rows.detach().clone()
        elif isinstance(estimator, Softened):
            check_softened(estimator, self.sizes, self.contexts[:1] if columns else None)
        lengths = torch.tensor(self.sizes).unsqueeze(-1)
        self._mask = torch.arange(self.items) < lengths
        self._first = torch.arange(self.slots) * self.items
        self.try_out()

    @property
    def request_suffixes(self) -> tuple[str, ...]:
        """Endings of tables of contexts."""
        return (".csv", ".parquet", ".jsonl")

    def item_space(self) -> ItemSpace:
        """Returns the features and categories, with their names as far as they have any."""
        encoding = self.encoding
        names = None if encoding is None else tuple(map(tuple, encoding.features.values()))
        return ItemSpace(
            self.name,
            self._mask,
            None if encoding is None else tuple(encoding.features),
            names,
            same_items=len(set(self.sizes)) == 1 and (names is None or len(set(names)) == 1),
            read_rows=None if encoding is None else partial(_read_rows, encoding),
        )

    def with_descriptors(self, files: Mapping[str, Path]) -> "RowProblem":
        """Returns the same problem with further categories of described columns, to ask about or to choose."""
        if self.encoding is None:
            raise ValueError(f"expected an estimator that names its columns, got {self.name} without names")
        encoding = self.encoding.with_descriptors(files)
        constraints = () if self.constraints is None else self.constraints.constraints
        if encoding.features == self.encoding.features:
            twin = copy.copy(self)
            twin.encoding = encoding
            return twin.with_constraints(constraints)
        if self.has_truth:
            raise ValueError(f"expected no truth with new choices, which it cannot know, got one for {self.name}")
        assert isinstance(self._estimator, EstimatorNet)  # no other has descriptors
        contexts = self.contexts if encoding.contexts else None
        net = with_categories(self._estimator, encoding)
        wider = RowProblem(net, contexts, name=self.name, encoding=encoding, seen=self._seen)
        return wider.with_constraints(constraints)

    @property
    def catalogue(self) -> Tensor | None:
        """The candidates of every request, ``(slots, items, dim)``; None for one-hot rows, which nobody needs made."""
        return self._catalogue

    def observation_parts(self) -> dict[str, ObservationPart]:
        """Returns the context: one category index a column, and the numbers, as far as there are any."""
        parts = {"context": ObservationPart((len(self.context_sizes),), "categories", self.context_sizes)}
        vector = {"context_vector": ObservationPart((self._vector_width,), "real")}
        return (parts if self.context_sizes else {}) | (vector if self._vector_width else {})

    def sample(self, batch: int, generator: torch.Generator) -> Observation:
        """Draws contexts with replacement."""
        return self._known[torch.randint(len(self.contexts), (batch,), generator=generator)]

    def evaluation_observations(self, most: int, generator: torch.Generator) -> Observation:
        """Returns every context once where there are at most ``most``, otherwise draws without replacement."""
        rows = torch.arange(len(self.contexts))
        if len(rows) > most:
            rows = torch.randperm(len(rows), generator=generator)[:most]
        return self._known[rows]

    def candidates(self, observation: Observation) -> Tensor:
        """Returns the estimator's embedding rows ``(slots, items, dim)``, or one-hot rows for a softened module."""
        if self._catalogue is None:
            return torch.eye(self.items).expand(self.slots, -1, -1)
        return self._catalogue

    def mask(self, observation: Observation) -> Tensor | None:
        """Returns the padding of short vocabularies, ``(slots, items)``, or what a request allows, without padding."""
        if observation.mask is not None:
            return observation.mask & self._mask
        return None if bool(self._mask.all()) else self._mask

    def gather(self, observation: Observation, choice: Tensor) -> Tensor:
        """Returns the chosen candidates, ``(..., batch, slots, dim)``."""
        if self._catalogue is None:
            return one_hot(choice, self.items, torch.float32)
        rows = self._catalogue.flatten(0, 1).index_select(0, (choice + self._first).flatten())
        return rows.view(*choice.shape, -1)

    def mix(self, observation: Observation, selection: Tensor) -> Tensor:
        """Returns selection-weighted candidates, ``(..., batch, slots, dim)``."""
        if self._catalogue is None:
            return selection.view_as(selection)  # a node of its own, for the hook that checks gradients
        return torch.einsum("...sn,snd->...sd", selection, self._catalogue)

    def true_scores(self, observation: Observation, choice: Tensor) -> TrueScores:
        """Returns true scores; a table of measurements also gives normalised scores and what was measured."""
        true, table = self.true_score(observation, choice), self._truth_table
        if table is None:
            return TrueScores(true)
        context = self._truth_context(table, observation)
        return TrueScores(true, table.normalised(choice, context), table.measured(choice, context))

    def best_true_scores(self, observation: Observation) -> Tensor | None:
        """Returns the highest measured score of each request, ``(batch,)``; None if the truth is not a table."""
        table = self._truth_table
        return None if table is None else table.best(self._truth_context(table, observation), len(observation))

    def random_true_scores(self, observation: Observation) -> TrueScores | None:
        """Returns the means over each request's measured choices, ``(batch,)``; None if the truth is not a table."""
        table = self._truth_table
        return None if table is None else table.random(self._truth_context(table, observation), len(observation))

    def best_seen(self, observation: Observation) -> BestSeen | None:
        """Returns the best allowed row of each request among those that the estimator's table has measured."""
        if self._seen is None:
            return None
        places = places_of(context_key(observation), context_key(self._known))
        return BestSeen.among(self._seen, places, self.mask(observation), self.rules(observation))

    @property
    def unmeasured(self) -> Unmeasured | None:
        """What choices count as that the table has not measured; None if the truth is not a table."""
        return None if self._truth_table is None else self._truth_table.unmeasured

    def request_names(self, observation: Observation) -> RequestNames | None:
        """Returns each request's context in words, or as indices where the categories have no names."""
        if self.encoding is None:
            assert observation.context is not None
            return RequestNames("context", [str(tuple(row)) for row in observation.context.tolist()])
        columns = self.encoding.contexts
        if not columns:
            return RequestNames("context", ["the only one"] * len(observation))
        each = max(5, (_WIDEST_NAME + 2) // len(columns) - 2)
        cells = self.encoding.context_names(observation.context, observation.context_vector)
        names = [_shortened(", ".join(_shortened(cell, each) for cell in row)) for row in cells]
        return RequestNames(_shortened(", ".join(columns)), names)

    def read_logged(self, path: Path) -> tuple[Observation, Tensor]:
        """Reads logged rows from a CSV or Parquet file; columns that are neither feature nor context are ignored.

        Raises:
            ValueError: If the categories have no names, there are fewer than two rows, or (a ``TableError``) the file
                cannot be read, a column is missing, or a cell holds a category that the estimator does not know.
        """
        encoding = self.encoding
        if encoding is None:
            return super().read_logged(path)
        table = read_table(path, None, tuple(encoding.contexts), tuple(encoding.features))
        choice, context = encoding.encode_features(table), _observed(encoding, encoding.encode_contexts(table))
        if len(table) < 2:
            raise ValueError(f"expected at least two logged rows in {path}, got {len(table)}")
        return context, choice

    def read_requests(self, asked: RequestFiles, report: Callable[[int], None] | None = None) -> ContextRequests:
        """Reads a CSV or Parquet file with the context columns; see :meth:`Problem.read_requests`."""
        if self.encoding is None:
            raise ValueError(f"expected an estimator that names its columns, got {self.name} without names")
        if asked.items is not None:
            raise ValueError(f"expected no --items for {self.name}, whose items are the estimator's, got {asked.items}")
        observe = partial(_observed, self.encoding)
        return ContextRequests.read(asked, self.encoding, observe, report or (lambda rows: None), self.impossible)

    def desk(self, items: Path | None = None) -> Desk:
        """Returns what answers rows of contexts."""
        if self.encoding is None or items is not None:
            return super().desk(items)
        return ContextDesk(self.encoding, partial(_observed, self.encoding), self.impossible)

    def _try_constraints(self) -> None:
        """Looks at every known context."""
        for number, fault in self.impossible(self._known).items():
            names = self.request_names(self._known[number : number + 1])
            raise Infeasible(f"expected {fault} for context {names.names[0] if names else number}, got none")

    @property
    def _truth_table(self) -> TruthTable | None:
        return self._truth if isinstance(self._truth, TruthTable) else None

    def _context(self, observation: Observation) -> Tensor | None:
        return observation.context if self._has_context else None

    def _numbers(self, observation: Observation) -> tuple[Tensor, ...]:
        """Returns the vector of numbers, where there is one, as a further argument."""
        return (observation.context_vector,) if self._vector_width and observation.context_vector is not None else ()

    def _truth_context(self, truth: TruthTable, observation: Observation) -> Tensor | None:
        if not self._vector_width:
            return self._context(observation)
        return truth.find_contexts(observation.context, observation.context_vector)

    def _ask(self, estimator: Score, observation: Observation, vectors: Tensor) -> Tensor:
        return estimator(vectors, self._context(observation), *self._numbers(observation))

    def _ask_truth(self, truth: Score, observation: Observation, choice: Tensor) -> Tensor:
        if isinstance(truth, TruthTable):
            return truth(choice, self._truth_context(truth, observation))
        return truth(choice, self._context(observation), *self._numbers(observation))


def _read_rows(encoding: TableEncoding, path: Path) -> ListedRows:
    """Reads configurations, and the contexts beside them, where the file has all context columns or none."""
    header = set(column_names(path))
    given = [name for name in encoding.contexts if name in header]
    if given and len(given) < len(encoding.contexts):
        missing = next(name for name in encoding.contexts if name not in header)
        raise ValueError(f"expected all context columns or none in {path}, got no {missing!r}")
    table = read_table(path, None, tuple(given), tuple(encoding.features))
    rows = encoding.encode_features(table)
    if not given:
        return ListedRows(rows)
    # Rows of contexts that the estimator does not know are of no use.
    contexts, unknown = encoding.find_contexts(table)
    known = torch.ones(len(rows), dtype=torch.bool)
    known[[cell.row - table.first_row for cell in unknown]] = False
    return ListedRows(rows[known], context_key(_observed(encoding, contexts[known])))


def _shortened(text: str, most: int = _WIDEST_NAME) -> str:
    """Leaves out the middle of a long text: chemical names, for example, differ mostly at either end."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def _known_sizes(
    estimator: nn.Module, encoding: TableEncoding | None
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Returns the sizes of features and of context columns, as far as they are known without being told."""
    if isinstance(estimator, EstimatorNet):
        if estimator.catalogue is None:
            raise ValueError("expected an estimator with a vocabulary per feature, got one for given vectors")
        return estimator.shape.vocabulary, estimator.shape.contexts
    if encoding is None:
        return None, None
    features, contexts = (tuple(map(len, part.values())) for part in (encoding.features, encoding.contexts))
    return features, contexts


def _vector_width(estimator: nn.Module, encoding: TableEncoding | None) -> int:
    """Returns the length of a context's vector of numbers."""
    described = encoding is not None and bool(encoding.numbers or encoding.descriptors)
    if not isinstance(estimator, EstimatorNet):
        if described:
            raise ValueError("expected an encoding of categories alone for a module, got one with numbers")
        return 0
    known = encoding.context_widths if encoding is not None else ()
    expected = estimator.shape.context_numbers
    if known != expected:
        raise ValueError(f"expected an encoding whose context columns have {expected} numbers, got {known}")
    return sum(known)


def _observed(encoding: TableEncoding, contexts: Tensor) -> Observation:
    """Returns requests for contexts ``(rows, columns)``; a problem without context columns has one context."""
    if not encoding.contexts:
        return Observation(context=contexts.new_zeros(len(contexts), 1))
    context, vector = encoding.context_parts(contexts)
    return Observation(context=context, context_vector=vector)


def _known_contexts(
    contexts: Tensor | None, sizes: tuple[int, ...], encoding: TableEncoding | None
) -> tuple[Tensor, Observation]:
    """Returns the contexts, checked, and the requests for them; the encoding is given where contexts have numbers."""
    if encoding is None:
        contexts = _checked_contexts(contexts, sizes)
        return contexts, Observation(context=contexts)
    if contexts is None or contexts.dim() != 2 or contexts.shape[1] != len(encoding.contexts) or len(contexts) == 0:
        found = None if contexts is None else tuple(contexts.shape)
        raise ValueError(f"expected contexts of shape (contexts, {len(encoding.contexts)}), got {found}")
    if not bool(contexts.isfinite().all()):
        raise ValueError("expected finite contexts, got NaN or infinity")
    observation = _observed(encoding, contexts)
    if sizes:
        _checked_contexts(observation.context, sizes)
    return contexts, observation


def _agreed(name: str, given: Sequence[int] | None, known: tuple[int, ...] | None) -> tuple[int, ...]:
    found = known if given is None else tuple(map(index, given))
    if found is None:
        raise ValueError(f"expected {name} or an encoding with a module that does not know its categories, got neither")
    if known is not None and found != known:
        raise ValueError(f"expected {name} {known}, which the estimator or its encoding says, got {found}")
    return found


def _occurring(contexts: Tensor | None) -> tuple[int, ...]:
    if contexts is None:
        return ()
    if contexts.dim() != 2 or contexts.numel() == 0:
        raise ValueError(f"expected contexts of shape (contexts, columns), got {tuple(contexts.shape)}")
    return tuple((contexts.amax(dim=0) + 1).tolist())


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
