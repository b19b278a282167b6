"""Play a recording's client against a server and keep what comes back."""

import asyncio
import contextlib
import io
import json
import signal
import struct
from collections.abc import Callable
from typing import Any

import httpx
import websockets
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

from tests.contract.recording import (
    OFF_WIRE,
    RESTARTED,
    Event,
    Recording,
    Seen,
    Step,
    kind,
    seen_in,
)
from tests.contract.renames import Names
from tests.contract.servers import Process, Server
from tests.contract.verdict import Replay

PATIENCE = 20.0  # seconds to wait for what the recording shows
DISTINCT = 0.002  # seconds before a request, so that prompts are created in different milliseconds
QUIET = 0.15  # seconds without a frame after which a socket counts as silent
POLL = 0.01  # seconds between two looks at the queue's length


class Stuck(Exception):
    """The server did not do what the recording shows, and the replay cannot go on."""


class Socket:
    """One websocket, and what it received until we closed it."""

    def __init__(self, websocket: ClientConnection, frames: list[Event]) -> None:
        self.websocket = websocket
        self.frames = frames
        self.closing = False

    async def listen(self, took: Callable[[Event], Any]) -> None:
        """Keep every frame until the connection ends; then keep how it ended."""
        try:
            async for message in self.websocket:
                await self._take(decoded(message), took)
        except websockets.ConnectionClosed:
            pass
        code = self.websocket.close_code
        await self._take({"closed": True, "close_code": None if code is None else int(code)}, took)

    async def _take(self, event: Event, took: Callable[[Event], Any]) -> None:
        if not self.closing:
            self.frames.append(event)
            await took(event)


class Player:
    """Takes the steps of one recording, in order, each when the recording's client took it."""

    def __init__(
        self, recording: Recording, names: Names, server: Server | Process, learned: Names
    ) -> None:
        self.recording = recording
        self.names = names
        self.server = server
        self.replay = Replay(names=learned)
        self._sockets: dict[str, Socket] = {}
        self._news = asyncio.Condition()
        self._http = httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False)
        self._prompts = 0
        self._due_after: dict[
            str, Seen
        ] = {}  #: What each socket has when the next step is due; empty: the step waits.

    async def play(self) -> Replay:
        """Take every step; a server that falls out of step ends the replay early."""
        async with self._http, asyncio.TaskGroup() as listeners:
            try:
                for turn, step in enumerate(self.recording.steps):
                    await self._take(turn, step, listeners)
                await self._end()
            except Stuck as stuck:
                self.replay.stuck = str(stuck)
            finally:
                for socket in self._sockets.values():
                    await self._close(socket)
        return self.replay

    async def go_on(self) -> bool:
        """Return whether the prompt that runs may go on: its next frames come after the steps that
        are due now.
        """
        # The recording's client may open another one during a flush.
        for socket in tuple(self._sockets.values()):
            if not socket.closing and socket.websocket.close_code is None:
                with contextlib.suppress(Stuck):
                    await self._flush(socket)
        return not self._due_after or any(
            not self._has(*wanted) for wanted in self._due_after.items()
        )

    async def _take(self, turn: int, step: Step, listeners: asyncio.TaskGroup) -> None:
        await self._as_far(turn, step)
        if step.deed == "request":
            await self._off_wire(step)
            await asyncio.sleep(DISTINCT)
            answer = await self._request(step.event)
            self.replay.names.learn_answer(step.event, answer)
            self.replay.answers[turn] = answer
        elif step.deed == "connect":
            self.replay.answers[turn] = await self._connect(step, listeners)
        elif step.deed == "close":
            socket = self._sockets[step.event["client"]]
            if socket.websocket.close_code is None:
                await self._flush(socket)
            await self._close(socket)
        elif step.deed == "send":
            await self._sockets[step.event["client"]].websocket.send(outgoing(step.event))
        else:
            await self._note(step.event["text"])

    # ── when ──

    async def _as_far(self, turn: int, step: Step) -> None:
        """Wait until each socket has received what it had in the recording, then be as silent."""
        after = {**step.seen, **self._started(turn, step)}
        # In a pause of the recording its prompt went on.
        self._due_after = {} if step.pause else after
        for name, wanted in after.items():
            await self._seen(name, wanted, f"step {turn}")
        await asyncio.sleep(step.pause)
        self._due_after = after
        if step.deed == "connect":
            self._due_after = {}
            await self._queue_length(step.event["client"])

    def _has(self, name: str, wanted: Seen) -> bool:
        return seen_in(self._sockets[name].frames).reached(wanted)

    async def _seen(self, name: str, wanted: Seen, where: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(lambda: self._has(name, wanted))
        except TimeoutError:
            has = [kind(event) for event in self._sockets[name].frames][-5:]
            raise Stuck(f"before {where} socket {name} got no further than {has}") from None

    def _started(self, turn: int, step: Step) -> dict[str, Seen]:
        """By socket, the execution_start that must precede this step, where it must."""
        waits = self.recording.name in OFF_WIRE["interrupt_after_start"]
        if not waits or step.deed != "request" or step.event["path"] != "/interrupt":
            return {}
        prompt = step.event["body"]["prompt_id"]
        for name, events in self.recording.frames.items():
            for index, event in enumerate(events):
                if (
                    kind(event) == "execution_start"
                    and event["frame"]["data"]["prompt_id"] == prompt
                ):
                    started = seen_in(events[: index + 1])
                    return {name: max(started, step.seen[name], key=lambda s: (s.landmarks, s.run))}
        return {}

    async def _queue_length(self, client: str) -> None:
        """Wait for the queue's length that the socket's first frame will tell."""
        first = self.recording.frames[client][0]["frame"]["data"]["status"]["exec_info"]
        try:
            async with asyncio.timeout(PATIENCE):
                while (await self._http.get("/prompt")).json()["exec_info"] != first:
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise Stuck(f"before {client} connected the queue never was {first}") from None

    async def _end(self) -> None:
        """Wait for the last frames of the recording, then until nothing more comes."""
        self._due_after = {}
        for name, events in self.recording.frames.items():
            if not self._sockets[name].closing:
                await self._seen(name, seen_in(events), "the end")
        try:
            async with self._news:
                while True:
                    async with asyncio.timeout(QUIET):
                        await self._news.wait()
        except TimeoutError:
            return

    # ── what ──

    async def _request(self, event: Event) -> Event:
        path = self._renamed(event["path"])
        headers = {key: self._renamed(value) for key, value in event.get("headers", {}).items()}
        try:
            response = await self._http.request(
                event["method"], path, headers=headers, **self._content(event)
            )
        except httpx.TransportError as error:
            return {"exception": repr(error)}
        return answered(response)

    def _content(self, event: Event) -> dict[str, Any]:
        if "multipart" in event:
            return {"files": [part(field, event.get("note", "")) for field in event["multipart"]]}
        if "body_raw" in event:
            return {"content": event["body_raw"].encode("latin-1")}
        if "body" in event:
            return {"content": self._renamed(json.dumps(event["body"])).encode()}
        return {}

    async def _connect(self, step: Step, listeners: asyncio.TaskGroup) -> Event:
        client = step.event["client"]
        url = "ws" + self.server.url.removeprefix("http") + self._renamed(step.event["path"])
        offers = step.answer is not None and "Sec-WebSocket-Extensions" in step.answer["headers"]
        websocket = await connect(
            url,
            compression="deflate" if offers else None,
            max_size=None,
            ping_interval=None,
            proxy=None,
            user_agent_header=None,
        )
        frames = self.replay.frames[client] = []
        socket = self._sockets[client] = Socket(websocket, frames)
        listeners.create_task(socket.listen(self._took), name=f"socket {client}")
        assert websocket.response is not None
        response = websocket.response
        return {"status": response.status_code, "headers": dict(response.headers.raw_items())}

    async def _took(self, event: Event) -> None:
        self.replay.names.learn_frame(event)
        async with self._news:
            self._news.notify_all()

    async def _flush(self, socket: Socket) -> None:
        """Let what the server sent so far arrive: a pong comes after it."""
        try:
            async with asyncio.timeout(PATIENCE):
                await (await socket.websocket.ping())
        except (websockets.ConnectionClosed, TimeoutError):
            raise Stuck("a socket about to be closed answers no ping") from None

    async def _close(self, socket: Socket) -> None:
        socket.closing = True
        await socket.websocket.close()

    async def _off_wire(self, step: Step) -> None:
        if step.event["method"] == "POST" and step.event["path"] == "/prompt":
            removed = OFF_WIRE["removed"].get(self.recording.name, {}).get(str(self._prompts))
            self._prompts += 1
            if removed is not None:
                (self.server.outputs / removed).unlink()

    async def _note(self, text: str) -> None:
        if sent := OFF_WIRE["signals"].get(text):
            assert isinstance(self.server, Process)
            await asyncio.to_thread(self.server.kill, signal.Signals[sent])
        elif text.startswith(RESTARTED):
            assert isinstance(self.server, Process)
            self.server.close()
            await asyncio.to_thread(self.server.start)

    def _renamed(self, text: str) -> str:
        """``text`` with the recording's made-up names replaced by this server's."""
        return self.replay.names.actual(self.names.alias(text))


def answered(response: httpx.Response) -> Event:
    seen: Event = {"status": response.status_code}
    seen["headers"] = {key.decode(): value.decode() for key, value in response.headers.raw}
    content_type = response.headers.get("content-type", "")
    if response.content and content_type.startswith("application/json"):
        seen["body"] = response.json()
    elif response.content and content_type.startswith("image/") and "svg" not in content_type:
        seen |= {"binary": True, "head_hex": response.content[:32].hex()}
    elif response.content:
        seen["body_text"] = response.text
    return seen


def outgoing(event: Event) -> str | bytes:
    """The message of a recorded ``ws-send``. Of long ones only the length was kept."""
    if event.get("binary"):
        return bytes(event["len"])
    if "frame" in event:
        return json.dumps(event["frame"])
    raw: str | None = event["frame_raw"]
    return raw if raw is not None else "x" * int(event["len"])


def part(field: dict[str, str], note: str) -> tuple[str, Any]:
    """A multipart field. Of files only the size was kept: two small pictures stand for them."""
    if "filename" not in field:
        return field["name"], (None, field["value"])
    other = "other bytes" in note or "overwrite" in note
    content = picture((200, 40, 40) if other else (40, 40, 200))
    if field["filename"].endswith(".bin"):
        content = b"not an image"
    elif field["filename"].endswith(".svg"):
        content = b"<svg/>"
    return field["name"], (field["filename"], content, field["content_type"])


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def decoded(message: str | bytes) -> Event:
    """A received frame in the form of a recorded one (comfyui-protocol.md, "Binary frames")."""
    if isinstance(message, str):
        return {"frame": json.loads(message)}
    (event_type,) = struct.unpack_from(">I", message)
    event: Event = {"binary": True, "event_type": event_type}
    (number,) = struct.unpack_from(">I", message, 4)
    rest = message[8:]
    if event_type == 1:
        event |= {"image_type": number, "image_magic_hex": rest[:12].hex()}
    elif event_type == 3:
        event |= {"node_id": rest[:number].decode(), "text": rest[number:].decode()}
    elif event_type == 4:
        event |= {
            "metadata": json.loads(rest[:number]),
            "image_magic_hex": rest[number : number + 12].hex(),
        }
    return event
