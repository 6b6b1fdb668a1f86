"""Nevergrad as an agent: gradient-free optimizers of an optional package.

Each request has its own optimizer. All of them ask and tell together, so a round is one batch for the estimator. An
optimizer sees only the allowed items of its request, numbered from 0, so no proposal is masked. Under constraints a
proposal is repaired, and the optimizer is told what the repaired row scores. The answer is the best row that was
scored, as in every other search.

The defaults were chosen on tuning requests of ``Slots-v0`` and ``SlotsLarge-v0``, with nevergrad 1.0.12. Optimality of
the optimizers, with ``--variables array``, on 128 requests of each at 31 calls, 128 and 64 at 200, 64 and 32 at 800:

    calls                              Slots: 31   200   800   Large: 31   200   800
    DiscreteLenglerOnePlusOne               .944  .981  .986        .279  .550  .759
    DiscreteOnePlusOne                      .943  .979  .987        .278  .544  .739
    NGOpt                                   .943  .978  .985        .269  .524  .674
    DoubleFastGADiscreteOnePlusOne          .943  .978               .269  .524

and of the variables, on 32 and 16 requests at 200 calls, where random rows have .970 and .265:

                                       Slots: array  transition  choice   Large: array  transition  choice
    DiscreteOnePlusOne                         .976        .971    .972           .542        .536    .263
    NGOpt                                      .979        .967    .957           .537        .522    .258

PortfolioDiscreteOnePlusOne and TwoPointsDE ended lower on the large problem. A ``Choice`` is a distribution from which
every proposal is drawn; with this many calls it is not better than random rows. Nevergrad encodes a
``TransitionChoice`` as such an array, too; without copies of every item the array is 4 to 15 times as fast.

Rapin and Teytaud, "Nevergrad - A gradient-free optimization platform" (2018).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slot_rl.agents.searches import SearchAgent, SearchOptions
from slot_rl.problems import Observation
from slot_rl.search import SearchResult, allowed_items, best_of
from slot_rl.seeding import Seed

ROUNDED = 0.499
"""How far beyond the first and the last item's number the array's bounds lie: all numbers round to an item's."""


@dataclass(frozen=True)
class NevergradOptions(SearchOptions):
    """An optimizer of the package nevergrad.

    Attributes:
        optimizer: Its name in nevergrad's registry.
        variables: How a row is described: "array" as an array of numbers that are cast to integers, "transition" and
            "choice" as nevergrad's categoricals of these names.
    """

    optimizer: str = "DiscreteLenglerOnePlusOne"
    variables: Literal["array", "transition", "choice"] = "array"

    def __post_init__(self) -> None:
        """Refuses unknown variables; only nevergrad knows the optimizers' names."""
        super().__post_init__()
        if self.variables not in ("array", "transition", "choice"):
            raise ValueError(f"expected variables array, transition or choice, got {self.variables!r}")


class NevergradAgent(SearchAgent):
    """A new optimizer of the package nevergrad for every request."""

    name = "nevergrad"
    default_options = NevergradOptions()
    options: NevergradOptions

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, **changes: Any) -> None:
        """Builds the agent; raises ValueError if nevergrad is not installed or does not know the optimizer."""
        super().__init__(env, options, seed, **changes)
        known = load_nevergrad().optimizers.registry
        if self.options.optimizer not in known:
            raise ValueError(
                f"expected --optimizer among the {len(known)} names in nevergrad.optimizers.registry, "
                f"got {self.options.optimizer!r}"
            )

    def search(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Searches by asking and telling the optimizers."""
        rules, allowed = self.problem.rules(observation), allowed_items(self.problem, observation)
        order = allowed.int().argsort(dim=-1, descending=True, stable=True)
        seeds = torch.randint(2**32, (len(observation),), generator=generator).tolist()
        sizes = allowed.sum(dim=-1).tolist()
        searchers = [_Searcher(row, self._optimizer, seed) for row, seed in zip(sizes, seeds, strict=True)]
        found: list[SearchResult] = []
        for _ in range(self.calls_per_context):
            numbers = torch.tensor(np.array([searcher.ask() for searcher in searchers]))
            choice = order.gather(2, numbers.unsqueeze(2)).squeeze(2)
            if rules is not None:
                choice = rules.repaired(choice, self.problem.items, generator)
            score = self.problem.score(observation, choice)
            for searcher, loss in zip(searchers, (-score).tolist(), strict=True):
                searcher.tell(loss)
            found = [best_of([*found, SearchResult(choice, score)])]
        return found[0].choice

    def _optimizer(self, sizes: list[int], seed: int) -> Any:
        ng = load_nevergrad()
        parametrization = variables(ng, self.options.variables, sizes)
        parametrization.random_state = np.random.RandomState(seed)
        build = ng.optimizers.registry[self.options.optimizer]
        return build(parametrization=parametrization, budget=self.calls_per_context, num_workers=1)


class _Searcher:
    """One request's optimizer, over the slots that leave it a choice."""

    def __init__(self, sizes: list[int], build: Callable[[list[int], int], Any], seed: int) -> None:
        """Builds the optimizer; a request that leaves no choice needs none."""
        self._slots = len(sizes)
        self._open = [slot for slot, size in enumerate(sizes) if size > 1]
        self._optimizer = build([sizes[slot] for slot in self._open], seed) if self._open else None
        self._proposal: Any = None

    def ask(self) -> npt.NDArray[np.int64]:
        """Returns a number for each slot, counted among its allowed items."""
        numbers = np.zeros(self._slots, dtype=np.int64)
        if self._optimizer is not None:
            self._proposal = self._optimizer.ask()
            numbers[self._open] = np.ravel(self._proposal.value)
        return numbers

    def tell(self, loss: float) -> None:
        """Tells the optimizer the loss of its proposal."""
        if self._optimizer is not None:
            self._optimizer.tell(self._proposal, loss)


def variables(ng: Any, kind: str, sizes: list[int]) -> Any:
    """Returns nevergrad's description of a row.

    Args:
        ng: The package.
        kind: As in the agent's options.
        sizes: How many items each slot may hold, two at least.
    """
    if kind == "array":
        last = np.array(sizes) - 1.0
        # Bounded by the normal distribution's cumulative, so that a step of the optimizer reaches every item alike.
        array = ng.p.Array(init=last / 2).set_bounds(np.full(len(sizes), -ROUNDED), last + ROUNDED, method="gaussian")
        return array.set_integer_casting()
    categorical = ng.p.TransitionChoice if kind == "transition" else ng.p.Choice
    if len(set(sizes)) == 1:
        return categorical(range(sizes[0]), repetitions=len(sizes))
    return ng.p.Tuple(*[categorical(range(size)) for size in sizes])


def load_nevergrad() -> Any:
    """Returns the package.

    Raises:
        ValueError: If it is not installed.
    """
    # Imported here alone: it is optional, and takes a second.
    try:
        import nevergrad
    except ModuleNotFoundError as error:
        if error.name != "nevergrad":
            raise
        raise ValueError(
            'expected the extra [nevergrad] for --agent nevergrad (pip install "slot_rl[nevergrad]"), '
            "got no module nevergrad"
        ) from error
    return nevergrad
