"""Multistart: one gradient through the estimator for each call, an entropy bonus that anneals, and several starts.

Every call asks the estimator once and follows the slope there: at the policy's mixture of items where the estimator
says of a mixture what it says of its rows on average, and at a row drawn from the policy otherwise. The entropy bonus
is a temperature: it anneals to zero, so that vague answers harden into one.

In the first stage each request is asked about once, for the answer of one pass. In the second stage each request has
several starts, and the better ones weigh more: they specialise, and the best of them beats the answer of one pass. The
first start is always that answer, and has a share of the weight for itself. At the end the starts are put into the
order in which they help most, by their scores on some requests.

A critic of starts (``rank_starts``) learns from the same asks and names the best of a request's first starts without a
call. It is left off where it does not help on the requests that give the starts their order.

Bengio, Leonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons" (2013), for the gradient
at a row; Lee, Purushwalkam, Cogswell, Crandall, Batra, "Stochastic Multiple Choice Learning for Training Diverse Deep
Ensembles" (2016), for starts among which the best one learns most.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import sqrt
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from slot_rl.agents.base import needed_problem
from slot_rl.agents.learning_options import LearningOptions
from slot_rl.agents.one_step import OneStepAgent, mean_of
from slot_rl.agents.policy import entropy_of
from slot_rl.agents.start_critic import StartCritic
from slot_rl.networks import KNOWN_STARTS, PointerSize, Request
from slot_rl.problems import Observation, Problem, mixture_error
from slot_rl.saved_state import optimizer_state, restore_optimizer, restore_weights, weights_of
from slot_rl.seeding import Seed, as_seed, seeded_initialisation
from slot_rl.selectors import masked_logits
from slot_rl.selectors.base import Draws
from slot_rl.selectors.categorical import one_hot
from slot_rl.selectors.rules import Rules

Ask = Literal["auto", "mixture", "row"]
LARGEST_ERROR = 0.15
"""Up to this error, in standard deviations of a mixture's rows, mixtures are asked: SlotsLarge-v0 has 0.0, Slots-v0
.45, Slate-v0 .5 and PickValue-v0 2.1."""
TEST_SHARE, TEST_DRAWS, MOST_TESTED = 0.02, 64, 32
ORDER_SHARE, FEWEST_ORDERED = 0.03, 16
"""Share of the calls that order the starts, and the fewest requests that can tell their order."""


@dataclass(frozen=True)
class MultistartOptions(LearningOptions):
    """One call a start.

    Attributes:
        batch_size: Estimator calls between updates, for all starts together.
        ask: Where the estimator is asked: at the policy's mixture, at a row drawn from it, or as a short test of the
            estimator decides, which costs about 2 % of the calls.
        starts: Starts of each request in the second stage; 1 trains the answer of one pass alone.
        first_stage: Share of the calls that the first stage takes.
        keep: Share of a request's weight that its first start, the answer of one pass, has for itself.
        margin: A start that is better by so many standard deviations of the score weighs e times as much.
        rank_starts: First starts of a request among which a critic names the best without a call; 0 for no critic. It
            learns from the training's own calls.
    """

    batch_size: int = 128
    entropy: float = 0.12
    ask: Ask = "auto"
    starts: int = 8
    first_stage: float = 1 / 3
    keep: float = 0.3
    margin: float = 0.2
    rank_starts: int = 0
    policy: PointerSize = field(default_factory=lambda: PointerSize(start_dim=8))

    def __post_init__(self) -> None:
        """Refuses values that no training could use."""
        super().__post_init__()
        if self.ask not in get_args(Ask):
            raise ValueError(f"expected ask {', '.join(get_args(Ask))}, got {self.ask!r}")
        if not (0 <= self.first_stage <= 1 and 0 <= self.keep <= 1 and self.margin > 0):
            raise ValueError(
                "expected first_stage and keep from 0 to 1 and margin > 0, "
                f"got {self.first_stage}, {self.keep} and {self.margin}"
            )
        if not 1 <= self.starts <= self.batch_size // 2:
            raise ValueError(f"expected from 1 to {self.batch_size // 2} starts (batch_size / 2), got {self.starts}")
        if self.starts > 1 and self.policy.start_dim == 0:
            raise ValueError(f"expected start_dim >= 1 for {self.starts} starts, got 0")
        if self.rank_starts != 0 and not (self.starts > 1 and 2 <= self.rank_starts <= KNOWN_STARTS + 1):
            raise ValueError(
                f"expected rank_starts 0, or from 2 to {KNOWN_STARTS + 1} with more than one start, "
                f"got {self.rank_starts} with starts {self.starts}"
            )


class MultistartAgent(OneStepAgent):
    """Follows the estimator's slope at its own answers, from several starts.

    Attributes:
        mixture_error: The estimator's error at mixtures, in standard deviations; None until it is measured.
        critic: Predicts the scores of starts; None without ``rank_starts``.
        ranking: What its ranking gains on average, and the standard error, both in standard deviations of the score;
            None until it is measured.
    """

    name = "multistart"
    default_options = MultistartOptions()
    answers_from = OneStepAgent.answers_from | {"critic"}
    options: MultistartOptions
    problem: Problem

    def __init__(self, env: Any, options: Any = None, seed: Seed = 0, verbose: int = 0, **changes: Any) -> None:
        """Builds the agent; see :class:`slot_rl.agents.one_step.OneStepAgent`.

        Raises:
            ValueError: If the environment has no estimator to ask, or mixtures shall be asked under constraints.
        """
        super().__init__(env, options, seed, verbose, **changes)
        self.problem = needed_problem(self.env, self.name)
        self.mixture_error: float | None = None
        self.ranking: tuple[float, float] | None = None
        self.critic = self._new_critic() if self.options.rank_starts else None
        if self.options.ask == "mixture" and self.problem.constraints is not None:
            raise ValueError("expected ask row or auto under constraints, which a mixture can break, got 'mixture'")

    @property
    def asks_mixtures(self) -> bool:
        """Whether the estimator is asked at mixtures and not at rows."""
        tested = self.mixture_error is not None and self.mixture_error <= LARGEST_ERROR
        return self.options.ask == "mixture" or (self.options.ask == "auto" and tested)

    @property
    def ranks_starts(self) -> bool:
        """Whether there is a critic of starts whose ranking was found to help."""
        return self.ranking is not None and self.ranking[0] > self.ranking[1]

    @property
    def remark(self) -> str | None:
        """Says what the tests of the estimator and of the critic have decided."""
        said = []
        if self.mixture_error is not None:
            said.append(
                f"asked the estimator at {'mixtures' if self.asks_mixtures else 'rows'}: at mixtures it is off by "
                f"{self.mixture_error:.2f} standard deviations of their rows' scores (mixtures up to {LARGEST_ERROR})"
            )
        if self.ranking is not None:
            said.append(
                f"{'ranks' if self.ranks_starts else 'does not rank'} {self.options.rank_starts} starts: the critic's "
                f"choice gains {self.ranking[0]:.3f} standard deviations of the score, standard error "
                f"{self.ranking[1]:.3f}"
            )
        elif self.critic is not None:
            said.append("does not rank starts: the calls were too few to tell what the critic's choice gains")
        return "; ".join(said) or None

    def starts(self, observation: Observation) -> Iterator[Tensor]:
        """Yields the starts in their order, but first the one that the critic names, if its ranking helps."""
        further = self.policy.starts(observation)
        if self.ranks_starts:
            first = torch.stack(list(islice(further, self.options.rank_starts)))
            best = self._predicted(observation, first).argmax(dim=0)
            place = torch.arange(len(first)).unsqueeze(1)
            # The named start comes first, and those that stood before it move one place back.
            order = torch.where(place == 0, best, place - (place <= best).long())
            yield from first.gather(0, order.unsqueeze(2).expand_as(first))
        yield from further

    def update(self) -> dict[str, float]:
        """Asks once for each start and takes one step along the slopes.

        The first update tests the estimator, and the last one orders the starts.
        """
        if self._orders_now():
            return self._order_starts()
        options, first = self.options, self.progress < self.options.first_stage
        if options.ask == "auto" and self.mixture_error is None and self.problem.constraints is None:
            self._test()
        starts = 1 if first else options.starts
        observation = self.problem.sample(options.batch_size // starts, self.generator)
        request = self.policy.read(observation)
        logits = self._logits(request, starts)
        conditional, selection = self._asked(observation, logits)
        if self.critic is None:
            score = self.problem.score_selection(observation, selection)
        else:
            score = self._watched_score(self.critic, observation, request, selection)
        found = score.detach()
        self.scale.update(found.flatten())
        entropy = entropy_of(conditional)
        gain = score / self.scale.unit + self.entropy_coefficient * entropy
        loss = -(self._weights(found) * gain).mean()
        norm = self.optimizer_step(loss)
        return {
            "rollout/ep_rew_mean": mean_of(found[0]),
            "train/loss": loss.item(),
            "train/entropy": mean_of(entropy),
            "train/grad_norm": norm,
        }

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns what every agent keeps, the tests' results and the critic."""
        tensors, document = super().state()
        if self.critic is not None:
            tensors |= weights_of(self.critic, "critic")
            tensors |= optimizer_state(self.critic.optimizer, "critic_optimizer")
        return tensors, {**document, "mixture_error": self.mixture_error, "ranking": self.ranking}

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        super().restore(tensors, document)
        self.mixture_error, ranking = document["mixture_error"], document.get("ranking")
        self.ranking = None if ranking is None else (ranking[0], ranking[1])
        if self.critic is not None:
            restore_weights(self.critic, tensors, "critic")
            restore_optimizer(self.critic.optimizer, tensors, "critic_optimizer")

    def _new_critic(self) -> StartCritic:
        network = self.policy.network
        with seeded_initialisation(as_seed(self.seed)):
            return StartCritic(self.problem.slots, network.item_dim, network.latent_dim if network.has_context else 0)

    def _about(self, request: Request) -> Tensor:
        """Returns what the policy knows of the requests before it sees items, ``(batch, about)``."""
        return request.base.detach().flatten(1)[:, : None if self.policy.network.has_context else 0]

    def _watched_score(
        self, critic: StartCritic, observation: Observation, request: Request, selection: Tensor
    ) -> Tensor:
        """Returns scores ``(starts, batch)`` with the estimator's gradient, and shows both to the critic."""
        vectors = self.problem.mix(observation, selection)
        asked = vectors.detach().requires_grad_()
        score = self.problem.score_mixed(observation, selection, asked)
        (slope,) = torch.autograd.grad(score.sum(), asked)
        score, about = score.detach(), self._about(request).repeat(len(score), 1)
        shown = asked.detach().flatten(0, 1), about, score.flatten(), slope.flatten(0, 1)
        critic.learn(*shown, remaining=1 - self.progress)
        return score + ((vectors - asked.detach()) * slope).sum(dim=(-1, -2))

    @torch.no_grad()
    def _predicted(self, observation: Observation, choices: Tensor) -> Tensor:
        """Returns what the critic expects of choices ``(starts, batch, slots)``, ``(starts, batch)``."""
        assert self.critic is not None
        about = self._about(self.policy.read(observation))
        return torch.stack([self.critic(self.problem.gather(observation, choice), about) for choice in choices])

    def _test(self) -> None:
        affordable = int(TEST_SHARE * self._total_timesteps) // (TEST_DRAWS + 1)
        requests = self.problem.sample(min(MOST_TESTED, max(2, affordable)), self.generator)
        self.mixture_error = mixture_error(self.problem, requests, TEST_DRAWS, self.generator)

    @property
    def _ordering_requests(self) -> int:
        """Requests that the order of the starts is decided by; 0 if there are too few."""
        if self.options.starts == 1:
            return 0
        requests = int(ORDER_SHARE * self._total_timesteps) // (KNOWN_STARTS + 1)
        return requests if requests >= FEWEST_ORDERED else 0

    def _orders_now(self) -> bool:
        return self._total_timesteps - self.num_timesteps <= self._ordering_requests * (KNOWN_STARTS + 1)

    def _order_starts(self) -> dict[str, float]:
        """Puts the starts into the order in which each adds most to the best of those before it."""
        policy, observation = self.policy, self.problem.sample(self._ordering_requests, self.generator)
        choices = torch.stack(list(islice(policy.starts(observation), KNOWN_STARTS + 1)))
        scores = torch.stack([self.problem.score(observation, choice) for choice in choices])
        order = greedy_order(scores)
        policy.network.noises.copy_(policy.network.noises[order - 1])
        if self.critic is not None:
            first = torch.cat([torch.tensor([0]), order])[: self.options.rank_starts]
            self.ranking = self._gain(scores[first], self._predicted(observation, choices[first]))
        return {"rollout/ep_rew_mean": mean_of(scores[0])}

    def _gain(self, scores: Tensor, predicted: Tensor) -> tuple[float, float]:
        """Returns what the best by prediction gains over the first start, ``(starts, requests)``, and the error."""
        gains = (scores.gather(0, predicted.argmax(dim=0, keepdim=True))[0] - scores[0]).double() / self.scale.unit
        return float(gains.mean()), float(gains.std()) / sqrt(len(gains))

    def _logits(self, request: Request, starts: int) -> Tensor:
        """Returns masked logits of each start, ``(starts, batch, slots, items)``."""
        network, requests, noise = self.policy.network, len(request.base), None
        if starts > 1:
            noise = torch.randn(starts, requests, network.start_dim, generator=self.generator)
            noise[0] = 0
            request, noise = request.repeated(starts), noise.flatten(0, 1)
        logits = masked_logits(network.think(request, noise).logits, request.mask)
        return logits.view(starts, requests, *logits.shape[1:])

    def _asked(self, observation: Observation, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits on the condition of what is asked, and the rows, with the gradient of their softmax."""
        if self.asks_mixtures:
            return logits, torch.softmax(logits, dim=-1)
        return drawn_rows(logits, self.policy.rules(observation), self.generator)

    def _weights(self, score: Tensor) -> Tensor:
        """Returns what each start's score ``(starts, batch)`` counts; the weights of a request have the mean 1."""
        starts = len(score)
        share = torch.softmax(score / (self.options.margin * self.scale.unit), dim=0)
        first = torch.zeros_like(score)
        first[0] = 1
        return starts * ((1 - self.options.keep) * share + self.options.keep * first)


def drawn_rows(logits: Tensor, rules: Rules | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws rows that pass the gradient of their softmax on.

    Args:
        logits: Masked logits, ``(..., batch, slots, items)``.
        rules: What the requests allow; None if slots are independent.
        generator: Source of the draws.

    Returns:
        The logits on the condition of the draws, and the one-hot rows, both in the logits' shape.
    """
    choice, conditional = Draws(generator, rules).draw(logits)
    p = torch.softmax(conditional, dim=-1)
    return conditional, one_hot(choice, p.shape[-1], p.dtype) + (p - p.detach())


def greedy_order(scores: Tensor) -> Tensor:
    """Orders starts so that each adds most to the mean of the requests' best scores among those before it.

    Args:
        scores: Tensor of shape ``(starts, requests)``; the first start stays the first.

    Returns:
        The numbers of the others in their order, ``(starts - 1,)``.
    """
    best, left, order = scores[0], list(range(1, len(scores))), []
    while left:
        gains = torch.maximum(scores[left], best).double().mean(dim=1)
        order.append(left.pop(int(gains.argmax())))
        best = torch.maximum(best, scores[order[-1]])
    return torch.tensor(order)
