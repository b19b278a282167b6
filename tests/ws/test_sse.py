"""A group's stream as Server-Sent Events: the frames of its WebSocket, and how a stream begins and
ends.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from director.asgi import application
from director.server.daphne import ClientStalled
from jobgroups.api import sse
from jobgroups.events import hub as hub_module
from jobgroups.events.hub import hub
from jobgroups.events.messages import EventFrame, Message
from jobgroups.services.groups import group_delete
from tests.ws.clients import DEADLINE, settled, watching
from tests.ws.conftest import Writer
from tests.ws.played_runner import progress

pytestmark = pytest.mark.django_db(transaction=True)


class Client:
    """A client of a group's stream within the process; ``on_part`` is called with each part of the
    body.
    """

    def __init__(
        self,
        group_id: str,
        query: str = "",
        last: str = "",
        on_part: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self.body = b""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.inbox.put_nowait({"type": "http.request"})
        self._on_part = on_part
        path = f"/api/job-groups/{group_id}/events/stream"
        headers = [(b"host", b"localhost"), *([(b"last-event-id", last.encode())] if last else [])]
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query.encode(),
            "headers": headers,
        }
        self._task = asyncio.ensure_future(application(scope, self.inbox.get, self._send))

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        part = message.get("body", b"")
        self.body += part
        self._on_part(part)

    async def has(self, part: bytes) -> None:
        await settled(lambda: part in self.body)

    async def end(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await self._task

    def events(self) -> list[tuple[int | None, str, dict[str, Any]]]:
        """Return id, name and data of each event."""
        blocks = [
            dict(line.split(": ", 1) for line in one.splitlines())
            for one in self.body.decode().split("\n\n")
        ]
        return [
            (int(one["id"]) if "id" in one else None, one["event"], json.loads(one["data"]))
            for one in blocks
            if "data" in one
        ]


@pytest.mark.parametrize(
    ("query", "last"),
    [("", ""), ("since=0", ""), ("since=0", "1"), ("since=99&previews=1", ""), ("", "99")],
)
async def test_stream_has_the_frames_of_the_socket(writer: Writer, query: str, last: str) -> None:
    group_id = await writer.do(writer.runner.submit)
    client = Client(group_id, query, last)
    async with watching(group_id, f"?since={last}" if last else f"?{query}") as socket:
        await socket.pong()
        await settled(lambda: client.body)
        claim = await writer.do(writer.runner.begin, "gpu_1")
        await client.has(b"child_started")
        progress(group_id, claim.child_id, claim.number, 50.0)
        await client.has(b"child_progress")
        await writer.do(writer.runner.succeeded, claim)
        await writer.do(writer.runner.run_to_end)
        await writer.do(group_delete, group_id=group_id)
        await socket.until("error")
    await client.end()
    sent = [frame for frame in socket.frames if frame["type"] != "pong"]
    assert (client.status, client.headers[b"Content-Type"]) == (200, b"text/event-stream")
    assert client.headers[b"X-Accel-Buffering"] == b"no"
    assert client.events() == [(frame.get("seq"), frame["type"], frame) for frame in sent]
    assert sent[-1]["code"] == "group_not_found"


async def test_refused_stream_has_the_apis_errors(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    group_id = await writer.do(writer.runner.submit)
    refused = [
        ("jg_unknown", "", ""),
        (group_id, "since=x", ""),
        (group_id, "previews=yes", ""),
        (group_id, "", "x"),
    ]
    for given, status in zip(refused, [404, 400, 400, 400], strict=True):
        client = Client(*given)
        await client.end()
        assert client.status == status, given
    monkeypatch.setattr(sse._streams._open, "most", 0)
    client = Client(group_id)
    await client.end()
    assert (client.status, client.headers[b"Retry-After"]) == (429, b"5")
    assert json.loads(client.body)["code"] == "too_many_streams"


async def test_silent_stream_has_keepalives_and_ends_with_the_process(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEPALIVE_SECONDS", 0.01)
    monkeypatch.setattr(sse._streams, "_is_closing", False)
    client = Client(await writer.do(writer.runner.submit), "since=1")
    await settled(lambda: client.body.count(b": keepalive\n\n") > 2)
    sse.close_streams()
    await client.end()
    assert not client.events()
    assert not hub._channels


async def test_client_that_reads_too_slowly_gets_an_error_and_no_more(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "QUEUE_LIMIT", 3)
    group_id = await writer.do(writer.runner.submit)
    client = Client(group_id)
    await client.has(b"initial_state")
    events = tuple(
        EventFrame(seq, f'{{"type":"child_started","seq":{seq}}}') for seq in range(2, 9)
    )
    hub._broadcast(Message(group_id, events=events))
    await client.end()
    _, (seq, name, data) = client.events()
    assert (seq, name, data["code"]) == (None, "error", "too_slow")


@pytest.mark.parametrize("is_stalled", [False, True])
async def test_client_that_leaves_ends_its_stream(writer: Writer, is_stalled: bool) -> None:
    """It disconnects, or the server gives it up since it reads nothing."""

    def leave(part: bytes) -> None:
        if b"initial_state" in part:
            if is_stalled:
                raise ClientStalled
            client.inbox.put_nowait({"type": "http.disconnect"})

    client = Client(await writer.do(writer.runner.submit), on_part=leave)
    with pytest.raises(ClientStalled) if is_stalled else nullcontext():
        await client.end()
    assert not hub._channels
    assert sse._streams._open._count == 0
