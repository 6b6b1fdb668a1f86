"""Tasks as they are named, runs as they are recognised, and the folder that one command has to itself."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from slot_rl.compare.one_run import complete, write_failure
from slot_rl.compare.presets import read_presets
from slot_rl.compare.runner import COMPARISON, LocalLauncher, do_runs, opened
from slot_rl.compare.study import Study, StudyAgent, Tracking, read_study
from slot_rl.compare.task import parse_task
from slot_rl.evaluation import EvaluationConfig
from slot_rl.problems.named import OWN
from tests.conftest import ROOT
from tests.helpers.small import PICK_VALUE, run


def test_a_task_reads_as_it_is_named(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("a,y\n")
    task = parse_task(f"SlotRL/Rows-v0,estimator={tmp_path}/suzuki,truth={truth}")
    assert (task.label, task.env, task.estimator) == ("Rows-v0 suzuki", "SlotRL/Rows-v0", str(tmp_path / "suzuki"))
    assert task.truth == truth and not task.trust
    assert parse_task("SlotRL/Slots-v0").label == "Slots-v0"
    assert parse_task("SlotRL/Slots-v0,name=mine").label == "mine"


def test_a_task_says_what_unmeasured_answers_count_as(tmp_path: Path) -> None:
    truth, text = tmp_path / "truth.csv", f"SlotRL/Rows-v0,truth={tmp_path}/truth.csv"
    truth.write_text("a,y\n")
    omitting, worst = parse_task(text), parse_task(f"{text},unmeasured=worst")
    assert (omitting.unmeasured, worst.unmeasured) == ("omit", "worst")
    assert parse_task(f"{text},unmeasured=omit") == omitting
    with pytest.raises(ValueError, match="expected unmeasured to be omit or worst, got 'best'"):
        parse_task(f"{text},unmeasured=best")
    with pytest.raises(ValueError, match="expected a table with the ground truth with unmeasured=worst, got none"):
        parse_task("SlotRL/Slots-v0,unmeasured=worst")


def test_a_run_is_named_by_what_unmeasured_answers_count_as(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("a,y\n")
    # Named alone, such a run is never built.
    known = replace(PICK_VALUE, truth=truth)
    worst = run(task=replace(known, unmeasured="worst"))
    assert (run(task=known).document["unmeasured"], worst.document["unmeasured"]) == ("omit", "worst")
    assert run(task=known).digest != worst.digest and "unmeasured" not in run().document


@pytest.mark.parametrize(
    "text",
    ["SlotRL/Slots-v0,estimator", "SlotRL/Slots-v0,estimator=", "SlotRL/Slots-v0,speed=3", "E,name=a,name=b"],
)
def test_a_task_that_reads_otherwise_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("expected --env ID[,estimator=FOLDER]") + f".*got '{text}'"):
        parse_task(text)


def test_missing_tables_and_equal_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a table in truth=.*got no such file"):
        parse_task(f"SlotRL/Rows-v0,truth={tmp_path}/none.csv")
    for tasks in ([PICK_VALUE, PICK_VALUE], []):
        with pytest.raises(ValueError, match="labels of their own"):
            Study(tasks, [StudyAgent("random", "random")], range(3), 100)


def test_a_label_that_a_dashboard_could_not_filter_on_is_refused() -> None:
    for label in ("a=b", "a<b", "a>b", "a@b"):
        with pytest.raises(ValueError, match="expected a label without"):
            parse_task(f"SlotRL/Slots-v0,name={label}")


def test_a_run_is_named_by_all_that_its_result_depends_on() -> None:
    first = run()
    assert re.fullmatch(r"PickValue-v0__gumbel__s0__[0-9a-f]{12}", first.name)
    assert run().name == first.name
    others = [
        run(seed=1),
        run(timesteps=3_000),
        run(entropy=0.1),
        run("guided_search"),
        run(task=parse_task("SlotRL/Slots-v0")),
        replace(run(), evaluation=EvaluationConfig(eval_size=41)),
    ]
    assert len({first.name, *(other.name for other in others)}) == len(others) + 1
    # A label and a place change no result.
    assert run(task=replace(PICK_VALUE, label="another")).name == first.name


def test_a_failed_run_is_repeated_only_when_asked(tmp_path: Path) -> None:
    finished, failed = run("random"), run("random", seed=1)
    with opened(tmp_path):
        complete(finished, tmp_path, lambda progress: None)
        write_failure(failed.folder(tmp_path), "it broke\ndown")
        before = (finished.folder(tmp_path) / "summary.json").stat().st_mtime_ns
        do_runs([finished, failed], tmp_path, LocalLauncher(1))
        assert (finished.folder(tmp_path) / "summary.json").stat().st_mtime_ns == before
        assert failed.failure(tmp_path) == "it broke down"
        do_runs([finished, failed], tmp_path, LocalLauncher(1), retry_failed=True)
        assert failed.state(tmp_path) == "finished"
        assert (finished.folder(tmp_path) / "summary.json").stat().st_mtime_ns == before


def test_a_folder_belongs_to_one_command(tmp_path: Path) -> None:
    with opened(tmp_path / "new"):
        (tmp_path / "new" / COMPARISON).write_text("{}")
        with pytest.raises(ValueError, match="for this command alone"), opened(tmp_path / "new"):
            pass
        left = tmp_path / "new" / "runs" / ".killed.123.partial"
        left.mkdir()
    assert not left.exists()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="expected a new folder for --out"), opened(taken):
        pass
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]


STUDY = """timesteps: 500
seeds: 3
first_seed: 7
failure_threshold: 0.5
serving: {policies: [2], searches: [1, 4]}
agents:
  random:
  few_calls: {agent: guided_search, options: {calls_per_context: 3}}
  reproduction:
tasks:
  - {env: SlotRL/PickValue-v0, name: pick}
  - {env: SlotRL/Rows-v0, logged: "{data}/rows.csv", timesteps: 900}
"""


def test_a_study_is_read_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    found = read_study(path, {"data": str(tmp_path)})
    study = Study(**found)
    assert (list(study.seeds), study.timesteps, study.failure_threshold) == ([7, 8, 9], 500, 0.5)
    assert study.serving.policies == (2,) and study.serving.searches == (1, 4)
    assert study.agents[1] == StudyAgent("few_calls", "guided_search", {"calls_per_context": 3})
    assert [(task.label, task.timesteps) for task in study.tasks] == [("pick", None), ("Rows-v0", 900)]
    assert study.tasks[1].logged == tmp_path / "rows.csv"


def test_a_task_of_the_users_own_needs_no_id(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build(): ...")
    tasks = f"tasks:\n  - {{problem: '{tmp_path / 'mine.py'}:build', name: pages}}\n"
    (tmp_path / "study.yaml").write_text("agents: {random: , gumbel: }\n" + tasks)
    (task,) = read_study(tmp_path / "study.yaml", {}, trust=True)["tasks"]
    assert (task.env, task.label, task.trust) == (OWN, "pages", True)
    assert task.problem == f"{tmp_path / 'mine.py'}:build"


def test_files_of_a_study_stand_beside_it_or_where_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for folder in (beside, here):
        folder.mkdir()
        (folder / "mine.py").write_text("")
    (here / "table.csv").write_text("a,y\n1,2\n")
    study = beside / "study.yaml"
    study.write_text(
        "agents: {gumbel: }\ntasks:\n  - {problem: 'mine.py:build'}\n"
        "  - {env: SlotRL/Rows-v0, estimator: e, truth: table.csv, name: b}\n"
    )
    monkeypatch.chdir(here)
    (beside / "valid.csv").write_text("a\n1\n")
    listed = "  - {env: SlotRL/PickValue-v0, constraints: [{feasible: valid.csv}], name: c}\n"
    study.write_text(study.read_text() + listed)
    own, rows, limited = read_study(study, {}, trust=True)["tasks"]
    assert limited.constraints[0]["feasible"]["file"] == str(beside / "valid.csv")
    assert (own.problem, rows.truth) == (f"{beside / 'mine.py'}:build", here / "table.csv")


def test_a_studys_runs_have_their_options_and_budgets(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "agents: {random: , few: {agent: guided_search, options: {calls_per_context: 3}}}\n"
        "tasks: [{env: SlotRL/PickValue-v0, timesteps: 50}]\n"
        "timesteps: 100\n"
        "seeds: 3\n"
    )
    runs = Study(**read_study(path, {})).runs(Tracking("disabled"))
    assert [(run.agent, run.kind, run.seed) for run in runs[:2]] == [
        ("random", "random", 100),
        ("few", "guided_search", 100),
    ]
    assert len(runs) == 6 and all(run.timesteps == 50 for run in runs)
    assert runs[1].options["calls_per_context"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds: 3", "sedes: 3"), "unknown keys sedes"),
        (("seeds: 3", "seeds: many"), "many"),
        (("timesteps: 500", "timesteps: many"), "many"),
        (("failure_threshold: 0.5", "failure_threshold: low"), "low"),
        (("agents:", "- agents:"), "while parsing"),
        (("{data}", "{elsewhere}"), "elsewhere"),
        (("policies: [2]", "policy: [2]"), "policy"),
        (("env: SlotRL/PickValue-v0, name: pick", "name: pick"), "env"),
        (("name: pick", "label: pick"), "expected --env ID"),
        (("name: pick", "name: [a, b]}, {"), "env"),
        (("  random:", "  random: [1]"), "list"),
        (("timesteps: 900", "timesteps: few"), "few"),
    ],
)
def test_a_bad_study_is_refused(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    path = tmp_path / "study.yaml"
    assert change[0] in STUDY
    path.write_text(STUDY.replace(*change))
    with pytest.raises(ValueError, match=f"expected a study in .*{message}"):
        read_study(path, {"data": str(tmp_path)})


def test_no_study_file_and_unknown_agents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got no such file"):
        read_study(tmp_path / "none.yaml", {})
    with pytest.raises(ValueError, match="got nobody"):
        Study([PICK_VALUE], [StudyAgent("who", "nobody")], range(3), 100)
    with pytest.raises(ValueError, match="at least"):
        Study([PICK_VALUE], [StudyAgent("random", "random")], range(1), 100)


def test_the_study_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    text, presets = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "study.yaml").write_text(text)
    (tmp_path / "Own-v0.yaml").write_text(presets)
    assert len(read_presets(OWN, tmp_path).trials("gumbel")) == 2
    (tmp_path / "suzuki.csv").write_text("a,y\n")
    study = Study(**read_study(tmp_path / "study.yaml", {"fitted": str(tmp_path), "data": str(tmp_path)}))
    assert [agent.label for agent in study.agents] == ["gumbel", "gumbel_no_entropy", "guided_search_400"]
    assert [(task.label, task.timesteps) for task in study.tasks] == [("Slots-v0", None), ("suzuki", 50_000)]
