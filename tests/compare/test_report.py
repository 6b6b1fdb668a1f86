"""The report: everything on its page is text and inside it, and its figures do not depend on the order of runs."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from slot_rl.compare.conclusions import conclude
from slot_rl.compare.differences import Claim
from slot_rl.compare.report import Picture, Section, draw_pictures, print_claims, publish_report, write_page
from slot_rl.compare.tables import ReportTable
from slot_rl.looks import look_of
from tests.helpers.made_up import three_agents

EVIL = """<script>alert("1 & 2")</script>'"""


class Tags(HTMLParser):
    """Collects every tag with its attributes, and the text outside of them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def written(folder: Path, *sections: Section, title: str = "Title") -> str:
    write_page(folder / "report.html", title, sections)
    return (folder / "report.html").read_text(encoding="utf-8")


def table(columns: list[str], *rows: list[str], caption: str = "Caption") -> ReportTable:
    return ReportTable("key", "section", caption, pd.DataFrame(rows, columns=columns))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG and so on")
    return path


def test_everything_is_escaped(tmp_path: Path, picture: Path) -> None:
    section = Section(EVIL, [EVIL], [table(["agent", EVIL], [EVIL, EVIL], caption=EVIL)], [Picture(picture, EVIL)])
    page = written(tmp_path, section, title=EVIL)
    tags = Tags(page)
    assert "<script" not in page and not tags.of("script")
    # Title twice, heading twice, paragraph, table's heading, two cells, two captions, one of each.
    assert tags.text.count(EVIL) == 10
    assert [image["alt"] for image in tags.of("img")] == ["picture"]
    labels = [part["aria-labelledby"] for part in tags.of("div") if part["class"] == "scroll"]
    assert labels == [caption["id"] for caption in tags.of("figcaption")] and len(set(labels)) == 2


def test_everything_is_inside_the_page(tmp_path: Path, picture: Path) -> None:
    pictures = [Picture(picture, "Left."), Picture(picture, "Right.")]
    sections = Section("One", ["Words."], pictures=pictures), Section("Two", tables=[table(["a"], ["1"])])
    page = written(tmp_path, *sections)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
    tags = Tags(page)
    for image in tags.of("img"):
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64" and b64decode(data) == picture.read_bytes()
    assert (tags.text.count("Left."), tags.text.count("Right.")) == (1, 1)
    assert [link["href"] for link in tags.of("link")] == ["data:,"]
    targets = {f"#{heading['id']}" for heading in tags.of("h2")}
    assert {link["href"] for link in tags.of("a")} == targets and len(targets) == 2
    assert "default-src 'none'" in str(tags.of("meta")[1]["content"])


def test_a_table_has_its_cells_in_order(tmp_path: Path) -> None:
    section = Section("", tables=[table(["agent", "mean"], ["ppo", "0.5"], ["gumbel", "0.9"])])
    page = written(tmp_path, section)
    cells = re.findall(r"<t[hd]\b[^>]*>([^<]*)", page.partition("<table")[2])
    assert cells == ["agent", "mean", "ppo", "0.5", "gumbel", "0.9"]
    assert "Caption" in page


def test_columns_have_names_of_their_own() -> None:
    for columns in ([], ["agent", "agent"]):
        with pytest.raises(ValueError, match="expected columns with names of their own"):
            table(columns)


def test_claims_are_printed_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    found = conclude(three_agents(), 0.6)
    assert print_claims([Claim("gumbel", "ppo", "all"), Claim("gumbel", "ppo", "two")], found)
    assert not print_claims([Claim("gumbel", "ppo", "all"), Claim("ppo", "gumbel", "all")], found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gumbel>ppo@all: established" and lines[-1] == "ppo>gumbel@all: not established: worse"


def test_the_order_of_results_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, tables = [], []
    for turn in (1, -1):
        whole = three_agents("ValueError: <b>bad</b>")
        out = tmp_path / str(turn)
        out.mkdir()
        runs = whole.runs.sort_values("seed", ascending=turn == 1, kind="stable")
        turned = replace(whole, runs=runs, curves=whole.curves.sort_values("seed", ascending=turn == 1, kind="stable"))
        publish_report(out, conclude(turned, 0.6), {"command": "made up"}, "disabled")
        texts.append(capsys.readouterr().out.replace(str(out), ""))
        tables.append((out / "report" / "tables.md").read_text())
    assert texts[0] == texts[1] and tables[0] == tables[1]
    assert "failed, counted as random answers: one, search, seed 101: ValueError: <b>bad</b>" in texts[0]
    page = (tmp_path / "1" / "report.html").read_text()
    assert "<b>bad</b>" not in page and "&lt;b&gt;bad&lt;/b&gt;" in page
    figures = json.loads((tmp_path / "1" / "report" / "results.json").read_text())["figures"]
    assert len(figures["runs"]) == 24 and len(figures["pairs"]) == 9


def test_the_page_begins_with_a_coloured_ranking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_report(tmp_path, conclude(three_agents(), 0.6), {"command": "made up"}, "disabled")
    page = (tmp_path / "report.html").read_text()
    tags, sentence = Tags(page), "one: use gumbel + 31 calls, because at 31 calls for each answer it is better"
    first = page.partition("<table")[2].partition("</table>")[0]
    assert re.findall(r'<th scope="col"[^>]*>([^<]*)', first)[:2] == ["agent", "verdict"]
    colours = [f"background: {look_of(agent).colour}" for agent in ("search", "gumbel", "ppo")]
    assert [part["style"] for part in tags.of("span")][:3] == colours
    assert re.findall(r'class="verdict (\w+)"', first) == ["best", "worse", "worse"]
    assert page.index(sentence) < page.index("<table") and page.count(sentence) == 1
    assert tags.text.count("hit rate: share of requests") == tags.text.count("Paired differences") == 1
    assert tags.text.count("Which agent is better") == 2 and tags.text.count("When training pays") == 0
    assert pd.read_csv(tmp_path / "report" / "agents_one.csv")["agent"].tolist() == ["search", "gumbel", "ppo"]
    shown = capsys.readouterr().out
    assert shown.count("┏") == 2 and [shown.count(f"\n{task}: use ") for task in ("one", "two", "all")] == [1, 1, 1]


def test_panels_are_in_the_order_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    whole = three_agents()
    turned = replace(whole, runs=whole.runs.replace({"one": "z"}), curves=whole.curves.replace({"one": "z"}))
    draw_pictures(tmp_path, conclude(turned, 0.6))
    assert len(figures) == 6
    for figure in figures:
        assert [axes.get_title() for axes in figure.axes if axes.get_title()][:2] == ["z", "two"]
