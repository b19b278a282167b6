"""``/healthz`` and ``/readyz``, for orchestrators and load balancers. ``/api/health`` has the
details.

They are answered before Django: without a token, and for every Host, since a probe uses the address
of the process.
"""

import asyncio
from typing import Final

from director.web.asgi_types import Receive, Scope, Send
from director.web.health import SharedCheck, is_ready

PATHS: Final = frozenset({"/healthz", "/readyz"})
_ready: Final = SharedCheck(is_ready)


async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer 200 or 503 within the timeout of the database; ``/healthz`` always 200."""
    is_ok = scope["path"] == "/healthz" or await _is_ready()
    body = b'{"status":"ok"}' if is_ok else b'{"status":"unavailable"}'
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200 if is_ok else 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _is_ready() -> bool:
    # Shielded: a client that disconnects does not cancel the check of others.
    return await asyncio.shield(asyncio.wrap_future(_ready.current()))
