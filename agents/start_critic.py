"""A critic of starts: predicts the scores of configurations, so that a policy's starts can be ranked without a call.

It learns from what a training asks of the estimator anyway: from the scores, and from their slopes, which say much more
of a configuration than its score alone. It serves to rank a policy's own answers. Swaps that it promises are not to be
trusted: they find its errors.

Czarnecki, Osindero, Jaderberg, Swirszcz, Pascanu, "Sobolev Training for Neural Networks" (2017), for the loss.
"""

from math import sqrt

import torch
from torch import Tensor, nn

HIDDEN, WIDEST, MLP_SHARE = 256, 32, 0.3
STEPS, STEP_SIZE = 4, 2e-3
"""Steps for each batch of asks, and Adam's step size at the start.

Four steps on a batch order the starts of Slots-v0 as well as one step on it and three on batches from a memory (a
trial; no command repeats it).
"""
SMALLEST_SPREAD = 1e-6


class StartCritic(nn.Module):
    """A linear, a quadratic and a nonlinear part of a configuration's vectors, the linear one by request.

    Attributes:
        optimizer: Adam; its state belongs to a checkpoint.
    """

    mean: Tensor
    spread: Tensor
    score_mean: Tensor
    score_spread: Tensor
    known: Tensor

    def __init__(self, slots: int, dim: int, about: int) -> None:
        """Builds the critic; weights come from the global generator (see ``slot_rl.seeding``).

        Args:
            slots: Slots of a configuration.
            dim: Length of a candidate's vector.
            about: Numbers that the policy knows of a request; 0 if requests differ by their candidates alone.
        """
        super().__init__()
        width = min(dim, WIDEST)
        whole = slots * width
        first = torch.eye(dim) if width == dim else torch.randn(dim, width) / sqrt(dim)
        self.project = nn.Parameter(first.expand(slots, -1, -1).clone())
        self.linear = nn.Parameter(torch.zeros(whole))
        self.quadratic = nn.Parameter(torch.zeros(whole, whole))
        self.by_request = None if about == 0 else nn.Linear(about, whole, bias=False)
        self.body = nn.Sequential(
            nn.Linear(whole + about, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1)
        )
        # Units of vectors and scores, taken from the first batch, which a policy draws that knows nothing yet.
        self.register_buffer("mean", torch.zeros(slots, dim))
        self.register_buffer("spread", torch.ones(slots, 1))
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_spread", torch.ones(()))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))
        self.optimizer = torch.optim.Adam(self.parameters(), STEP_SIZE, fused=True)

    def forward(self, vectors: Tensor, about: Tensor) -> Tensor:
        """Returns predicted scores ``(batch,)``, standardised.

        Args:
            vectors: The configurations' vectors, ``(batch, slots, dim)``.
            about: What the policy knows of the requests, ``(batch, about)``.
        """
        return self._scores((vectors - self.mean) / self.spread, about)

    def learn(self, vectors: Tensor, about: Tensor, score: Tensor, slope: Tensor, remaining: float) -> None:
        """Takes some steps towards the scores and slopes of a batch.

        Args:
            vectors: As of :meth:`forward`.
            about: As of :meth:`forward`.
            score: The estimator's scores, ``(batch,)``.
            slope: Their gradients with respect to the vectors, ``(batch, slots, dim)``.
            remaining: The share of the training that is left, from 1 to 0.
        """
        if not self.known:
            self._take_units(vectors, score)
        inputs = ((vectors - self.mean) / self.spread).requires_grad_()
        target = (score - self.score_mean) / self.score_spread
        slope = slope * (self.spread / self.score_spread)
        scale = slope.square().mean().clamp_min(torch.finfo(slope.dtype).tiny)
        for group in self.optimizer.param_groups:
            group["lr"] = STEP_SIZE * remaining
        for _ in range(STEPS):
            predicted = self._scores(inputs, about)
            (found,) = torch.autograd.grad(predicted.sum(), inputs, create_graph=True)
            error = (found - slope).square().mean() / scale
            self.optimizer.zero_grad()
            ((predicted - target).square().mean() + error).backward(inputs=list(self.parameters()))
            self.optimizer.step()

    def _scores(self, inputs: Tensor, about: Tensor) -> Tensor:
        slots = torch.einsum("bsd,sdk->bsk", inputs, self.project).flatten(1)
        linear = self.linear if self.by_request is None else self.linear + self.by_request(about)
        nonlinear: Tensor = self.body(torch.cat([slots, about], dim=1)).squeeze(1)
        return MLP_SHARE * nonlinear + (slots * (linear + slots @ self.quadratic)).sum(dim=1)

    def _take_units(self, vectors: Tensor, score: Tensor) -> None:
        self.mean.copy_(vectors.mean(dim=0))
        self.spread.copy_((vectors - self.mean).square().mean(dim=(0, 2)).sqrt().clamp_min(SMALLEST_SPREAD)[:, None])
        self.score_mean.copy_(score.mean())
        self.score_spread.copy_(score.std().clamp_min(SMALLEST_SPREAD))
        self.known.fill_(True)
