"""Estimators that misbehave, at every door they come in by: refused when built, caught in the loop, or handled."""

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slot_rl.agents import AGENTS, GumbelAgent
from slot_rl.agents.base import changed
from slot_rl.envs import SlotVecEnv
from slot_rl.estimators.freezing import estimator_name
from slot_rl.problems import BadScore, FaultyEstimator, NonFiniteScore, Problem, SlotProblem, make_problem
from slot_rl.seeding import generator_from
from slot_rl.selectors.categorical import one_hot
from tests.faults import misbehaving
from tests.faults.conftest import Promise

FOLDER = Path(__file__).parent
FILE = """
import torch
from torch import nn

import misbehaving
from slot_rl import SlotProblem
from slot_rl.estimators import RowEstimator
from slot_rl.estimators.encoding import TableEncoding


def problem():
    return SlotProblem(misbehaving.{name}(), 4, 8, 1)


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables, self.score = nn.ModuleList(nn.Embedding(8, 1) for _ in range(4)), misbehaving.{name}()

    def forward(self, features):
        return self.score(torch.stack([table(features[:, i]) for i, table in enumerate(self.tables)], dim=1))


def rows():
    names = tuple("abcdefgh")
    return RowEstimator(Rows(), TableEncoding("y", {{"p": names, "q": names, "r": names, "s": names}}, {{}}))
"""


class Untried(SlotProblem):
    """A kind of problem of a user who tries nothing out."""

    def try_out(self) -> None:
        """Does nothing."""


def from_python(name: str, folder: Path) -> Problem:
    return SlotProblem(getattr(misbehaving, name)(), 4, 8, 1)


def untried(name: str, folder: Path) -> Problem:
    return Untried(getattr(misbehaving, name)(), 4, 8, 1)


def by_estimator_flag(name: str, folder: Path) -> Problem:
    return make_problem("SlotRL/PickValue-v0", f"{folder / 'misbehaving.py'}:{name}", trust=True)


def by_problem_flag(name: str, folder: Path) -> Problem:
    return make_problem(f"{folder / 'mine.py'}:problem", trust=True)


def by_rows(name: str, folder: Path) -> Problem:
    return make_problem("SlotRL/Rows-v0", f"{folder / 'mine.py'}:rows", trust=True)


DOORS = {
    "SlotProblem(estimator)": from_python,
    "a Problem that tries nothing": untried,
    "--estimator FILE:NAME": by_estimator_flag,
    "--problem FILE:NAME": by_problem_flag,
    "--env Rows-v0 --estimator FILE:NAME": by_rows,
}
Errors = type[Exception] | tuple[type[Exception], ...]
ERRORS: Errors = (ValueError, TypeError, BadScore)
CAUGHT: dict[str, tuple[Errors, str]] = {
    "nan_once": (
        NonFiniteScore,
        "expected finite scores from the estimator, got 1 of 64 NaN or infinite, first",
    ),
    "infinite_once": (
        NonFiniteScore,
        "expected finite scores from the estimator, got 1 of 64 NaN or infinite, first",
    ),
    "scalar": (ERRORS, r"scores of shape .*, got torch.float32 \(\)|got \(\)"),
    "two_columns": (ERRORS, r"scores of shape .*, got torch.float32 \(\d+, 2\)|got \(\d, 2\)"),
    "two_columns_later": (ERRORS, r"scores of shape .*, got torch.float32 \(64, 2\)|got \(64, 2\)"),
    "too_few_later": (ERRORS, r"scores of shape .*, got torch.float32 \(63,\)|got \(63,\)"),
    "whole_numbers": (ERRORS, r"scores of shape .*, got torch.int64|float tensor from Rows, got torch.int64"),
    "numbers": (ERRORS, r"scores of shape .*, got list|float tensor from Rows, got list"),
    "numbers_later": (ERRORS, r"scores of shape .*, got list|float tensor from Rows, got list"),
    "other_device": (
        ERRORS,
        r"(scores of shape .*|float tensor from Rows), got torch.float32 .* on meta",
    ),
    "raises": (ERRORS, "got RuntimeError at misbehaving.py:\\d+: no weights"),
    "raises_later": (BadScore, "got KeyError at misbehaving.py:\\d+: 'no such row'"),
    "backward_raises": (ERRORS, "got NotImplementedError.*: no backward"),
    "backward_raises_later": (
        BadScore,
        "a gradient from .*, got NotImplementedError at misbehaving.py:.* no backward",
    ),
    "noise": (ERRORS, "expected the same score"),
    "noise_later": (FaultyEstimator, "expected the same score for the same row from"),
    "drift": (FaultyEstimator, "expected the same score for the same row from"),
    "training_mode": (ERRORS, "expected the same score"),
    "by_the_batch": (ERRORS, "expected the same score"),
    "by_the_batch_later": (FaultyEstimator, "expected the same score for the same row from"),
    "in_place": (ERRORS, "leave its input as it is, got items changed in place"),
    "in_place_by_numpy_later": (FaultyEstimator, "leave its input as it is, got items changed in place|the same score"),
    "in_place_by_numpy": (ERRORS, "leave its input as it is, got items changed in place|the same score"),
    "in_place_later": (ERRORS, "leave its input as it is, got items changed in place"),
    "huge": (BadScore, r"scores of at most 1e\+15 in size from the estimator \(divide them\), got \d+ of 64 larger"),
    "huge_slope": (BadScore, r"gradients of at most 1e\+15 in size from the estimator \(divide them\), got \d+ of 64"),
    "by_class": (ERRORS, "to use frozen modules, got a Net that is not"),
}
"""What each is caught with, when built or in the loop."""
HANDLED = [
    "good",
    "column_later",
    "double",
    "constant",
    "trainable",
    "module",
    *(name for name in vars(misbehaving) if name.startswith("by_") and name not in CAUGHT),
]
"""What is as good as one that behaves well."""


def loop(problem: Problem) -> Tensor:
    """Scores as a training does; returns the scores."""
    generator, scores = generator_from(0), []
    for turn in range(250):
        observation = problem.sample(64, generator)
        choice = torch.randint(problem.items, (64, problem.slots), generator=generator)
        scores.append(problem.score(observation, choice))
        if turn % 10 == 0:
            rows = one_hot(choice, problem.items, torch.float32).requires_grad_()
            score = problem.score_selection(observation, rows)
            with problem.backward_errors_named():
                score.sum().backward()
            scores.append(score.detach())
    return torch.stack(scores)


def outcome(name: str, build: Callable[[str, Path], Problem], folder: Path) -> str:
    """Returns how a misbehaving estimator was met, or what is wrong with that."""
    shutil.copy(FOLDER / "misbehaving.py", folder)
    (folder / "mine.py").write_text(FILE.format(name=name))
    errors, message = CAUGHT.get(name, (ERRORS, "to use frozen modules, got a (Net|Parameter) that is not"))
    known = "Rows" if build is by_rows else estimator_name(getattr(misbehaving, name)()).partition(":")[0]
    try:
        loop(build(name, folder))
    except Exception as error:
        said = str(error)
        if not isinstance(error, errors) or re.search(message, said) is None or known not in said or "\n" in said:
            return f"{type(error).__name__}: {said}"
        if isinstance(error, BadScore) and not (len(error.rows) and len(error.observation)):
            return f"no batch with {said}"
        return "caught" if name in CAUGHT or build is by_rows else said
    # Look-ups in nn.Embedding are the module's own, to be changed as it likes.
    return "handled" if name in HANDLED or (build is by_rows and name.startswith("in_place")) else "not caught"


@pytest.mark.slow
def test_every_misbehaviour_is_met_at_every_door(tmp_path: Path, promise: Promise) -> None:
    before = copy.deepcopy(misbehaving.NET.state_dict())
    found = {}
    for number, (door, build) in enumerate(DOORS.items()):
        for name in [*CAUGHT, *HANDLED]:
            folder = tmp_path / f"{number}-{name}"
            folder.mkdir()
            found[f"{name} by {door}"] = outcome(name, build, folder)
    well = sum(each in ("caught", "handled") for each in found.values())
    promise("misbehaving estimators refused, caught with their batch, or handled, by doors", f"{well} of {len(found)}")
    wrong = {pair: each for pair, each in found.items() if each not in ("caught", "handled")}
    assert not wrong, "\n".join(f"{pair}: {each}" for pair, each in wrong.items())
    assert {found[f"good by {door}"] for door in DOORS} == {"handled"}
    assert misbehaving.NET.training and all(part.requires_grad for part in misbehaving.NET.parameters())
    assert all(part.grad is None for part in misbehaving.NET.parameters())
    assert all(torch.equal(part, before[key]) for key, part in misbehaving.NET.state_dict().items())


@pytest.mark.slow
def test_no_agent_learns_from_what_is_caught(promise: Promise) -> None:
    learned, tried, small = [], 0, changed(AGENTS["gumbel"].options, {"batch_size": 64})
    for name in CAUGHT:
        try:
            agent = GumbelAgent(SlotVecEnv(from_python(name, FOLDER), 64), small)
        except ValueError:
            continue
        tried += 1
        try:
            learned.append(name) if agent.learn(20_000) else None
        except BadScore:
            assert agent.policy is not None
            weights = nn.utils.parameters_to_vector(agent.policy.parameters())
            learned += [] if bool(weights.isfinite().all()) else [name]
    promise("trainings that such an estimator stops, with finite weights", f"{tried - len(learned)} of {tried}")
    assert not learned and tried


@pytest.mark.parametrize("name", [name for name in HANDLED if name not in ("good", "module", "constant")])
def test_what_is_handled_scores_as_the_well_behaved_do(name: str) -> None:
    expected = from_python("module" if name.startswith("by_") else "good", FOLDER)
    assert torch.allclose(loop(from_python(name, FOLDER)).float(), loop(expected), atol=1e-5)
