"""A killed or stopped training that is resumed leaves the files of one that was never interrupted."""

import itertools
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slot_rl import run_training, watching
from slot_rl.agents.base import MANIFEST
from slot_rl.checkpoints import KEPT, TRAINING, CheckpointConfig, newest_checkpoint
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import BundleError, read_json, write_json
from slot_rl.problems import SlotProblem
from slot_rl.problems.truths import pick_value
from slot_rl.reevaluation import ReevaluationConfig, reevaluate
from slot_rl.resuming import ResumeConfig, resume_run
from slot_rl.runs import load
from slot_rl.training import RunConfig, train_run
from slot_rl.watching import EvaluationCallback
from tests.conftest import ROOT, Command
from tests.helpers.logged_table import ROWS, row_problem, write_log
from tests.helpers.options import POLICY_AGENTS
from tests.helpers.small_agents import left_in, tiny

BATCH, BUDGET = 32, 32 * 40
SCRIPT = ROOT / "scripts" / "train_agent.py"


class Killed(BaseException):
    """Ends a training as a kill does: nothing is written any more."""


def config(out: Path, timesteps: int = BUDGET, **changes: Any) -> RunConfig:
    saving = CheckpointConfig(checkpoint_minutes=0, checkpoint_steps=300)
    given = {"wandb": "disabled", "saving": saving, "evaluation": EvaluationConfig(eval_size=3), **changes}
    return RunConfig(timesteps=timesteps, seed=5, out=out, **given)


def options(name: str, home: Path) -> Any:
    logged = {"logged": write_log(home / "log.csv")} if name in ("reproduction", "aligned") else {}
    return tiny(name, **logged)


def train(name: str, out: Path, **changes: Any) -> None:
    timesteps = BUDGET + (2 * ROWS if name in ("reproduction", "aligned") else 0)
    train_run(name, config(out, timesteps, **changes), options(name, out.parent), row_problem())


def resume(out: Path) -> dict[str, Any]:
    saving = CheckpointConfig(checkpoint_minutes=0, checkpoint_steps=300)
    return resume_run(ResumeConfig(out, wandb="disabled", saving=saving), row_problem())[2]


def found(run: Path) -> dict[str, Any]:
    """Returns what a run left, and the names of its checkpoints."""
    return {**left_in(run), "checkpoints": sorted(path.name for path in run.glob("checkpoint-*"))}


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function after which a training is killed at so many calls; 0 lets it live."""

    def at(calls: int) -> None:
        class Killing(EvaluationCallback):
            def _on_step(self) -> bool:
                if 0 < calls <= self.num_timesteps:
                    raise Killed
                return super()._on_step()

        monkeypatch.setattr(run_training, "EvaluationCallback", Killing)

    return at


def left_after(name: str, home: Path, killed: Callable[[int], None], cuts: list[int]) -> dict[str, Any]:
    """Returns what a training left that was killed at some points and resumed each time."""
    for cut in cuts:
        killed(cut)
        with pytest.raises(Killed):
            train(name, home / "cut") if cut == cuts[0] else resume(home / "cut")
        assert not (home / "cut" / "summary.json").exists()
    killed(0)
    assert resume(home / "cut")["status"] == "finished"
    return found(home / "cut")


@pytest.mark.parametrize("name", ["gumbel", "ppo", "learned_critic"])
def test_a_resumed_run_is_the_straight_one(name: str, tmp_path: Path, killed: Callable[[int], None]) -> None:
    train(name, tmp_path / "straight")
    assert left_after(name, tmp_path, killed, [700]) == found(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICY_AGENTS)
def test_killed_three_times_every_run_is_the_straight_one(
    name: str, tmp_path: Path, killed: Callable[[int], None]
) -> None:
    train(name, tmp_path / "straight")
    assert left_after(name, tmp_path, killed, [430, 850, 1_240]) == found(tmp_path / "straight")


def test_each_field_of_the_training_is_needed(
    tmp_path: Path, killed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An evaluation in every tenth update, logged every fourth: its figures wait in the checkpoint at 320 calls.
    monkeypatch.setattr(watching, "EVALUATIONS", 4)
    monkeypatch.setattr(run_training, "LOG_POINTS", 10)
    train("gumbel", tmp_path / "straight")
    killed(590)
    with pytest.raises(Killed):
        train("gumbel", tmp_path / "cut")
    killed(0)
    newest = newest_checkpoint(tmp_path / "cut", print)
    assert newest is not None and "eval/score" in newest.training["pending"]
    for field in newest.training.keys() - {"manifest", "skipped"}:
        shutil.copytree(tmp_path / "cut", tmp_path / field)
        document: dict[str, Any] = read_json(newest.folder / TRAINING)
        # Of the same kind, so that it is read.
        document[field] = {"watch": {**document["watch"], "next": 0}, "pending": {}, "metrics_lines": 1}.get(
            field, {"forwards": 0, "backwards": 0}
        )
        write_json(tmp_path / field / newest.folder.name / TRAINING, document)
        resume(tmp_path / field)
        assert found(tmp_path / field) != found(tmp_path / "straight"), field


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(EvaluationCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 20 * BATCH:
                os.kill(os.getpid(), signal.SIGTERM)
            return super()._on_step()

    for name in ("gumbel", "ppo"):
        (home := tmp_path / name).mkdir()
        train(name, home / "straight")
        with monkeypatch.context() as patched:
            patched.setattr(run_training, "EvaluationCallback", Stopping)
            train(name, home / "stopped")
        summary = read_json(home / "stopped" / "summary.json")
        assert (summary["status"], summary["timesteps"]) == ("terminated", 20 * BATCH)
        assert resume(home / "stopped")["status"] == "finished"
        for run in (straight := found(home / "straight")), (resumed := found(home / "stopped")):
            del run["checkpoints"]
        assert resumed == straight


def test_a_damaged_checkpoint_is_left_out(
    tmp_path: Path, killed: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    train("gumbel", tmp_path / "straight")
    killed(1_000)
    with pytest.raises(Killed):
        train("gumbel", tmp_path / "cut")
    killed(0)
    *_, older, newest = sorted((tmp_path / "cut").glob("checkpoint-*"))
    (weights,) = newest.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    capsys.readouterr()
    resume(tmp_path / "cut")
    output = capsys.readouterr().out
    assert f"left out: expected {weights}" in output and f"goes on from {older}" in output
    assert found(tmp_path / "cut") == found(tmp_path / "straight")


def test_documents_of_two_checkpoints_are_left_out(tmp_path: Path, killed: Callable[[int], None]) -> None:
    killed(1_000)
    with pytest.raises(Killed):
        train("gumbel", tmp_path / "run")
    oldest, _, newest = sorted((tmp_path / "run").glob("checkpoint-*"))
    shutil.copy(oldest / TRAINING, newest / TRAINING)
    said: list[str] = []
    kept = newest_checkpoint(tmp_path / "run", said.append)
    assert kept is not None and kept.folder not in (oldest, newest)
    assert f"{TRAINING} and {MANIFEST} of one checkpoint in {newest}" in said[0]


def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path, killed: Callable[[int], None]) -> None:
    train("gumbel", tmp_path / "straight")
    killed(100)
    with pytest.raises(Killed):
        train("gumbel", tmp_path / "cut")
    killed(0)
    resume(tmp_path / "cut")
    assert found(tmp_path / "cut") == found(tmp_path / "straight")


def test_the_newest_checkpoints_are_kept_and_strays_swept(tmp_path: Path, killed: Callable[[int], None]) -> None:
    out = tmp_path / "run"
    killed(1_200)
    with pytest.raises(Killed):
        train("gumbel", out)
    assert len(list(out.glob("checkpoint-*"))) == KEPT
    stray = out / f".checkpoint-000000000128.{'0' * 16}.tmp"
    stray.mkdir()
    (stray / MANIFEST).write_text("{")
    killed(0)
    resume(out)
    assert not stray.exists()


def test_a_folder_that_is_replaced_while_it_goes_on_is_noticed(
    tmp_path: Path, killed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    killed(1_000)
    with pytest.raises(Killed):
        train("gumbel", out)

    class Replacing(EvaluationCallback):
        def _on_training_start(self) -> None:
            shutil.copytree(out, tmp_path / "copy")
            out.rename(tmp_path / "moved")
            (tmp_path / "copy").rename(out)

    monkeypatch.setattr(run_training, "EvaluationCallback", Replacing)
    with pytest.raises(ValueError, match=r"expected .*run as this command made it, got another folder"):
        resume(out)


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a run folder with config.json"):
        resume(tmp_path)
    train("gumbel", tmp_path / "run")
    with pytest.raises(ValueError, match="expected a run that has not finished, got .*run, which has"):
        resume(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    document = read_json(tmp_path / "run" / "config.json")
    write_json(tmp_path / "run" / "config.json", {key: value for key, value in document.items() if key != "budget"})
    with pytest.raises(ValueError, match=r"expected config.json in .* as it was written, got one without budget"):
        resume(tmp_path / "run")


def test_an_unfinished_run_answers_from_its_newest_checkpoint(
    tmp_path: Path, killed: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    killed(1_000)
    with pytest.raises(Killed):
        train_run("gumbel", config(out, env="SlotRL/PickValue-v0"), options("gumbel", tmp_path))
    newest = sorted(out.glob("checkpoint-*"))[-1].name
    for evaluate in (lambda: reevaluate(ReevaluationConfig(out)), lambda: load(out)):
        with pytest.raises(ValueError, match=f"--fallback takes {newest}, slot-rl train --resume goes on|that ended"):
            evaluate()
    assert reevaluate(ReevaluationConfig(out, fallback=True))["status"] == "unfinished"
    assert f"took {out / newest}" in capsys.readouterr().out
    assert load(out, fallback=True).agent.num_timesteps == int(newest.removeprefix("checkpoint-"))
    shutil.rmtree(out / newest)
    assert load(out, fallback=True).agent.num_timesteps < int(newest.removeprefix("checkpoint-"))


def test_a_damaged_last_checkpoint_can_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_run("gumbel", config(out, env="SlotRL/PickValue-v0"), options("gumbel", tmp_path))
    (weights,) = (out / "checkpoint").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="altered; --fallback takes checkpoint-"):
        load(out)
    run = load(out, fallback=True)
    assert run.summary["status"] == "finished" and 1_000 < run.agent.num_timesteps < run.summary["timesteps"]


@pytest.mark.parametrize("changes", [{"checkpoint_minutes": -1}, {"checkpoint_steps": 0}])
def test_useless_intervals_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected checkpoint_minutes >= 0 and checkpoint_steps >= 1"):
        CheckpointConfig(**changes)


def test_the_command_resumes(tmp_path: Path, script: Command, killed: Callable[[int], None]) -> None:
    out = tmp_path / "run"
    flags = ["--env", "SlotRL/PickValue-v0", "--timesteps", 2000, "--eval-size", 3, "--width", 8, "--wandb", "disabled"]
    killed(1_000)
    with pytest.raises(Killed):
        script(SCRIPT, *flags, "--out", out, "--checkpoint-steps", 500)
    killed(0)
    assert script(SCRIPT, *flags, "--out", out)[0] == 2
    code, output, errors = script(SCRIPT, "--resume", out, "--wandb", "disabled")
    assert code == 0, errors
    assert "goes on from" in output and f"run: {out}" in output
    code, _, errors = script(SCRIPT, "--resume", out, "--agent", "ppo")
    assert code == 2 and "--agent" in errors
    code, _, errors = script(SCRIPT, "--resume", tmp_path / "nowhere")
    assert code == 2 and "expected a run folder" in errors


class RaisingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: torch.Tensor) -> torch.Tensor:
        return score.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise MemoryError("too large a batch")


def raised(score: torch.Tensor) -> torch.Tensor:
    raise TimeoutError("no answer")


FAULTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "expected finite": lambda score: score * torch.nan,
    "got TimeoutError at test_resuming.py:.*: no answer": raised,
    "expected scores of at most": lambda score: score - 1e30,
    r"got torch.float32 \(\d+,\)": lambda score: score[1:],
    "got MemoryError at test_resuming.py:.*: too large a batch": lambda score: RaisingBackward.apply(score),  # type: ignore[no-untyped-call]
}


def breaks(fault: Callable[[torch.Tensor], torch.Tensor]) -> SlotProblem:
    """Has an estimator with a fault where an item is above .999."""

    def score(vectors: torch.Tensor) -> torch.Tensor:
        found = pick_value(vectors)
        return fault(found) if bool((vectors > 0.999).any()) else found

    return SlotProblem(score, 4, 8, 1, lambda shape, g: torch.rand(shape, generator=g), name="breaks")


@pytest.mark.parametrize(
    ("name", "message"),
    [("gumbel", message) for message in FAULTS]
    + [(name, message) for name in ("ppo", "learned_critic") for message in [*FAULTS][:2]],
)
def test_bad_batches_can_be_skipped(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = breaks(FAULTS[message])
    settings = config(tmp_path / "run", 2_500, on_bad_score="skip")
    summary = train_run(name, settings, options(name, tmp_path), problem)[2]
    assert summary["status"] == "finished" and summary["timesteps"] >= 2_500
    assert 1 <= summary["skipped_batches"] < 60
    assert re.search(f"skipped a batch: .*{message}", capsys.readouterr().out.replace("\n", " "))
    assert (tmp_path / "run" / "bad_batch.safetensors").is_file()


def test_an_estimator_of_no_use_is_not_skipped(tmp_path: Path) -> None:
    calls = itertools.count()
    problem = SlotProblem(lambda vectors: pick_value(vectors) + (next(calls) > 20), 4, 8, 1)
    with pytest.raises(ValueError, match="expected the same score for the same row"):
        train_run("gumbel", config(tmp_path / "run", 60_000, on_bad_score="skip"), options("gumbel", tmp_path), problem)


def test_an_estimator_that_is_always_bad_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = False

    def score(vectors: torch.Tensor) -> torch.Tensor:
        return pick_value(vectors) + (torch.nan if broken and vectors.shape[-3] == BATCH else 0)

    class Breaking(EvaluationCallback):
        def _on_step(self) -> bool:
            nonlocal broken
            broken = self.num_timesteps >= 10 * BATCH
            return super()._on_step()

    monkeypatch.setattr(run_training, "EvaluationCallback", Breaking)
    problem = SlotProblem(score, 4, 8, 1, lambda shape, g: torch.rand(shape, generator=g), name="breaks")
    with pytest.raises(ValueError, match="expected finite scores from the estimator.*the weights before it in"):
        train_run("gumbel", config(tmp_path / "run", on_bad_score="skip"), options("gumbel", tmp_path), problem)
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "failed"
