"""Mermaid diagrams are drawn as SVG while the site is built, so that a reader's browser loads and runs nothing."""

import re

import mermaidx

FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces a page's diagrams by their pictures."""
    return FENCE.sub(lambda fence: drawn(fence[1]), markdown)


def drawn(source: str) -> str:
    """Returns a diagram as HTML that Markdown passes on as it is.

    Raises:
        RuntimeError: If the diagram cannot be drawn.
    """
    picture = mermaidx.render(source).svg()
    return '<div class="diagram">' + re.sub(r"\n+", "\n", picture) + "</div>\n"
