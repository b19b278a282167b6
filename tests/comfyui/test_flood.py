"""A backend that sends frames without a pause takes a part of the event loop's time alone."""

import asyncio
import contextlib
import time

import pytest
from websockets.asyncio.server import ServerConnection, serve

from backends.comfyui import event_socket
from backends.comfyui.client import ComfyClient
from backends.comfyui.event_socket import EventSocket
from backends.comfyui.exchange import Timeouts
from tests.harness.loop_thread import LoopThread

SECONDS = 3.0
TICK = 0.01
STATUS = b'{"type":"status","data":{"status":{"exec_info":{"queue_remaining":0}}}}'
#: Frames without a pause: events, empty ones, and pings, which no reader sees.
FLOODS = {
    "events": (bytes((0x81, len(STATUS))) + STATUS) * 4_000,
    "empty": b"\x81\x00" * 2**16,
    "pings": b"\x89\x00" * 2**16,
}


class Flood(LoopThread):
    """A server that sends ``frames`` over each socket as fast as they are taken."""

    def __init__(self, frames: bytes) -> None:
        super().__init__()
        self._frames = frames

    async def _send(self, socket: ServerConnection) -> None:
        with contextlib.suppress(OSError, AttributeError):  # it was aborted
            while not socket.transport.is_closing():
                if socket.transport.get_write_buffer_size() < len(self._frames):
                    socket.transport.write(self._frames)
                await asyncio.sleep(0.001)

    async def open(self) -> None:
        self._server = await serve(self._send, "127.0.0.1", 0, ping_interval=None)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        for connection in self._server.connections:
            connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()


@pytest.mark.parametrize("kind", FLOODS)
async def test_flood_of_frames_leaves_the_event_loop_to_others(kind: str) -> None:
    events = ticks = 0

    async def read(socket: EventSocket) -> None:
        nonlocal events
        async for _ in socket:
            events += 1

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(TICK)
            ticks += 1

    with Flood(FLOODS[kind]) as flood:
        async with (
            ComfyClient(flood.url, timeouts=Timeouts(close_s=0.2)) as comfy,
            comfy.events("c") as socket,
        ):
            began, used = time.monotonic(), time.thread_time()
            tasks = [asyncio.create_task(read(socket)), asyncio.create_task(tick())]
            await asyncio.sleep(SECONDS)
            seconds, used = time.monotonic() - began, time.thread_time() - used
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    most = (seconds / event_socket._FRAMES_SECONDS + 2) * event_socket._FRAMES
    assert events <= most
    assert (events > 0) is (kind == "events")
    # For each second in which this thread ran, however busy the machine is: a loop that reads all
    # frames has five.
    assert ticks > 100 * used
