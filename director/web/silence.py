"""Requests that wait for a database which has stopped answering are answered 503.

A server that hangs keeps its connections open: a request on one of them would wait for as long.
"""

import asyncio
import io
from typing import Any, Final

from director.web.asgi_types import Application, Receive, Scope, Send
from director.web.errors import silent_database
from director.web.handlers import LenientRequest
from director.web.health import SharedCheck, database_answers
from director.web.listener import at_listener

#: Seconds after which a request that has no answer yet has the database checked, and between two
#: checks. Clients wait for 30 s.
CHECK_SECONDS: Final = 20.0


_answers: Final = SharedCheck(database_answers).current


class _Waiting:
    """A request that is not answered yet."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._has_begun = False  #: Whether the application has begun its response.
        self._is_answered = False  #: Whether the response is that of this module.
        self._checking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._wait()

    def _wait(self) -> None:
        self._timer = self._loop.call_later(CHECK_SECONDS, self._start)

    def _start(self) -> None:
        self._checking = self._loop.create_task(self._check())

    async def _check(self) -> None:
        # Shielded: the check is also that of other requests.
        does_answer = await asyncio.shield(asyncio.wrap_future(_answers()))
        if self._has_begun:
            return
        if does_answer:
            self._wait()
            return
        messages = _answer_to(self._scope)
        self._is_answered = True
        for message in messages:
            await self._send(message)

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message of the application, unless the request is answered."""
        if not self._is_answered:
            self._has_begun = True
            self._timer.cancel()
            await self._send(message)

    def end(self) -> None:
        self._timer.cancel()
        if self._checking is not None and not self._is_answered:
            self._checking.cancel()


def _answer_to(scope: Scope) -> list[dict[str, Any]]:
    """Return the messages of the response to a request that waits for the database."""
    request = LenientRequest(at_listener(scope) or scope, io.BytesIO())
    answer: Any = silent_database(request)
    answer.headers["Content-Length"] = str(len(answer.content))
    headers = [(name.encode(), value.encode()) for name, value in answer.items()]
    body = b"" if scope["method"] == "HEAD" else answer.content
    return [
        {"type": "http.response.start", "status": answer.status_code, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]


def answered_in_silence(application: Application) -> Application:
    """Wrap the application of requests: 503 after ``CHECK_SECONDS`` without a response, if a check
    of the database fails too. Work that a thread has begun continues.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        waiting = _Waiting(scope, send)
        try:
            await application(scope, receive, waiting.send)
        finally:
            waiting.end()

    return wrapped
