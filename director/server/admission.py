"""Admission of request bodies: a body is refused by its headers, before any of it is stored.

The server stores a whole body before the application sees the request, so without this check every client could
fill the disk. The answer comes from the API's own chain of middleware (host, origin, token), which ends in a check
of the length. So the rules are those that the application applies to the request.

Bodies up to ``SMALL_BYTES`` are not checked here: the server keeps them in memory.
"""

from __future__ import annotations

import functools
import io
import math
from typing import Any, Final
from urllib.parse import unquote

from daphne.http_protocol import WebRequest
from django.conf import settings
from django.http import HttpResponse
from twisted.internet import reactor as _reactor

from director.security import sign_in
from director.web.asgi_types import Scope
from director.web.errors import error_response
from director.web.threaded_handler import ThreadedHandler
from jobgroups.api.requests.body import PayloadTooLarge

#: Any: Twisted's reactor is a module until one is installed, which importing daphne did.
reactor: Any = _reactor
#: Bytes of the longest body that is admitted unchecked. Twisted writes bodies from 100,000 bytes to a file.
SMALL_BYTES: Final = 64 * 2**10
#: After a refusal so much is read and dropped. A connection that is closed with unread data is reset, and a
#: client that is still sending would lose the answer.
_DROPPED_BYTES: Final = 64 * 2**20
_DROPPED_SECONDS: Final = 10.0
#: The key of a scope that holds how many bytes the body has at least.
_BODY_BYTES: Final = "director.body_bytes"


def limit_of(path: str) -> int:
    """Return how many bytes the body of a request may have."""
    # Everyone may post the sign-in form. It has two short fields.
    is_form = path.rstrip("/") == sign_in.PATH
    limit: int = settings.DIRECTOR_MAX_BODY_BYTES
    return min(SMALL_BYTES, limit) if is_form else limit


class _Admitted(HttpResponse):
    """Stands for a request that no middleware refused."""


class _Admission(ThreadedHandler):
    """The API's chain of middleware, with the check of the length in the place of the view."""

    def refusal(self, scope: Scope) -> HttpResponse | None:
        """Return the answer to a request whose body is not admitted; None if it is."""
        request, malformed = self.create_request(scope, io.BytesIO())
        answer: Any = malformed if request is None else self.get_response(request)
        return None if isinstance(answer, _Admitted) else answer

    def _get_response(self, request: Any) -> HttpResponse:
        limit = limit_of(request.path)
        if request.scope[_BODY_BYTES] <= limit:
            return _Admitted()
        refused = PayloadTooLarge(limit)
        return error_response(refused.status, refused.detail, refused.code)


@functools.cache
def _admission() -> _Admission:
    return _Admission()


class GuardedRequest(WebRequest):  # type: ignore[misc]  # daphne has no types
    """A request that receives its body only if its headers allow it.

    Twisted calls ``gotLength`` when the headers are complete, then ``handleContentChunk`` with each part of the
    body, then ``requestReceived``.
    """

    _limit = math.inf
    _received = 0
    _is_refused = False

    def gotLength(self, length: int | None) -> None:  # noqa: N802 Twisted's name
        """Decide whether the body is received. The length of a chunked body is None."""
        if length is None or length > SMALL_BYTES:
            self._refuse_unless_admitted(length or 0)
        if length is None:
            self._limit = limit_of(_path_of(self))
        super().gotLength(0 if self._is_refused else length)

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 Twisted's name
        """Store a part of the body, or drop it after a refusal."""
        self._received += len(data)
        if self._received > self._limit and not self._is_refused:
            self._refuse_unless_admitted(self._received)
            self.content.truncate(0)
        if not self._is_refused:
            super().handleContentChunk(data)
        elif self._received > _DROPPED_BYTES:
            self.transport.abortConnection()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802 Twisted's name
        """Have the application answer, unless the answer was the refusal."""
        if self._is_refused:
            self.transport.loseConnection()
        else:
            super().requestReceived(command, path, version)

    def _refuse_unless_admitted(self, body_bytes: int) -> None:
        answer = _admission().refusal(_scope(self, body_bytes))
        if answer is None:
            return
        self._is_refused = True
        # Twisted would now ask for the body ("100 Continue").
        self.requestHeaders.removeHeader(b"expect")
        self.transport.write(_written(answer, self.server.server_name))
        reactor.callLater(_DROPPED_SECONDS, self.transport.abortConnection)


def _path_of(request: Any) -> str:
    path: bytes = request.channel._path.partition(b"?")[0]
    return unquote(path.decode("latin-1"))


def _scope(request: Any, body_bytes: int) -> Scope:
    """Return the scope as daphne makes it later, of a request whose headers are complete."""
    channel = request.channel
    peer, host = channel.getPeer(), channel.getHost()
    return {
        "type": "http",
        "method": channel._command.decode("latin-1"),
        "path": _path_of(request),
        "query_string": b"",
        "scheme": "https" if channel.isSecure() else "http",
        "headers": [
            (name.lower(), value) for name, values in request.requestHeaders.getAllRawHeaders() for value in values
        ],
        "client": [peer.host, peer.port],
        "server": [host.host, host.port],
        _BODY_BYTES: body_bytes,
    }


def _written(answer: HttpResponse, server_name: str) -> bytes:
    answer.headers["Connection"] = "close"
    answer.headers["Content-Length"] = str(len(answer.content))
    answer.headers["Server"] = server_name
    status = f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}\r\n"
    return status.encode("latin-1") + answer.serialize_headers() + b"\r\n\r\n" + answer.content
