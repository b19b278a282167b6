"""Load of the pages: 500 groups, and 50 jobs with progress ten times a second (docs/pages.md).

The Director and its rows are real; the progress is put into the page's sockets.
"""

import time
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


@dataclass(frozen=True, slots=True)
class Stretch:
    """The share of one core, and the growth of each figure from the first third to the other two."""

    share: float
    work: float
    heap: float
    nodes: float
    listeners: float


@dataclass(frozen=True, slots=True)
class Load:
    first_paint: float
    groups: Stretch
    group: Stretch


_FEED = Path(__file__).with_name("feed.js")


def _share(browser: Any, page: Any, seconds: float) -> float:
    session = browser.new_browser_cdp_session()

    def used() -> float:
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        return float(sum(one["cpuTime"] for one in processes))

    start, before = time.monotonic(), used()
    page.wait_for_timeout(seconds * 1000)
    return (used() - before) / (time.monotonic() - start)


def _fed(browser: Any, page: Any, feed: list[Any], seconds: float, *, start: float, end: float) -> float:
    """Feed one of the page's sockets from a percentage to another; return the share of a core."""
    page.evaluate("said => feed(...said)", [*feed, seconds, start, end])
    share = _share(browser, page, seconds)
    shown = page.eval_on_selector(f'progress[data-job="{feed[1][0]}"]', "bar => bar.value")
    assert shown > (start + end) / 2, "the progress did not reach the page"
    return share


def _kept(page: Any) -> dict[str, float]:
    """Return what the page holds on to: bytes of heap, nodes and listeners."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {name: found[name] for name in ("JSHeapUsedSize", "Nodes", "JSEventListeners")}


def _stretch(browser: Any, page: Any, feed: list[Any], seconds: float) -> Stretch:
    first = _fed(browser, page, feed, seconds / 3, start=0, end=34)
    before = _kept(page)
    last = _fed(browser, page, feed, seconds * 2 / 3, start=34, end=100)
    after = _kept(page)
    return Stretch(last, last / first, *(after[name] / before[name] for name in before))


def measure(browser: Any, folder: Path, seconds: float) -> Load:
    group = filled(folder, _FILL).strip()
    served = Served(folder, arguments=("--port", "0", "--no-runner"))
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(path=_FEED)
        page.goto(served.url)  # once for the caches of both
        page.goto(served.url)
        paint = page.wait_for_function(
            "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000"
        ).json_value()
        jobs = page.eval_on_selector_all(f"#{group} progress[data-job]", "bars => bars.map(bar => bar.dataset.job)")
        assert len(jobs) == RUNNING, jobs
        listed = _stretch(browser, page, ["/ws/monitor", jobs, group], seconds)
        page.goto(f"{served.url}/groups/{group}")
        page.locator(f"#{jobs[-1]}").wait_for()
        stream = [f"/ws/job-groups/{group}", jobs, group]
        alone = _stretch(browser, page, stream, seconds)
        return Load(paint, listed, alone)
    finally:
        served.stop()
