"""Files outside docs/: the changelog and the contributors' guide become pages, links to others lead to the repository.

Links in the sources stay relative, so that they also work where the repository is browsed.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"(\]\()([^)\s#]+)([^)]*\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages whose sources lie outside docs/."""
    root = Path(config.config_file_path).parent
    for source, name in PAGES.items():
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, content=(root / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links of a page that lead out of docs/."""
    outside = page.file.generated_by is not None and page.file.src_uri in PAGES.values()
    folder = "" if outside else posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def rewritten(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        return f"{before}{_address(path, page, config)}{after}"

    return LINK.sub(rewritten, markdown)


def _address(path: str, page: Page, config: MkDocsConfig) -> str:
    """Returns where a page's link to a path of the repository leads."""
    inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if inside is None:
        return f"{config.repo_url}/blob/main/{path}"
    return posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or ".")
