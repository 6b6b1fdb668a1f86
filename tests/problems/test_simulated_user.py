"""The simulated user: its formula by hand, its log against the formula, and the estimator that was fitted on it."""

import math

import pytest
import torch

from slot_rl.problems import make_problem
from slot_rl.problems.simulated_user import (
    CATALOGUE,
    DIM,
    FEWEST,
    MOST,
    SLOTS,
    PageTruth,
    logged_pages,
    slate_catalogue,
)
from slot_rl.search import random_choice
from slot_rl.seeding import generator_from


def test_the_expected_clicks_by_hand() -> None:
    truth, page, user = PageTruth(), slate_catalogue()[:SLOTS], torch.linspace(-1, 1, DIM)
    total, attention, before = 0.0, 1.0, None
    for item in page:
        attraction = float(truth.taste @ item) + float(item @ truth.match @ user) - 2.0
        click = 1 / (1 + math.exp(-attraction))
        if before is not None:
            alike = float(torch.dot(item, before) / (item.norm() * before.norm()))
            click *= 1 - 0.6 * max(0.0, alike)
        total += attention * click
        attention *= 0.9 * (1 - 0.5 * click)
        before = item
    assert float(truth(page, user)) == pytest.approx(total, abs=1e-5)


def test_equal_neighbours_saturate() -> None:
    truth, items, user = PageTruth(), slate_catalogue()[:SLOTS], torch.zeros(DIM)
    clicks, _ = truth.probabilities(items[:1].expand(SLOTS, -1), user)
    assert torch.allclose(clicks[1:], 0.4 * clicks[0])


def test_the_log_is_what_the_policy_and_the_users_do() -> None:
    pages = logged_pages(400, 50, generator_from(3))
    truth, catalogue = PageTruth(), slate_catalogue()
    assert len(catalogue) == CATALOGUE and pages.shown.shape == (20_000, SLOTS)
    lengths = (pages.candidates >= 0).sum(dim=1)
    assert int(lengths.min()) >= FEWEST and int(lengths.max()) <= MOST
    listed = (pages.candidates[pages.request].unsqueeze(1) == pages.shown.unsqueeze(2)).any(dim=2)
    assert bool(listed.all())
    assert all(len(set(page)) == SLOTS for page in pages.shown[:200].tolist())
    expected = truth(catalogue[pages.shown], pages.users[pages.request]).double()
    error = float((pages.clicks - expected).std()) / len(expected) ** 0.5
    assert abs(float((pages.clicks - expected).mean())) < 4 * error
    # Popular items are shown more often than a random choice among the candidates would.
    popular = truth.popularity(catalogue)
    assert float(popular[pages.shown].mean()) > float(popular.mean()) + float(popular.std())


def test_propensities_by_hand_and_logs_that_repeat() -> None:
    pages, truth, catalogue = logged_pages(30, 4, generator_from(0)), PageTruth(), slate_catalogue()
    popular = truth.popularity(catalogue).double()
    listed = pages.candidates[pages.request[7]]
    left = (2.0 / popular.std() * popular[listed[listed >= 0]]).exp()
    chance = 1.0
    for item in pages.shown[7]:
        picked = left[listed[listed >= 0] == item]
        chance *= float(picked / left.sum())
        left = left.where(listed[listed >= 0] != item, 0.0)
    assert float(pages.propensity[7]) == pytest.approx(chance, rel=1e-4)
    again = logged_pages(30, 4, generator_from(0))
    assert torch.equal(pages.shown, again.shown) and torch.equal(pages.clicks, again.clicks)


def test_the_shipped_estimator_ranks_random_pages() -> None:
    problem = make_problem("SlotRL/Slate-v0", own_constraints=False)
    observation = problem.sample(500, generator_from(5))
    choice = random_choice(problem, observation, generator_from(6))
    estimated, true = problem.score(observation, choice), problem.true_score(observation, choice)
    ranks = torch.stack([estimated.argsort().argsort(), true.argsort().argsort()]).double()
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.85
    assert (problem.slots, problem.items, observation.mask is not None) == (SLOTS, MOST, True)
