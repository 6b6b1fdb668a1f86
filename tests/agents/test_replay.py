"""The memory of rows to imitate against a dictionary and a list that do the same by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slot_rl.agents.replay import Replay
from slot_rl.problems import Observation
from slot_rl.search import SearchResult
from slot_rl.seeding import generator_from

Row = tuple[int, float, int]
"""A context, the score of the row found for it, and a number to know the row by."""


def add(replay: Replay, rows: list[Row]) -> None:
    """Adds rows of two columns of context, (context, 10 * context), and two slots, (number, -number)."""
    context, score, number = (torch.tensor(part) for part in zip(*rows, strict=True))
    replay.add(
        Observation(context=torch.stack([context, 10 * context], dim=1)),
        SearchResult(torch.stack([number, -number], dim=1), score.float()),
    )


def kept(replay: Replay) -> dict[int, int]:
    """Returns the number of the row that each context keeps, as 400 draws show it."""
    observation, found = replay.sample(400, generator_from(0))
    choice = found.choice
    assert (
        found.slope is None
        and observation.context is not None
        and observation.candidates is None
        and observation.mask is None
    )
    assert torch.equal(observation.context[:, 1], 10 * observation.context[:, 0])
    assert torch.equal(choice[:, 1], -choice[:, 0])
    return dict(zip(observation.context[:, 0].tolist(), choice[:, 0].tolist(), strict=True))


def add_requests(replay: Replay, numbers: list[int]) -> None:
    """Adds requests with candidates and masks, all of which tell their number."""
    mark = torch.tensor(numbers)
    observation = Observation(
        mark.float().view(-1, 1, 1).expand(-1, 3, 2), mark.view(-1, 1, 1).expand(-1, 2, 3) % 2 == 0
    )
    slope = mark.float().view(-1, 1, 1).expand(-1, 2, 3) / 2
    replay.add(observation, SearchResult(torch.stack([mark, mark + 1], dim=1), -mark.float(), slope))


def kept_requests(replay: Replay) -> set[int]:
    observation, found = replay.sample(300, generator_from(0))
    choice = found.choice
    assert observation.candidates is not None and observation.mask is not None and observation.context is None
    assert observation.candidates.shape == (300, 3, 2) and observation.mask.shape == (300, 2, 3)
    assert choice.shape == (300, 2) and choice.dtype == torch.long and observation.mask.dtype == torch.bool
    assert torch.equal(observation.candidates[:, 2, 1], choice[:, 0].float())
    assert torch.equal(observation.mask[:, 1, 2], choice[:, 0] % 2 == 0)
    assert torch.equal(choice[:, 1], choice[:, 0] + 1) and torch.equal(found.score, -choice[:, 0].float())
    assert found.slope is not None and found.slope.shape == (300, 2, 3)
    assert torch.equal(found.slope[:, 1, 2], choice[:, 0] / 2)
    return set(choice[:, 0].tolist())


def test_of_new_requests_the_latest_are_kept() -> None:
    replay = Replay(5)
    add_requests(replay, [1, 2, 3])
    assert (len(replay), kept_requests(replay)) == (3, {1, 2, 3})
    add_requests(replay, [4, 5, 6])
    assert (len(replay), kept_requests(replay)) == (5, {2, 3, 4, 5, 6})
    add_requests(replay, [7])
    assert (len(replay), kept_requests(replay)) == (5, {3, 4, 5, 6, 7})
    # A batch that is longer than the memory leaves its own end, and the ring goes on from there.
    add_requests(replay, list(range(10, 23)))
    assert (len(replay), kept_requests(replay)) == (5, {18, 19, 20, 21, 22})
    add_requests(replay, [30, 31])
    assert kept_requests(replay) == {20, 21, 22, 30, 31}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 7), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_ring_holds_the_end_of_the_list_of_all_that_came(capacity: int, batches: list[int]) -> None:
    replay, came = Replay(capacity), list[int]()
    for size in batches:
        new = list(range(len(came), len(came) + size))
        add_requests(replay, new)
        came += new
        assert len(replay) == min(len(came), capacity)
        assert kept_requests(replay) == set(came[-capacity:])


def test_a_context_keeps_its_best_row() -> None:
    replay = Replay(10)
    add(replay, [(1, 0.5, 100), (2, 3.0, 101), (1, 2.0, 102), (1, 1.0, 103)])
    assert (len(replay), kept(replay)) == (2, {1: 102, 2: 101})
    add(replay, [(2, 2.5, 104), (1, 2.5, 105), (3, -9.0, 106)])
    assert (len(replay), kept(replay)) == (3, {1: 105, 2: 101, 3: 106})
    # As good is not better; and a batch may bring nothing at all.
    add(replay, [(1, 2.5, 107), (2, 3.0, 108)])
    assert (len(replay), kept(replay)) == (3, {1: 105, 2: 101, 3: 106})


def test_a_new_context_replaces_the_oldest() -> None:
    replay = Replay(2)
    add(replay, [(1, 9.0, 100), (2, 8.0, 101)])
    add(replay, [(3, -5.0, 102)])
    assert (len(replay), kept(replay)) == (2, {2: 101, 3: 102})
    add(replay, [(3, -4.0, 103), (2, 7.0, 104)])
    assert kept(replay) == {2: 101, 3: 103}
    # A context that was forgotten is new again, and its old score is forgotten too.
    add(replay, [(1, 1.0, 105)])
    assert kept(replay) == {3: 103, 1: 105}
    add(replay, [(4, 0.0, 106)])
    assert (len(replay), kept(replay)) == (2, {1: 105, 4: 106})


def test_new_contexts_in_a_batch_do_not_inherit_scores() -> None:
    replay = Replay(1)
    add(replay, [(1, 5.0, 100), (2, 1.0, 101)])
    assert kept(replay) == {2: 101}
    # Context 2 improves and is evicted in one batch; context 3, worse, is what remains.
    add(replay, [(2, 6.0, 102), (3, -2.0, 103)])
    assert kept(replay) == {3: 103}
    add(replay, [(3, -1.0, 104)])
    assert (len(replay), kept(replay)) == (1, {3: 104})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 4),
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=1, max_size=6), max_size=6),
)
def test_contexts_are_kept_as_by_a_dictionary(capacity: int, batches: list[list[tuple[int, int]]]) -> None:
    replay, memory, number = Replay(capacity), dict[int, tuple[int, int]](), 0
    for batch in batches:
        rows: list[Row] = []
        for context, score in batch:
            rows.append((context, float(score), number))
            if context not in memory and len(memory) == capacity:
                del memory[next(iter(memory))]
            if context not in memory or score > memory[context][0]:
                memory[context] = (score, number)
            number += 1
        add(replay, rows)
        assert len(replay) == len(memory)
        assert kept(replay) == {context: best for context, (_, best) in memory.items()}


def test_draws_are_uniform_and_follow_their_generator() -> None:
    replay = Replay(100)
    add_requests(replay, [0, 1, 2, 3])
    choice = replay.sample(8_000, generator_from(1))[1].choice
    counts = torch.bincount(choice[:, 0])
    # Binomial with n = 8,000 and p = 1/4: a standard deviation of 39.
    assert counts.shape == (4,) and int((counts - 2_000).abs().max()) < 5 * 39
    assert torch.equal(choice, replay.sample(8_000, generator_from(1))[1].choice)
    assert not torch.equal(choice, replay.sample(8_000, generator_from(2))[1].choice)


def test_what_is_kept_and_drawn_is_a_copy() -> None:
    replay, candidates = Replay(2), torch.ones(1, 3, 2)
    found = SearchResult(torch.tensor([[1, 2]]), torch.tensor([0.0]))
    replay.add(Observation(candidates), found)
    candidates.zero_()
    found.choice.zero_()
    drawn, kept_row = replay.sample(1, generator_from(0))
    assert drawn.candidates is not None and bool((drawn.candidates == 1).all())
    assert kept_row.choice.tolist() == [[1, 2]]
    drawn.candidates.zero_()
    again: Tensor | None = replay.sample(1, generator_from(0))[0].candidates
    assert again is not None and bool((again == 1).all())


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_memory_for_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"expected a replay of at least one request, got {capacity}"):
        Replay(capacity)


def test_an_empty_memory_has_nothing_to_imitate() -> None:
    replay = Replay(3)
    assert len(replay) == 0
    with pytest.raises(ValueError, match="expected a replay with requests, got an empty one"):
        replay.sample(1, generator_from(0))


@pytest.mark.parametrize("with_indices", [True, False])
def test_contexts_with_numbers_keep_their_best_row(with_indices: bool) -> None:
    replay = Replay(8)
    index, number = torch.tensor([0, 0, 1, 0, 0]), torch.tensor([0.1, 0.2, 0.1, 0.1, 0.2])
    indices = {"context": index.unsqueeze(1)} if with_indices else {}
    observation = Observation(**indices, context_vector=torch.stack([number, -number], dim=1))
    replay.add(observation, SearchResult(torch.arange(5).unsqueeze(1), torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0])))
    assert len(replay) == (3 if with_indices else 2)
    drawn, found = replay.sample(200, generator_from(0))
    assert drawn.context_vector is not None
    kept = {round(float(n), 3): c for n, c in zip(drawn.context_vector[:, 0], found.choice[:, 0].tolist(), strict=True)}
    assert set(found.choice[:, 0].tolist()) == ({1, 2, 3} if with_indices else {1, 3})
    assert kept[0.2] == 1
