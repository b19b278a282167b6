"""Submissions and retries that cannot begin in time, or whose client has gone: refused, or begun,
and never both.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction

from director.web.handlers import RECEIVED_KEY, ThreadedHandler
from jobgroups.api.views.base import ApiView
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.states import GroupStatus
from jobgroups.errors import Overloaded
from jobgroups.models import ChildJob, JobGroup
from jobgroups.services import submission, write_start
from jobgroups.services.write_start import WriteStart
from tests.api.conftest import GRAPH, Api
from tests.harness.races import race, started
from tests.harness.waits import until

pytestmark = pytest.mark.django_db(transaction=True)

POOL = ("/api/job-group", {"workflow_json": GRAPH, "backend_ids": ["*"], "count": 2})
WAYS = {
    "bound": ("/api/job-group", {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}),
    "pool": POOL,
    "v2": ("/api/v2/jobs", {"workflow": GRAPH}),
    "retry": ("/api/job-groups/{}/retry", {}),
    "retry of a job": ("/api/job-groups/{}/jobs/{}/retry", {}),
}


class Post:
    """A POST in an event loop of its own thread; ``leave`` closes its connection."""

    def __init__(self, path: str, body: Any, **scope: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self._left = asyncio.Event()
        content = json.dumps(body).encode()
        headers = {
            "host": "localhost:9820",
            "content-type": "application/json",
            "content-length": str(len(content)),
        }
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 9820),
            **scope,
        }
        self._messages = [{"type": "http.request", "body": content}]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._ask()])
        self._thread.start()

    async def _ask(self) -> None:
        async def receive() -> dict[str, Any]:
            if self._messages:
                return self._messages.pop()
            await self._left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        await ThreadedHandler()(self._scope, receive, send)

    def leave(self) -> None:
        self._loop.call_soon_threadsafe(self._left.set)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and JSON of the answer, once the request has ended."""
        self.wait()
        head, body = self.sent
        headers = {name.decode(): value.decode() for name, value in head["headers"]}
        return head["status"], headers, json.loads(body["body"])

    def wait(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the request waits"
        self._loop.close()


@contextlib.contextmanager
def blocked_writes() -> Iterator[None]:
    """Let no other transaction begin a write, as a writer that hangs."""
    is_blocked, is_over = threading.Event(), threading.Event()

    def block() -> None:
        with transaction.atomic():
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute(
                        "LOCK TABLE backends_backend, jobgroups_jobgroup IN ACCESS EXCLUSIVE MODE"
                    )
            is_blocked.set()
            is_over.wait(60)

    thread = started(block)
    assert is_blocked.wait(60)
    try:
        yield
    finally:
        is_over.set()
        thread.join(60)


@contextlib.contextmanager
def full(threads: int, pool: DatabaseThreads) -> Iterator[None]:
    """Occupy all threads of a pool."""
    is_over = threading.Event()
    for _ in range(threads):
        pool.submit(lambda: is_over.wait(60))
    try:
        yield
    finally:
        is_over.set()


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabaseThreads]:
    """The threads of requests that change rows: two of the test's own."""
    pool = DatabaseThreads(threads=2, name="acting", is_shared=True)
    monkeypatch.setattr(ApiView, "changes_in", pool)
    monkeypatch.setattr("jobgroups.api.submission._CHECK_SECONDS", 0.0)
    yield pool
    pool.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_start, "BEGIN_SECONDS", 0.3)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_start, "BEGIN_SECONDS", 60.0)


def failed_group(api: Api) -> tuple[str, str]:
    made = api.submit("gpu-1")
    group_id, job_id = made["job_group_id"], made["child_jobs"][0]["job_id"]
    api.delete(f"/api/job-groups/{group_id}")
    return group_id, job_id


def way(name: str, api: Api) -> tuple[str, Any, Callable[[], int]]:
    """Return path, body, and what counts the jobs that the request starts."""
    path, body = WAYS[name]
    if "retry" not in name:
        return path, body, JobGroup.objects.count
    group_id, job_id = failed_group(api)
    return path.format(group_id, job_id), {"job_ids": [job_id]} if name == "retry" else {}, _queued


def _queued() -> int:
    return ChildJob.objects.filter(status="queued").count()


def check_refusal(post: Post, path: str) -> None:
    status, headers, body = post.answer()
    assert (status, headers["Retry-After"]) == (503, "5")
    if path.startswith("/api/v2"):
        assert body["error"]["code"] == "upstream_error"
        assert body["error"]["details"] == {"code": "overloaded"}
    else:
        assert body["code"] == "overloaded"


@pytest.mark.parametrize("name", WAYS)
def test_request_that_cannot_begin_in_time_is_refused_and_never_begins(
    api: Api, farm: list[str], threads: DatabaseThreads, soon: None, name: str
) -> None:
    path, body, count = way(name, api)
    with blocked_writes():
        post = Post(path, body)
        check_refusal(post, path)
    threads.close()  # waits for what still runs
    assert count() == 0


@pytest.mark.parametrize("name", WAYS)
def test_request_whose_client_has_gone_does_not_begin(
    api: Api, farm: list[str], threads: DatabaseThreads, late: None, name: str
) -> None:
    path, body, count = way(name, api)
    with blocked_writes():
        post = Post(path, body)
        until(lambda: post._messages == [], 60)
        post.leave()
        post.wait()
    threads.close()
    assert post.sent == []
    assert count() == 0


def test_request_behind_others_in_the_queue_of_the_writer_is_refused(
    farm: list[str], threads: DatabaseThreads, soon: None
) -> None:
    writer = DatabaseThreads(threads=1, name="writer", batch_commits=True)
    try:
        with full(1, writer):
            check_refusal(Post(*POOL), POOL[0])
        threads.close()
    finally:
        writer.close()
    assert JobGroup.objects.count() == 0


def test_request_without_a_thread_is_refused_and_never_gets_one(
    farm: list[str], threads: DatabaseThreads, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    views: list[str] = []
    monkeypatch.setattr("jobgroups.api.views.groups.submit_body", lambda *_: views.append("submit"))
    with full(2, threads):
        check_refusal(Post(*POOL), POOL[0])
        monkeypatch.setattr(write_start, "BEGIN_SECONDS", 60.0)
        gone = Post(*POOL)
        gone.leave()
        gone.wait()
    threads.close()
    assert (views, gone.sent) == ([], [])


def test_seconds_count_from_the_last_byte_of_the_body(farm: list[str]) -> None:
    """Also if the event loop has been late: the writer refuses by its own clock."""
    received_at = time.monotonic() - write_start.BEGIN_SECONDS
    check_refusal(Post(*POOL, **{RECEIVED_KEY: received_at}), POOL[0])
    assert JobGroup.objects.count() == 0
    with pytest.raises(Overloaded):
        WriteStart(received_at).begin()


@pytest.mark.parametrize("leaves", [False, True], ids=["slow", "gone"])
def test_write_that_has_begun_is_stored(
    farm: list[str], threads: DatabaseThreads, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    plain, plain_give_up = submission.assets_use, WriteStart.give_up
    given_up: list[bool] = []

    def waits(*arguments: Any) -> None:
        has_begun.set()
        may_end.wait(60)
        plain(*arguments)

    def seconds_left(self: WriteStart) -> float:
        if threading.current_thread().name.startswith("shared"):
            return 60.0
        # The event loop: its time is over when the write has begun.
        has_begun.wait(60)
        return 60.0 if leaves else 0.0

    def noted(self: WriteStart) -> bool:
        given_up.append(plain_give_up(self))
        return given_up[-1]

    monkeypatch.setattr(submission, "assets_use", waits)
    monkeypatch.setattr(WriteStart, "give_up", noted)
    monkeypatch.setattr(WriteStart, "seconds_left", seconds_left)
    post = Post(*POOL)
    try:
        assert has_begun.wait(60)
        if leaves:
            post.leave()
        until(lambda: given_up, 60)
        assert (given_up, post.sent) == ([False], [])
    finally:
        may_end.set()
    assert post.answer()[0] == 201
    assert JobGroup.objects.get().status == GroupStatus.RUNNING


def test_either_the_writer_begins_or_the_request_gives_up() -> None:
    for _ in range(100):
        decision = WriteStart(time.monotonic())

        def begin(decision: WriteStart = decision) -> bool:
            try:
                decision.begin()
            except Overloaded:
                return False
            return True

        has_begun, has_given_up = race(begin, decision.give_up)
        assert has_begun != has_given_up
        # Both decisions stay: a transaction that is repeated has begun.
        assert begin() == has_begun
        assert decision.give_up() == has_given_up
