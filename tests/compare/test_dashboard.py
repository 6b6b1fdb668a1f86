"""The dashboard of a comparison: what a dry run writes, that saving uploads the same, and what is refused."""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from slot_rl.compare.wandb import FOLDER, PUBLISHED
from slot_rl.io import read_json
from slot_rl.metrics import METRICS
from tests.conftest import ROOT, Command

SCRIPT = ROOT / "scripts" / "publish_dashboard.py"
GROUPS = {"Slots-v0": "Slots-v0@1000", "suzuki + 'truth'": "suzuki + 'truth'@2000"}
AXES = ["global_step", "time/training_seconds"]


@pytest.fixture(autouse=True)
def library() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pytest.importorskip("wandb_workspaces.reports.v2")


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    document = {
        "command": "python scripts/compare_agents.py",
        "tasks": [
            {"label": label, "env": "SlotRL/Slots-v0", "timesteps": int(group.partition("@")[2]), "group": group}
            for label, group in GROUPS.items()
        ],
        "agents": ["gumbel", "reinforce", "random"],
        "seeds": list(range(5)),
        "wandb_project": "slot_rl",
    }
    folder = tmp_path / "a comparison"
    (folder / "runs" / "one" / "wandb" / "offline-run-20260101_000000-abc").mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps(document))
    return folder


def altered(folder: Path, **changes: Any) -> None:
    path = folder / "comparison.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def specification(script: Command, folder: Path) -> dict[str, Any]:
    code, _, error = script(SCRIPT, folder, "--dry-run")
    assert (code, error) == (0, "")
    found: dict[str, Any] = read_json(folder / "dashboard.json")
    return found


def nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Returns every object inside a document."""
    if isinstance(part, dict):
        yield part
    for child in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from nodes(child)


def panels(part: Any) -> list[dict[str, Any]]:
    return [node for node in nodes(part) if "viewType" in node]


def filtered_by(runset: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(item["key"]["name"], item["op"], item["value"]) for item in runset["filters"]["filters"]]


def grids(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [block["metadata"] for block in spec["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]


def test_each_task_has_a_workspace_and_a_section(script: Command, folder: Path) -> None:
    spec = specification(script, folder)
    workspaces = [workspace["spec"]["section"] for workspace in spec["workspaces"]]
    headings = [block["children"][0]["text"] for block in spec["report"]["spec"]["blocks"] if block.get("level") == 2]
    assert headings == list(GROUPS)
    for metadata in (workspaces, grids(spec)):
        runsets = [part["runSets"] for part in metadata]
        assert [filtered_by(runset) for (runset,) in runsets] == [[("group", "=", group)] for group in GROUPS.values()]
        assert [runset["grouping"] for (runset,) in runsets] == [[{"section": "run", "name": "jobType"}]] * len(GROUPS)
    assert [workspace["settings"]["maxRuns"] for workspace in workspaces] == [15, 15]


def test_agents_are_compared_over_calls_and_seconds(script: Command, folder: Path) -> None:
    spec = specification(script, folder)
    for part in (*spec["workspaces"], *grids(spec)):
        found = panels(part)
        lines = [panel["config"] for panel in found if panel["viewType"] == "Run History Line Plot"]
        for axis in AXES:
            metrics = [line["metrics"] for line in lines if line["xAxis"] == axis]
            assert metrics == [["eval/optimality"], ["eval/hit_rate"], ["eval/true_score"], ["eval/measured_share"]]
        bars = [panel["config"] for panel in found if panel["viewType"] == "Bar Chart"]
        assert ["optimality"] in [bar["metrics"] for bar in bars]
        assert {(plot["groupBy"], plot["groupAgg"], plot["limit"]) for plot in (*lines, *bars)} == {
            ("jobType", "mean", 15)
        }
        places = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in panels(grids(spec)[0])]
        assert len(set(places)) == len(places)


def test_true_figures_say_if_unmeasured_answers_are_the_worst(script: Command, folder: Path) -> None:
    first, second = json.loads((folder / "comparison.json").read_text())["tasks"]
    altered(folder, tasks=[first, {**second, "unmeasured": "worst"}])
    spec = specification(script, folder)
    for parts in (spec["workspaces"], grids(spec)):
        plain, worst = (json.dumps(panels(part)) for part in parts)
        assert "unmeasured = worst" not in plain and '"true optimality, unmeasured = worst"' in worst
        assert "true score, unmeasured = worst over estimator calls" in worst and '"measured share"' in worst


def test_every_metric_is_one_that_runs_log(script: Command, folder: Path) -> None:
    logged = {metric.log_key for metric in METRICS.values()} | {"global_step"}
    for panel in panels(specification(script, folder)):
        config = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            assert {*config["metrics"], config["xAxis"]} <= logged
        else:
            keys = config.get("metrics") or [config["xAxis"], config["yAxis"]]
            assert {key.removeprefix("summary:") for key in keys} <= set(METRICS)


def test_the_report_shows_tables_and_pictures(script: Command, folder: Path) -> None:
    assert len(grids(specification(script, folder))) == len(GROUPS)
    published = {"name": "comparison__a__t", "tables": ["tables/final"], "pictures": ["pictures/curves"]}
    (folder / FOLDER).mkdir()
    (folder / FOLDER / PUBLISHED).write_text(json.dumps(published))
    grid = grids(specification(script, folder))[-1]
    assert filtered_by(grid["runSets"][0]) == [("displayName", "=", "comparison__a__t")]
    table, pictures = panels(grid)
    assert "tables/final" in [node.get("val") for node in nodes(table)]
    assert pictures["config"]["mediaKeys"] == ["pictures/curves"]


class Server:
    """A fake Weights & Biases server that keeps what it receives."""

    app_url = "https://example.org"

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._service_api = self

    def execute_graphql(self, query: str, variables: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.sent.append(variables)
        view = {"id": "1", "name": variables["name"], "displayName": variables["displayName"], "spec": {}}
        return {"upsertView": {"view": view, "inserted": True}}

    def projects(self, entity: str) -> list[Any]:
        return [SimpleNamespace(name="slot_rl")]


def without_ids(part: Any) -> Any:
    """Removes the random ids of panels."""
    if isinstance(part, dict):
        return {key: without_ids(value) for key, value in part.items() if key not in ("id", "__id__")}
    return [without_ids(child) for child in part] if isinstance(part, list) else part


def test_saving_uploads_what_a_dry_run_writes(script: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "Api", lambda: server)
    code, out, _ = script(SCRIPT, folder, "--entity", "team")
    assert code == 0 and "wandb sync --entity team" in out
    assert {(sent["entityName"], sent["projectName"]) for sent in server.sent} == {("team", "slot_rl")}
    assert [sent["type"] for sent in server.sent] == ["runs", "project-view", "project-view"]
    written = specification(script, folder)
    for sent, part in zip(server.sent, [written["report"], *written["workspaces"]], strict=True):
        assert sent["displayName"] == part["displayName"]
        assert without_ids(json.loads(sent["spec"])) == without_ids(part["spec"])


def test_the_comparison_says_whose_project_it_is(script: Command, folder: Path) -> None:
    assert specification(script, folder)["entity"] is None
    altered(folder, wandb_entity="them", wandb_project="theirs")
    assert [specification(script, folder)[key] for key in ("entity", "project")] == ["them", "theirs"]


def test_nothing_is_sent_without_a_login(script: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("asked the server")

    monkeypatch.setattr(wandb, "Api", refuse)
    code, _, error = script(SCRIPT, folder)
    assert code == 2
    assert "expected a login to Weights & Biases (`wandb login`, or an API key in WANDB_API_KEY), got neither" in error
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, _, error = script(SCRIPT, folder)
    assert code == 2 and "expected WANDB_MODE to be online or unset" in error
    assert not (folder / "dashboard.json").exists()


def test_a_missing_library_is_named_with_its_extra(
    script: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    code, _, error = script(SCRIPT, folder, "--dry-run")
    message = 'expected the extra [dashboard] (pip install "slot_rl[dashboard]"), got no module wandb_workspaces'
    assert (code, error) == (2, f"error: {message}\n")
    assert not (folder / "dashboard.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "expected tasks, agents and seeds"),
        ({"seeds": []}, "expected tasks, agents and seeds"),
        ({"tasks": [{"label": "a"}]}, "got one without group"),
        ({"tasks": [{"label": "a", "group": "a=b@10", "timesteps": 10}]}, "expected a group without =, < and >"),
    ],
)
def test_a_document_that_cannot_be_shown_is_refused(
    script: Command, folder: Path, changes: dict[str, Any], message: str
) -> None:
    altered(folder, **changes)
    code, _, error = script(SCRIPT, folder, "--dry-run")
    assert code == 2 and message in error
    assert not (folder / "dashboard.json").exists()


def test_what_is_no_comparison_is_refused(script: Command, folder: Path, tmp_path: Path) -> None:
    code, _, error = script(SCRIPT, tmp_path, "--dry-run")
    assert code == 2 and f"expected the folder of a comparison with comparison.json, got {tmp_path} without" in error
    (folder / FOLDER).mkdir()
    (folder / FOLDER / PUBLISHED).write_text("{}")
    code, _, error = script(SCRIPT, folder, "--dry-run")
    assert code == 2 and "got one without name" in error


def test_a_dry_run_never_writes_over_the_comparison(script: Command, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "spec.json"
    assert script(SCRIPT, folder, "--dry-run", "--out", out, "--project", "other")[0] == 0
    assert json.loads(out.read_text())["project"] == "other"
    code, _, error = script(SCRIPT, folder, "--dry-run", "--out", folder / "comparison.json")
    assert code == 2 and "expected --out to be no file that is read" in error
    code, _, error = script(SCRIPT, folder, "--out", out)
    assert code == 2 and "expected --dry-run with --out" in error


def test_one_command_sends_all_offline_runs(script: Command, folder: Path) -> None:
    _, out, _ = script(SCRIPT, folder, "--dry-run")
    assert f"wandb sync '{folder}'/runs/*/wandb/offline-run-*\n" in out
    (folder / FOLDER / "wandb" / "offline-run-20260101_000000-def").mkdir(parents=True)
    _, out, _ = script(SCRIPT, folder, "--dry-run", "--project", "other")
    runs, own = f"'{folder}'/runs/*/wandb/offline-run-*", f"'{folder}'/comparison/wandb/offline-run-*"
    assert f"wandb sync --project other {runs} {own}\n" in out
