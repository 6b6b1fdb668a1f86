"""The simulated user of ``SlotRL/Slate-v0``: who clicks on which items of a page, and what a shop would have logged.

With item vectors x_1 .. x_6 down the page and the user's vector u, all of 16 numbers:

    attraction  a_s = sigmoid(-2 + w . x_s + x_s' M u)
    saturation  p_s = a_s (1 - 0.6 max(0, cos(x_s, x_{s-1})))      p_1 = a_1
    attention   e_1 = 1,  e_{s+1} = 0.9 e_s (1 - 0.5 p_s)
    score       sum_s e_s p_s, the expected number of clicks

A page shows no item twice, and at most 2 items of a group. The 24 groups are by an item's nearest of 24 centres.

A user reads from the top, goes on with probability .9 after an item without a click, and with half of it after a click
(a cascade: Craswell et al., "An Experimental Comparison of Click Position-Bias Models", WSDM 2008). The parameters
w ~ N(0, .15^2) and M ~ N(0, .1^2) are drawn in this order from seed 0, the catalogue of 10,000 items ~ N(0, 1) from
seed 1, the centres ~ N(0, 1) from seed 2. Users are N(0, 1).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slot_rl.problems.candidate_draws import different_rows
from slot_rl.seeding import generator_from

SLOTS, DIM, CATALOGUE, FEWEST, MOST = 6, 16, 10_000, 20, 200
TASTE_SCALE, MATCH_SCALE, BASE = 0.15, 0.1, -2.0
SATURATION, ATTENTION, AFTER_CLICK = 0.6, 0.9, 0.5
GROUP, GROUPS, MOST_OF_A_GROUP = "group", 24, 2
LOGGED_REQUESTS, SLATES_EACH = 20_000, 10
SHARPNESS = 2.0
"""Of the logging policy: how strongly it prefers popular items."""


class PageTruth(nn.Module):
    """The expected number of clicks on a page; see the module."""

    taste: Tensor
    match: Tensor

    def __init__(self) -> None:
        """Draws the parameters."""
        super().__init__()
        generator = generator_from(0)
        self.register_buffer("taste", TASTE_SCALE * torch.randn(DIM, generator=generator))
        self.register_buffer("match", MATCH_SCALE * torch.randn(DIM, DIM, generator=generator))

    def forward(self, items: Tensor, user: Tensor) -> Tensor:
        """Returns the scores ``(...)`` of pages ``(..., slots, dim)`` for users ``(..., dim)``."""
        clicks, attention = self.probabilities(items, user)
        return (clicks * attention).sum(dim=-1)

    def probabilities(self, items: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the probability of a click on each item that is seen, and of seeing it, both ``(..., slots)``."""
        attraction = torch.sigmoid(BASE + items @ self.taste + (items @ self.match * user.unsqueeze(-2)).sum(dim=-1))
        alike = nn.functional.cosine_similarity(items[..., 1:, :], items[..., :-1, :], dim=-1).clamp_min(0.0)
        clicks = attraction * (1 - SATURATION * nn.functional.pad(alike, (1, 0)))
        onward = (ATTENTION * (1 - AFTER_CLICK * clicks[..., :-1])).cumprod(dim=-1)
        return clicks, nn.functional.pad(onward, (1, 0), value=1.0)

    def popularity(self, items: Tensor) -> Tensor:
        """Returns what an item has without regard to the user, ``(...)`` for items ``(..., dim)``."""
        return items @ self.taste


def slate_catalogue() -> Tensor:
    """Returns all items of ``SlotRL/Slate-v0``, ``(10000, 16)``."""
    return torch.randn(CATALOGUE, DIM, generator=generator_from(1))


def slate_groups() -> Tensor:
    """Returns the group of each item, ``(10000,)``."""
    centres = torch.randn(GROUPS, DIM, generator=generator_from(2))
    return torch.cdist(slate_catalogue(), centres).argmin(dim=1)


@dataclass(frozen=True)
class LoggedPages:
    """What the logging policy has shown, and what users clicked.

    Attributes:
        users: Vectors of the requests' users, ``(requests, dim)``.
        candidates: Numbers of each request's candidates, ``(requests, most)``; -1 behind a shorter list.
        request: Request of each page, ``(pages,)``.
        shown: Numbers of its items, ``(pages, slots)``.
        clicks: Number of clicks, ``(pages,)``.
        propensity: Probability of this page under the logging policy, ``(pages,)``.
    """

    users: Tensor
    candidates: Tensor
    request: Tensor
    shown: Tensor
    clicks: Tensor
    propensity: Tensor


def logged_pages(requests: int, each: int, generator: torch.Generator) -> LoggedPages:
    """Simulates pages that a popularity-based policy has shown.

    The policy knows nothing of the user. It fills slot after slot with an item that is not on the page yet, drawn with
    probability proportional to ``exp(2 w . x / sd)``, where sd is the spread of ``w . x`` over the catalogue.
    """
    truth, catalogue = PageTruth(), slate_catalogue()
    users = torch.randn(requests, DIM, generator=generator)
    count = torch.randint(FEWEST, MOST + 1, (requests, 1), generator=generator)
    candidates = different_rows(requests, MOST, CATALOGUE, generator)
    absent = torch.arange(MOST) >= count
    popularity = truth.popularity(catalogue)
    logits = (SHARPNESS / popularity.std() * popularity[candidates]).masked_fill(absent, -torch.inf)
    request = torch.arange(requests).repeat_interleave(each)
    places, propensity = _drawn_pages(logits[request], generator)
    shown = candidates[request].gather(1, places)
    clicks = _clicks(truth, catalogue[shown], users[request], generator)
    return LoggedPages(users, candidates.masked_fill(absent, -1), request, shown, clicks, propensity)


def _drawn_pages(logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws different items slot by slot; returns their places ``(pages, slots)`` and the pages' probabilities."""
    noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator).clamp(1e-12, 1 - 1e-7)))
    places = (logits + noise).topk(SLOTS, dim=1).indices
    chances = torch.softmax(logits.double(), dim=1).gather(1, places)
    left = 1 - torch.nn.functional.pad(chances.cumsum(dim=1)[:, :-1], (1, 0))
    return places, (chances / left).prod(dim=1).float()


def _clicks(truth: PageTruth, items: Tensor, users: Tensor, generator: torch.Generator) -> Tensor:
    """Lets users read pages from the top; returns their numbers of clicks."""
    wanted, _ = truth.probabilities(items, users)
    clicked = torch.rand(wanted.shape, generator=generator) < wanted
    stay = torch.where(clicked, ATTENTION * (1 - AFTER_CLICK), ATTENTION)
    onward = (torch.rand(wanted.shape, generator=generator) < stay)[:, :-1].cumprod(dim=1)
    seen = torch.nn.functional.pad(onward, (1, 0), value=1)
    return (clicked & (seen == 1)).sum(dim=1).float()
