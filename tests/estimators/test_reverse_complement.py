"""The reverse complement: found where equal scores prove it, and nowhere else."""

import pytest
import torch
from torch import Tensor

from slot_rl.estimators.reverse_complement import FEWEST_PAIRS, complement_of
from slot_rl.seeding import generator_from

COMPLEMENT = (1, 0, 2, 4, 3)


def sequences(rows: int, seed: int = 0) -> Tensor:
    """Random distinct sequences of 6 of 5 letters."""
    places = torch.randperm(5**6, generator=generator_from(seed))[:rows]
    return torch.stack([places // 5**power % 5 for power in range(6)], dim=1)


def shared_score(of: Tensor) -> Tensor:
    """The same number for a sequence and its reverse complement, and another one for every other sequence."""
    places = 5 ** torch.arange(6)
    image = torch.tensor(COMPLEMENT)[of.flip(1)]
    return torch.minimum((of * places).sum(dim=1), (image * places).sum(dim=1)).float().sin()


def test_letters_that_stand_for_each_other_are_found() -> None:
    seen = sequences(3_000)
    assert complement_of(seen, None, shared_score(seen), 5) == COMPLEMENT


def test_scores_that_agree_by_chance_do_not_hide_it() -> None:
    seen = sequences(3_000)
    score = (1_000 * shared_score(seen)).round()
    assert len(score.unique()) < 1_500
    assert complement_of(seen, None, score, 5) == COMPLEMENT


def test_it_holds_within_each_context() -> None:
    seen, context = sequences(3_000), torch.arange(3_000).unsqueeze(1) % 2
    own = shared_score(seen) + 3 * context[:, 0]
    assert complement_of(seen, context, own, 5) == COMPLEMENT
    # Without the contexts, an image has another score in every second pair.
    assert complement_of(seen, None, own, 5) is None


@pytest.mark.parametrize("wrong", ["noise", "few", "equal", "distinct", "a tenth"])
def test_nothing_is_found_without_proof(wrong: str) -> None:
    seen = sequences(300 if wrong == "few" else 3_000)
    score = shared_score(seen)
    if wrong == "noise":
        score = score + 1e-3 * torch.randn(len(seen), generator=generator_from(1))
    elif wrong == "equal":
        score = torch.zeros(len(seen))
    elif wrong == "distinct":
        score = torch.arange(len(seen)).float()
    elif wrong == "a tenth":
        score[::10] += 5
    assert complement_of(seen, None, score, 5) is None


def test_as_many_pairs_as_are_needed_prove_it() -> None:
    seen = sequences(FEWEST_PAIRS, seed=2)
    image = torch.tensor(COMPLEMENT)[seen.flip(1)]
    both = torch.cat([seen, image])
    assert len(both.unique(dim=0)) == 2 * FEWEST_PAIRS
    assert complement_of(both, None, shared_score(both), 5) == COMPLEMENT
    assert complement_of(both[1:], None, shared_score(both[1:]), 5) is None
