import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from director import client
from director.client import Director
from director.client.wire import SyncWire
from tests.client.conftest import Driven
from tests.client.server import FakeDirector


@contextmanager
def once(
    server: FakeDirector, condition: Callable[[], bool], *work: Callable[[], object]
) -> Iterator[None]:
    """Do the work in a thread once a condition holds."""

    def run() -> None:
        server.wait_until(condition)
        for step in work:
            step()

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(run)
        yield
        done.result()


def queries(server: FakeDirector, group_id: str) -> list[str]:
    path = f"/api/job-groups/{group_id}"
    return [
        sent.removeprefix(path) for _, sent, _, _ in list(server.requests) if sent.startswith(path)
    ]


def test_wait_returns_the_group_at_its_end(either: Driven, server: FakeDirector) -> None:
    group_id = server.group(2)
    with once(server, lambda: server.waiting == 1, partial(server.finish, group_id)):
        group = either.wait(group_id, timeout=90)
    assert group.finished
    assert (group.status, len(group.child_jobs)) == ("completed", 2)
    assert queries(server, group_id) == ["?children=0", "?children=0&since=1&wait=25", ""]
    assert server.connects == []


def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses of a client in seconds; it makes none."""
    pauses: list[float] = []

    async def sleep(_: SyncWire, seconds: float) -> None:
        pauses.append(seconds)

    # Other threads of this process call ``time.sleep``.
    monkeypatch.setattr(SyncWire, "sleep", sleep)
    return pauses


@pytest.mark.parametrize(
    ("jobs", "cancelled", "is_paused"), [(10, 0, False), (11, 0, True), (11, 1, False)]
)
def test_wait_pauses_only_while_many_jobs_are_open(
    director: Director,
    server: FakeDirector,
    monkeypatch: pytest.MonkeyPatch,
    jobs: int,
    cancelled: int,
    is_paused: bool,
) -> None:
    pauses = sleeps(monkeypatch)
    group_id = server.group(jobs, cancelled_count=cancelled)
    with once(server, lambda: server.waiting == 1, partial(server.finish, group_id)):
        director.wait(group_id, timeout=90)
    assert any(pauses) is is_paused


def test_wait_raises_after_its_timeout(either: Driven, server: FakeDirector) -> None:
    group_id = server.group(status="partial_complete")
    with pytest.raises(client.WaitTimeout, match=r"is partial_complete after 1\.9 s"):
        either.wait(group_id, timeout=1.9)
    waits = {query for query in queries(server, group_id) if "wait=" in query}
    assert waits <= {"?children=0&since=1&wait=1"}


def test_wait_polls_a_director_that_lets_no_request_wait(
    director: Director, server: FakeDirector, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = sleeps(monkeypatch)
    server.refuses_waits = True
    group_id = server.group(2)
    with once(
        server, lambda: len(queries(server, group_id)) >= 5, partial(server.finish, group_id)
    ):
        assert len(director.wait(group_id, timeout=90).child_jobs) == 2
    sent = queries(server, group_id)
    assert sum("wait=" in query for query in sent) <= 1
    assert set(sent[2:-1]) == {"?children=0&since=1"}
    assert len([pause for pause in pauses if pause == 2.0]) >= 3


def test_wait_continues_after_requests_that_a_proxy_cuts(
    director: Director, server: FakeDirector
) -> None:
    server.cuts_after = 0.05
    group_id = server.group()
    with once(
        server, lambda: len(queries(server, group_id)) >= 8, partial(server.finish, group_id)
    ):
        assert director.wait(group_id, timeout=90).finished
    # A request that does not wait shows that the Director is there.
    assert queries(server, group_id)[2] == "?children=0&since=1"


def test_wait_continues_after_a_restart(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    ended = {"completed_at": "2026-02-01T07:00:00.000Z", "seq": 2}
    end = partial(server.groups[group_id].body.update, ended)
    with once(
        server,
        lambda: server.waiting == 1,
        server.stop,
        end,
        partial(time.sleep, 0.1),
        server.restart,
    ):
        assert director.wait(group_id, timeout=90).finished


def test_wait_continues_after_an_immediate_retry(
    director: Director, server: FakeDirector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        # Between the answer that shows the end and the one with the jobs.
        if not query and body["run"] == 1:
            server.reopen(group_id)
        return FakeDirector.shown(body, query)

    monkeypatch.setattr(server, "shown", shown)
    group_id = server.group()
    server.finish(group_id)
    body = server.groups[group_id].body
    with once(
        server, lambda: body["run"] == 2 and server.waiting == 1, partial(server.finish, group_id)
    ):
        assert director.wait(group_id, timeout=90).run == 2


def test_waits_leave_connections_for_other_requests(server: FakeDirector) -> None:
    group_id = server.group()
    with Director(server.url) as director, ThreadPoolExecutor(101) as threads:
        waits = [threads.submit(director.wait, group_id, timeout=90) for _ in range(101)]
        server.wait_until(lambda: server.waiting == 101)
        assert not director.status(group_id, jobs=False).child_jobs
        server.finish(group_id)
        assert all(one.result().finished for one in waits)


def test_wait_for_an_unknown_group_raises(director: Director) -> None:
    with pytest.raises(client.NotFound):
        director.wait("jg_none", timeout=60)
