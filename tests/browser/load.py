"""How heavy the pages are: 500 groups, and 50 children that progress ten times a second each.

``python -m tests.browser.load [SECONDS]`` prints the first paint and the share of a core that the
whole browser takes. The Director and its rows are real; the progress is put into the page's
sockets, in the form in which 50 children's reports come out of the Director.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.served import ROOT, Served

GROUPS = 500
RUNNING = 50
#: Run in a process of its own, with the data folder of the Director to be.
_FILL = f"""
import django; django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from tests import farm
ids = [f"gpu-{{n}}" for n in range({RUNNING})]
fences = []
for backend_id in ids:
    farm.backend(backend_id, url=f"http://127.0.0.1:1/{{backend_id}}")
    fences.append(farm.lease(backend_id))
for number in range({GROUPS} - 1):
    farm.submit(*ids[:3], metadata={{"name": f"Group {{number}}"}})
for fence in fences[:3]:
    for _ in range({GROUPS} - 1):
        farm.finish(farm.claim(fence), fence)
group = farm.submit(*ids, metadata={{"name": "Runs"}})
for fence in fences:
    farm.start(farm.claim(fence), fence)
print(group.id)
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured. Shares are of one core, all of the browser's processes together."""

    first_paint: float
    list_share: float
    group_share: float
    #: Bytes of the group page's heap at the end, over those after a third of the time.
    heap_growth: float


def fill(folder: Path) -> str:
    """Make the rows, and return the id of the group that runs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
    environment |= {
        "DIRECTOR_DATA_DIR": str(folder / "data"),
        "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "director.settings"),
    }
    (folder / "data").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", _FILL],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


#: Keeps the page's sockets, and puts frames into them as the network would, for 50 jobs at a time.
_FEED = """
(() => {
  const Plain = window.WebSocket, sockets = [];
  window.WebSocket = class extends Plain { constructor(url) { super(url); sockets.push(this); } };
  let timer = 0;
  window.feed = (path, jobs, group, seconds) => {
    clearInterval(timer);
    const start = performance.now();
    const put = (frame) => {
      const data = JSON.stringify(frame);
      for (const socket of sockets) {
        if (socket.url.includes(path)) socket.onmessage(new MessageEvent("message", { data }));
      }
    };
    const thrown = path.includes("monitor");  // together, four times a second
    timer = setInterval(() => {
      const percent = Math.min((performance.now() - start) / seconds / 10, 100);
      if (thrown) put({ type: "progress", children: jobs.map((job) => [group, job, percent]) });
      else for (const job of jobs) put({ type: "child_progress", job_id: job, progress: percent,
        current_step: "KSampler", steps_completed: Math.round(percent / 5), steps_total: 20 });
    }, thrown ? 250 : 100);
  };
})();
"""


def _share(browser: Any, page: Any, seconds: float) -> float:
    """Return the share of a core that all processes of the browser take."""
    session = browser.new_browser_cdp_session()

    def used() -> float:
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        return float(sum(one["cpuTime"] for one in processes))

    start, before = time.monotonic(), used()
    page.wait_for_timeout(seconds * 1000)
    return (used() - before) / (time.monotonic() - start)


def _fed(browser: Any, page: Any, path: str, jobs: list[str], group: str, seconds: float) -> float:
    """Feed one of the page's sockets, and return the share of a core meanwhile."""
    page.evaluate(
        "([path, jobs, group, seconds]) => feed(path, jobs, group, seconds)",
        [path, jobs, group, seconds],
    )
    share = _share(browser, page, seconds)
    shown = page.eval_on_selector(f'progress[data-job="{jobs[0]}"]', "bar => bar.value")
    assert shown > 50, "the progress did not reach the page"
    return share


def _heap(page: Any) -> float:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return float(session.send("Runtime.getHeapUsage")["usedSize"])


def measure(browser: Any, folder: Path, seconds: float) -> Load:
    """Fill a Director, look at it, and measure."""
    group = fill(folder)
    served = Served(folder, arguments=("--port", "0", "--no-runner"))
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(_FEED)
        page.goto(served.url)  # once for the caches of both
        page.goto(served.url)
        paint = page.wait_for_function(
            "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000"
        ).json_value()
        jobs = page.eval_on_selector_all(
            f"#{group} progress[data-job]", "bars => bars.map(bar => bar.dataset.job)"
        )
        assert len(jobs) == RUNNING, jobs
        list_share = _fed(browser, page, "/ws/monitor", jobs, group, seconds)
        page.goto(f"{served.url}/groups/{group}")
        page.locator(f"#{jobs[-1]}").wait_for()
        _fed(browser, page, f"/ws/job-groups/{group}", jobs, group, seconds / 3)
        heap = _heap(page)
        group_share = _fed(browser, page, f"/ws/job-groups/{group}", jobs, group, seconds)
        return Load(paint, list_share, group_share, _heap(page) / heap)
    finally:
        served.stop()


def main() -> None:
    """Measure for as long as was said, and print."""
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import ARGUMENTS, CHROMIUM

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        load = measure(browser, Path(folder), seconds)
        browser.close()
    print(f"first paint      {load.first_paint:.2f} s (limit 1)")
    print(f"list of groups   {load.list_share:.0%} of a core (limit 30 %)")
    print(f"page of a group  {load.group_share:.0%} of a core (limit 30 %)")
    print(f"heap afterwards  {load.heap_growth:.2f} of what it was before")


if __name__ == "__main__":
    main()
