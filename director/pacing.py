"""Daphne's server, taught three things about long answers and long bodies.

It takes whatever an application sends and holds what the client does not read: one stalled download
would be held in memory whole. Here an application's ``send`` waits while the client does not read.

And an answer that breaks off in the middle (its backend died) is cut: ended in order, a client would
take it for whole or wait for the rest, and daphne would stumble over its own error page.

And no body is parsed before the application has looked at its request: Twisted parses forms in the
loop, so a form of some megabytes, which any web page may post, would hold up everybody for seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

import daphne.server  # before all else of daphne's and Twisted's: it installs the reactor
from daphne.http_protocol import WebRequest

from director.origins import Application, Receive, Scope, Send

logger = logging.getLogger(__name__)

#: Seconds in which a client must have read something of what waits for it.
STALL_SECONDS: Final = 60.0


class ClientStalled(Exception):
    """The client reads nothing for a minute."""


class _Pace:
    """Twisted's push producer: told when to pause, when to go on, and that the client is gone."""

    def __init__(self) -> None:
        self._may_go = asyncio.Event()
        self._may_go.set()

    def pauseProducing(self) -> None:  # noqa: N802 Twisted's name
        self._may_go.clear()

    def resumeProducing(self) -> None:  # noqa: N802 Twisted's name
        self._may_go.set()

    def stopProducing(self) -> None:  # noqa: N802 Twisted's name
        self._may_go.set()

    async def wait(self) -> None:
        """Return once the client has read enough.

        Raises:
            ClientStalled: it does not.
        """
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self._may_go.wait()
        except TimeoutError:
            raise ClientStalled from None


class PacedServer(daphne.server.Server):  # type: ignore[misc]  # daphne has no types
    """A server whose applications wait for slow clients, and whose broken answers end at once."""

    def __init__(self, application: Application, **options: Any) -> None:
        super().__init__(application=_cut_when_broken(application), **options)

    def protocol_connected(self, protocol: Any) -> None:
        """Count a connection; a request calls this when it is made, before anything of it is read."""
        if isinstance(protocol, WebRequest):
            # Twisted's own switch, but one that daphne does not hand on: nobody reads what it parses.
            protocol._parsePOSTFormSubmission = False
        super().protocol_connected(protocol)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Take a message of an application; return when the client may be sent more."""
        is_part = message["type"] == "http.response.body" and isinstance(protocol, WebRequest)
        if is_part:
            _prepare(protocol, more=bool(message.get("more_body")))
        await super().handle_reply(protocol, message)
        pace = protocol.producer if is_part else None
        if isinstance(pace, _Pace):
            await pace.wait()


def _prepare(request: Any, *, more: bool) -> None:
    """Register for pauses before the first part of several, and no longer before the last."""
    if not more and request.producer is not None:
        request.unregisterProducer()
    elif more and request.producer is None and request.channel is not None and not request.finished:
        request.registerProducer(_Pace(), True)


def _cut_when_broken(application: Application) -> Application:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await application(scope, receive, send)
        except Exception as error:
            # What daphne hands out is bound to the request: ``partial(handle_reply, request)``.
            request = getattr(send, "args", [None])[0]
            if not (isinstance(request, WebRequest) and request._response_started):
                raise
            why = str(error) or type(error).__name__
            logger.warning("The answer to %s broke off: %s", scope["path"], why)
            with contextlib.suppress(AttributeError):  # the client was gone already
                request.transport.abortConnection()

    return wrapped
