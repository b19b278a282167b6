import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings as current
from django.core.handlers.asgi import ASGIHandler
from django.db import connection
from django.urls import resolve
from pytest_django import Settings

from backends import probes as backend_probes
from backends.models import Backend
from director.web import handlers
from director.web.handlers import MATCH_KEY, ThreadedHandler
from director.web.listener import LISTENER_KEY, LISTENER_URLS
from jobgroups.api.listener import nodes
from jobgroups.api.views import backends as probe_views
from jobgroups.database import pools
from jobgroups.models import JobGroup
from tests.api.conftest import GRAPH, Made, asgi_answer

pytestmark = pytest.mark.django_db(transaction=True)

GOOD = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}


def _both(request: tuple[str, str, Any, dict[str, str]]) -> list[Any]:
    async def ask() -> list[Any]:
        return [
            await asgi_answer(handler(), *request) for handler in (ThreadedHandler, ASGIHandler)
        ]

    return asyncio.run(ask())


@pytest.mark.parametrize("token", ["", "a-token-of-some-length"])
def test_response_equals_that_of_djangos_handler(
    farm: list[str], settings: Settings, token: str
) -> None:
    key = {"idempotency-key": "again"}
    made = asyncio.run(asgi_answer(ThreadedHandler(), "POST", "/api/job-group", GOOD, key))
    assert made[0] == 201, made
    group_id = json.loads(made[2])["job_group_id"]
    settings.DIRECTOR_TOKEN = token
    settings.DIRECTOR_MAX_BODY_BYTES = 2_000
    for method, path, given, headers in [
        ["GET", "/api/job-groups/ID", None, {}],
        ["GET", "/api/job-groups/ID/", None, {}],
        ["HEAD", "/api/job-groups/ID", None, {}],
        ["GET", "/api/job-groups/ID", None, {"accept": "text/html", "cookie": "a=b"}],
        ["GET", "/api/job-groups/jg_000000000000", None, {}],
        ["GET", "/api/job-groups/ID/workflow", None, {}],
        ["GET", "/api/job-groups/ID/events", None, {"origin": "http://localhost:3000"}],
        ["GET", "/api/job-groups?limit=1", None, {}],
        ["GET", "/api/job-groups?limit=0", None, {}],
        ["GET", "/api/backends", None, {}],
        ["GET", "/api/nothing/here", None, {}],
        ["GET", "/api/", None, {}],
        ["GET", "/api/%00", None, {}],
        ["GET", "/api/job-group", None, {}],
        ["PUT", "/api/job-groups/ID", None, {}],
        ["OPTIONS", "/api/job-groups/ID", None, {}],
        [
            "OPTIONS",
            "/api/job-group",
            None,
            {"origin": "http://localhost:3000", "access-control-request-method": "POST"},
        ],
        ["POST", "/api/job-group", {}, {"origin": "https://evil.example"}],
        ["POST", "/api/job-group", {}, {"idempotency-key": "again"}],
        ["POST", "/api/job-group", '{"backend_ids": []}', {"origin": "http://localhost:3000"}],
        ["POST", "/api/job-group", "{", {}],
        ["POST", "/api/job-group", {"metadata": {"x": "y" * 3000}}, {}],
        ["POST", "/api/job-group", {}, {"content-type": "text/plain"}],
        ["POST", "/api/job-group", {"backend_ids": ["nobody"]}, {}],
        ["GET", "/api/job-groups/ID", None, {"host": "evil.example"}],
        ["GET", "/api/job-groups/ID", None, {"authorization": "Bearer wrong"}],
        ["DELETE", "/api/job-groups/jg_000000000000", None, {}],
    ]:
        body = GOOD | given if isinstance(given, dict) else given and given.encode()
        here, there = _both((method, path.replace("ID", group_id), body, headers))
        assert here == there, (method, path)
        assert not {b"Set-Cookie", b"Cookie"} & {name for name, _ in here[1]}
    assert JobGroup.objects.count() == 1


def test_api_has_all_middleware_except_that_of_pages() -> None:
    pages = {
        "director.web.static.StaticMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "axes.middleware.AxesMiddleware",
    }
    assert [name for name in current.MIDDLEWARE if name not in pages] == (
        current.DIRECTOR_API_MIDDLEWARE
    )


def test_unexpected_error_has_djangos_response(
    farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.queries.groups.group_list", lambda **_: 1 / 0)
    here, there = _both(("GET", "/api/job-groups", None, {}))
    assert here == there
    assert (here[0], json.loads(here[2])["code"]) == (500, "internal_error")


def test_requests_share_a_few_threads_and_connections(
    farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, most = set[str](), list[int]()
    seen: list[tuple[str, int]] = []
    plain = ThreadedHandler.get_response

    def noted(self: Any, request: Any) -> Any:
        name = threading.current_thread().name
        inside.add(name)
        most.append(len(inside))
        response = plain(self, request)
        seen.append((name, id(connection.connection)))
        inside.discard(name)
        return response

    monkeypatch.setattr(ThreadedHandler, "get_response", noted)

    async def ask() -> None:
        handler = ThreadedHandler()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4 * pools.READ_THREADS):
                tasks.create_task(asgi_answer(handler, "GET", "/api/backends", None, {}))

    asyncio.run(ask())
    assert {name.rsplit("_", 1)[0] for name, _ in seen} == {"shared"}
    assert max(most) <= pools.READ_THREADS
    if connection.vendor == "sqlite":
        assert len(set(seen)) == len({name for name, _ in seen})


@contextmanager
def _silent() -> Iterator[tuple[socket.socket, str]]:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as silent:
        yield silent, f"http://127.0.0.1:{silent.getsockname()[1]}"


async def _timed(*request: Any) -> tuple[float, int]:
    began = time.monotonic()
    status, _, _ = await asgi_answer(ThreadedHandler(), *request)
    return time.monotonic() - began, status


def test_submissions_that_wait_for_backends_delay_no_other_request(
    runner: Any, make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_probes, "_PROBE_TIMEOUT", 2.0)

    async def ask() -> list[tuple[float, int]]:
        async with asyncio.TaskGroup() as tasks:
            post = ("POST", "/api/job-group", GOOD, {})
            posts = [tasks.create_task(_timed(*post)) for _ in range(20)]
            await asyncio.sleep(0.3)
            looked = tasks.create_task(_timed("GET", "/api/backends", None, {}))
        return [looked.result(), *(one.result() for one in posts)]

    with _silent() as (_, url):
        make_backend("gpu-1", seen=False, url=url)
        (seconds, status), *posts = asyncio.run(ask())
    assert status == 200
    assert [status for _, status in posts] == [400] * 20
    # One after the other they would take 40 s.
    assert max(seconds for seconds, _ in posts) < 10
    assert seconds < min(taken for taken, _ in posts)


def test_probes_of_a_silent_address_are_bounded_and_delay_no_submission(
    farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 of them held every submission for 9.5 s."""
    monkeypatch.setattr(probe_views, "_TEST_SECONDS", 60.0)
    accepted = pools.PROBE_THREADS + handlers.PROBES_WAITING

    async def ask(silent: socket.socket, url: str) -> list[Any]:
        async with asyncio.TaskGroup() as tasks:
            probe = (ThreadedHandler(), "POST", "/api/backends/test", {"url": url}, {})
            probes = [tasks.create_task(asgi_answer(*probe)) for _ in range(64)]
            async with asyncio.timeout(20):
                while sum(one.done() for one in probes) < 64 - accepted:
                    await asyncio.sleep(0.01)
            assert (await _timed("POST", "/api/job-group", GOOD, {}))[1] == 201
            assert sum(one.done() for one in probes) == 64 - accepted, (
                "the submission waited for probes"
            )
            silent.close()  # resets their connections
        return [one.result() for one in probes]

    with _silent() as silent:
        probes = asyncio.run(ask(*silent))
    assert sorted(status for status, _, _ in probes) == [200] * accepted + [429] * (64 - accepted)
    _, headers, body = next(one for one in probes if one[0] == 429)
    assert json.loads(body)["code"] == "too_many_requests"
    assert (b"Retry-After", b"5") in headers


def test_programs_that_wait_for_what_a_machine_describes_delay_no_submission(
    farm: list[str], make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "_SECONDS", 60.0)
    match = resolve("/object_info", LISTENER_URLS)

    async def listener(scope: Any, receive: Any, send: Any) -> None:
        await ThreadedHandler()({**scope, LISTENER_KEY: True, MATCH_KEY: match}, receive, send)

    async def ask(silent: socket.socket) -> list[int]:
        async with asyncio.TaskGroup() as tasks:
            look = (listener, "GET", "/object_info", None, {})
            looks = [tasks.create_task(asgi_answer(*look)) for _ in range(40)]
            async with asyncio.timeout(20):
                while pools.machine_threads.load < len(looks):
                    await asyncio.sleep(0.01)
            assert (await _timed("POST", "/api/job-group", GOOD, {}))[1] == 201
            assert not any(one.done() for one in looks), "the submission waited for them"
            silent.close()  # resets the connection
        return [one.result()[0] for one in looks]

    with _silent() as (silent, url):
        Backend.objects.exclude(pk=farm[0]).update(enabled=False)
        Backend.objects.filter(pk=farm[0]).update(url=url)
        assert asyncio.run(ask(silent)) == [503] * 40


def test_large_body_of_a_probe_is_refused(farm: list[str]) -> None:
    large = {"url": "http://127.0.0.1:9", "name": "x" * handlers.LARGE_BYTES}
    for path in ("/api/backends", "/api/backends/test/"):
        ask = asgi_answer(ThreadedHandler(), "POST", path, large, {})
        status, _, body = asyncio.run(ask)
        assert (status, json.loads(body)["code"]) == (413, "payload_too_large")


def test_large_bodies_have_threads_of_their_own(
    farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six at once took 8 GB; and they must not occupy the threads that submissions need."""
    large = {"metadata": {"x": "y" * handlers.LARGE_BYTES}}
    plain = ThreadedHandler.get_response
    may_go = threading.Event()
    inside: set[str] = set()
    most: list[int] = []

    def noted(self: Any, request: Any) -> Any:
        if int(request.headers["Content-Length"]) < handlers.LARGE_BYTES:
            return plain(self, request)
        name = threading.current_thread().name
        inside.add(name)
        most.append(len(inside))
        may_go.wait(20)
        try:
            return plain(self, request)
        finally:
            inside.discard(name)

    monkeypatch.setattr(ThreadedHandler, "get_response", noted)

    async def post(body: Any) -> int:
        length = {"content-length": str(len(json.dumps(body)))}
        return (await asgi_answer(ThreadedHandler(), "POST", "/api/job-group", body, length))[0]

    async def ask() -> list[int]:
        async with asyncio.TaskGroup() as tasks:
            posts = [tasks.create_task(post(large)) for _ in range(6)]
            try:
                async with asyncio.timeout(10):
                    while len(inside) < pools.LARGE_THREADS:
                        await asyncio.sleep(0.01)
                    small = await post(GOOD)
            finally:
                may_go.set()
        return [small, *(one.result() for one in posts)]

    assert asyncio.run(ask()) == [201, *[400] * 6]
    assert len(most) == 6
    assert max(most) == pools.LARGE_THREADS


def test_client_that_disconnects_before_its_body_gets_no_response() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/job-group", "headers": []}
    asyncio.run(ThreadedHandler()(scope, receive, send))
    assert sent == []
