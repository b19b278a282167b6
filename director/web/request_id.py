"""``X-Request-ID``: names a request in its response, and in the log lines of what it does."""

import re
import uuid
from typing import Any, Final

from director.web.asgi_types import Application, Receive, Scope, Send
from jobgroups.log_context import bind

HEADER: Final = "X-Request-ID"
_VALID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id_of(given: bytes) -> str:
    """Return the id that a client gave; a new one if the header is absent, or may not be logged as
    it is.
    """
    return given.decode() if _VALID.fullmatch(given) else uuid.uuid4().hex


def with_request_id(application: Application) -> Application:
    """Wrap an ASGI application: each connection has a task of its own, whose log lines have its
    request id.
    """
    name = HEADER.lower().encode()

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_of(dict(scope.get("headers", ())).get(name, b""))
        bind(request_id=request_id)

        async def send_named(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (name, request_id.encode())]
            await send(message)

        await application(scope, receive, send_named)

    return wrapped
