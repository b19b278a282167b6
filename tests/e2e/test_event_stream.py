"""Server-Sent Events over a kill of the Director: a client that resumes gets every event once."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from tests.harness.director import directing
from tests.harness.graphs import picture
from tests.harness.machines import simulated
from tests.harness.waits import until
from tests.harness.watcher import Watcher, all_events


class SseWatcher(Watcher):
    """Reconnects with ``Last-Event-ID``."""

    def _connect_once(self) -> None:
        url = f"{self._director.wait_url()}/api/job-groups/{self.group_id}/events/stream"
        headers = {"Last-Event-ID": str(self.state.seq)} if self.state.group else {}
        try:
            with httpx.stream("GET", url, headers=headers, trust_env=False, timeout=20.0) as answer:
                self.connections += 1
                self._percents.clear()
                data = (
                    line.removeprefix("data: ")
                    for line in answer.iter_lines()
                    if line.startswith("data: ")
                )
                self._read(cast(Any, SimpleNamespace(recv=lambda: next(data))))
        except (httpx.HTTPError, StopIteration):
            time.sleep(0.02)


@pytest.mark.slow
def test_client_resumes_over_a_kill_without_a_gap(tmp_path: Path) -> None:
    with simulated(tmp_path, seconds=0.3) as gpus, directing(tmp_path, gpus.urls) as director:
        director.start()
        director.wait_online()
        group_id = director.submit(picture(), gpus.ids * 4)
        watcher = SseWatcher(director, group_id)
        until(lambda: watcher.count("child_completed"), 30.0)
        director.kill()
        director.start()
        watcher.wait_ended()
        events = all_events(director, group_id)
    assert watcher.connections > 1
    assert watcher.events == events[-len(watcher.events) :]
    assert watcher.count("child_completed") == 12
