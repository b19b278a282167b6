"""Load of the pages: 500 groups, 50 jobs with progress ten times a second, 200 backends
(docs/pages.md).

The Director and its rows are real; the progress is put into the page's sockets.
"""

import time
from collections.abc import Iterator
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
    """The seconds to the first paint, and the share of one core that each page takes."""

    first_paint: float
    groups: float
    group: float


_FEED = Path(__file__).with_name("feed.js")


def _share(browser: Any, page: Any, seconds: float) -> float:
    session = browser.new_browser_cdp_session()

    def used() -> float:
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        return float(sum(one["cpuTime"] for one in processes))

    start, before = time.monotonic(), used()
    page.wait_for_timeout(seconds * 1000)
    return (used() - before) / (time.monotonic() - start)


def _fed(browser: Any, page: Any, feed: list[Any], seconds: float) -> float:
    """Feed one of the page's sockets with the progress of a whole job; return the share of a core."""
    page.evaluate("said => feed(...said)", [*feed, seconds])
    share = _share(browser, page, seconds)
    shown = page.eval_on_selector(f'progress[data-job="{feed[1][0]}"]', "bar => bar.value")
    assert shown > 50, "the progress did not reach the page"
    return share


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
def _filled(browser: Any, folder: Path, script: str) -> Iterator[tuple[Any, str, str]]:
    """Serve a Director with the rows of a script; yield a page, the Director's address, and what
    the script printed.
    """
    printed = filled(folder, script).strip()
    served = Served(folder, arguments=("--port", "0", "--no-runner"))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(path=_FEED)
    try:
        yield page, served.url, printed
    finally:
        page.close()
        served.stop()


def growth(browser: Any, folder: Path) -> dict[str, dict[str, float]]:
    """Return how the list of groups and the page of a group grow over a day: 20,000 updates, of
    some that read parts.
    """
    with _filled(browser, folder, _FILL) as (page, url, group):
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


def first_paint(page: Any, url: str) -> float:
    """Return the seconds to the first paint of a page, the least of three after one that fills the
    caches.
    """
    paint = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000"
    page.goto(url)
    return min(
        float((page.goto(url), page.wait_for_function(paint).json_value())[1]) for _ in range(3)
    )


def farm_paint(browser: Any, folder: Path) -> float:
    """Return the seconds to the first paint of the table of 200 backends that work."""
    with _filled(browser, folder, _FARM) as (page, url, _):
        paint = first_paint(page, f"{url}/backends")
        assert page.locator("#farm progress").count() == BACKENDS
        rows = page.eval_on_selector_all(
            "#farm tbody tr", "rows => rows.map(row => row.offsetHeight)"
        )
        assert set(rows) == {36}
        return paint


def measure(browser: Any, folder: Path, seconds: float) -> Load:
    with _filled(browser, folder, _FILL) as (page, url, group):
        paint = first_paint(page, url)
        jobs = page.eval_on_selector_all(
            f"#{group} progress[data-job]", "bars => bars.map(bar => bar.dataset.job)"
        )
        assert len(jobs) == RUNNING, jobs
        listed = _fed(browser, page, ["/ws/monitor", jobs, group], seconds)
        page.goto(f"{url}/groups/{group}")
        page.locator(f"#{jobs[-1]}").wait_for()
        stream = [f"/ws/job-groups/{group}", jobs, group]
        return Load(paint, listed, _fed(browser, page, stream, seconds))
