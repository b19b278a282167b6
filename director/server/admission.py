"""Admission of request bodies: a body is refused by its headers, before any of it is stored.

The answer comes from the API's own chain of middleware (host, origin, token), which ends in a check
of the length. Bodies up to ``SMALL_BYTES`` are not checked here: the server keeps them in memory.
The body of an upload is written to its file while it arrives, and the application receives that
file instead of the body.
"""

import asyncio
import functools
import io
import logging
import math
import re
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from daphne.http_protocol import WebRequest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, resolve
from twisted.internet import reactor as _reactor

from backends.errors import RequestError
from director.security import sign_in
from director.web.asgi_types import Scope
from director.web.errors import error_response, in_its_shape, plain_error
from director.web.handlers import ThreadedHandler
from director.web.listener import LISTENER_URLS, at_listener, is_listener, is_listener_port
from director.web.request_id import HEADER, request_id_of
from director.web.url_tokens import token_in_url
from jobgroups.api.permissions import refusal_text
from jobgroups.api.requests.body import PayloadTooLarge
from jobgroups.api.requests.upload import Upload, upload_field, upload_limit
from jobgroups.domain.access import Right, may
from jobgroups.domain.prompt_sizes import (
    LARGE_PROMPT_BYTES,
    LARGE_PROMPTS_AT_ONCE,
    MAX_PROMPT_BYTES,
)
from jobgroups.errors import StorageFull
from jobgroups.services.user_files import MAX_FILE_BYTES

logger = logging.getLogger(__name__)

#: Any: Twisted's reactor is a module until one is installed, which importing daphne did.
reactor: Any = _reactor
#: Bytes of the longest body that is admitted unchecked. Twisted writes bodies from 100,000 bytes to
#: a file.
SMALL_BYTES: Final = 64 * 2**10
#: After a refusal so much is read and dropped. A connection that is closed with unread data is
#: reset, and a client that is still sending would lose the answer.
_DROPPED_BYTES: Final = 128 * 2**20
DROPPED_SECONDS: Final = 10.0
#: The key of a scope that holds how many bytes the body has at least.
_BODY_BYTES: Final = "director.body_bytes"
#: Bytes of an upload that are written at once, in a thread: a slow disk must not stop the event
#: loop.
_WRITTEN_BYTES: Final = 2**20


#: The paths of prompts at the ComfyUI listener.
_PROMPT_PATHS: Final = frozenset({"/prompt", "/api/prompt"})
#: Files of users of ComfyUI's editor at the ComfyUI listener.
_USER_FILE: Final = re.compile(r"/(?:api/)?userdata/.")


def _is_prompt(method: str, path: str, port: int) -> bool:
    """Return whether a request brings a prompt to the ComfyUI listener."""
    return method == "POST" and path.rstrip("/") in _PROMPT_PATHS and is_listener_port(port)


def limit_of(method: str, path: str, port: int) -> int:
    """Return how many bytes the body of a request at a port may have."""
    if upload_field(method, path, is_listener=is_listener_port(port)) is not None:
        return upload_limit()
    if _is_prompt(method, path, port):
        return MAX_PROMPT_BYTES
    if is_listener_port(port) and _USER_FILE.match(path):
        return MAX_FILE_BYTES
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
        principal, right = getattr(request, "principal", None), _least_right(request)
        if principal is not None and not may(principal, right):
            return error_response(403, refusal_text(principal, right), "not_allowed")
        limit = limit_of(request.method, request.path, request.scope["server"][1])
        if request.scope[_BODY_BYTES] <= limit:
            return _Admitted()
        return _answer_to(PayloadTooLarge(limit))


def _least_right(request: HttpRequest) -> Right:
    """Return what a request with a body needs at least: its object may be the principal's own."""
    try:
        urls = LISTENER_URLS if is_listener(request) else None
        view = getattr(resolve(request.path, urls).func, "cls", None)
    except Resolver404:
        return Right.SEE
    return min(getattr(view, "changes", Right.SEE), Right.SUBMIT)


def _answer_to(error: RequestError) -> HttpResponse:
    return error_response(
        error.status, error.detail, error.code, extra=error.extra, headers=error.headers
    )


#: Built by the first request: Django is configured by then.
_admission = functools.cache(_Admission)


class _TooManyLarge(RequestError, code="too_many_requests", status=503, retry_after=5):
    text = "Too many large prompts are being received; try again in a few seconds."


class GuardedRequest(WebRequest):  # type: ignore[misc]  # daphne has no types
    """A request that receives its body only if its headers allow it.

    Twisted calls ``gotLength`` when the headers are complete, then ``handleContentChunk`` with each
    part of the body, then ``requestReceived``.
    """

    _limit = math.inf
    _received = 0
    _is_refused = False
    is_checked = False  #: Whether its headers were checked before its body.
    _large_prompts: ClassVar[set["GuardedRequest"]] = set()  #: Until the response was sent.
    _is_large_prompt = False
    _asked = ""  #: The path. Twisted forgets it when the whole request is there.
    _field: str | None = None  #: That of the file of an upload; None: it is no upload.
    _scope: Scope  #: Of the check of its headers.
    _looking: asyncio.Future[None] | None = None  #: The search of its account.
    upload: Upload | None = None  #: The file of an upload; None for any other request.
    _writing: asyncio.Future[None] | None = None
    #: The arguments of ``requestReceived``, once the whole body is there.
    _whole: tuple[bytes, bytes, bytes] | None = None

    def gotLength(self, length: int | None) -> None:  # noqa: N802 Twisted's name
        """Decide whether the body is received. The length of a chunked body is None."""
        _move_token(self)
        method, path = _method_of(self), _path_of(self)
        self._asked = path
        port = self.channel.getHost().port
        self._field = upload_field(method, path, is_listener=is_listener_port(port))
        is_upload = self._field is not None
        is_large = length is None or length > LARGE_PROMPT_BYTES
        self._is_large_prompt = is_large and _is_prompt(method, path, port)
        if length is None or length > SMALL_BYTES or is_upload:
            self.is_checked = True
            self._scope = _scope(self, length or 0)
            if sign_in.note_kept_principal(self._scope):
                self._admit()
            else:
                self._look_up()
        if length is None:
            self._limit = limit_of(method, path, port)
        super().gotLength(0 if self._is_refused or is_upload else length)

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 Twisted's name
        """Store a part of the body, or drop it after a refusal."""
        self._received += len(data)
        is_too_long = self._received > self._limit and self._looking is None
        if is_too_long and not self._is_refused:
            self._scope[_BODY_BYTES] = self._received
            self._refuse_unless_admitted()
            self.content.truncate(0)
        if not self._is_refused:
            super().handleContentChunk(data)
            if self.upload is not None and self.content.tell() >= _WRITTEN_BYTES:
                self._write()
        elif self._received > _DROPPED_BYTES:
            self.transport.abortConnection()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802 Twisted's name
        """Have the application answer, unless the answer was the refusal."""
        if self._is_refused:
            self.transport.loseConnection()
        elif self._looking is not None:
            self._whole = command, path, version
        elif self.upload is not None:
            self._whole = command, path, version
            self._write()
        else:
            super().requestReceived(command, path, version)

    def finish(self) -> None:
        """End the request after its response."""
        self._drop_upload()
        self._large_prompts.discard(self)
        super().finish()

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 Twisted's name
        """End the request without a response."""
        super().connectionLost(reason)
        self._drop_upload()
        self._large_prompts.discard(self)

    # --- admission
    # ------------------------------------------------------------------------------------

    def _look_up(self) -> None:
        """Find who sends the request. Nothing more is read from the client meanwhile."""
        self.channel._networkProducer.pauseProducing()
        loop = asyncio.get_running_loop()
        self._looking = loop.create_task(sign_in.find_principal(self._scope))
        self._looking.add_done_callback(self._looked_up)

    def _looked_up(self, looking: asyncio.Future[None]) -> None:
        self._looking = None
        error = looking.exception()
        if self._disconnected:
            return
        self.channel._networkProducer.resumeProducing()
        if error is not None:
            logger.error("Accounts: not read", exc_info=error)
            self._refuse(plain_error(500))
        else:
            self._admit()
        # What arrived after the pause was read from the socket before it.
        if self._is_refused:
            if self._whole is not None:
                self.transport.loseConnection()
        elif self.upload is not None:
            self._write()
        elif self._whole is not None:
            super().requestReceived(*self._whole)

    def _admit(self) -> None:
        self._refuse_unless_admitted()
        if self._is_large_prompt and not self._is_refused:
            if len(self._large_prompts) >= LARGE_PROMPTS_AT_ONCE:
                self._refuse(_answer_to(_TooManyLarge()))
            else:
                self._large_prompts.add(self)
        if self._field is not None and not self._is_refused:
            self._open_upload(self._field)

    # --- uploads
    # --------------------------------------------------------------------------------------

    def _open_upload(self, field: str) -> None:
        header = self.requestHeaders.getRawHeaders(b"content-type", [b""])[0]
        try:
            self.upload = Upload(header.decode("latin-1"), field, self._asked)
        except RequestError as error:
            self._refuse(_answer_to(error))
        except OSError as error:
            self._refuse(_answer_to(StorageFull(error.strerror or "")))

    def _write(self) -> None:
        """Have a thread write what was received. Nothing more is read from the client meanwhile."""
        if self._writing is not None or self.upload is None:
            return
        part = self.content.getvalue()
        self.content.seek(0)
        self.content.truncate()
        self.channel._networkProducer.pauseProducing()
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self.upload.write, part)
        self._writing.add_done_callback(self._written)

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        error = writing.exception()
        if self._disconnected or self._is_refused:
            self._drop_upload()
            return
        self.channel._networkProducer.resumeProducing()
        if error is not None:
            logger.info("Upload refused: %s", error)
            self._refuse(_answer_to(error) if isinstance(error, RequestError) else plain_error(500))
            self._drop_upload()
            if self._whole is not None:
                self.transport.loseConnection()
        elif self._whole is not None:
            # What arrived after the pause was read from the socket before it.
            if self.content.tell():
                self._write()
            else:
                super().requestReceived(*self._whole)

    def _drop_upload(self) -> None:
        if self.upload is not None and self._writing is None and not self.upload.is_taken:
            self.upload.discard()

    # --- refusals
    # -------------------------------------------------------------------------------------

    def _refuse_unless_admitted(self) -> None:
        answer = _admission().refusal(self._scope)
        if answer is not None:
            self._refuse(answer)

    def _refuse(self, answer: HttpResponse) -> None:
        self._is_refused = True
        # Twisted would now ask for the body ("100 Continue").
        self.requestHeaders.removeHeader(b"expect")
        given_id = self.requestHeaders.getRawHeaders(HEADER, [b""])[0]
        name, port = self.server.server_name, self.channel.getHost().port
        self.transport.write(refusal(answer, self._asked, port, name, given_id))
        reactor.callLater(DROPPED_SECONDS, self.transport.abortConnection)


def _move_token(request: Any) -> None:
    """Move the token of an account from the URL to a header, before a log has the URL."""
    if not settings.DIRECTOR_ACCOUNTS:
        return
    request.channel._path, token = token_in_url(request.channel._path)
    headers = request.requestHeaders
    if token is not None and not (
        headers.hasHeader("Authorization") or headers.hasHeader("X-API-Key")
    ):
        headers.setRawHeaders("Authorization", [f"Bearer {token}"])


def _method_of(request: Any) -> str:
    method: bytes = request.channel._command
    return method.decode("latin-1")


def _path_of(request: Any) -> str:
    path: bytes = request.channel._path.partition(b"?")[0]
    return unquote(path.decode("latin-1"))


def _scope(request: Any, body_bytes: int) -> Scope:
    """Return the scope as daphne makes it later, of a request whose headers are complete."""
    channel = request.channel
    peer, host = channel.getPeer(), channel.getHost()
    scope: Scope = {
        "type": "http",
        "method": _method_of(request),
        "path": _path_of(request),
        "query_string": b"",
        "scheme": "https" if channel.isSecure() else "http",
        "headers": [
            (name.lower(), value)
            for name, values in request.requestHeaders.getAllRawHeaders()
            for value in values
        ],
        "client": [peer.host, peer.port],
        "server": [host.host, host.port],
        _BODY_BYTES: body_bytes,
    }
    return at_listener(scope) or scope


def refusal(
    answer: HttpResponse, path: str, port: int, server_name: str, given_id: bytes = b""
) -> bytes:
    """Return the bytes of an answer after which the connection ends; ``port`` is that of the server."""
    in_its_shape(answer, path, at_listener=is_listener_port(port))
    answer.headers[HEADER] = request_id_of(given_id)
    answer.headers["Connection"] = "close"
    answer.headers["Content-Length"] = str(len(answer.content))
    answer.headers["Server"] = server_name
    status = f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}\r\n"
    return status.encode("latin-1") + answer.serialize_headers() + b"\r\n\r\n" + answer.content
