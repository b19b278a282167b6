"""Messages between `serve` and its processes, over a socket pair that each process inherits.

The supervisor passes messages of the hub on to the processes that joined their group. It waits for
no process: it drops messages to one that does not read. A lost message delays an event, but loses
no result.

A frame is its length (4 bytes, big-endian) and a message of this module as MessagePack.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from director.web.processes import ProcessState

logger = logging.getLogger(__name__)

#: Bytes of unsent frames above which further ones are dropped. One frame may be larger: the end of
#: a large group.
_UNSENT_BYTES: Final = 4 * 2**20
_UNREAD_MESSAGES: Final = 10_000  #: Received messages above which further ones are dropped.
_HEADER_BYTES: Final = 4


class Join(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To the supervisor: this process receives the messages of a group from now on."""

    group: str


class Leave(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To the supervisor: this process receives the messages of a group no longer."""

    group: str


class Publish(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To the supervisor: a message for all other processes of a group."""

    group: str
    form: msgspec.Raw


class Opened(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To the supervisor: the database is migrated and open."""


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To the supervisor: this process works."""


class Begin(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To a process: the database is open."""


class Deliver(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To a process: a message of a group that it joined."""

    form: msgspec.Raw


class Report(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To a process: the state of all processes."""

    states: list[ProcessState]


ToSupervisor = Join | Leave | Publish | Opened | Ready
ToProcess = Begin | Deliver | Report


def frame(message: ToSupervisor | ToProcess) -> bytes:
    """Return a message as it is sent."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_HEADER_BYTES, "big") + body


class Connection(asyncio.Protocol):
    """One end of a pair in an event loop.

    ``on_message`` is called with each message, which ``decode`` made of its bytes.
    """

    def __init__(self, decode: Callable[[bytes], Any], on_message: Callable[[Any], None]) -> None:
        self._decode = decode
        self._on_message = on_message
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None  #: uvloop's is no subclass.
        self._can_write = asyncio.Event()
        self._early: list[bytes] = []  #: Frames that were sent before the connection was made.
        self.dropped = 0

    async def open(self, pair: socket.socket) -> None:
        """Use an end of a pair from now on."""
        loop = asyncio.get_running_loop()
        # uvloop distinguishes the two.
        is_unix = pair.family == getattr(socket, "AF_UNIX", None)
        connect = loop.create_unix_connection if is_unix else loop.create_connection
        await connect(lambda: self, sock=pair)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._can_write.set()
        for early in self._early:
            transport.write(early)
        self._early.clear()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._can_write.set()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= _HEADER_BYTES:
            end = _HEADER_BYTES + int.from_bytes(received[:_HEADER_BYTES], "big")
            if len(received) < end:
                break
            body = bytes(received[_HEADER_BYTES:end])
            del received[:end]
            self._on_message(self._decode(body))

    def send(self, data: bytes) -> None:
        """Send a frame; drop it if the other end does not read."""
        if self._transport is None:
            if not self._can_write.is_set():
                self._early.append(data)
        elif self._transport.get_write_buffer_size() > _UNSENT_BYTES:
            self.dropped += 1
        else:
            self._transport.write(data)

    async def wait_writable(self) -> None:
        """Return when the other end has read enough, or is gone."""
        await self._can_write.wait()

    def close(self) -> None:
        """Close the connection at once: the process at the other end is gone."""
        if self._transport is not None:
            self._transport.abort()


class PairLayer:
    """The channel layer of a process of `serve`: groups alone, whose messages do not return to
    their sender.

    ``pair`` is the end that this process inherited, ``on_report`` is called with the states of all
    processes.
    """

    extensions = ("groups", "flush")

    def __init__(
        self, pair: socket.socket, on_report: Callable[[list[ProcessState]], None]
    ) -> None:
        self._pair = pair
        self._on_report = on_report
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection
        self._forms: asyncio.Queue[Any]

    def wait_begin(self) -> None:
        """Wait for ``Begin``, before there is a loop; raise ``EOFError`` if the supervisor is gone."""
        size = int.from_bytes(self._receive(_HEADER_BYTES), "big")
        msgspec.msgpack.decode(self._receive(size), type=Begin)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._pair.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def opened(self) -> None:
        """Report that the database is open, before there is a loop."""
        self._pair.sendall(frame(Opened()))

    def ready(self) -> None:
        """Report that this process works."""
        self._connection.send(frame(Ready()))

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use the pair in the running event loop."""
        self._forms = asyncio.Queue(_UNREAD_MESSAGES)
        self._connection = Connection(msgspec.msgpack.Decoder(ToProcess).decode, self._on_message)
        self._opening = loop.create_task(self._connection.open(self._pair), name="pair")
        self._loop = loop

    def _on_message(self, message: ToProcess) -> None:
        if isinstance(message, Report):
            self._on_report(message.states)
        elif isinstance(message, Deliver):
            if self._forms.full():
                self._forms.get_nowait()
                self._connection.dropped += 1
            self._forms.put_nowait(msgspec.msgpack.decode(message.form))

    async def new_channel(self, prefix: str = "pair") -> str:
        """Return the name of the one channel of this process."""
        return prefix

    async def group_add(self, group: str, _channel: str) -> None:
        """Receive the messages of a group from now on."""
        self._connection.send(frame(Join(group)))

    async def group_discard(self, group: str, _channel: str) -> None:
        """Receive the messages of a group no longer."""
        self._connection.send(frame(Leave(group)))

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Send a message to all other processes of a group, when the supervisor has read the ones
        before.
        """
        if asyncio.get_running_loop() is not self._loop:
            return  # This process is ending: its hub is closed already.
        await self._connection.wait_writable()
        self._connection.send(frame(Publish(group, msgspec.Raw(msgspec.msgpack.encode(message)))))

    async def receive(self, _channel: str) -> Any:
        """Return the next message."""
        return await self._forms.get()

    async def flush(self) -> None:
        """Do nothing: the pair ends with the process."""
