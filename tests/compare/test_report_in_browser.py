"""A report in a real browser: its pictures are shown, its tables have rows, and the console is silent.

The browser is driven over the WebDriver protocol, which is JSON over HTTP and needs no more than Python has; Selenium
would bring a dozen packages for the six requests made here.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pandas as pd
import pytest

from slot_rl.compare.conclusions import conclude
from slot_rl.compare.plots import draw_interval_chart
from slot_rl.compare.report import Picture, Section, publish_report, write_page
from slot_rl.compare.tables import ReportTable
from tests.helpers.made_up import made_run, results

pytestmark = pytest.mark.slow

CHROMIUM = "/usr/bin/chromium"
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --window-size=1200,900""".split()
LOOK = """
const seen = part => { const box = part.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
return {
  pictures: [...document.images].map(one => one.complete && one.naturalWidth > 0 && seen(one)),
  rows: [...document.querySelectorAll("table")].map(
    one => seen(one) ? [...one.tBodies].flatMap(body => [...body.rows]).filter(seen).length : 0),
  scrolled: [...document.querySelectorAll(".scroll")].filter(one => one.scrollWidth > one.clientWidth).length,
  overflows: document.documentElement.scrollWidth > document.documentElement.clientWidth,
};
"""


class Browser:
    """One window of headless Chromium."""

    def __init__(self, driver: str, profile: Path) -> None:
        self._driver = driver
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._ask("POST", "/session", capabilities={"alwaysMatch": wanted})["sessionId"]
        self._session = f"/session/{session}"

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = Request(self._driver + path, data, {"Content-Type": "application/json"}, method=method)
        with build_opener(ProxyHandler({})).open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def resize(self, width: int, height: int) -> None:
        self._ask("POST", self._session + "/window/rect", width=width, height=height)

    def open(self, page: Path) -> dict[str, Any]:
        """Opens a page and returns what is on it, and what the console was told meanwhile."""
        self._ask("POST", self._session + "/se/log", type="browser")  # of the page before
        self._ask("POST", self._session + "/url", url=page.as_uri())
        found: dict[str, Any] = self._ask("POST", self._session + "/execute/sync", script=LOOK, args=[])
        return found | {"console": self._ask("POST", self._session + "/se/log", type="browser")}

    def close(self) -> None:
        self._ask("DELETE", self._session)


def faults(browser: Browser, page: Path) -> list[str]:
    """Returns what is wrong with a report."""
    found = browser.open(page)
    return [
        *(f"picture {i} is not shown" for i, shown in enumerate(found["pictures"]) if not shown),
        *(f"table {i} has no visible row" for i, rows in enumerate(found["rows"]) if rows == 0),
        *(f"console: {entry['message']}" for entry in found["console"]),
        *(["the page is wider than the window"] if found["overflows"] else []),
    ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    if driver is None or not Path(CHROMIUM).exists():
        pytest.skip("needs /usr/bin/chromium and chromedriver (Debian: chromium, chromium-driver)")
    with subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ports = (re.search(r"started successfully on port (\d+)", line) for line in process.stdout)
            port = next(found[1] for found in ports if found)
            window = Browser(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("profile"))
            yield window
            window.close()
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    rows = [("task", "gumbel", 0.9, 0.8, 0.95), ("task", "ppo", 0.7, 0.5, 0.8)]
    draw_interval_chart(path, pd.DataFrame(rows, columns=["task", "agent", "iqm", "iqm_low", "iqm_high"]))
    return path


@pytest.fixture
def page(tmp_path: Path, picture: Path) -> Callable[..., Path]:
    """Writes a report without faults, with what is added to it."""

    def write(*, tables: Sequence[ReportTable] = (), pictures: Sequence[Picture] = ()) -> Path:
        name = "<img src=x onerror=\"console.error('run')\"><script>console.error('run')</script>"
        cells = {f"column {i} of {name}": ["cell", name] for i in range(12)}
        wide, sound = ReportTable("wide", "", "Wide.", pd.DataFrame(cells)), Picture(picture, name)
        first = Section("One", ["Words."], [wide], [sound])
        second = Section(name, ["Words."], [wide, *tables], [sound, *pictures])
        write_page(tmp_path / "report.html", name, [first, second])
        return tmp_path / "report.html"

    return write


@pytest.mark.parametrize("width", [1200, 500])
def test_a_report_is_shown_in_silence(browser: Browser, page: Callable[..., Path], width: int) -> None:
    browser.resize(width, 900)
    found = browser.open(page())
    assert found.pop("scrolled") > 0  # tables that are wider than the page have a bar of their own
    assert found == {"pictures": [True, True], "rows": [2, 2], "console": [], "overflows": False}
    assert faults(browser, page()) == []


def test_a_comparison_needs_no_bar_at_1280_pixels(browser: Browser, tmp_path: Path) -> None:
    figures: dict[str, Any] = {"searched_optimality": 0.9876, "cpu_seconds": 123.4, "estimator_backwards": 100_000.0}
    figures |= {"true_optimality": -0.5, "gap": -0.123, "measured_share": 0.5, "best_constant_optimality": 0.25}
    agents = ["screened_expectation", "expert_iteration", "exhaustive_search", *(f"agent_{i}" for i in range(9))]
    rows = [
        made_run(task, agent, seed, -1.5 + 0.1 * i + 0.3 * (seed * i % 4), estimator_forwards=100_000.0, **figures)
        for task in ("Slots-v0", "Rows-v0 a-table-of-reactions")
        for i, agent in enumerate(agents)
        for seed in range(4)
    ]
    publish_report(tmp_path, conclude(results(rows), 0.6), {"command": "made up"}, "disabled")
    browser.resize(1280, 900)
    found = browser.open(tmp_path / "report.html")
    assert (found["overflows"], found["scrolled"], found["console"]) == (False, 0, [])
    assert all(found["pictures"]) and len(found["rows"]) == 3 * 3


def test_a_broken_picture_is_noticed(browser: Browser, page: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and nothing more")
    assert faults(browser, page(pictures=[Picture(tmp_path / "broken.png", "Broken.")])) == ["picture 2 is not shown"]


def test_an_empty_table_is_noticed(browser: Browser, page: Callable[..., Path]) -> None:
    empty = ReportTable("empty", "", "Empty.", pd.DataFrame(columns=["agent", "mean"]))
    assert faults(browser, page(tables=[empty])) == ["table 2 has no visible row"]


def test_an_error_on_the_console_is_noticed(browser: Browser, page: Callable[..., Path]) -> None:
    path = page()
    text = re.sub(r"<meta http-equiv[^>]*>", "", path.read_text())
    path.write_text(text.replace("</body>", "<script>console.error('told so')</script></body>"))
    (fault,) = faults(browser, path)
    assert fault.startswith("console: ") and "told so" in fault


def test_neither_scripts_nor_requests_are_allowed(browser: Browser, page: Callable[..., Path]) -> None:
    path, base = page(), page().read_text()
    for part in ("<script>document.title = 'run'</script>", "<img src='http://127.0.0.1:9/x.png' alt=''>"):
        path.write_text(base.replace("</body>", part + "</body>"))
        assert "Content Security Policy" in " ".join(faults(browser, path))


def test_a_wide_page_is_noticed(browser: Browser, page: Callable[..., Path]) -> None:
    path = page()
    path.write_text(path.read_text().replace("</body>", '<div style="width: 9000px">wide</div></body>'))
    assert faults(browser, path) == ["the page is wider than the window"]
