"""A report as one HTML file that needs nothing else: pictures and style are inside it, and it requests nothing.

Whatever comes from outside, such as an agent's label, is escaped; the page's content security policy forbids scripts
and requests besides, so that a mistake here could not run anything either.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --paper: #fff; --soft: #5b6472; --line: #d9dee6; --band: #f4f6f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --paper: #14181f; --soft: #9aa5b4; --line: #343c48; --band: #1c222b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { margin: 0.5rem 0 1rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 2.6rem 0 0.8rem; padding-bottom: 0.3rem; border-bottom: 1px solid var(--line); font-size: 1.35rem; }
p { max-width: 48rem; margin: 0.7rem 0; }
a { color: inherit; }
nav ol { margin: 0; padding-left: 1.3rem; columns: 16rem; color: var(--soft); }
figure { margin: 1.4rem 0; }
figcaption { max-width: 48rem; margin: 0.4rem 0; color: var(--soft); font-size: 0.92rem; }
img { display: block; max-width: 100%; height: auto; padding: 0.6rem; border: 1px solid var(--line); border-radius: 6px;
  background: #fff; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); text-align: left; }
thead th { border-bottom: 2px solid var(--soft); }
thead th { white-space: normal; vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody tr:nth-child(even) > * { background: var(--band); }
@media (max-width: 56rem) { img { max-width: 56rem; } }
@media print { img { break-inside: avoid; } nav { display: none; } }
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: Headings; the first column is text, the others are aligned right.
        rows: Cells, as many in each row as columns.
        caption: Says what the figures are.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        path: The PNG file, which the report copies into itself.
        alt: Says what the picture shows, for readers who do not see it.
        caption: Says how to read it.
    """

    path: Path
    alt: str
    caption: str = ""


Part = str | Table | Picture
"""What a section is made of; a string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        heading: Its heading.
        parts: Paragraphs, tables and pictures, in the order of reading.
    """

    heading: str
    parts: Sequence[Part]


def write_html(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes a report as one HTML file, which opens from a disk as well as from a server.

    Args:
        path: The HTML file.
        title: The report's title.
        sections: The report's sections; a list of them leads to each.

    Raises:
        ValueError: If a row of a table has more or fewer cells than the table has columns.
    """
    entries = "".join(f'<li><a href="#part-{i}">{escape(part.heading)}</a></li>' for i, part in enumerate(sections, 1))
    body = "\n".join(_section(i, section) for i, section in enumerate(sections, 1))
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<nav aria-label="Contents"><ol>{entries}</ol></nav>
{body}
</body>
</html>
"""
    path.write_text(page, encoding="utf-8")


def _section(number: int, section: Section) -> str:
    parts = "\n".join(_part(part) for part in section.parts)
    return f'<section>\n<h2 id="part-{number}">{escape(section.heading)}</h2>\n{parts}\n</section>'


def _part(part: Part) -> str:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Picture):
        return _picture(part)
    return f"<p>{escape(part)}</p>"


def _table(table: Table) -> str:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"expected {len(table.columns)} cells in each row, got {len(row)} in {list(row)}")
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "\n".join(_row(row) for row in table.rows)
    body = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    return f"<figure><figcaption>{escape(table.caption)}</figcaption>{_scrolling(body, table.caption)}</figure>"


def _scrolling(content: str, name: str) -> str:
    """Returns what may be wider than the page in a box that scrolls, which is reached by keyboard and has a name."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{content}</div>'


def _row(row: Sequence[str]) -> str:
    first, *others = row
    return f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>'


def _picture(picture: Picture) -> str:
    data = b64encode(picture.path.read_bytes()).decode("ascii")
    shown = _scrolling(f'<img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}">', picture.alt)
    return f"<figure>{shown}<figcaption>{escape(picture.caption)}</figcaption></figure>"
