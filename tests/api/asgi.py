"""A request as an ASGI server hands it on: in pieces, and without a Content-Length."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from director.web.threaded_handler import ThreadedHandler


async def post_in_pieces(path: str, pieces: Sequence[bytes]) -> tuple[int, dict[str, Any]]:
    """Post a chunked JSON body; return status and JSON of the answer."""
    sent: list[Any] = []
    left = list(pieces)

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()  # the client stays
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [
            (b"host", b"localhost:9820"),
            (b"content-type", b"application/json"),
            (b"transfer-encoding", b"chunked"),
        ],
    }
    await ThreadedHandler()(scope, receive, send)
    body = b"".join(one["body"] for one in sent if one["type"] == "http.response.body")
    return sent[0]["status"], json.loads(body)
