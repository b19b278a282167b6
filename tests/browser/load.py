"""Load of the pages: 500 groups, 50 jobs with progress ten times a second, 200 backends
(docs/page-internals.md).

The Director and its rows are real; the progress is put into the page's sockets. Each figure is CPU
time, divided by that of a page without rows in the same run: other work on the machine changes
both.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
JOBS = 200
#: Ten days of work: the groups are copies of one, each of ten minutes' jobs on every backend. The jobs
#: of one backend take four times as long, and those of another one fail.
_STUDIO = f"""
import copy, datetime as dt, uuid
from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.models import Attempt, ChildJob, JobGroup, Runner
from tests.harness import factories
device = {{"name": "cuda:0 NVIDIA GeForce RTX 4090 : native", "vram_total": 24 * 2**30, "vram_free": 2**34}}
fences = [factories.online(f"gpu-{{n}}", devices=[device]) for n in range({BACKENDS})]
group = factories.submit("gpu-0", submitter="ann", name="Shot")
claimed = factories.claim(fences[0])
factories.start(claimed, fences[0])
file = {{"filename": "a.png", "url": "http://gpu.test:8188/view?filename=a.png"}}
assert factories.finish(claimed, fences[0], outputs={{"images": [file]}})
group, child, attempt = JobGroup.objects.get(), ChildJob.objects.get(), Attempt.objects.get()
moment = now() - dt.timedelta(minutes=1)
for number in range({GROUPS} - 1):
    late = moment - dt.timedelta(minutes=10 * number + 20 * max(number - 5, 0))
    early = late - dt.timedelta(minutes=5)
    group.pk, group.name, group.created_at, group.completed_at = f"jg_{{number:012x}}", f"Shot {{number}}", early, late
    group.total_count = group.completed_count = {JOBS}
    if number == 300:
        group.name = "Storm at the pier"
    JobGroup.objects.bulk_create([group])
    children, attempts = [], []
    for n in range({JOBS}):
        child.pk, child.group_id, child.position, child.backend_id = f"j_{{number * {JOBS} + n:012x}}", group.pk, n, f"gpu-{{n}}"
        child.started_at, child.completed_at = late - dt.timedelta(seconds=240 if n == 7 else 60), late
        child.current_attempt_id = None
        attempt.pk, attempt.child_id, attempt.backend_id, attempt.prompt_id = None, child.pk, child.backend_id, str(uuid.uuid4())
        attempt.started_at, attempt.ended_at = child.started_at, late
        children.append(copy.copy(child))
        attempts.append(copy.copy(attempt))
    ChildJob.objects.bulk_create(children, batch_size=500)
    if number < 60:  # the attempts of more than a day
        Attempt.objects.bulk_create(attempts, batch_size=500)
bad = Attempt.objects.filter(backend_id="gpu-13", ended_at__gt=moment - dt.timedelta(hours=20))
assert bad.update(state="error", failure_class="cuda_fatal") > 20
factories.submit("gpu-0", name="Waits", submitter="ann")
later = now() + dt.timedelta(hours=1)  # a runner that does nothing has just probed them
Backend.objects.update(last_seen_at=later)
Runner.objects.create(name="played", instance="x", host="here", pid=1, version="0", started_at=moment, heartbeat_at=later)
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
class Opened:
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

        def shown_alone() -> float:
            # The thumbnails of the page before are no part of it.
            self.page.wait_for_load_state("networkidle")
            return self.cpu(show)

        show()
        return min(shown_alone() for _ in range(5))

    def fed(self, path: str, jobs: list[str], seconds: float) -> float:
        """Feed a socket of the page with the progress of whole jobs; return what one frame of all
        jobs takes.
        """
        # The thumbnails of the rows are no part of a frame.
        self.page.wait_for_load_state("networkidle")
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
def _filled(browser: Any, folder: Path, script: str) -> Iterator[Opened]:
    """Serve a Director with the rows of a script."""
    printed = filled(folder, script, within=400.0).strip()
    served = Served(folder, arguments=("--port", "0", "--no-runner"))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(path=_FEED)
    try:
        yield Opened(browser, page, served, printed)
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


def studio(browser: Any, folder: Path) -> AbstractContextManager[Opened]:
    """Serve a Director with 500 groups, 100,000 outputs and 200 backends, of which gpu-7 is slow and
    gpu-13 flaky.
    """
    return _filled(browser, folder, _STUDIO)


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
