"""The HTML report: whatever is in it is text, and everything it shows is inside it."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest

from slot_rl.compare.html import Part, Picture, Section, Table, write_html

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
    write_html(folder / "report.html", title, sections)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG and so on")
    return path


def test_everything_is_escaped(tmp_path: Path, picture: Path) -> None:
    table = Table(["agent", EVIL], [[EVIL, EVIL]], EVIL)
    page = written(tmp_path, Section(EVIL, [EVIL, table, Picture(picture, EVIL, EVIL)]), title=EVIL)
    tags = Tags(page)
    assert "<script" not in page and not tags.of("script")
    # Title twice, heading twice, paragraph, table's heading, two cells, two captions.
    assert tags.text.count(EVIL) == 10
    assert [image["alt"] for image in tags.of("img")] == [EVIL]
    assert [part["aria-label"] for part in tags.of("div")] == [EVIL, EVIL]


def test_everything_is_inside(tmp_path: Path, picture: Path) -> None:
    parts: list[Part] = ["Words.", Picture(picture, "first"), Picture(picture, "second", "caption")]
    page = written(tmp_path, Section("One", parts), Section("Two", [Table(["a"], [["1"]])]))
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
    tags = Tags(page)
    for image in tags.of("img"):
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64" and b64decode(data) == picture.read_bytes()
    assert [image["alt"] for image in tags.of("img")] == ["first", "second"]
    assert [link["href"] for link in tags.of("link")] == ["data:,"]
    targets = {f"#{heading['id']}" for heading in tags.of("h2")}
    assert {link["href"] for link in tags.of("a")} == targets and len(targets) == 2
    assert "default-src 'none'" in str(tags.of("meta")[1]["content"])


def test_a_table_has_its_cells_in_order(tmp_path: Path) -> None:
    page = written(tmp_path, Section("", [Table(["agent", "mean"], [["ppo", "0.5"], ["gumbel", "0.9"]], "Caption")]))
    assert re.findall(r"<t[hd]\b[^>]*>([^<]*)", page.partition("<table>")[2]) == [
        *("agent", "mean"),
        *("ppo", "0.5"),
        *("gumbel", "0.9"),
    ]
    assert "Caption" in page


def test_a_ragged_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected 2 cells in each row, got 1 in \['ppo'\]"):
        written(tmp_path, Section("", [Table(["agent", "mean"], [["ppo"]])]))
