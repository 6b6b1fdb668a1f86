"""Notebooks become pages: their text as Markdown, their code as blocks, with outputs if the build executes them.

Notebooks in the repository have no outputs. `EXECUTE_NOTEBOOKS=1 mkdocs build` runs them.
"""

import os
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient

EXECUTE = "EXECUTE_NOTEBOOKS"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces each notebook by a page."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        notebook = nbformat.read(str(file.abs_src_path), as_version=4)
        if os.environ.get(EXECUTE) == "1":
            NotebookClient(notebook, resources={"metadata": {"path": config.docs_dir}}).execute()
        name = str(Path(file.src_uri).with_suffix(".md").as_posix())
        files.append(File.generated(config, name, content=as_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Lets links to notebooks lead to their pages."""
    return re.sub(r"\.ipynb([)#])", r".md\1", markdown)


def as_markdown(notebook: Any) -> str:
    """Returns a notebook as Markdown."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts += [fenced(cell.source, "python"), *map(shown, cell.outputs)]
    return "\n\n".join(part for part in parts if part)


def shown(output: Any) -> str:
    """Returns a cell's output as Markdown: a picture, or text; nothing for warnings and progress."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![What the cell draws](data:image/png;base64,{data['image/png'].strip()})"
    text = COLOURS.sub("", output.get("text", data.get("text/plain", ""))).strip("\n")
    return fenced(text, "text") if text.strip() and output.get("name") != "stderr" else ""


def fenced(text: str, language: str) -> str:
    """Returns a block of code that may itself hold fences."""
    return f"````{language}\n{text}\n````"
