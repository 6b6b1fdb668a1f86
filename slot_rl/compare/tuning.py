"""Choosing presets: every agent's trials on the tuning seeds, at equal budget; the best one is written down."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from slot_rl.agents.base import to_json
from slot_rl.compare.presets import AgentPreset, Presets, Tuning, preset_file, read_presets, write_presets
from slot_rl.compare.runner import COMPARISON, LauncherName, do_runs, make_launcher, opened
from slot_rl.compare.study import Run, Tracking
from slot_rl.compare.task import Task, parse_task
from slot_rl.console import markdown, say
from slot_rl.documents import as_declared
from slot_rl.evaluation import EvaluationConfig
from slot_rl.io import SUMMARY, read_json, write_json
from slot_rl.provenance import command_line, provenance


@dataclass(frozen=True)
class TuneConfig:
    """Runs every trial of an environment's presets and writes down its optimality; the best trial is then used.

    Attributes:
        env: Tasks of one environment, ID[,estimator=FOLDER][,truth=FILE][,name=LABEL]; a trial's figure is their mean.
        problem: Tasks of your own, each FILE.py:FUNCTION[,name=LABEL], with --trust; all tasks are of one environment.
        presets: Folder of presets; the environment's file in it is read and then replaced.
        out: Where runs go; a second call continues where the first stopped.
        seeds: Training seeds of every trial; no comparison may use them.
        timesteps: Estimator calls in each run.
        workers: Runs at the same time.
        launcher: Where runs are done.
        trust: Execute the Python files that tasks name as estimators, with all your rights.
        evaluation: The requests to judge on.
    """

    presets: Path
    out: Path
    env: tuple[str, ...] = ()
    problem: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    timesteps: int = 100_000
    workers: int = 2
    launcher: LauncherName = "local"
    trust: bool = False
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Refuses a tuning without seeds or budget."""
        if not self.seeds or self.timesteps < 1:
            raise ValueError(f"expected seeds and timesteps >= 1, got {self.seeds} and {self.timesteps}")


def tune(config: TuneConfig) -> Presets:
    """Runs all trials, prints their optimality, and replaces the environment's file of presets.

    Raises:
        ValueError: If the tasks are of several environments, there are no presets to tune, or a run failed.
    """
    tasks = [parse_task(text, config.trust) for text in (*config.env, *config.problem)]
    envs = {task.env for task in tasks}
    if len(envs) != 1:
        raise ValueError(f"expected tasks of one environment, got {', '.join(sorted(envs))}")
    presets = read_presets(tasks[0].env, config.presets)
    if not presets.agents:
        path = preset_file(tasks[0].env, config.presets)
        raise ValueError(f"expected presets of {tasks[0].env} with the trials to run in {path}, got none")
    trials = {name: [to_json(options) for options in presets.trials(name)] for name in presets.agents}
    runs = {
        name: [[_run(config, task, name, options, seed) for task in tasks for seed in config.seeds] for options in each]
        for name, each in trials.items()
    }
    launcher = make_launcher(config.launcher, config.workers)
    with opened(config.out):
        write_json(config.out / COMPARISON, provenance(config))
        every = [run for each in runs.values() for trial in each for run in trial]
        do_runs(every, config.out, launcher)
    tuned = _tuned(presets, runs, config)
    _print(tuned)
    path = preset_file(tuned.env, config.presets)
    write_presets(path, tuned)
    say(f"presets: {path}")
    return tuned


def _run(config: TuneConfig, task: Task, agent: str, options: dict[str, object], seed: int) -> Run:
    budget = config.timesteps, config.evaluation
    return Run(task, agent, agent, options, seed, *budget, tracking=Tracking("disabled"))


def _tuned(presets: Presets, runs: dict[str, list[list[Run]]], config: TuneConfig) -> Presets:
    scores = {name: tuple(_score(trial, config.out) for trial in each) for name, each in runs.items()}
    agents = {name: AgentPreset(preset.trials, scores[name]) for name, preset in presets.agents.items()}
    tuning = Tuning((*config.env, *config.problem), config.seeds, config.timesteps, command_line())
    return replace(presets, version=presets.version + 1, tuning=tuning, agents=agents)


def _score(runs: list[Run], out: Path) -> float:
    failed = [f"{run.title}: {run.failure(out)}" for run in runs if run.state(out) == "failed"]
    if failed:
        raise ValueError(f"expected every run of the tuning to end well, got {'; '.join(failed)}")
    summaries = [run.folder(out) / SUMMARY for run in runs]
    return round(fmean(as_declared(float, read_json(path).get("optimality"), str(path)) for path in summaries), 4)


def _print(presets: Presets) -> None:
    assert presets.tuning is not None
    tuning = presets.tuning
    rows = [
        [name if i == 0 else "", f"{score:.4f}", "used" if i == preset.chosen else "", str(dict(trial))]
        for name, preset in presets.agents.items()
        for i, (trial, score) in enumerate(zip(preset.trials, preset.scores or (), strict=True))
    ]
    seeds = ", ".join(map(str, tuning.seeds))
    say(f"trials on {presets.env}, {tuning.timesteps:,} estimator calls, seeds {seeds}: mean optimality")
    for line in markdown(["agent", "optimality", "", "options"], rows):
        say(line)
