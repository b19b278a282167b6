"""A Director that is killed before it could tell tells after its next start, once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx

from backends.simulator.threaded import SimulatorThread
from director.demo.workflow import text_to_image
from tests.harness.mailbox import SECRET, Inbox
from tests.harness.processes import Served

#: A minute is three seconds.
SCALE = "0.05"


def ended(served: Served, **fields: Any) -> None:
    """Submit a group, and wait until it has ended."""
    with httpx.Client(base_url=served.url, trust_env=False, timeout=20) as client:
        ids = [row["backend_id"] for row in client.get("/api/backends").json()["backends"]]
        body = {"workflow_json": text_to_image(), "backend_ids": ids, **fields}
        answer = client.post("/api/job-group", json=body)
        assert answer.status_code == 201, answer.text
        path = f"/api/job-groups/{answer.json()['job_group_id']}"
        end = time.monotonic() + 30
        while client.get(path).json()["completed_at"] is None:
            assert time.monotonic() < end
            time.sleep(0.05)


def until_told(inbox: Inbox, served: Served, number: int) -> None:
    end = time.monotonic() + 40
    while len(inbox.got) < number:
        assert time.monotonic() < end, served.printed()
        time.sleep(0.05)


def test_what_could_not_be_told_before_it_was_killed_is_told_after(tmp_path: Path) -> None:
    inbox = Inbox()
    environment = {"DIRECTOR_NOTIFY": inbox.url, "DIRECTOR_NOTIFY_ON": "group_ended", "DIRECTOR_TIME_SCALE": SCALE}
    with SimulatorThread(1, seconds=0.1, lenient=True) as simulators:
        served = Served(tmp_path, simulators.urls, environment=environment)
        served.wait_online()
        ended(served, metadata={"name": "shot_001"})
        served.process.kill()
        served.process.wait()
        assert SECRET not in served.printed()
        inbox.open()
        served = Served(tmp_path, simulators.urls, environment=environment)
        until_told(inbox, served, 1)
        ended(served, metadata={"name": "shot_002"})
        until_told(inbox, served, 2)
        health = httpx.get(f"{served.url}/api/health", trust_env=False).text
        assert served.stop() == 0
    inbox.close()
    assert inbox.titles == ["shot_001: done", "shot_002: done"]
    assert SECRET not in served.printed() + health
    assert "Traceback" not in served.printed()
