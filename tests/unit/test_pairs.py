"""Messages between the processes of ``serve``, and how often a process is started again."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest

from director.server import pairs, supervise
from director.server.pairs import (
    Begin,
    Connection,
    Deliver,
    Join,
    Leave,
    PairLayer,
    Publish,
    Report,
)
from director.web.processes import ProcessState

LARGE = "x" * 2**20


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def message(form: object) -> Deliver:
    return Deliver(msgspec.Raw(msgspec.msgpack.encode(form)))


def form_of(frame: Deliver | Publish) -> Any:
    return msgspec.msgpack.decode(frame.form)


@pytest.fixture(autouse=True)
async def connections(pair: object, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Close what a test opens, before the pair."""
    made: list[Connection] = []
    make = Connection.connection_made
    monkeypatch.setattr(
        Connection, "connection_made", lambda self, at: (made.append(self), make(self, at))
    )
    yield
    for one in made:
        one.close()
    await asyncio.sleep(0.01)


async def opened(end: socket.socket, kind: Any) -> tuple[Connection, asyncio.Queue[Any]]:
    received: asyncio.Queue[Any] = asyncio.Queue()
    connection = Connection(msgspec.msgpack.Decoder(kind).decode, received.put_nowait)
    await connection.open(end)
    return connection, received


async def test_frames_arrive_whole_whatever_parts_the_stream_has(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    _, received = await opened(pair[0], pairs.ToProcess)
    state = ProcessState("web", 7, is_running=True)
    data = b"".join(map(pairs.frame, (Begin(), message({"type": "x", "n": 1}), Report([state]))))
    for place in range(0, len(data), 3):
        pair[1].send(data[place : place + 3])
        await asyncio.sleep(0)
    assert isinstance(await received.get(), Begin)
    assert form_of(await received.get()) == {"type": "x", "n": 1}
    assert await received.get() == Report([state])


async def test_process_that_does_not_read_loses_messages_and_delays_no_sender(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, _ = await opened(pair[0], pairs.ToSupervisor)
    for number in range(20):
        sender.send(pairs.frame(message([number, LARGE])))
    assert 5 < sender.dropped < 20
    _, received = await opened(pair[1], pairs.ToProcess)
    arrived = [form_of(await received.get())[0] for _ in range(20 - sender.dropped)]
    assert arrived == list(range(20 - sender.dropped))


async def test_layer_joins_publishes_and_receives(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    supervisor, received = await opened(pair[0], pairs.ToSupervisor)
    states: list[list[ProcessState]] = []
    layer = PairLayer(pair[1], states.append)
    layer.bind(asyncio.get_running_loop())
    # Before the connection is made.
    await layer.group_add("g", await layer.new_channel())
    await layer.group_send("g", {"type": "x"})
    await layer.group_discard("g", "pair")
    assert await received.get() == Join("g")
    published = await received.get()
    assert (published.group, form_of(published)) == ("g", {"type": "x"})
    assert await received.get() == Leave("g")
    supervisor.send(pairs.frame(Report([])) + pairs.frame(message({"type": "y"})))
    assert await layer.receive("pair") == {"type": "y"}
    assert states == [[]]


async def test_sender_waits_for_a_supervisor_that_does_not_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    layer = PairLayer(pair[1], lambda _: None)
    layer.bind(asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            for _ in range(20):
                await layer.group_send("g", {"text": LARGE})


def test_layer_of_a_process_whose_supervisor_is_gone_does_not_begin(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[0].close()
    with pytest.raises(EOFError):
        PairLayer(pair[1], lambda _: None).wait_begin()


def test_process_that_ends_at_once_is_started_again_after_growing_pauses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervise, "PROGRAM", ("-c", "import os; os.kill(os.getpid(), 9)"))
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    process = supervise._Process("web", [])
    supervisor = supervise._Supervisor([process], on_ready=lambda: None, sockets=[])

    def pauses() -> list[float]:
        return [record.args[-1] for record in caplog.records if isinstance(record.args, tuple)]

    async def stop() -> None:
        while len(pauses()) < 3:
            await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    async def run() -> int:
        _, status = await asyncio.gather(stop(), supervisor.run())
        return status

    monkeypatch.setattr(supervise.shutdown, "exit_after", lambda *_: None)
    try:
        with caplog.at_level(logging.WARNING):
            assert asyncio.run(run()) == 0
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert pauses()[:3] == [0.0, 0.5, 1.0]
    assert process.state.ends == len(pauses())
    assert process.state.cause == "signal 9"


@pytest.mark.parametrize("end", [supervise._Process.end, supervise._Process.kill])
async def test_end_of_a_process_that_has_just_died_is_no_error(
    end: Callable[[supervise._Process], None],
) -> None:
    process = supervise._Process("web", [])
    process.running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "", stdin=asyncio.subprocess.PIPE
    )
    await process.running.communicate()
    await asyncio.sleep(0)  # in which the loop forgets it
    end(process)
