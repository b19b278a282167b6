"""A prompt that "was not sent" was not sent: nothing of it arrives, over any connection, also when
the server is odd.
"""

import asyncio
import contextlib
import random
import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from backends.comfyui import errors
from backends.comfyui.client import ComfyClient
from backends.comfyui.exchange import Timeouts
from tests.harness.loop_thread import LoopThread
from tests.harness.servers import free_port

TIMES = Timeouts(connect_s=5.0, silence_s=0.5, submit_s=5.0, upload_s=0.5)
REFUSAL = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}"
UNSOLICITED = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
FAULTS = (
    *(
        "none",
        "none",
        "none",
        "reset at once",
        "cut head",
        "cut body",
        "end unanswered",
        "reset unanswered",
    ),
    *("half answer", "end after", "reset after", "away"),
)


class OddServer(LoopThread):
    """Receives prompts and does to each what ``fault`` says; ``received`` has every byte that came."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.fault = "none"
        self.received = bytearray()
        self.connections: list[Connection] = []
        self.is_over = threading.Event()  #: Something came after an answer, or a connection ended.

    async def open(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), "127.0.0.1", self.port
        )

    async def close(self) -> None:
        await _turns()  # asyncio forgets a connection that it accepts while its server is closed
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()
        await _turns()


class Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, server: OddServer) -> None:
        self.server = server
        self.buffer = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.connections.append(self)
        if self.server.fault == "reset at once":
            self.reset()

    def reset(self) -> None:
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.server.received += data
        self.buffer += data
        fault = self.server.fault
        head, end, body = bytes(self.buffer).partition(b"\r\n\r\n")
        if fault == "cut head" or (fault == "cut body" and end):
            self.reset()
        elif fault == "early" and end:
            self.transport.write(REFUSAL)
            self.transport.pause_reading()
        elif end and len(body) >= _number(rb"Content-Length: (\d+)", head):
            self.buffer.clear()
            self.answer(body, fault)

    def answer(self, body: bytes, fault: str) -> None:
        accepted = b'{"prompt_id":"prompt-%d","number":1}' % _number(rb"prompt-(\d+)", body)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(accepted), accepted)
        if not fault.endswith("unanswered"):
            self.transport.write(answer[:-5] if fault == "half answer" else answer)
        if fault in ("half answer", "end after", "end unanswered"):
            self.transport.close()
        elif fault.startswith("reset"):
            self.reset()
        elif fault == "unsolicited after":
            asyncio.get_running_loop().call_later(0.002, self.write_unsolicited)

    def write_unsolicited(self) -> None:
        self.transport.write(UNSOLICITED)
        self.server.is_over.set()

    def connection_lost(self, _: Exception | None) -> None:
        # Its socket is closed behind this call.
        asyncio.get_running_loop().call_soon(self.server.is_over.set)


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0.001)


def _number(pattern: bytes, text: bytes) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


async def _submit(comfy: ComfyClient, number: int, *, size: int = 10, may_send: bool = True) -> Any:
    """Return the id of the accepted prompt, or the error."""
    node = {"class_type": "X", "inputs": {"text": "x" * size}}
    try:
        accepted = await comfy.submit(
            {"1": node}, prompt_id=f"prompt-{number}", client_id="c", may_send=lambda: may_send
        )
    except errors.BackendError as error:
        return error
    return accepted.prompt_id


def _loops() -> Any:
    if sys.platform == "win32":
        return [asyncio.run]
    import uvloop

    return [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.mark.parametrize("run", _loops())
@pytest.mark.parametrize("seed", range(3))
def test_prompt_that_was_not_sent_never_arrives_and_no_other_arrives_twice(
    run: Run, seed: int
) -> None:
    chance = random.Random(seed)
    outcomes: list[tuple[str, Any]] = []

    async def submit_all(server: OddServer) -> None:
        async with ComfyClient(f"http://127.0.0.1:{server.port}", timeouts=TIMES) as comfy:
            for number in range(200):
                server.fault = chance.choice(FAULTS)
                may_send = chance.random() > 0.1
                if server.fault == "away":
                    await asyncio.wrap_future(
                        asyncio.run_coroutine_threadsafe(server.close(), server.loop)
                    )
                size = chance.choice((10, 100_000))
                outcomes.append(
                    (server.fault, await _submit(comfy, number, size=size, may_send=may_send))
                )
                if server.fault == "away":
                    await asyncio.wrap_future(
                        asyncio.run_coroutine_threadsafe(server.open(), server.loop)
                    )
                await asyncio.sleep(chance.choice((0, 0, 0.005)))

    with OddServer() as server:
        run(submit_all(server))
    arrivals = Counter(re.findall(rb'"prompt-\d+"', server.received))
    not_sent = 0
    for number, (fault, outcome) in enumerate(outcomes):
        arrived = arrivals[b'"prompt-%d"' % number]
        if isinstance(outcome, errors.BackendUnreachable | errors.SendAborted):
            assert arrived == 0, (number, fault, outcome)
            not_sent += 1
        elif isinstance(outcome, str):
            assert (outcome, arrived) == (f"prompt-{number}", 1), (number, fault)
        else:
            assert isinstance(outcome, errors.ResponseLost), (number, fault, outcome)
            assert arrived <= 1, (number, fault)
    assert not_sent >= 10
    assert sum(isinstance(outcome, str) for _, outcome in outcomes) >= 50


@pytest.mark.parametrize("run", _loops())
@pytest.mark.parametrize("fault", ["end after", "reset after", "unsolicited after"])
@pytest.mark.parametrize("is_read", [False, True], ids=["loop has not read it", "loop has read it"])
def test_connection_over_which_anything_came_since_its_answer_is_not_used(
    run: Run, fault: str, is_read: bool
) -> None:
    """Else its end would make the prompt uncertain, and what came be taken for its answer."""

    async def submit_twice(server: OddServer) -> None:
        async with ComfyClient(f"http://127.0.0.1:{server.port}", timeouts=TIMES) as comfy:
            server.fault = fault
            assert await _submit(comfy, 1) == "prompt-1"
            if is_read:
                await asyncio.to_thread(server.is_over.wait, 20)
                await _turns()
            else:
                assert server.is_over.wait(20)
            server.fault = "none"
            assert await _submit(comfy, 2) == "prompt-2"

    with OddServer() as server:
        run(submit_twice(server))
    assert len(server.connections) == 2


@pytest.mark.parametrize("run", _loops())
def test_connection_with_a_body_that_was_not_taken_whole_is_not_used(run: Run) -> None:
    """The next prompt would be read as the rest of that body."""

    async def submit_twice(server: OddServer) -> None:
        async with ComfyClient(f"http://127.0.0.1:{server.port}", timeouts=TIMES) as comfy:
            server.fault = "early"
            assert isinstance(await _submit(comfy, 1, size=30_000_000), errors.PromptRefused)
            server.fault = "none"
            assert await _submit(comfy, 2) == "prompt-2"

    with OddServer() as server:
        run(submit_twice(server))
    assert len(server.connections) == 2


async def test_read_that_fails_on_a_kept_connection_is_not_repeated() -> None:
    with OddServer() as server:
        async with ComfyClient(f"http://127.0.0.1:{server.port}", timeouts=TIMES) as comfy:
            with pytest.raises(errors.NotComfyUI):
                await comfy.queue_remaining()
            server.fault = "end unanswered"
            with pytest.raises(
                errors.ResponseLost, match="Server disconnected without sending a response"
            ):
                await comfy.queue_remaining()
    assert server.received.count(b"GET /prompt") == 2


async def _upload(pieces: AsyncIterator[bytes], size: int, port: int) -> None:
    async with (
        asyncio.timeout(20),
        ComfyClient(f"http://127.0.0.1:{port}", timeouts=TIMES) as comfy,
    ):
        await comfy.upload_input("a.png", pieces, subfolder="s", size=size)


@pytest.mark.parametrize("run", _loops())
def test_upload_ends_if_the_backend_takes_no_more_of_it(run: Run) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(errors.ResponseLost, match=r"0\.5 s passed without a byte"):
            run(_upload(endless(), 10**12, listener.getsockname()[1]))
        accepted, _ = listener.accept()
        with accepted, contextlib.suppress(ConnectionResetError):
            accepted.settimeout(20)
            while accepted.recv(1_000_000):
                pass


@pytest.mark.parametrize("length", [5, 20])
async def test_upload_of_another_length_than_announced_is_an_error(length: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(length):
            yield b"x"

    error = pytest.raises(errors.ResponseLost, match="another length than its Content-Length")
    with OddServer() as server, error:
        await _upload(pieces(), 10, server.port)


async def test_error_of_the_content_is_passed_on() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"
        raise errors.SendAborted("It was taken back.")

    with OddServer() as server, pytest.raises(errors.SendAborted, match="taken back"):
        await _upload(pieces(), 10, server.port)
