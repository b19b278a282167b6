import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from director import client
from director.client import Director
from tests.client.conftest import Driven
from tests.client.server import FakeDirector


@contextmanager
def meanwhile(server: FakeDirector, group_id: str, *work: Callable[[], object]) -> Iterator[None]:
    """Do the work in a thread once the client is connected to the stream."""

    def run() -> None:
        server.wait_until(lambda: server.listeners(group_id) == 1)
        for step in work:
            step()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


def test_wait_returns_the_group_at_its_end(either: Driven, server: FakeDirector) -> None:
    group_id = server.group(2)
    with meanwhile(server, group_id, lambda: server.finish(group_id)):
        group = either.wait(group_id, timeout=10)
    assert group.finished
    assert (group.status, len(group.child_jobs)) == ("completed", 2)
    assert len(server.sent("GET", f"/api/job-groups/{group_id}")) == 2
    server.wait_until(lambda: server.listeners(group_id) == 0)


def test_wait_for_a_finished_group_opens_no_stream(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    server.finish(group_id)
    assert director.wait(group_id).finished
    assert server.connects == []


@pytest.mark.parametrize("status", ["running", "partial_complete"])
def test_wait_raises_after_its_timeout(either: Driven, server: FakeDirector, status: str) -> None:
    group_id = server.group(status=status)
    with pytest.raises(client.WaitTimeout, match=rf"is {status} after 0\.1 s"):
        either.wait(group_id, timeout=0.1)
    server.wait_until(lambda: server.listeners(group_id) == 0)


@pytest.mark.parametrize("status", [403, 500])
def test_wait_without_sockets_polls(
    director: Director, server: FakeDirector, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def finish() -> None:
        path = f"/api/job-groups/{group_id}"
        server.wait_until(lambda: len(server.sent("GET", path)) >= 3)
        server.finish(group_id)

    monkeypatch.setattr("director.client.wait.POLL_S", 0.05)
    group_id = server.group()
    server.refuse_sockets = status
    thread = threading.Thread(target=finish)
    thread.start()
    assert director.wait(group_id, timeout=20).finished
    thread.join()
    is_permanent = status < 500
    assert (len(server.connects) == 1) is is_permanent


def test_wait_reads_the_status_if_the_stream_is_silent(
    director: Director, server: FakeDirector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.client.wait.SAFETY_POLL_S", 0.1)
    group_id = server.group()
    server.skip = {2}
    with meanwhile(server, group_id, lambda: server.finish(group_id)):
        assert director.wait(group_id, timeout=10).finished


def test_wait_continues_after_a_restart(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    ended = {"completed_at": "2026-02-01T07:00:00.000Z"}
    end = partial(server.groups[group_id].body.update, ended)
    with meanwhile(server, group_id, server.stop, end, partial(time.sleep, 0.1), server.restart):
        assert director.wait(group_id, timeout=15).finished


def test_wait_opens_a_closed_stream_again(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    again = partial(server.wait_until, lambda: len(server.connects) == 2)
    end = partial(server.finish, group_id)
    with meanwhile(server, group_id, partial(server.close, group_id, 4012), again, end):
        assert director.wait(group_id, timeout=12).finished
    assert len(server.connects) == 2


def test_wait_continues_after_an_immediate_retry(director: Director, server: FakeDirector) -> None:
    def retry() -> None:
        counts = {"total": 1, "succeeded": 0, "failed": 1}
        server.record(group_id, "group_complete", job_group_id=group_id, **counts)
        path = f"/api/job-groups/{group_id}"
        server.wait_until(lambda: len(server.sent("GET", path)) == 2)
        server.reopen(group_id)
        server.finish(group_id)

    group_id = server.group()
    with meanwhile(server, group_id, retry):
        assert director.wait(group_id, timeout=10).run == 2


def test_wait_for_an_unknown_group_raises(director: Director) -> None:
    with pytest.raises(client.GroupNotFound):
        director.wait("jg_none", timeout=5)
