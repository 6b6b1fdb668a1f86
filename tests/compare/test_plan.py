"""Tasks as they are named, runs as they are recognised, and the folder that one command has to itself."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from slot_rl.compare.execution import do_runs, opened
from slot_rl.compare.local_launcher import LocalLauncher
from slot_rl.compare.plan import COMPARISON
from slot_rl.compare.runs import complete, write_failure
from slot_rl.compare.tasks import parse_task, parse_tasks
from slot_rl.evaluation import EvaluationConfig
from tests.helpers.small import PICK_VALUE, run


def test_a_task_reads_as_it_is_named(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("a,y\n")
    task = parse_task(f"SlotRL/Rows-v0,estimator={tmp_path}/suzuki,truth={truth}")
    assert (task.label, task.env, task.estimator) == ("Rows-v0 suzuki", "SlotRL/Rows-v0", str(tmp_path / "suzuki"))
    assert task.truth == truth and not task.trust
    assert parse_task("SlotRL/Slots-v0").label == "Slots-v0"
    assert parse_task("SlotRL/Slots-v0,name=mine").label == "mine"


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
    with pytest.raises(ValueError, match="labels of their own"):
        parse_tasks(("SlotRL/Slots-v0", "SlotRL/Slots-v0"))
    with pytest.raises(ValueError, match="labels of their own"):
        parse_tasks(())


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


def test_a_finished_run_is_not_repeated_and_a_failed_one_only_when_asked(tmp_path: Path) -> None:
    finished, failed = run("random"), run("random", seed=1)
    with opened(tmp_path):
        complete(finished, tmp_path, lambda done, note: None)
        write_failure(failed.folder(tmp_path), "it broke\ndown")
        before = (finished.folder(tmp_path) / "summary.json").stat().st_mtime_ns
        do_runs([finished, failed], tmp_path, LocalLauncher(1))
        assert (finished.folder(tmp_path) / "summary.json").stat().st_mtime_ns == before
        assert failed.failure(tmp_path) == "it broke down"
        do_runs([finished, failed], tmp_path, LocalLauncher(1), retry_failed=True)
        assert failed.state(tmp_path) == "finished"
        assert (finished.folder(tmp_path) / "summary.json").stat().st_mtime_ns == before


def test_a_folder_is_one_commands_alone_and_nothing_else_is_touched(tmp_path: Path) -> None:
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
