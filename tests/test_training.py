"""A whole run: what it leaves on disk, that it repeats itself, that it stops well, and that it refuses bad input."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from stable_baselines3.common.callbacks import BaseCallback

from slot_rl import run_training, training
from slot_rl.agents import GumbelAgent, base, load_agent
from slot_rl.agents.base import changed
from slot_rl.agents.learning_options import LearningOptions
from slot_rl.agents.ppo import PPOOptions
from slot_rl.agents.reinforce import ReinforceOptions
from slot_rl.checkpoints import CheckpointConfig
from slot_rl.console import run as run_command
from slot_rl.envs import SlotVecEnv
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import read_json, write_bundle
from slot_rl.metrics_file import read_metrics
from slot_rl.networks import PointerSize
from slot_rl.problems import SlotProblem
from slot_rl.problems.truths import pick_value
from slot_rl.recommending import Recommender
from slot_rl.reevaluation import ReevaluationConfig, reevaluate
from slot_rl.runs import load
from slot_rl.seeding import generator_from
from slot_rl.training import RunConfig, train_run
from slot_rl.watching import EvaluationCallback
from tests.conftest import ROOT, Command

SCRIPTS = ROOT / "scripts"
SMALL = PointerSize(width=16, hidden=32)
OPTIONS: dict[str, LearningOptions] = {
    "gumbel": changed(GumbelAgent.default_options, {"batch_size": 64, "policy": SMALL}),
    "reinforce": ReinforceOptions(batch_size=64, policy=SMALL),
    "ppo": PPOOptions(batch_size=128, minibatch_size=64, policy=SMALL),
}
SUMMARY_KEYS = """agent env seed timesteps estimator_forwards estimator_backwards wall_seconds score random_score
best_score best_is_exact optimality hit_rate true_score true_optimality policy_parameters device status""".split()


def config(out: Path, **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "env": "SlotRL/PickValue-v0",
        "timesteps": 2_000,
        "out": out,
        "wandb": "disabled",
        "evaluation": EvaluationConfig(eval_size=40),
    }
    return RunConfig(**(settings | changes))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return read_metrics(folder / "metrics.jsonl")


def without_time(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in point.items() if not key.startswith("time/")} for point in points]


@pytest.mark.parametrize("agent", sorted(OPTIONS))
def test_a_run_folder_holds_what_the_contract_names(agent: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train_run(agent, config(out), OPTIONS[agent])[2]["status"] == "finished"
    assert {p.name for p in out.iterdir()} == {
        "checkpoint",
        "config.json",
        "learning_curve.png",
        "metrics.jsonl",
        "summary.json",
    }
    summary = read_json(out / "summary.json")
    assert set(SUMMARY_KEYS) <= set(summary)
    assert (summary["agent"], summary["env"], summary["status"]) == (agent, "SlotRL/PickValue-v0", "finished")
    assert summary["estimator_forwards"] == summary["timesteps"] >= 2_000
    assert summary["true_score"] == pytest.approx(summary["score"])
    share = (summary["score"] - summary["random_score"]) / (summary["best_score"] - summary["random_score"])
    assert summary["optimality"] == pytest.approx(share)
    points = metrics(out)
    assert all(next(iter(point)) == "global_step" for point in points)
    assert [p["global_step"] for p in points] == sorted(p["global_step"] for p in points)
    keys = set().union(*points)
    assert {"eval/score", "eval/optimality", "eval/hit_rate", "eval/true_score", "budget/forwards"} <= keys
    assert {"rollout/ep_rew_mean", "train/loss", "time/fps", "budget/backwards"} <= keys
    assert points[-1]["eval/score"] == summary["score"]
    assert (out / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("agent", sorted(OPTIONS))
def test_the_same_seed_gives_the_same_metrics(agent: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        train_run(agent, config(tmp_path / name), OPTIONS[agent])
    first, second = (without_time(metrics(tmp_path / name)) for name in ("first", "second"))
    assert first == second
    train_run(agent, config(tmp_path / "other", seed=1), OPTIONS[agent])
    assert first != without_time(metrics(tmp_path / "other"))
    summary = read_json(tmp_path / "first" / "summary.json")
    assert reevaluate(ReevaluationConfig(tmp_path / "first")) == summary


def test_time_stands_in_keys_of_its_own(tmp_path: Path) -> None:
    train_run("gumbel", config(tmp_path / "run"), OPTIONS["gumbel"])
    seconds = {key for point in metrics(tmp_path / "run") for key in point if "time" in key or "fps" in key}
    assert seconds == {"time/fps", "time/time_elapsed", "time/training_seconds"}


def test_an_existing_run_is_not_overwritten_without_force(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_run("gumbel", config(out), OPTIONS["gumbel"])
    before = (out / "summary.json").read_bytes()
    with pytest.raises(ValueError, match=r"expected a new folder for --out, got .*--force"):
        train_run("gumbel", config(out, seed=1), OPTIONS["gumbel"])
    assert (out / "summary.json").read_bytes() == before
    train_run("gumbel", config(out, seed=1, force=True), OPTIONS["gumbel"])
    assert read_json(out / "summary.json")["seed"] == 1


def test_force_never_deletes_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"expected --force to replace a folder with config.json"):
        train_run("gumbel", config(tmp_path, force=True), OPTIONS["gumbel"])
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_bad_input_with_force_leaves_the_earlier_run_whole(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_run("gumbel", config(out), OPTIONS["gumbel"])
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="expected estimator=FOLDER"):
        train_run("gumbel", config(out, env="SlotRL/Rows-v0", force=True), OPTIONS["gumbel"])
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_run_that_cannot_start_leaves_the_earlier_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    train_run("gumbel", config(out), OPTIONS["gumbel"])
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def refuse(*arguments: object) -> None:
        raise ValueError("expected a place for metrics, got none")

    monkeypatch.setattr(training, "Tracker", refuse)
    with pytest.raises(ValueError, match="a place for metrics"):
        train_run("gumbel", config(out, force=True), OPTIONS["gumbel"])
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    with pytest.raises(ValueError, match="a place for metrics"):
        train_run("gumbel", config(tmp_path / "other"), OPTIONS["gumbel"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_nan_score_stops_the_run_and_saves_the_batch(tmp_path: Path) -> None:
    def breaks_rarely(vectors: torch.Tensor) -> torch.Tensor:
        score = pick_value(vectors)
        return torch.where((vectors > 0.9995).any(dim=-1).any(dim=-1), torch.nan, score)

    problem = SlotProblem(breaks_rarely, 4, 8, 1, lambda shape, g: torch.rand(shape, generator=g), name="breaks")
    out = tmp_path / "run"
    settings = config(out, timesteps=100_000, evaluation=EvaluationConfig(eval_size=2))
    with pytest.raises(ValueError, match=r"expected finite scores from the estimator, got \d+ of 64 NaN.*bad_batch"):
        train_run("gumbel", settings, OPTIONS["gumbel"], problem)
    assert {p.name for p in out.iterdir()} == {"bad_batch.safetensors", "config.json", "metrics.jsonl"}
    batch = safetensors.torch.load_file(out / "bad_batch.safetensors")
    bad = batch["score"].isnan()
    assert bad.any()
    assert (batch["candidates"][bad] > 0.9995).flatten(1).any(dim=1).all()


class Failing(EvaluationCallback):
    """Lets the estimator of :func:`failing_problem` fail after a few updates."""

    now = False

    def _on_training_start(self) -> None:
        Failing.now = False

    def _on_step(self) -> bool:
        Failing.now = self.num_timesteps >= 640
        return super()._on_step()


def failing_problem(monkeypatch: pytest.MonkeyPatch, failure: Callable[[], torch.Tensor]) -> SlotProblem:
    def score(vectors: torch.Tensor) -> torch.Tensor:
        # An evaluation does not fail: it asks with fewer requests.
        return pick_value(vectors) + (failure() if Failing.now and vectors.shape[-3] == 64 else 0)

    monkeypatch.setattr(run_training, "EvaluationCallback", Failing)
    monkeypatch.setattr(Failing, "now", False)
    return SlotProblem(score, 4, 8, 1, lambda shape, g: torch.rand(shape, generator=g), name="fails")


def lost() -> torch.Tensor:
    raise RuntimeError("connection lost")


@pytest.mark.parametrize(
    ("failure", "error"), [(lost, "connection lost"), (lambda: torch.tensor(torch.nan), "the weights before it in")]
)
def test_a_failure_leaves_the_weights_before_it(
    failure: Callable[[], torch.Tensor], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, problem = tmp_path / "run", failing_problem(monkeypatch, failure)
    train_run("gumbel", config(out), OPTIONS["gumbel"], SlotProblem(pick_value, 4, 8, 1, name="fails"))
    settings = config(out, timesteps=100_000, force=True, evaluation=EvaluationConfig(eval_size=2))
    with pytest.raises((RuntimeError, ValueError), match=error):
        train_run("gumbel", settings, OPTIONS["gumbel"], problem)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    failed = load(out, problem)
    assert failed.summary["status"] == "failed" and failed.summary["timesteps"] == failed.agent.num_timesteps >= 640
    assert failed.agent.choose(problem.sample(3, generator_from(0))).shape == (3, 4)


def test_a_failure_before_any_update_keeps_the_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, problem = tmp_path / "run", failing_problem(monkeypatch, lambda: torch.tensor(torch.nan))
    train_run("gumbel", config(out), OPTIONS["gumbel"], SlotProblem(pick_value, 4, 8, 1, name="fails"))
    before = (out / "summary.json").read_bytes()
    monkeypatch.setattr(Failing, "_on_training_start", lambda self: setattr(Failing, "now", True))
    with pytest.raises(ValueError, match=r"no weights were written; this is in .*run\.failed"):
        train_run("gumbel", config(out, force=True), OPTIONS["gumbel"], problem)
    assert (out / "summary.json").read_bytes() == before
    assert (tmp_path / "run.failed" / "bad_batch.safetensors").is_file()


def refusing(*arguments: object) -> None:
    raise OSError("no space left")


def test_a_checkpoint_that_cannot_be_written_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_training, "write_checkpoint", refusing)
    saving = CheckpointConfig(checkpoint_minutes=0, checkpoint_steps=1_000)
    assert train_run("gumbel", config(tmp_path / "run", saving=saving), OPTIONS["gumbel"])[2]["status"] == "finished"
    warning = "warning: no checkpoint was written (no space left); the training goes on"
    assert capsys.readouterr().out.count(warning) == 1
    assert load(tmp_path / "run").agent.num_timesteps >= 2_000


@pytest.mark.parametrize("full", [False, True])
def test_weights_that_the_run_does_not_take_are_elsewhere(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_elsewhere(folder: Path, *arguments: Any) -> None:
        if full or folder.is_relative_to(tmp_path / "run"):
            refusing()
        write_bundle(folder, *arguments)

    (tmp_path / "spare").mkdir()
    monkeypatch.setattr(base, "write_bundle", only_elsewhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spare"))
    message = "no space left$" if full else "no space left; the trained weights are in "
    with pytest.raises(OSError, match=message) as end:
        train_run("gumbel", config(tmp_path / "run"), OPTIONS["gumbel"])
    (*places,) = (tmp_path / "spare").iterdir()
    assert len(places) == (0 if full else 1)
    if not full:
        (place,) = places
        assert str(end.value).endswith(str(place / "checkpoint"))
        assert read_json(place / "config.json") == read_json(tmp_path / "run" / "config.json")
        assert load_agent(place / "checkpoint", SlotVecEnv("SlotRL/PickValue-v0", 2)).num_timesteps >= 2_000
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_failed_run_is_evaluated_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Raising(EvaluationCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps >= 640:
                raise RuntimeError("the log is lost")
            return super()._on_step()

    monkeypatch.setattr(run_training, "EvaluationCallback", Raising)
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="the log is lost"):
        train_run("gumbel", config(out, timesteps=100_000), OPTIONS["gumbel"])
    assert reevaluate(ReevaluationConfig(out))["status"] == "failed"
    assert Recommender.load(out).run.agent.num_timesteps >= 640


def test_a_second_ctrl_c_leaves_the_weights_of_that_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_now() -> torch.Tensor:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return torch.zeros(())

    out, problem = tmp_path / "run", failing_problem(monkeypatch, stop_now)
    with pytest.raises(KeyboardInterrupt):
        train_run("gumbel", config(out, timesteps=100_000), OPTIONS["gumbel"], problem)
    assert load(out, problem).summary["failure"].startswith("KeyboardInterrupt")


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_every_command_ends_at_a_signal_with_its_code(
    stop: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run_command(lambda: os.kill(os.getpid(), stop)) == code
    assert capsys.readouterr().err.strip() == ("interrupted" if code == 130 else "terminated")
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_leaves_a_whole_checkpoint_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(EvaluationCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps >= 640:
                os.kill(os.getpid(), signal.SIGINT)
            return super()._on_step()

    monkeypatch.setattr(run_training, "EvaluationCallback", Interrupting)
    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "run"
    assert train_run("gumbel", config(out, timesteps=100_000), OPTIONS["gumbel"])[2]["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before
    summary = read_json(out / "summary.json")
    assert (summary["status"], summary["timesteps"]) == ("interrupted", 640)
    assert reevaluate(ReevaluationConfig(out))["score"] == summary["score"]


def test_evaluating_refuses_what_is_no_whole_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a run folder with config.json"):
        reevaluate(ReevaluationConfig(tmp_path))
    out = tmp_path / "run"
    train_run("gumbel", config(out), OPTIONS["gumbel"])
    (weights,) = (out / "checkpoint").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="the file was altered"):
        reevaluate(ReevaluationConfig(out))
    (out / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config of a run"):
        reevaluate(ReevaluationConfig(out))
    (out / "config.json").write_text("not json")
    with pytest.raises(ValueError, match="expected JSON in"):
        reevaluate(ReevaluationConfig(out))


def test_evaluating_refuses_another_estimator(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = config(out, env="SlotRL/Slots-v0", timesteps=64, evaluation=EvaluationConfig(eval_size=2))
    train_run("gumbel", settings, OPTIONS["gumbel"])
    document = read_json(out / "config.json")
    document["estimator_sha256"] = "0" * 64
    (out / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="expected the estimator 000000000000 that the run was trained with"):
        reevaluate(ReevaluationConfig(out))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timesteps": 0}, "timesteps >= 1"),
        ({"seed": -1}, "0 <= seed"),
        ({"env": "SlotRL/Slots-v9"}, "expected one of SlotRL/Slots-v0.*got 'SlotRL/Slots-v9'"),
        ({"env": "SlotRL/Rows-v0"}, "estimator=FOLDER"),
        ({"env": "SlotRL/Rows-v0", "estimator": Path("nowhere")}, "card.json, got nowhere"),
        ({"truth": Path("t.csv")}, "expected no truth for SlotRL/PickValue-v0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        train_run("gumbel", config(out, **changes), OPTIONS["gumbel"])
    assert not out.exists()


def test_a_command_turns_errors_into_one_line_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def bad() -> None:
        raise ValueError("expected a [b], got c")

    def interrupted() -> None:
        raise KeyboardInterrupt

    assert run_command(bad) == 2
    assert capsys.readouterr().err == "error: expected a [b], got c\n"
    assert run_command(interrupted) == 130
    assert run_command(lambda: None) == 0


def test_a_callback_error_is_not_mistaken_for_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(EvaluationCallback):
        def _on_step(self) -> bool:
            raise RuntimeError("bug")

    assert issubclass(Broken, BaseCallback)
    monkeypatch.setattr(run_training, "EvaluationCallback", Broken)
    with pytest.raises(RuntimeError, match="bug"):
        train_run("gumbel", config(tmp_path / "run"), OPTIONS["gumbel"])
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train_agent.py", "--agent", "gumble"],
        ["train_agent.py", "--agent", "gumbel", "--clip-range", "0.1"],
        ["train_agent.py", "--tau", "-1"],
        ["evaluate_agent.py", "nowhere"],
    ],
)
def test_commands_answer_wrong_input_with_exit_code_2(
    arguments: list[str], tmp_path: Path, script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, errors = script(SCRIPTS / arguments[0], *arguments[1:])
    assert code == 2
    assert "Traceback" not in errors + output
    assert errors
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sent", "code", "status"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
    ],
)
def test_a_signal_at_the_command_line_leaves_an_evaluable_run(
    sent: signal.Signals, code: int, status: str, tmp_path: Path, script: Command
) -> None:
    flags = ["--env", "SlotRL/PickValue-v0", "--timesteps", "2000000", "--eval-size", "20", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "train_agent.py"), *flags],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(sent)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert status in output
    assert "Traceback" not in output + errors
    assert read_json(tmp_path / "run" / "summary.json")["status"] == status
    code, again, errors = script(SCRIPTS / "evaluate_agent.py", tmp_path / "run")
    assert code == 0, errors
    table = output[output.index("policy, one pass") : output.index("seconds")]
    assert table in again
