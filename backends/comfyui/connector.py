"""The connections below aiohttp's client: who is connected to, and the proof that a request was not
sent.

``BackendUnreachable`` is raised here alone, and only before aiohttp has a connection on which it
could send something. A change must keep that.
"""

import asyncio
import errno
import functools
import re
import selectors
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from backends.comfyui.destinations import Destinations, connect
from backends.comfyui.errors import BackendUnreachable

if TYPE_CHECKING:
    from aiohttp.tracing import Trace

#: OpenSSL's codes of a host name and an IP address that a certificate does not name.
_OTHER_NAME: Final = (62, 64)
#: Windows has no ``poll``, and ``select`` takes no number above 1,023 elsewhere.
_Selector: Final = getattr(selectors, "PollSelector", selectors.SelectSelector)


class _Protocol(ResponseHandler):
    is_used = False

    def close(self) -> None:
        """Close at once: a server that takes no more of a body would keep the connection open."""
        self.abort()

    def is_stale(self) -> bool:
        """Whether anything came over this idle connection: its end, or an answer to no request.

        The event loop may not have read it yet.
        """
        if self.should_close or self.transport is None:
            return True
        descriptor = self.transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return True
        with _Selector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            return bool(selector.select(0))


class Connector(aiohttp.BaseConnector):
    """Any number of connections to permitted addresses.

    Args:
        context: for https.
        connect_s: seconds that a connection may take, and as many for TLS.
        options: ``keepalive_timeout`` in seconds, or ``force_close``.
    """

    def __init__(
        self,
        destinations: Destinations,
        context: ssl.SSLContext | None,
        *,
        connect_s: float,
        **options: Any,
    ) -> None:
        super().__init__(limit=0, **options)
        self._destinations = destinations
        self._context = context
        self._connect_s = connect_s
        self._factory = cast(
            "functools.partial[ResponseHandler]", functools.partial(_Protocol, loop=self._loop)
        )

    async def connect(
        self, req: aiohttp.ClientRequest, traces: "list[Trace]", timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a kept connection whose server has sent nothing since its answer, nor ended, or a
        new one.
        """
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            assert isinstance(protocol, _Protocol)  # noqa: S101  # for mypy
            if not protocol.is_used or not protocol.is_stale():
                protocol.is_used = True
                return connection
            connection.close()

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: "list[Trace]", timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        tls: dict[str, Any] = {}
        if req.is_ssl():
            tls = {"ssl": self._context, "server_hostname": req.host}
        try:
            async with asyncio.timeout(self._connect_s):
                connected = await connect(req.host, req.port or 0, self._destinations)
            async with asyncio.timeout(self._connect_s):
                _, protocol = await self._loop.create_connection(
                    self._factory, sock=connected, **tls
                )
        except OSError as error:
            raise BackendUnreachable(f"No connection: {reason_of(error)}.") from error
        return protocol


def reason_of(error: Exception) -> str:
    """Return the reason, as the end of a sentence: the library's text if no plainer one is known."""
    match error:
        case TimeoutError():
            return "nothing answered there"
        case ssl.SSLCertVerificationError():
            todo = (
                "use an address that it names"
                if error.verify_code in _OTHER_NAME
                else "renew it, or name the file of its authority in SSL_CERT_FILE"
            )
            why = error.verify_message.rstrip(".")
            return f"its certificate is not trusted ({why}): {todo}"
        case aiohttp.ServerDisconnectedError():
            return "Server disconnected without sending a response"
        case aiohttp.ClientResponseError():
            return re.split(r"[:\n]", error.message)[0].rstrip(". ")
        case (
            ConnectionResetError()
            | OSError(errno=errno.EPIPE | errno.ECONNRESET)
            | aiohttp.ClientOSError(errno=None)
        ):
            return "the connection was reset"
    return str(error).rstrip(".") or type(error).__name__
