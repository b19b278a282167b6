"""What a client does to the world, step by step, as values.

The rules (``calls``, ``streaming``, ``waiting``, ``downloads``) are generators that yield steps
and are sent their results: they know no socket, no thread and no event loop. ``sync_wire`` and
``async_wire`` perform the steps, and know no rule. So each rule stands once.

A step that cannot be done is thrown into the generator as a ``DirectorError``.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from director.client.errors import DirectorError
from director.client.file_writer import Landing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to the Director.

    Attributes:
        path: Below the Director's address, percent-encoded.
        body: JSON text, None for none.
        repeatable: Sending it again after a lost answer changes nothing more.
    """

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read whole. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request; gives its ``Answer``. ``timeout`` in seconds, None for the client's."""

    request: Request
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Save:
    """Stream what ``url`` gives into ``landing``; gives the ``Path``, or the refusing ``Answer``."""

    url: str
    landing: Landing


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the event stream at ``path``; gives None. ``timeout`` in seconds."""

    path: str
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for the next frame of the open stream.

    Gives its text, a ``Closed``, or None after ``timeout`` seconds of silence.
    """

    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """The stream ended with this close code."""

    code: int


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the event stream, if one is open."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand one item to the caller."""

    item: Any


Step: TypeAlias = Send | Save | Connect | Receive | Hangup | Pause | Emit
Flow: TypeAlias = Generator[Step, Any, T]


def dump(value: Any) -> bytes:
    """Return ``value`` as JSON text, key order kept.

    ASCII on purpose: a lone surrogate reaches the server, whose 400 names it, instead of failing
    here as an encoding error.

    Raises:
        ValueError: NaN or an infinity, which JSON has not.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


@dataclass(frozen=True, slots=True)
class Finished:
    """A flow has returned."""

    result: Any


def resume(flow: Flow[Any], outcome: Any) -> Step | Finished:
    """Give a flow the outcome of its last step and return its next one.

    Args:
        outcome: The step's result, or the ``DirectorError`` that kept it from being done. None
            starts a flow.
    """
    try:
        if isinstance(outcome, DirectorError):
            return flow.throw(outcome)
        return flow.send(outcome)
    except StopIteration as end:
        # Told as a value: a StopIteration may not leave a coroutine.
        return Finished(end.value)
