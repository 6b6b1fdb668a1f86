"""Problems with many local optima, and requests with arbitrary masks, for the tests of search."""

import torch
from torch import Tensor

from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.problems import Budget, Observation, Problem, RowProblem, SlotProblem, check_choice
from slot_rl.search import SearchResult
from slot_rl.seeding import generator_from, seeded_initialisation

SIZES = (2, 5, 3)
"""Items of each slot of a problem of rows."""


def rugged_net(shape: EstimatorShape, seed: int) -> EstimatorNet:
    """A network with many local optima, whose first-order effects often mislead."""
    with seeded_initialisation(seed):
        net = EstimatorNet(shape)
    with torch.no_grad():
        for part in net.parameters():
            part.mul_(3)
    return net


def rugged_row_net(seed: int = 0) -> EstimatorNet:
    """A rugged network with separate items for each slot."""
    return rugged_net(EstimatorShape(3, 3, (16,), SIZES, (4,), context_dim=2), seed)


def refuse(problem: Problem, observation: Observation, choice: Tensor) -> None:
    """Raises ValueError for choices ``(..., batch, slots)`` that are masked or break a constraint."""
    for rows in choice.reshape(-1, *choice.shape[-2:]):
        check_choice(problem, observation, rows)


class Watched(SlotProblem):
    """Stores all scored choices, ``(rows, batch, slots)`` or ``(batch, slots)`` a call; refuses what is not allowed."""

    def score(self, observation: Observation, choice: Tensor) -> Tensor:
        refuse(self, observation, choice)
        score = super().score(observation, choice)
        self.asked = [*getattr(self, "asked", []), (choice, score)]
        return score


class Checked(Problem):
    """Refuses to score what is not allowed."""

    def score(self, observation: Observation, choice: Tensor) -> Tensor:
        refuse(self, observation, choice)
        return super().score(observation, choice)

    def score_selection(self, observation: Observation, selection: Tensor) -> Tensor:
        refuse(self, observation, selection.argmax(dim=-1))
        return super().score_selection(observation, selection)


class CheckedRows(Checked, RowProblem):
    """Rows of a table that refuse to be scored where they are not allowed."""


class CheckedSlots(Checked, SlotProblem):
    """Slots that refuse to be scored where they are not allowed."""


def slot_problem(slots: int = 3, items: int = 4, seed: int = 0) -> Watched:
    return Watched(rugged_net(EstimatorShape(slots, 2, (16,)), seed), slots, items, 2)


def row_problem(seed: int = 0, kind: type[RowProblem] = RowProblem) -> RowProblem:
    return kind(rugged_row_net(seed), torch.arange(4).unsqueeze(-1))


def arbitrary_mask(batch: int, slots: int, items: int, seed: int) -> Tensor:
    """Random masks with at least one allowed item in each slot."""
    generator = generator_from(seed)
    mask = torch.rand(batch, slots, items, generator=generator) < 0.5
    return mask.scatter(-1, torch.randint(items, (batch, slots, 1), generator=generator), True)


def requests(problem: Problem, batch: int, masked: bool, seed: int) -> Observation:
    observation = problem.sample(batch, generator_from(seed))
    if masked:
        return Observation(observation.candidates, arbitrary_mask(batch, problem.slots, problem.items, seed))
    return observation


def check_paid(problem: Watched, observation: Observation, found: SearchResult, calls: int) -> Tensor:
    """Checks that a search used its calls and that its answer has the returned score; returns all scores."""
    assert problem.budget == Budget(len(observation) * calls, 0)
    scores = torch.cat([score for _, score in problem.asked])
    assert scores.shape == (calls, len(observation))
    check_choice(problem, observation, found.choice)
    torch.testing.assert_close(problem.score(observation, found.choice), found.score, atol=1e-4, rtol=1e-4)
    return scores
