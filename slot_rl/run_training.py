"""One training in its run folder: it learns, is saved on every way out, and is judged."""

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from stable_baselines3.common.logger import Logger

from slot_rl.agents import Agent, LearningAgent
from slot_rl.checkpoints import Checkpoint, CheckpointCallback, CheckpointConfig, TrainingState, write_checkpoint
from slot_rl.console import once_at, progress_bar, say
from slot_rl.evaluation import SEARCHES, Evaluation, Row, judge
from slot_rl.io import BAD_BATCH, CHECKPOINT, CONFIG, CURVE, SUMMARY, write_atomically, write_json
from slot_rl.looks import look_of, looks_of, variant
from slot_rl.metrics import POLICY_WITH_SEARCH, truth_mark
from slot_rl.plots import plot_learning_curve
from slot_rl.problems import BadScore
from slot_rl.summary_tables import print_judgement
from slot_rl.tracking import RunIdentity, Tracker, TrackerWriter, is_figure
from slot_rl.watching import EvaluationCallback, Report, RunProgress, logged_metrics

LOG_POINTS = 100
OnBadScore = Literal["stop", "skip"]
IN_PLOT = (POLICY_WITH_SEARCH, *SEARCHES, "best constant")


def report_run(training: "Training", summary: dict[str, Any], rows: list[Row]) -> None:
    """Prints what a training has come to, and where it is."""
    print_judgement(summary, rows)
    if training.agent.remark is not None:
        say(training.agent.remark)
    say(f"run: {training.folder}")


def train_with_progress(training: "Training") -> tuple[dict[str, Any], list[Row]]:
    """Trains and judges behind a progress bar; returns as :meth:`Training.train_and_judge`."""
    with progress_bar() as bar:
        task = bar.add_task(training.agent.name, total=training.identity.timesteps, note="")

        def report(progress: RunProgress) -> None:
            figures = {} if progress.row is None else progress.row.figures
            note = "".join(
                f"{name} {value:.4g}  " for name in ("score", "optimality") if (value := figures.get(name)) is not None
            )
            bar.update(task, completed=progress.calls, note=note.rstrip())

        return training.train_and_judge(report)


@dataclass
class Training:
    """A training in its run folder, which holds its config already.

    Attributes:
        agent: The agent: a fresh one, or that of the checkpoint to go on from.
        identity: Names the run and its budget.
        evaluation: The requests to judge on.
        tracker: Where metrics go; it is closed before the summary is written.
        folder: The run folder.
        saving: How often checkpoints are written.
        on_bad_score: What a batch that the estimator does not score does.
        start: The checkpoint to go on from; None for a fresh training.
        status: How it ends: "finished", "interrupted", "terminated", or "failed".
        skipped: Batches that were left out.
    """

    agent: Agent
    identity: RunIdentity
    evaluation: Evaluation
    tracker: Tracker
    folder: Path
    saving: CheckpointConfig = field(default_factory=CheckpointConfig)
    on_bad_score: OnBadScore = "stop"
    start: Checkpoint | None = None
    status: str = "finished"
    skipped: int = 0

    def train_and_judge(self, report: Report) -> tuple[dict[str, Any], list[Row]]:
        """Trains, judges, and leaves everything in the run folder.

        Args:
            report: Is told about progress.

        Returns:
            The contents of ``summary.json``, and the rows of the final table, the agent's first.

        Raises:
            ValueError: If the estimator answers NaN or infinity; then the batch is in the run folder. After this and
                every other failure of the training, so are the weights before it, if there was an update, and a
                summary.
        """
        agent, evaluation = self.agent, self.evaluation
        assert agent.problem is not None
        self._watch = EvaluationCallback(evaluation, agent.problem, self.identity.timesteps, report)
        with self.tracker:
            with once_at([signal.SIGINT, signal.SIGTERM], self._stop):
                self._learn()
            wall, cpu = self._watch.stopwatch.wall, self._watch.stopwatch.cpu
            # A copy: the answers of a search count on the same problem.
            budget = replace(agent.problem.budget)
            summary, rows = judge(agent, evaluation, budget, self.status, wall, cpu)
            summary |= {"skipped_batches": self.skipped} if self.skipped else {}
            self.tracker.log(agent.num_timesteps, logged_metrics(rows[0], budget, cpu))
            calls, judged = [*self._watch.calls, agent.num_timesteps], [*self._watch.rows, rows[0]]
            true_name = "true" + truth_mark(evaluation.problem.unmeasured)
            _plot(self.folder, self.identity, calls, judged, rows[1:], true_name)
            self.tracker.finish(summary)
        write_json(self.folder / SUMMARY, summary)
        return summary, rows

    def _stop(self, number: int) -> None:
        """Ends the training after the current update, so that it can go on from there, because of a signal."""
        self.status = "terminated" if number == signal.SIGTERM else "interrupted"
        if isinstance(self.agent, LearningAgent):
            self.agent.stop()

    def _learn(self) -> None:
        agent, timesteps = self.agent, self.identity.timesteps
        try:
            if isinstance(agent, LearningAgent):
                self._learn_with_checkpoints(agent)
            else:
                agent.learn(timesteps)
            self._save()
        except (Exception, KeyboardInterrupt) as failure:  # a second Ctrl-C comes in the middle of an update
            kept = self._keep_weights(failure)
            if not isinstance(failure, BadScore):
                raise
            weights = f"the weights before it in {self.folder / CHECKPOINT}" if kept else "no weights were written"
            batch = save_bad_batch(self.folder, failure)
            raise ValueError(f"{failure}; the batch is in {batch}, {weights}") from failure

    def _learn_with_checkpoints(self, agent: LearningAgent) -> None:
        timesteps, watch = self.identity.timesteps, self._watch
        agent.set_logger(Logger(folder=None, output_formats=[TrackerWriter(self.tracker)]))
        if self.on_bad_score == "skip":
            agent.on_bad_score = self._skip
        if self.start is not None:
            self._go_on(agent, self.start.training)
        agent.learn(
            timesteps - agent.num_timesteps,
            callback=[watch, CheckpointCallback(self.saving, self._write_checkpoint)],
            log_interval=max(1, round(timesteps / agent.update_size / LOG_POINTS)),
            reset_num_timesteps=self.start is None,
        )
        if self.status != "finished":
            self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        assert self.agent.problem is not None and isinstance(self.agent, LearningAgent)
        pending = {key: float(value) for key, value in self.agent.logger.name_to_value.items() if is_figure(value)}
        training = {
            "watch": self._watch.state(),
            "budget": asdict(self.agent.problem.budget),
            # A figure that is not finite is logged as null.
            "pending": {key: value if isfinite(value) else None for key, value in pending.items()},
            "metrics_lines": self.tracker.lines,
            "skipped": self.skipped,
        }
        try:
            self.tracker.sync()
            write_checkpoint(self.folder, self.agent, training)
        except OSError as error:  # a full disk; the weights are still here
            say(f"warning: no checkpoint was written ({error}); the training goes on")

    def _go_on(self, agent: LearningAgent, training: TrainingState) -> None:
        """Takes back what :meth:`_write_checkpoint` has written, but for the agent and the tracker."""
        assert agent.problem is not None
        self._watch.restore(training["watch"])
        budget, spent = agent.problem.budget, training["budget"]
        budget.forwards, budget.backwards = spent.forwards, spent.backwards
        for key, value in training["pending"].items():
            agent.logger.record(key, nan if value is None else value)
        self.skipped = training["skipped"]

    def _skip(self, failure: BadScore) -> None:
        """Counts a batch without an update, and keeps the first one."""
        if not self.skipped:
            batch = save_bad_batch(self.folder, failure)
            say(f"skipped a batch: {failure}; it is in {batch}")
        self.skipped += 1

    def _save(self, failure: BaseException | None = None) -> None:
        """Writes the weights, and a summary for the case that no better one follows: judging may be killed, too."""
        agent = self.agent
        assert agent.problem is not None
        agent.save(self.folder / CHECKPOINT)
        summary = {
            "status": "unfinished" if failure is None else self.status,
            **({} if failure is None else {"failure": f"{type(failure).__name__}: {failure}"}),
            "timesteps": agent.num_timesteps,
            "estimator_forwards": agent.problem.budget.forwards,
            "estimator_backwards": agent.problem.budget.backwards,
            "wall_seconds": self._watch.stopwatch.wall,
            "cpu_seconds": self._watch.stopwatch.cpu,
        }
        write_json(self.folder / SUMMARY, summary)

    def _keep_weights(self, failure: BaseException) -> bool:
        """Saves a training that failed after an update, as far as it can be saved, and says in its summary why."""
        agent = self.agent
        # Steps that callbacks were told of belong to an update that is over.
        if not isinstance(agent, LearningAgent) or agent.num_timesteps <= agent.update_size:
            return False
        self.status = "failed"
        with contextlib.suppress(ValueError):
            try:
                self._save(failure)
            except OSError as error:
                raise self._saved_elsewhere(error) from failure
            return True
        return False

    def _saved_elsewhere(self, error: OSError) -> OSError:
        """Saves the weights in a new temporary folder, because the run's takes none; returns the error that says so."""
        place = Path(tempfile.mkdtemp(prefix="slot_rl-"))
        try:
            self.agent.save(place / CHECKPOINT)
        except OSError:
            shutil.rmtree(place, ignore_errors=True)
            return error
        with contextlib.suppress(OSError):
            shutil.copy(self.folder / CONFIG, place)
        return OSError(f"{error}; the trained weights are in {place / CHECKPOINT}")


def save_bad_batch(folder: Path, failure: BadScore) -> Path:
    """Writes the batch on which the estimator failed, as safetensors, and returns its path."""
    path = folder / BAD_BATCH
    tensors = {**failure.observation.tensors(), "rows": failure.rows, "score": failure.score}
    write_atomically(path, safetensors.torch.save({name: part.contiguous() for name, part in tensors.items()}))
    return path


def _plot(
    folder: Path,
    identity: RunIdentity,
    calls: list[float],
    rows: list[Row],
    competitors: list[Row],
    true_name: str = "true",
) -> None:
    share = rows[-1].figures["measured_share"]
    # Never rounded up to the whole.
    measured = "" if share is None or share == 1 else f", {min(100 * share, 99.9):.1f} % measured"
    curves: Mapping[str, list[float | None]] = {
        f"{identity.agent}, estimated": [row.figures["optimality"] for row in rows],
        f"{identity.agent}, {true_name}{measured}": [row.figures["true_optimality"] for row in rows],
    }
    drawn = {name: values for name, values in curves.items() if any(value is not None for value in values)}
    known = {name: [nan if value is None else value for value in values] for name, values in drawn.items()}
    levels = {
        row.name: value
        for row in competitors
        if row.name in IN_PLOT and (value := row.figures["optimality"]) is not None
    }
    title = f"{identity.agent} on {identity.env}, seed {identity.seed}"
    # The agent's colour for all that is the agent's.
    own = look_of(identity.agent)
    mine = {name: variant(own, 7 * i) if i else own for i, name in enumerate([*curves, POLICY_WITH_SEARCH])}
    plot_learning_curve(folder / CURVE, calls, known, levels, title, looks_of(levels) | mine)
