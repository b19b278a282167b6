"""Requests while the database does not answer."""

import asyncio
import json
from concurrent.futures import Future
from typing import Any

import pytest

from director.web import silence
from director.web.asgi_types import Receive, Scope, Send

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
BODY: dict[str, Any] = {"type": "http.response.body", "body": b"late"}


async def responses_of(
    monkeypatch: pytest.MonkeyPatch,
    *,
    answers: list[bool],
    before: int = 0,
    path: str = "/api/queue",
    method: str = "GET",
    port: int = 1,
) -> tuple[list[dict[str, Any]], int]:
    """Return the messages of a request and the number of checks; the application sends ``before``
    of its two messages at once, and the rest later: without one, when all checks were made.
    """
    sent: list[dict[str, Any]] = []
    checked, left = asyncio.Event(), list(answers)

    def check() -> Future[bool]:
        done = Future[bool]()
        done.set_result(left.pop(0) if left else True)
        if not left:
            checked.set()
        return done

    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in (START, BODY)[:before]:
            await send(message)
        if not before:
            await checked.wait()
        await asyncio.sleep(0.05)
        for message in (START, BODY)[before:]:
            await send(message)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    monkeypatch.setattr(silence, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(silence, "_answers", check)
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "query_string": b"",
        "server": ("127.0.0.1", port),
    }

    async def receive() -> dict[str, Any]:
        raise AssertionError

    async with asyncio.timeout(10):
        await silence.answered_in_silence(application)(scope, receive, send)
    return sent, len(answers) - len(left)


@pytest.mark.parametrize(
    ("path", "method", "said"),
    [
        ("/api/queue", "GET", b"The database does not answer. Try again."),
        ("/api/job-group", "POST", b"The change may or may not be stored"),
        ("/api/v2/jobs/x", "GET", b'"database_unavailable"'),
        ("/", "GET", b"<!doctype html>"),
        ("/api/queue", "HEAD", b""),
    ],
)
async def test_request_is_answered_once_while_the_database_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, path: str, method: str, said: bytes
) -> None:
    (start, body), _ = await responses_of(monkeypatch, answers=[False], path=path, method=method)
    assert start["status"] == 503
    headers = dict(start["headers"])
    assert headers[b"Retry-After"] == b"2"
    assert said in body["body"]
    assert int(headers[b"Content-Length"]) > 0
    assert (body["body"] == b"") == (method == "HEAD")


async def test_program_of_comfyui_gets_an_error_as_of_comfyui(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.DIRECTOR_COMFYUI_PORT = 2
    (start, body), _ = await responses_of(monkeypatch, answers=[False], path="/queue", port=2)
    assert start["status"] == 503
    assert json.loads(body["body"])["error"]["message"].startswith("The database does not answer")


async def test_request_that_takes_long_is_answered_by_its_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await responses_of(monkeypatch, answers=[True, True, True]) == ([START, BODY], 3)


async def test_response_that_has_begun_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await responses_of(monkeypatch, answers=[False], before=1) == ([START, BODY], 0)
