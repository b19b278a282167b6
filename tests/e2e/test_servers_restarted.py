"""PostgreSQL and Redis restart under load: what is said meanwhile, and that nothing is lost of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.e2e.killing.gpus import Gpus, picture, simulated
from tests.e2e.test_runner_process import Farm, needs_servers, once_each, until
from tests.served import stop_in_order
from tests.servers import Postgres, Redis
from tests.ws.client_state import ClientState

pytestmark = [pytest.mark.timeout(180), needs_servers]

#: Seconds within which a stream is healed from the rows.
HEALED = 5.0


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[Gpus]:
    with simulated(tmp_path, count=2, seconds=1.0) as running:
        yield running


@pytest.fixture
def farm(tmp_path: Path, gpus: Gpus, url: str, doorbell: Redis) -> Iterator[Farm]:
    made = Farm(tmp_path, gpus, DIRECTOR_DATABASE_URL=url, DIRECTOR_REDIS_URL=doorbell.url)
    try:
        made.web.start()
        made.runner("room-1")
        made.web.wait_online()
        yield made
    finally:
        made.close()


class Stream:
    """One connection to a group's stream, read in a thread; it is never opened again."""

    def __init__(self, farm: Farm, group_id: str) -> None:
        self.state = ClientState()
        self.frames: list[tuple[float, dict[str, Any]]] = []
        self._failure: BaseException | None = None
        self._url = f"{farm.web.url.replace('http', 'ws', 1)}/ws/job-groups/{group_id}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with connect(self._url, proxy=None, close_timeout=1) as socket:
                while not self.kinds("group_complete"):
                    frame = json.loads(socket.recv(timeout=60))
                    self.frames.append((time.time(), frame))
                    self.state.take(frame)
        except BaseException as failure:  # noqa: BLE001 handed to the test's thread
            self._failure = failure

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        """Return the frames of a kind."""
        return [frame for _, frame in list(self.frames) if frame["type"] == kind]

    def wait_ended(self, within: float = 60.0) -> None:
        """Wait until it has told the group's end."""
        self._thread.join(within)
        assert not self._thread.is_alive(), self.frames[-3:]
        if self._failure is not None:
            raise AssertionError("the stream broke off") from self._failure

    def lateness(self) -> float:
        """Return by how many seconds the latest event came after its child's end at the backend."""
        return max(
            came - _moment(frame["completed_at"])
            for came, frame in self.frames
            if frame["type"] == "child_completed"
        )


def _moment(text: str) -> float:
    import datetime as dt

    return dt.datetime.fromisoformat(text).timestamp()


def submitted(farm: Farm, each: int) -> tuple[str, Stream]:
    """Submit a group, and watch it until it is under way."""
    group_id = farm.web.submit(picture(), farm.gpus.ids * each)
    stream = Stream(farm, group_id)
    until(lambda: stream.kinds("child_started"))
    return group_id, stream


def ended_well(farm: Farm, group_id: str) -> None:
    """Hold that every child was rendered, each once."""
    group = farm.wait_complete(group_id)
    assert group["status"] == "completed"
    assert once_each(farm.gpus.seen()) == sorted(one["job_id"] for one in group["child_jobs"])


def test_without_redis_streams_are_healed_from_the_rows_and_go_live_again_with_it(
    farm: Farm, doorbell: Redis
) -> None:
    """Nobody reloads a page: it is one connection from beginning to end."""
    group_id, stream = submitted(farm, each=5)
    doorbell.stop()
    down = until(lambda: (c := farm.check("channel_layer"))["status"] != "ok" and c, within=10.0)
    assert down == {
        "status": "degraded",
        "detail": "Redis does not answer; events come late until it does.",
    }
    ended = len(stream.kinds("child_completed"))
    until(lambda: len(stream.kinds("child_completed")) >= ended + 3, within=20.0)
    doorbell.start()
    until(lambda: farm.check("channel_layer")["status"] == "ok", within=10.0)
    heard = len(stream.kinds("child_progress"))
    until(lambda: len(stream.kinds("child_progress")) > heard, within=10.0)
    stream.wait_ended()
    assert stream.lateness() < HEALED
    ended_well(farm, group_id)


def test_while_postgresql_restarts_writes_are_told_when_to_come_back_and_nothing_is_lost(
    farm: Farm, server: Postgres
) -> None:
    group_id, stream = submitted(farm, each=4)
    server.stop()
    refusal = farm.web.ask(
        "POST",
        "/api/job-group",
        json={"workflow_json": picture(), "backend_ids": farm.gpus.ids},
        headers={"Idempotency-Key": "once"},
    )
    assert refusal.status_code == 503, refusal.text
    assert refusal.json()["code"] == "database_unavailable"
    assert int(refusal.headers["Retry-After"]) >= 1
    health = farm.web.ask("GET", "/api/health")
    assert (health.status_code, health.json()["checks"]["database"]["status"]) == (503, "down")
    server.start()
    again = until(lambda: _submitted_now(farm), within=20.0)
    stream.wait_ended()
    for one in (group_id, again):
        farm.wait_complete(one)
    groups = farm.web.ask("GET", "/api/job-groups").json()["results"]
    assert len(groups) == 2
    everything = [farm.group(one) for one in (group_id, again)]
    assert {group["status"] for group in everything} == {"completed"}
    jobs = sorted(child["job_id"] for group in everything for child in group["child_jobs"])
    assert once_each(farm.gpus.seen()) == jobs
    assert "Traceback" not in farm.web.printed(), farm.web.printed()
    stop_in_order(farm.web)


def _submitted_now(farm: Farm) -> str | None:
    answer = farm.web.ask(
        "POST",
        "/api/job-group",
        json={"workflow_json": picture(), "backend_ids": farm.gpus.ids},
        headers={"Idempotency-Key": "once"},
    )
    if answer.status_code == 503:
        return None
    found: str = answer.json()["job_group_id"]
    return found
