"""What the client needs of HTTP and WebSockets, as two protocols.

The rules (``calls``, ``stream``, ``wait``, ``downloads``) are coroutines over a ``Wire``. ``AsyncWire`` awaits
its sockets. ``SyncWire`` blocks and never suspends, so that ``methods.run`` finishes a coroutine in one step.
Each rule is therefore written once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from director.client.file_writer import AtomicFile


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to the Director.

    Attributes:
        path: Below the Director's address, percent-encoded.
        body: JSON text, None for none.
        repeatable: The request may be sent again after a lost answer: that changes nothing more.
    """

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The event stream ended with this close code."""

    code: int


class Socket(Protocol):
    """An open event stream."""

    async def receive(self, timeout: float | None = None) -> str | Closed | None:
        """Return the next frame, ``Closed``, or None after ``timeout`` seconds without a frame."""

    async def aclose(self) -> None:
        """Close the stream."""


class Wire(Protocol):
    """Sends and receives for one client. Each method raises a ``DirectorError`` if that fails."""

    async def send(self, request: Request, timeout: float | None = None) -> Answer:
        """Return the answer to a request. ``timeout`` in seconds, None for the client's."""

    async def save(self, url: str, file: AtomicFile) -> Path | Answer:
        """Stream a URL into a file; return its path, or the answer if its status is not 200."""

    async def connect(self, path: str, timeout: float = 10.0) -> Socket:
        """Open the event stream at ``path``. ``timeout`` in seconds."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def aclose(self) -> None:
        """Close the connections."""


def dump(value: Any) -> bytes:
    """Return ``value`` as JSON text; the order of keys is kept.

    The text is ASCII: a lone surrogate then reaches the server, whose 400 names it, and causes no encoding
    error here.

    Raises:
        ValueError: ``value`` has a NaN or an infinity, which JSON does not have.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
