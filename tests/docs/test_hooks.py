"""What the hooks of the site make of its sources, one at a time."""

import importlib.util
from dataclasses import dataclass, field
from types import ModuleType

import pytest

from tests.conftest import ROOT

pytest.importorskip("mkdocs")
nbformat = pytest.importorskip("nbformat")


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_hooks_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes:
        size: How large.
    """

    size: float = 1 / 3


@dataclass(frozen=True)
class Base:
    """A base.

    Attributes:
        rate: Of the base.
        kept: From the base,
            on two lines.
    """

    rate: float = 1e-3
    kept: str | None = None


@dataclass(frozen=True)
class Derived(Base):
    """Derived.

    Attributes:
        rate: Of the derived class.
    """

    part: Part = field(default_factory=Part)


def test_options_have_the_meaning_of_the_nearest_class() -> None:
    assert list(hook("options").options(Derived())) == [
        ("rate", "0.001", "Of the derived class."),
        ("kept", "None", "From the base, on two lines."),
        ("size", "0.3333", "How large."),
    ]


def test_an_option_without_a_meaning_is_refused() -> None:
    @dataclass(frozen=True)
    class Silent:
        """Says nothing of its option."""

        rate: float = 1e-3

    with pytest.raises(KeyError, match="rate"):
        list(hook("options").options(Silent()))


def test_a_table_is_put_where_a_page_asks_for_it() -> None:
    options = hook("options")
    page = options.on_page_markdown("before\n\n<!-- options: guided_search -->\n\nafter")
    row = "| `--calls-per-context` | `31` | Estimator calls for each answer. |"
    assert page == f"before\n\n| option | default | meaning |\n|---|---|---|\n{row}\n\nafter"
    assert options.on_page_markdown("<!-- options: random -->") == "It has no options."
    with pytest.raises(KeyError, match="nobody"):
        options.on_page_markdown("<!-- options: nobody -->")


def test_a_notebook_becomes_text_code_and_outputs() -> None:
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("print(1)\n```")]
    cells[1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", name="stdout", text="\x1b[3mone\x1b[0m\n"),
        nbformat.v4.new_output("display_data", data={"image/png": "iVBO\n", "text/plain": "<Figure>"}),
        nbformat.v4.new_output("execute_result", data={"text/plain": "2", "text/html": "<b>2</b>"}),
    ]
    page = hook("notebooks").as_markdown(nbformat.v4.new_notebook(cells=cells))
    assert page == "\n\n".join(
        [
            "# Title",
            "````python\nprint(1)\n```\n````",
            "````text\none\n````",
            "![What the cell draws](data:image/png;base64,iVBO)",
            "````text\n2\n````",
        ]
    )


def test_links_to_notebooks_lead_to_their_pages() -> None:
    assert hook("notebooks").on_page_markdown("[a](n/a.ipynb) [b](b.ipynb#c)") == "[a](n/a.md) [b](b.md#c)"


def test_a_diagram_becomes_a_picture_without_empty_lines() -> None:
    diagrams = hook("diagrams")
    page = diagrams.on_page_markdown("before\n\n```mermaid\nflowchart LR\n    a --> b\n```\n\nafter")
    assert page.startswith('before\n\n<div class="diagram"><svg') and page.endswith("</svg></div>\n\n\nafter")
    assert "\n\n" not in page[len("before\n\n") : -len("\n\n\nafter")]
    with pytest.raises(RuntimeError):
        diagrams.drawn("flowchart LR\n    a -->")


def test_roles_of_sphinx_become_code() -> None:
    role = hook("docstrings").ROLE
    text = "See :meth:`choose`, :class:`~slot_rl.io.BundleError` and ``plain``."
    assert role.sub(r"`\1`", text) == "See `choose`, `slot_rl.io.BundleError` and ``plain``."
