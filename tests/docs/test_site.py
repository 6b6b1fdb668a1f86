"""The documentation site: it is built with warnings as errors, names everything that is public, and loads nothing."""

import html
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from filelock import FileLock

from slot_rl.agents import AGENTS
from tests.conftest import ROOT

pytest.importorskip("mkdocs")

PACKAGES = tuple(f"slot_rl{name}" for name in ("", *".agents .envs .estimators .problems .search .selectors".split()))
REPOSITORY = "https://github.com/slot-rl/slot_rl/blob/main/"
KNOWN_HOSTS = set("arxiv.org doi.org github.com keepachangelog.com semver.org slot-rl.github.io wandb.ai".split())
SOURCES = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb"))


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Builds the site once, whichever of the processes comes first."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared if worker_id == "master" else shared.parent) / "site"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            done = build(ROOT / "mkdocs.yml", folder)
            if done.returncode != 0 or "WARNING" in done.stderr:
                pytest.fail(done.stderr)
    return folder


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_public_name_has_an_anchor_in_the_reference(site: Path) -> None:
    missing = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        anchors = set(re.findall(r'id="([\w.]+)"', read(site / "reference" / f"{package.split('.')[-1]}.html")))
        for name in module.__all__:
            home = getattr(getattr(module, name), "__module__", package)
            if not anchors & {f"{package}.{name}", f"{home}.{name}"}:
                missing.append(f"{package}.{name}")
    assert missing == []
    assert 'id="slot_rl.compare.command.compare_problems"' in read(site / "reference" / "compare.html")


def test_the_reference_shows_no_markup_of_another_tool(site: Path) -> None:
    for page in (site / "reference").glob("*.html"):
        assert re.findall(r":(?:class|func|meth|mod|data|attr|exc):", read(page)) == [], page


def flat(value: Any) -> Iterator[tuple[str, object]]:
    for field in fields(value):
        default = getattr(value, field.name)
        yield from flat(default) if is_dataclass(default) else [(field.name, default)]


@pytest.mark.parametrize("name", AGENTS)
def test_an_agents_page_is_in_the_nav_with_its_defaults(name: str, site: Path) -> None:
    assert f'href="agents/{name}.html"' in read(site / "agents.html")
    cells = r"<td><code>--([\w-]+)</code></td>\s*<td><code>([^<]*)</code></td>\s*<td>([^\n]+)</td>"
    rows = re.findall(cells, read(site / "agents" / f"{name}.html"))
    shown = {flag.replace("-", "_"): html.unescape(default) for flag, default, _ in rows}
    wanted = dict(flat(AGENTS[name].options))
    assert shown.keys() == wanted.keys()
    for option, default in wanted.items():
        got = float(shown[option]) if isinstance(default, float) else shown[option]
        assert got == (pytest.approx(default, rel=1e-3) if isinstance(default, float) else str(default)), option


def test_a_reader_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = r'<(?:script|img|iframe)[^>]*\ssrc="([^"]*)"|<link[^>]*\shref="([^"]*)"'
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    found = {part for page in pages for pair in re.findall(loaded, read(page)) for part in pair if "//" in part}
    assert found == set()


def test_diagrams_are_pictures(site: Path) -> None:
    page = read(site / "architecture.html")
    assert page.count('<div class="diagram"><svg') == read(ROOT / "docs" / "architecture.md").count("```mermaid") == 3
    assert "flowchart" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_links_out_of_the_docs_lead_to_files_of_the_repository(site: Path) -> None:
    links = {link for page in site.rglob("*.html") for link in re.findall(rf'href="{REPOSITORY}([^"#]*)', read(page))}
    assert "slot_rl/estimators/category_gp.py" in links
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert 'href="architecture.html"' in read(site / "contributing.html")
    assert 'href="contributing.html"' in read(site / "architecture.html")


def test_external_links_are_https_and_lead_to_known_hosts() -> None:
    links = [link for page in SOURCES for link in re.findall(r"\bhttps?://[^\s)>\]\"'`\\]+", read(page))]
    assert f"{REPOSITORY.removesuffix('/blob/main/')}/security/advisories/new" in links
    assert {urlsplit(link).scheme for link in links} == {"https"}
    assert {urlsplit(link).netloc for link in links} <= KNOWN_HOSTS


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# Page\n\n[there](nowhere.md)", "nowhere.md"),
        ("# Page\n\n[there](#nowhere)", "#nowhere"),
        ("# Page\n\n[there](/index.md)", "absolute"),
    ],
    ids=["file", "anchor", "absolute"],
)
def test_a_broken_link_stops_the_build(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(text)
    config = f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nextra_css: []\nhooks: []\nplugins: []\nnav: [index.md]\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert complaint in done.stderr
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n[there](#page)")
    assert build(tmp_path / "mkdocs.yml", tmp_path / "site").returncode == 0
