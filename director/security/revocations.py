"""Ends WebSockets, event streams and long polls whose token or session is no longer valid, or whose
account may not see the work of others any more.

Each process reads the credentials of its open connections every ``CHECK_SECONDS``, once for all
connections of the same ones: a revocation needs no message between processes. While the database
does not answer, connections stay open.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from autobahn.exception import Disconnected  # daphne's, where others raise OSError
from django.conf import settings

from director.accounts.principals import Credentials, refreshed
from director.web.asgi_types import Application, Receive, Scope, Send
from jobgroups.api.sse import sse_frame
from jobgroups.database.pools import read
from jobgroups.database.threads import TRANSIENT
from jobgroups.domain.access import PRINCIPAL_KEY, Principal
from jobgroups.streams.feed import error_frame

logger = logging.getLogger(__name__)

CHECK_SECONDS: Final = 2.0
CODE: Final = "sign_in_required"
#: The key of a scope that holds the credentials of its request.
CREDENTIALS_KEY: Final = "director.credentials"
_ENDED_FRAME: Final = error_frame(
    CODE, "The token was revoked or has expired, or the session, the account or its role has ended."
)
_EVENT_STREAM: Final = b"text/event-stream"
_CLOSE_SECONDS: Final = 1.0  #: For the last frame, for the close, and for the client's answer.


class _Connection:
    """A connection that its task serves. ``can_end``: it may be cancelled now."""

    def __init__(self, scope: Scope) -> None:
        self.credentials: Credentials = scope[CREDENTIALS_KEY]
        self._sees_all = getattr(scope.get(PRINCIPAL_KEY), "sees_all", False)
        self.can_end = True
        self.is_ended = False
        self._task = asyncio.current_task()

    def is_valid(self, principal: Principal | None) -> bool:
        """Return whether it may go on, by the principal that its credentials have now."""
        return principal is not None and principal.sees_all >= self._sees_all

    def end(self) -> None:
        if self._task is not None and self.can_end and not self.is_ended:
            self.is_ended = True
            self._task.cancel()


class _Watch:
    """The open connections of this process. Used from one event loop."""

    def __init__(self) -> None:
        self._open: set[_Connection] = set()
        self._checking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def connection(self, scope: Scope) -> AsyncIterator[_Connection]:
        """Watch the connection of this task. Its end is no error: the body is left early."""
        connection = _Connection(scope)
        self._open.add(connection)
        if self._checking is None or self._checking.done():
            self._checking = asyncio.get_running_loop().create_task(self._check(), name="accounts")
        try:
            yield connection
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # Another cancel, by the server, may have come too.
            if not connection.is_ended or task is None or task.uncancel():
                raise
        finally:
            self._open.discard(connection)

    async def _check(self) -> None:
        while self._open:
            await asyncio.sleep(CHECK_SECONDS)
            credentials = {connection.credentials for connection in self._open}
            try:
                principals = await read(refreshed, credentials)
            except TRANSIENT as error:
                logger.warning("Accounts: database unavailable (%s)", error)
                continue
            for connection in list(self._open):
                known = connection.credentials in principals
                if known and not connection.is_valid(principals[connection.credentials]):
                    connection.end()


_watch: Final = _Watch()


async def serve_socket(
    application: Application, scope: Scope, receive: Receive, send: Send, *, code: int
) -> None:
    """Serve a WebSocket; close it with ``code`` after an error frame when its credentials end."""
    if not settings.DIRECTOR_ACCOUNTS:
        await application(scope, receive, send)
        return
    async with _watch.connection(scope) as connection:
        await application(scope, receive, send)
    if not connection.is_ended:
        return
    # A client that does not read blocks a frame, but not the close.
    for message in (
        {"type": "websocket.send", "text": _ENDED_FRAME},
        {"type": "websocket.close", "code": code},
    ):
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await send(message)
        except (TimeoutError, OSError, Disconnected):
            logger.debug("%s: %s not sent", scope["path"], message["type"])


async def serve_request(
    application: Application, scope: Scope, receive: Receive, send: Send, *, ended: Scope
) -> None:
    """Serve a request that may wait or stream events; end it when its credentials end.

    An event stream gets an ``error`` event as its last one. A request that has no answer yet is
    answered for the scope ``ended``. Downloads go on.
    """
    if not settings.DIRECTOR_ACCOUNTS or scope["method"] != "GET":
        await application(scope, receive, send)
        return
    kind: bytes | None = None  # of the response, once it has begun

    async def send_noted(message: dict[str, Any]) -> None:
        nonlocal kind
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"Content-Type", b"")
            connection.can_end = kind.startswith(_EVENT_STREAM)
        await send(message)

    async with _watch.connection(scope) as connection:
        await application(scope, receive, send_noted)
    if not connection.is_ended:
        return
    if kind is None:
        await application({**scope, **ended}, _EmptyBody(receive), send)
    elif kind.startswith(_EVENT_STREAM):
        await send({"type": "http.response.body", "body": sse_frame(_ENDED_FRAME).encode()})
    else:
        raise ConnectionAbortedError("The response began when its credentials ended.")


class _EmptyBody:
    """The messages of a request whose body was read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_read = False

    async def __call__(self) -> dict[str, Any]:
        if self._is_read:
            return await self._receive()
        self._is_read = True
        return {"type": "http.request", "body": b"", "more_body": False}
