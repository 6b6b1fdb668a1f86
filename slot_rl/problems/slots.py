"""Slots and items: fill each of S slots from a list of N candidate vectors, for a request that may have a context.

The candidates are new with every request, or a list that is always the same. The same item may serve several slots,
unless constraints forbid it. N may vary between requests: lists are padded with zeros to the longest and the padding is
masked.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slot_rl.estimators.answers import check_same
from slot_rl.estimators.freezing import Score, frozen
from slot_rl.estimators.table import read_table
from slot_rl.problems.base import TRIED_ROWS, Budget, Problem
from slot_rl.problems.candidate_draws import CandidateSampler, different_rows, standard_normal
from slot_rl.problems.candidate_file import CandidateRequests
from slot_rl.problems.constraints import Constraint, ConstraintSet, ItemSpace
from slot_rl.problems.constraints.base import ListedRows, as_constraints
from slot_rl.problems.guard import Asked, Guard, largest
from slot_rl.problems.item_labels import NO_LABELS, ItemLabels, as_attributes
from slot_rl.problems.known_requests import category_counts, known_requests, real_part
from slot_rl.problems.observation import Observation, ObservationPart, TensorLike
from slot_rl.problems.page_file import PageRequests
from slot_rl.problems.pages import PageDesk, PageNames
from slot_rl.problems.requests import Desk, RequestFiles, Requests
from slot_rl.seeding import generator_from
from slot_rl.selectors.rules import Rules

MOST_REDRAWS = 100
"""How often lists are drawn again that the constraints leave nothing."""
TRIED = 64
"""Requests that constraints are tried on."""


class SlotProblem(Problem):
    """The estimator sees the chosen vectors, and the request's context where there is one.

    It is called as ``estimator(items, context, slot_features)`` with ``items`` of shape ``(batch, slots, dim)``, and
    returns scores ``(batch,)`` or ``(batch, 1)``. Arguments that the problem does not have are left out. ``context`` is
    the vector ``(batch, context_dim)``, or the categories ``(batch, columns)`` as a long tensor, or where requests have
    both the tuple of vector and categories. ``slot_features`` has the shape ``(batch, slots, slot_dim)``.

    Attributes:
        dim: Length D of a candidate's vector.
        fewest_items: The shortest list that is drawn; below ``items`` the number varies and observations have a mask.
        context_dim: Length of the context's vector; 0 without one.
        context_sizes: Categories of each context column; empty without one.
        slot_dim: Numbers that describe a slot; 0 without them.
        labels: Those categories of the pool's vectors that the constraints speak of.
    """

    def __init__(
        self,
        estimator: Score,
        slots: int,
        items: int | None = None,
        dim: int | None = None,
        draw: CandidateSampler = standard_normal,
        fewest_items: int | None = None,
        truth: Score | None = None,
        name: str = "slots",
        *,
        pool: TensorLike | None = None,
        contexts: TensorLike | None = None,
        context_dim: int = 0,
        context_sizes: tuple[int, ...] = (),
        requests: Observation | None = None,
        slot_features: TensorLike | None = None,
        item_ids: Sequence[str] | None = None,
        context_columns: Sequence[str] | None = None,
        context_categories: Mapping[str, Sequence[str]] | None = None,
        item_labels: Mapping[str, Sequence[object]] | None = None,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        """Builds the problem.

        Args:
            estimator: Scores items; see the class.
            slots: Slots of a configuration, S.
            items: Longest list of candidates, N; the whole pool if None.
            dim: Length D of a candidate's vector; not needed with a pool.
            draw: Draws candidates of a given shape from a generator, where there is no pool.
            fewest_items: Shortest list that is drawn; ``items`` if None.
            truth: The ground truth, called as the estimator is; None if unknown.
            name: The problem's id, for reports.
            pool: All vectors that there are, ``(vectors, dim)``. Each request has ``items`` different ones of them, or
                all of them in this order.
            contexts: Context vectors of known requests, ``(requests, context_dim)``: trained on and judged on.
            context_dim: Length of a context vector if there are no known requests; their numbers are N(0, 1).
            context_sizes: Categories of each context column if there are no known requests; all are equally frequent.
            requests: Known requests with several parts: context vectors, categories, and slot features.
            slot_features: Numbers of each slot for every request, ``(slots, slot_dim)``.
            item_ids: What files of requests and answers call the pool's vectors; their numbers from 0 if None.
            context_columns: What files of requests call the numbers of a context; ``context_1``, ... if None.
            context_categories: What they call its categories, by column; ``category_1`` with ``0``, ``1``, ... if None.
            item_labels: Attributes of the pool's vectors that constraints speak of, by name: a category a vector.
            constraints: What configurations are allowed.

        Raises:
            ValueError: If sizes are below 1 or contradict each other, a part of a request has another shape or is not
                finite, the estimator does not score such requests, or the constraints cannot be satisfied.
        """
        self._pool: Tensor | None = real_part("pool", pool, 2)
        items, dim = _sizes(items, dim, self._pool)
        super().__init__(name, (items,) * slots, estimator, truth)
        fewest = items if fewest_items is None else fewest_items
        if not 1 <= fewest <= items:
            raise ValueError(f"expected fewest_items from 1 to items = {items}, got {fewest}")
        self.dim, self.fewest_items, self._draw = dim, fewest, draw
        self._whole_pool = self._pool is not None and len(self._pool) == items == fewest
        self._fixed_features = real_part("slot_features", slot_features, 2)
        self.requests = known_requests(contexts, requests, context_dim, context_sizes, slots)
        parts = {} if self.requests is None else self.requests.tensors()
        vector, features = parts.get("context_vector"), parts.get("slot_features", self._fixed_features)
        self.context_dim = context_dim if vector is None else vector.shape[1]
        self.context_sizes = category_counts(parts.get("context"), context_sizes, context_categories)
        self.slot_dim = 0 if features is None else features.shape[-1]
        if features is not None and features.shape[-2] != slots:
            raise ValueError(f"expected slot_features of {slots} slots, got {tuple(features.shape)}")
        self._last_encoded: tuple[Observation, Tensor] | None = None
        self.labels = NO_LABELS
        self.names = self._named(item_ids, context_columns, context_categories)
        if item_labels and self._pool is None:
            raise ValueError("expected a pool of vectors with item_labels, got none")
        self._attributes = as_attributes(item_labels or {}, 0 if self._pool is None else len(self._pool))
        self._constrain(constraints)
        self.try_out()

    @property
    def request_suffixes(self) -> tuple[str, ...]:
        """Endings of files of requests and answers: tables where items have names, tensors otherwise."""
        return (".safetensors",) if self.names is None else (".csv", ".parquet", ".jsonl", ".safetensors")

    def observation_parts(self) -> dict[str, ObservationPart]:
        """Returns the candidates, the mask where the number of items varies, and the parts that requests have."""
        parts = {"candidates": ObservationPart((self.items, self.dim), "real")}
        if self.fewest_items < self.items:
            parts["mask"] = ObservationPart((self.slots, self.items), "boolean")
        if self.context_sizes:
            parts["context"] = ObservationPart((len(self.context_sizes),), "categories", self.context_sizes)
        if self.context_dim:
            parts["context_vector"] = ObservationPart((self.context_dim,), "real")
        if self.requests is not None and self.requests.slot_features is not None:
            parts["slot_features"] = ObservationPart((self.slots, self.slot_dim), "real")
        if self.labels.names:
            sizes = tuple(map(len, self.labels.names.values()))
            parts["labels"] = ObservationPart((self.items, len(sizes)), "numbers", sizes)
        return parts

    def item_space(self) -> ItemSpace:
        """Returns the slots, and the items where they are the same in every request."""
        names = self.names if self._whole_pool else None
        return ItemSpace(
            self.name,
            torch.ones(self.slots, self.items, dtype=torch.bool),
            self._slot_names,
            None if names is None else (names.items,) * self.slots,
            fixed=self._whole_pool,
            attributes=tuple(self._attributes),
            labels=self.labels.names,
            fixed_labels=self.labels.codes if self._whole_pool and self.labels.names else None,
            read_rows=None if names is None else partial(_read_rows, names),
        )

    def rules(self, observation: Observation) -> Rules | None:
        """Returns what the constraints allow requests, which may have another number of candidates than usual."""
        return Problem.rules(self._as_wide_as(observation), observation)

    def impossible(self, observation: Observation) -> dict[int, str]:
        """Returns why requests have no allowed configuration; see :meth:`Problem.impossible`."""
        return Problem.impossible(self._as_wide_as(observation), observation)

    @property
    def pool(self) -> Tensor | None:
        """All vectors that candidates come from, ``(vectors, dim)``; None if they are drawn from a distribution."""
        return self._pool

    def sample(self, batch: int, generator: torch.Generator) -> Observation:
        """Draws requests: candidates, a mask where their number varies, and contexts."""
        offered = self._draw_candidates(batch, generator)
        known = self.requests
        if known is None:
            return replace(offered, **self._draw_contexts(batch, generator))
        rows = torch.randint(len(known), (batch,), generator=generator)
        return replace(offered, **known[rows].tensors())

    def evaluation_observations(self, most: int, generator: torch.Generator) -> Observation:
        """Returns ``most`` draws; where requests are known, each at most once, with drawn candidates."""
        if self.requests is None:
            return self.sample(most, generator)
        rows = torch.randperm(len(self.requests), generator=generator)[:most]
        return replace(self._draw_candidates(len(rows), generator), **self.requests[rows].tensors())

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
        """Returns selection-weighted vectors, or encodings where the estimator encodes each of them alone.

        The shape is ``(..., batch, slots, dim)`` with the vectors' length or the encodings'.
        """
        if self._after_encoding is None:
            return selection @ self.candidates(observation)
        return (selection.unsqueeze(-2) @ self._encoded(observation)).squeeze(-2)

    @property
    def _of_mixtures(self) -> Score:
        return self._estimator if self._after_encoding is None else self._after_encoding

    @property
    def _after_encoding(self) -> Score | None:
        return getattr(self._estimator, "after_encoding", None)

    @torch.no_grad()
    def _encoded(self, observation: Observation) -> Tensor:
        """Returns what the estimator makes of each candidate alone in each slot, ``(batch, slots, items, width)``."""
        # A search asks about the same requests again and again.
        if self._last_encoded is None or self._last_encoded[0] is not observation:
            items = self.candidates(observation).transpose(0, 1).unsqueeze(2).expand(-1, -1, self.slots, -1)
            self._last_encoded = observation, self._encode(observation, items).permute(1, 2, 0, 3).contiguous()
        return self._last_encoded[1]

    def _encode(self, observation: Observation, vectors: Tensor) -> Tensor:
        """Returns what the estimator makes of each vector alone, ``(..., batch, slots, width)``."""
        encode = getattr(self._estimator, "encode", None)
        if not callable(encode):
            raise ValueError(f"expected an estimator with encode beside after_encoding for {self.name}, got none")

        def ask(observation: Observation, vectors: Tensor) -> Tensor:
            return self._ask(encode, observation, vectors).reshape(*vectors.shape[:-1], -1)

        asked = Asked(self.name, observation, vectors)
        encoded = self._guard.called(ask, "encodings", asked, vectors, further=2)
        return self._guard.bounded("encodings", asked, encoded, largest(encoded, 2))

    def with_items(self, items: int) -> "SlotProblem":
        """Returns the same problem for requests with up to ``items`` candidates, with a budget of its own."""
        twin = copy.copy(self)
        twin.budget, twin.sizes, twin._whole_pool = Budget(), (items,) * self.slots, False
        if self.constraints is not None and items != self.items:
            twin.constraints = ConstraintSet(self.constraints.constraints, twin.item_space())
        return twin

    def with_truth_as_estimator(self) -> "SlotProblem":
        """Returns the same requests scored by the ground truth, with a budget of its own, to search for its best.

        Raises:
            ValueError: If no ground truth is known.
        """
        if self._truth is None:
            raise ValueError(f"expected a problem with a ground truth, got {self.name} without one")
        return self.with_estimator(self._truth)

    def with_estimator(self, estimator: Score) -> "SlotProblem":
        """Returns the same requests scored by another estimator, with a budget of its own.

        Raises:
            ValueError: If the estimator does not score such requests.
        """
        twin = copy.copy(self)
        twin.budget, twin._last_encoded = Budget(), None
        twin._estimator, twin._guard = frozen(estimator), Guard(estimator)
        twin.try_out()
        return twin

    def read_requests(self, asked: RequestFiles, report: Callable[[int], None] | None = None) -> Requests:
        """Reads a table of requests, or a safetensors file with candidates; see :meth:`Problem.read_requests`."""
        tensors = asked.requests is not None and asked.requests.suffix.lower() == ".safetensors"
        if self.names is not None and not tensors:
            return PageRequests(self.names, asked, report or (lambda rows: None), self.impossible)
        asked.refuse_items(self.name)
        found = CandidateRequests.read(asked.requests, self.slots, self.dim, self.observation_parts())
        pool, given = self._pool, self.candidates(found.observation)
        if self._by_number and not (pool is not None and given.shape[1:] == pool.shape and bool((given == pool).all())):
            raise ValueError(
                f"expected the pool as candidates in {asked.requests}, since {self.constraints} says items"
            )
        for number, fault in self.impossible(found.observation).items():
            raise ValueError(f"expected {fault} in request {number} of {asked.requests}, got none")
        return found

    def desk(self, items: Path | None = None) -> Desk:
        """Returns what answers rows with contexts and perhaps lists of candidates."""
        return super().desk(items) if self.names is None else PageDesk(self.names, items, impossible=self.impossible)

    def _as_wide_as(self, observation: Observation) -> "SlotProblem":
        """Returns the problem with constraints on as many candidates as the requests have."""
        candidates = observation.candidates
        if self.constraints is None or candidates is None or candidates.shape[1] == self.items:
            return self
        return self.with_items(candidates.shape[1])

    def _constrain(self, constraints: Sequence[Constraint]) -> None:
        """Takes constraints, with the attributes that they speak of."""
        constraints = [self._by_attribute(each) for each in as_constraints(constraints)]
        used = {each.attribute for each in constraints}
        self.labels = ItemLabels.of({name: texts for name, texts in self._attributes.items() if name in used})
        self.constraints = ConstraintSet(constraints, self.item_space()) if constraints else None
        if self.names is not None:
            self.names = replace(self.names, labels=self.labels, whole=self._by_number)

    def _by_attribute(self, constraint: Constraint) -> Constraint:
        """Gives the groups that a quota says of the pool's vectors a name, so that requests can carry them."""
        groups = None if self._pool is None else constraint.groups_of(len(self._pool))
        if groups is None:
            return constraint
        (texts,) = as_attributes({"": groups}, len(groups)).values()
        # Quotas by the same groups are quotas by one attribute.
        same = [name for name, known in self._attributes.items() if known == texts]
        name = same[0] if same else f"groups {len(self._attributes) + 1}"
        self._attributes = {**self._attributes, name: texts}
        return constraint.by_attribute(name)

    @property
    def _by_number(self) -> bool:
        """Whether constraints speak of the pool's items by number."""
        return self._whole_pool and self.constraints is not None and self.constraints.numbered

    def _try_constraints(self) -> None:
        """Draws a few requests, which the constraints must allow something."""
        self.rules(self.sample(TRIED, generator_from(0)))

    @property
    def _slot_names(self) -> tuple[str, ...]:
        return tuple(f"slot_{number + 1}" for number in range(self.slots)) if self.names is None else self.names.slots

    def _named(
        self, ids: Sequence[str] | None, columns: Sequence[str] | None, categories: Mapping[str, Sequence[str]] | None
    ) -> PageNames | None:
        """Returns what files call the pool's vectors and the requests' columns; None without a pool."""
        if self._pool is None:
            if ids is not None or columns is not None or categories is not None:
                raise ValueError("expected item_ids, context_columns and context_categories with a pool, got no pool")
            return None
        own_features = self.requests is not None and self.requests.slot_features is not None
        sizes = self.slots, self.context_dim, self.context_sizes, self.slot_dim if own_features else 0
        return PageNames.of(self._pool, *sizes, ids, columns, categories)

    def _draw_candidates(self, batch: int, generator: torch.Generator) -> Observation:
        """Draws candidates until the constraints allow every request something."""
        offered = self._offer(batch, generator)
        if self.constraints is None:
            return offered
        for _ in range(MOST_REDRAWS):
            bad = ~self.constraints.possible(offered, offered.mask)
            if not bool(bad.any()):
                return offered
            again = self._offer(int(bad.sum()), generator).tensors()
            for name, part in offered.tensors().items():
                part[bad] = again[name]
        self.constraints.rules(offered, offered.mask)
        return offered

    def _offer(self, batch: int, generator: torch.Generator) -> Observation:
        """Draws candidates, their labels, and the mask of their padding where their number varies."""
        rows = None
        if self._pool is None:
            candidates = self._draw((batch, self.items, self.dim), generator)
            if candidates.shape != (batch, self.items, self.dim) or candidates.dtype != torch.float32:
                raise ValueError(
                    f"expected draw to return float32 ({batch}, {self.items}, {self.dim}), got {candidates.dtype} "
                    f"{tuple(candidates.shape)}"
                )
        elif self._whole_pool:
            labels = self.labels.codes.expand(batch, -1, -1) if self.labels.names else None
            return Observation(self._pool.expand(batch, -1, -1), labels=labels)
        else:
            rows = different_rows(batch, self.items, len(self._pool), generator)
            candidates = self._pool[rows]
        mask = None
        if self.fewest_items < self.items:
            count = torch.randint(self.fewest_items, self.items + 1, (batch, 1), generator=generator)
            present = torch.arange(self.items) < count
            candidates = candidates * present.unsqueeze(-1)
            mask = present.unsqueeze(1).repeat(1, self.slots, 1)
        return Observation(candidates, mask, labels=None if rows is None else self.labels.at(rows))

    def _draw_contexts(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        parts = {}
        if self.context_sizes:
            sizes = torch.tensor(self.context_sizes)
            parts["context"] = (torch.rand(batch, len(sizes), generator=generator) * sizes).long()
        if self.context_dim:
            parts["context_vector"] = torch.randn(batch, self.context_dim, generator=generator)
        return parts

    def try_out(self) -> None:
        """Has a few requests scored, also through encodings where there are any; see :meth:`Problem.try_out`."""
        super().try_out()
        if self._after_encoding is None:
            return
        generator = generator_from(0)
        observation = self.sample(TRIED_ROWS, generator)
        choice = torch.randint(self.fewest_items, (TRIED_ROWS, self.slots), generator=generator)
        items = self.gather(observation, choice)
        with torch.no_grad():
            whole, encoded = self._ask(self._estimator, observation, items), self._encode(observation, items)
            parts = self._ask(self._after_encoding, observation, encoded)
        check_same("after_encoding(encode(items)) to be the estimator's score", whole, parts)

    def _ask(self, estimator: Score, observation: Observation, vectors: Tensor) -> Tensor:
        leading = vectors.shape[:-2]
        answer = estimator(vectors.reshape(-1, *vectors.shape[-2:]), *self._given(observation, leading))
        if not isinstance(answer, Tensor) or answer.dim() == 0 or len(answer) != leading.numel():
            return answer  # the guard says what was expected
        # A latent has further dimensions.
        return answer.reshape(*leading, *(() if answer.shape[1:].numel() == 1 else answer.shape[1:]))

    def _given(self, observation: Observation, leading: torch.Size) -> tuple[Any, ...]:
        """Returns the context and slot features of each row, as far as there are any."""
        features = self._fixed_features if observation.slot_features is None else observation.slot_features
        parts = [observation.context_vector, observation.context]
        vector, categories = (None if part is None else part.expand(*leading, -1).flatten(0, -2) for part in parts)
        context = (vector, categories) if vector is not None and categories is not None else vector
        context = categories if context is None else context
        if features is None:
            return () if context is None else (context,)
        return context, features.expand(*leading, -1, -1).flatten(0, -3)

    def _ask_truth(self, truth: Score, observation: Observation, choice: Tensor) -> Tensor:
        return self._ask(truth, observation, self.gather(observation, choice))


def _read_rows(names: PageNames, path: Path) -> ListedRows:
    """Reads pages, an item's id for each slot."""
    table = read_table(path, None, (), names.slots)
    known = {each: number for number, each in enumerate(names.items)}
    columns = []
    for name in names.slots:
        cells = table.text[name].tolist()
        unknown = next((cell for cell in cells if cell not in known), None)
        if unknown is not None:
            raise ValueError(f"expected a known item in column {name!r} of {path}, got {unknown!r}")
        columns.append(torch.tensor([known[cell] for cell in cells], dtype=torch.long))
    return ListedRows(torch.stack(columns, dim=1))


def _sizes(items: int | None, dim: int | None, pool: Tensor | None) -> tuple[int, int]:
    """Returns the number of items and the length of their vectors, which a pool gives by itself."""
    if pool is None:
        if items is None or dim is None:
            raise ValueError(f"expected items and dim, or a pool of vectors, got items={items} and dim={dim}")
        if dim < 1:
            raise ValueError(f"expected dim >= 1, got {dim}")
        return items, dim
    if dim not in (None, pool.shape[1]) or (items or 1) > len(pool):
        least, long = items or 1, pool.shape[1] if dim is None else dim
        raise ValueError(f"expected a pool of at least {least} vectors of length {long}, got {tuple(pool.shape)}")
    return len(pool) if items is None else items, pool.shape[1]
