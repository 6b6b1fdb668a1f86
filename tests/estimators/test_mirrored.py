"""The mirror of a table: found where equal scores prove it, and nowhere else."""

import pytest
import torch
from torch import Tensor

from slot_rl.estimators.mirrored import FEWEST_PAIRS, mirror_of
from slot_rl.seeding import generator_from

MIRROR = (1, 0, 2, 4, 3)


def sequences(rows: int, seed: int = 0) -> Tensor:
    """Random distinct sequences of 6 of 5 letters."""
    places = torch.randperm(5**6, generator=generator_from(seed))[:rows]
    return torch.stack([places // 5**power % 5 for power in range(6)], dim=1)


def mirrored_score(of: Tensor) -> Tensor:
    """The same number for a sequence and its mirror image, and another one for every other sequence."""
    places = 5 ** torch.arange(6)
    image = torch.tensor(MIRROR)[of.flip(1)]
    return torch.minimum((of * places).sum(dim=1), (image * places).sum(dim=1)).float().sin()


def test_a_mirror_is_found() -> None:
    seen = sequences(3_000)
    assert mirror_of(seen, None, mirrored_score(seen), 5) == MIRROR


def test_scores_that_agree_by_chance_do_not_hide_it() -> None:
    seen = sequences(3_000)
    score = (1_000 * mirrored_score(seen)).round()
    assert len(score.unique()) < 1_500
    assert mirror_of(seen, None, score, 5) == MIRROR


def test_a_mirror_holds_within_each_context() -> None:
    seen, context = sequences(3_000), torch.arange(3_000).unsqueeze(1) % 2
    own = mirrored_score(seen) + 3 * context[:, 0]
    assert mirror_of(seen, context, own, 5) == MIRROR
    # Without the contexts, an image has another score in every second pair.
    assert mirror_of(seen, None, own, 5) is None


@pytest.mark.parametrize("wrong", ["noise", "few", "equal", "distinct", "a tenth"])
def test_nothing_is_found_without_proof(wrong: str) -> None:
    seen = sequences(300 if wrong == "few" else 3_000)
    score = mirrored_score(seen)
    if wrong == "noise":
        score = score + 1e-3 * torch.randn(len(seen), generator=generator_from(1))
    elif wrong == "equal":
        score = torch.zeros(len(seen))
    elif wrong == "distinct":
        score = torch.arange(len(seen)).float()
    elif wrong == "a tenth":
        score[::10] += 5
    assert mirror_of(seen, None, score, 5) is None


def test_as_many_pairs_as_are_needed_prove_it() -> None:
    seen = sequences(FEWEST_PAIRS, seed=2)
    image = torch.tensor(MIRROR)[seen.flip(1)]
    both = torch.cat([seen, image])
    assert len(both.unique(dim=0)) == 2 * FEWEST_PAIRS
    assert mirror_of(both, None, mirrored_score(both), 5) == MIRROR
    assert mirror_of(both[1:], None, mirrored_score(both[1:]), 5) is None
