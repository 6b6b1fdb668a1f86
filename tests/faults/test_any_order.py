"""Train, kill, stop, resume, damage, load, evaluate and answer in any order: right results, or one clear refusal."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from slot_rl import run_training
from slot_rl.checkpoints import CheckpointConfig
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import STRAY, read_json
from slot_rl.problems import Problem
from slot_rl.recommending import Recommender
from slot_rl.reevaluation import ReevaluationConfig, reevaluate
from slot_rl.resuming import ResumeConfig, resume_run
from slot_rl.runs import load
from slot_rl.training import RunConfig, train_run
from slot_rl.watching import EvaluationCallback
from tests.faults.conftest import Promise
from tests.helpers.logged_table import row_problem
from tests.helpers.small_agents import left_in, tiny

BATCH, UPDATES = 32, 12
SAVING = CheckpointConfig(checkpoint_minutes=0, checkpoint_steps=3 * BATCH)
AGENTS = ("gumbel", "ppo")
SEEDS = (0, 1)
updates = st.integers(0, UPDATES + 2)
STEPS = [0]


class Killed(BaseException):
    """Ends a training as a kill does."""


class Machine(RuleBasedStateMachine):
    """One run folder.

    Attributes:
        straight: What each agent and seed leaves that is never interrupted.
    """

    straight: dict[tuple[str, int], Any] = {}

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.run = self.home / "run"
        self.whole = True

    def teardown(self) -> None:
        shutil.rmtree(self.home)

    def _train(self, agent: str, seed: int, force: bool, out: Path | None = None) -> None:
        config = RunConfig(
            timesteps=UPDATES * BATCH,
            seed=seed,
            out=out or self.run,
            force=force,
            wandb="disabled",
            saving=SAVING,
            evaluation=EvaluationConfig(eval_size=3),
        )
        train_run(agent, config, tiny(agent), row_problem())

    def _ends(self, call: Callable[[], Any], killed: int = 0, stopped: int = 0) -> bool:
        """Runs a call; returns whether it ended well. A refusal is one line."""
        STEPS[0] += 1

        class Watching(EvaluationCallback):
            def _on_step(self) -> bool:
                if 0 < killed <= self.num_timesteps // BATCH:
                    raise Killed
                if stopped == self.num_timesteps // BATCH > 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super()._on_step()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(run_training, "EvaluationCallback", Watching)
            try:
                call()
            except Killed:
                return False
            except ValueError as refusal:
                assert "expected" in str(refusal) and "\n" not in str(refusal).strip()
                return False
        return True

    def _known(self, agent: str, seed: int) -> Any:
        if (agent, seed) not in self.straight:
            self._train(agent, seed, False, self.home / "straight")
            self.straight[agent, seed] = left_in(self.home / "straight")
            shutil.rmtree(self.home / "straight")
        return self.straight[agent, seed]

    @rule(
        agent=st.sampled_from(AGENTS), seed=st.sampled_from(SEEDS), force=st.booleans(), killed=updates, stopped=updates
    )
    def train(self, agent: str, seed: int, force: bool, killed: int, stopped: int) -> None:
        self._ends(lambda: self._train(agent, seed, force), killed, stopped)

    @rule(killed=updates, stopped=updates)
    def resume(self, killed: int, stopped: int) -> None:
        config = ResumeConfig(self.run, wandb="disabled", saving=SAVING)
        self._ends(lambda: resume_run(config, row_problem()), killed, stopped)

    @rule(place=st.integers(0, 10_000), newest=st.booleans())
    def damage(self, place: int, newest: bool) -> None:
        folders = sorted(self.run.glob("checkpoint-*")) if newest else [self.run / "checkpoint"]
        self.whole = False
        for path in [path for path in (folders or [self.run])[-1].glob("weights-*") if path.stat().st_size]:
            data = bytearray(path.read_bytes())
            data[place % len(data)] ^= 1 << place % 8
            path.write_bytes(bytes(data))

    @rule(fallback=st.booleans())
    def answer(self, fallback: bool) -> None:
        problem: Problem = row_problem()
        answers: list[Any] = []

        def ask() -> None:
            answers.append(Recommender(load(self.run, problem, fallback=fallback))({"where": "x"}))

        if self._ends(ask):
            assert set(answers[0]) >= {"a", "b", "c"}

    @rule()
    def evaluate(self) -> None:
        self._ends(lambda: reevaluate(ReevaluationConfig(self.run)))

    @invariant()
    def a_finished_run_is_the_straight_one(self) -> None:
        summary = self.run / "summary.json"
        if summary.is_file() and read_json(summary)["status"] == "finished" and self.whole:
            assert left_in(self.run) in [self._known(agent, seed) for agent in AGENTS for seed in SEEDS]
        assert not [*self.home.rglob(f".*{STRAY}")]


@pytest.mark.slow
def test_any_order(promise: Promise) -> None:
    STEPS[0] = 0
    quiet = settings(
        max_examples=40,
        stateful_step_count=12,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=quiet)
    promise("train, kill, stop, resume, damage, load, answer in any order", f"{STEPS[0]} steps, 0 wrong")
    assert STEPS[0] > 100
