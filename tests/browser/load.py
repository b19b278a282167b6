"""Load of the pages: 500 groups, 50 jobs with progress ten times a second, 200 backends
(docs/page-internals.md).

The Director and its rows are real; the progress is put into the page's sockets. Each figure is CPU
time, divided by that of a page without rows in the same run: other work on the machine changes
both.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.processes import Served, filled

GROUPS = 500
RUNNING = 50
_FILL = f"""
from tests.harness import factories
ids = [f"gpu-{{n}}" for n in range({RUNNING})]
fences = []
for backend_id in ids:
    factories.backend(backend_id, url=f"http://127.0.0.1:1/{{backend_id}}")
    fences.append(factories.lease(backend_id))
for number in range({GROUPS} - 1):
    factories.submit(*ids[:3], metadata={{"name": f"Group {{number}}"}})
for fence in fences[:3]:
    for _ in range({GROUPS} - 1):
        factories.finish(factories.claim(fence), fence)
group = factories.submit(*ids, metadata={{"name": "Runs"}})
for fence in fences:
    factories.start(factories.claim(fence), fence)
print(group.id)
"""
BACKENDS = 200
_FARM = f"""
from tests.harness import factories
ids = [f"gpu-{{n}}" for n in range({BACKENDS})]
device = {{"name": "cuda:0 NVIDIA GeForce RTX 4090 : native", "vram_total": 24 * 2**30, "vram_free": 2**34}}
fences = [factories.online(one, devices=[device], tags=["flux", "rack"], comfyui_version="0.26.0") for one in ids]
for number in range(10):
    factories.submit(*ids, metadata={{"name": f"Shot {{number}}"}})
for fence in fences:
    factories.finish(factories.claim(fence), fence)
    factories.start(factories.claim(fence), fence)
    factories.accept(fence)
"""


@dataclass(frozen=True, slots=True)
class Load:
    """The seconds of the floor, and by it a first paint of the list of groups, and a frame of 50
    jobs' progress on each page.
    """

    floor: float
    paint: float
    groups: float
    group: float


_FEED = Path(__file__).with_name("feed.js")
#: A page without rows.
_LIGHT = "/submit"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Open:
    """A page, the Director that serves it, and what the script that filled that printed."""

    browser: Any
    page: Any
    served: Served
    printed: str

    def cpu(self, use: Callable[[], object]) -> float:
        """Return the seconds that the whole browser and the Director compute for a use."""
        session = self.browser.new_browser_cdp_session()

        def used() -> float:
            processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
            stat = Path(f"/proc/{self.served.process.pid}/stat").read_text().rpartition(")")[2]
            ticks = sum(map(int, stat.split()[11:13]))
            return float(sum(one["cpuTime"] for one in processes)) + ticks / _TICK

        before = used()
        use()
        seconds = used() - before
        session.detach()
        return seconds

    def paint(self, path: str) -> float:
        """Return what the first paint of a page takes, the least of five after one that fills the
        caches.
        """

        def show() -> None:
            self.page.goto(f"{self.served.url}{path}")
            self.page.wait_for_function(
                "() => performance.getEntriesByName('first-contentful-paint').length"
            )

        show()
        return min(self.cpu(show) for _ in range(5))

    def fed(self, path: str, jobs: list[str], seconds: float) -> float:
        """Feed a socket of the page with the progress of whole jobs; return what one frame of all
        jobs takes.
        """
        feed = [path, jobs, self.printed, seconds]
        frames = 0

        def use() -> None:
            nonlocal frames
            frames = self.page.evaluate("said => feed(...said)", feed)

        taken = self.cpu(use)
        shown = self.page.eval_on_selector(f'progress[data-job="{jobs[0]}"]', "bar => bar.value")
        assert shown > 50, "the progress did not reach the page"
        return taken / frames


def _kept(page: Any) -> dict[str, float]:
    """Return what the page holds on to: bytes of heap, nodes and listeners."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {name: found[name] for name in ("JSHeapUsedSize", "Nodes", "JSEventListeners")}


def _day(page: Any, path: str, jobs: list[str], groups: list[str]) -> dict[str, float]:
    """Return what the page holds on to after 20,000 updates, divided by that after 2,000."""
    kept = []
    for updates in (2_000, 20_000):
        page.evaluate("said => feedDay(...said)", [path, jobs, groups, updates])
        page.wait_for_timeout(3_000)  # the last rows and cards are read
        kept.append(_kept(page))
    return {name: kept[1][name] / kept[0][name] for name in kept[0]}


@contextmanager
def _filled(browser: Any, folder: Path, script: str) -> Iterator[_Open]:
    """Serve a Director with the rows of a script."""
    printed = filled(folder, script, within=400.0).strip()
    served = Served(folder, arguments=("--port", "0", "--no-runner"))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(path=_FEED)
    try:
        yield _Open(browser, page, served, printed)
    finally:
        page.close()
        served.stop()


def growth(browser: Any, folder: Path) -> dict[str, dict[str, float]]:
    """Return how the list of groups and the page of a group grow over a day: 20,000 updates, of
    some that read parts.
    """
    with _filled(browser, folder, _FILL) as opened:
        page, url, group = opened.page, opened.served.url, opened.printed
        page.goto(url)
        jobs = page.eval_on_selector_all(
            f"#{group} progress", "bars => bars.map(bar => bar.dataset.job)"
        )
        listed = _day(
            page,
            "/ws/monitor",
            jobs,
            page.eval_on_selector_all(".row", "rows => rows.map(row => row.id)"),
        )
        page.goto(f"{url}/groups/{group}")
        return {"groups": listed, "group": _day(page, f"/ws/job-groups/{group}", jobs, [])}


def farm_paint(browser: Any, folder: Path) -> float:
    """Return what the first paint of the table of 200 backends that work takes."""
    with _filled(browser, folder, _FARM) as opened:
        floor, paint = opened.paint(_LIGHT), opened.paint("/backends")
        assert opened.page.locator("#farm progress").count() == BACKENDS
        rows = opened.page.eval_on_selector_all(
            "#farm tbody tr", "rows => rows.map(row => row.offsetHeight)"
        )
        assert set(rows) == {36}
        return paint / floor


def measure(browser: Any, folder: Path, seconds: float) -> Load:
    """Return the load of 500 groups and 50 jobs; ``seconds`` of progress on each page."""
    with _filled(browser, folder, _FILL) as opened:
        page, group = opened.page, opened.printed
        floor, paint = opened.paint(_LIGHT), opened.paint("/")
        jobs = page.eval_on_selector_all(
            f"#{group} progress[data-job]", "bars => bars.map(bar => bar.dataset.job)"
        )
        assert len(jobs) == RUNNING, jobs
        listed = opened.fed("/ws/monitor", jobs, seconds)
        page.goto(f"{opened.served.url}/groups/{group}")
        page.locator(f"#{jobs[-1]}").wait_for()
        shown = opened.fed(f"/ws/job-groups/{group}", jobs, seconds)
        return Load(floor, paint / floor, listed / floor, shown / floor)
