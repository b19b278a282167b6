"""A client that asks the whole stack, and what it needs to find: a live runner, backends."""

import datetime as dt
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from django.test import Client
from django.urls import URLResolver, get_resolver

from backends.models import Backend
from backends.services import backend_create, backend_observed
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.events import log
from jobgroups.models import Attempt, Runner
from jobgroups.services import runners
from tests.harness import factories
from tests.harness.contract import check_answer
from tests.outputs.conftest import reading_threads  # noqa: F401 a fixture

GRAPH: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 42, "steps": 20, "cfg": 7.0}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}

#: Beyond the test's end: on a busy machine its first request alone may take the 10 s for which a
#: heartbeat or an observation lasts.
LATER = dt.timedelta(minutes=5)

Made = Callable[..., Backend]


class Api:
    """Asks the API as a program does: JSON in, JSON out, no cookie, no token."""

    def __init__(self) -> None:
        # A crash is to be seen as the client sees it.
        self.client = Client(raise_request_exception=False, enforce_csrf_checks=True)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {"host": "localhost:9820"} | {k.replace("_", "-"): v for k, v in headers.items()}
        sent.setdefault("content-type", "application/json")
        answer = self.client.generic(method, path, _bytes(body), sent["content-type"], headers=sent)
        if not answer.streaming:
            check_answer(
                method,
                path,
                answer.status_code,
                answer.headers.get("Content-Type", ""),
                answer.content,
            )
        return answer

    def get(self, path: str, **headers: str) -> Any:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.ask("POST", path, body, **headers)

    def patch(self, path: str, body: Any, **headers: str) -> Any:
        return self.ask("PATCH", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Any:
        return self.ask("DELETE", path, **headers)

    def submit(self, *backend_ids: str, **fields: Any) -> dict[str, Any]:
        body = {"workflow_json": GRAPH, "backend_ids": list(backend_ids), **fields}
        answer = self.post("/api/job-group", body)
        assert answer.status_code == 201, answer.content
        return answer.json()


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()


async def asgi_answer(
    handler: Any, method: str, path: str, body: Any, headers: dict[str, str]
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Ask an ASGI application; return status, sorted headers and body of its answer."""
    given = {"content-type": "application/json", "accept-encoding": "identity", **headers}
    transport = httpx.ASGITransport(handler, client=("127.0.0.1", 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:9820") as client:
        answer = await client.request(method, path, content=_bytes(body), headers=given)
    return answer.status_code, sorted(answer.headers.raw), answer.content


def error_of(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is an error in the one shape, and return its body."""
    assert answer.status_code == status, answer.content
    assert answer.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    assert isinstance(body["detail"], str)
    assert body["detail"]
    return body


def wrong_fields(answer: Any, code: str = "invalid_request") -> dict[str, str]:
    """Check that an answer is a 400 with field errors, and return field → message."""
    body = error_of(answer, 400, code)
    return {error["field"]: error["message"] for error in body["errors"]}


def served_paths(resolver: Any = None, before: str = "/") -> Iterator[str]:
    """Yield every path that is served, with something in its gaps."""
    for one in (resolver or get_resolver()).url_patterns:
        route = re.sub(r"<[^>]+>", "x", str(one.pattern)).removeprefix("^").rstrip("$")
        if isinstance(one, URLResolver):
            yield from served_paths(one, before + route)
        else:
            yield before + route.replace("(?:/.*)?", "/x")


def play(backend_id: str) -> tuple[FencingToken, Attempt]:
    """Play the runner: claim the oldest child of a backend and start it."""
    fence = factories.lease(backend_id)
    return fence, factories.begin(fence)


def play_to_the_end(backend_id: str, state: AttemptState = AttemptState.SUCCESS) -> None:
    fence, claim = play(backend_id)
    assert factories.finish(claim, fence, state)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def client() -> Client:
    """A browser on this machine."""
    return Client(headers={"host": "localhost"})


@pytest.fixture
def notified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records each notification of the runners about a changed backend."""
    found: list[str] = []
    monkeypatch.setattr(
        log, "notify_runners_on_commit", lambda work_only=False: work_only or found.append("wake")
    )
    return found


@pytest.fixture
def runner(db: None) -> Runner:
    runners.runner_register(name="runner-1", instance="abc", version="0.1.0")
    Runner.objects.update(heartbeat_at=now() + LATER)
    return Runner.objects.get()


@pytest.fixture
def make_backend(db: None) -> Made:
    """Makes backends that were seen online; a dead port is behind each."""
    ports = itertools.count(10_001)

    def make(
        backend_id: str | None = None, *, seen: bool = True, url: str | None = None, **said: Any
    ) -> Backend:
        observed = {key: said.pop(key) for key in ("version", "devices") if key in said}
        address = url or f"http://gpu.invalid:{next(ports)}"
        row = backend_create(url=address, backend_id=backend_id, **said)
        if seen:
            backend_observed(backend_id=row.id, reachable=True, seen_at=now() + LATER, **observed)
        row.refresh_from_db()
        return row

    return make


@pytest.fixture
def farm(runner: Runner, make_backend: Made) -> list[str]:
    return [make_backend(f"gpu-{number}").id for number in (1, 2, 3)]
