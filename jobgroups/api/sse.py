"""Server-Sent Events: responses that stay open until their frames, their client or the process
ends.

The server sends a frame when the client has read the previous ones, and disconnects a client that
reads nothing. So a response keeps at most one frame; what waits behind it is bounded by the source
of the frames.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec
from django.http import StreamingHttpResponse

from jobgroups.errors import TooManyStreams
from jobgroups.metrics import open_sockets
from jobgroups.streams.open_requests import OpenRequests

_MOST: Final = 2_000  #: Streams that are open at once, in this process.
#: Seconds without a frame after which a comment is sent: a proxy would disconnect.
KEEPALIVE_SECONDS: Final = 15.0
_KEEPALIVE: Final = b": keepalive\n\n"


class _Typed(msgspec.Struct):
    type: str


_decoder = msgspec.json.Decoder(_Typed)


def sse_frame(data: str, *, event: str | None = None, seq: int | None = None) -> str:
    """Return one event.

    Args:
        data: JSON text without line breaks.
        event: its name; None: the ``type`` in the data.
        seq: its id, from which a client may resume; None: without one.
    """
    name = _decoder.decode(data).type if event is None else event
    head = "" if seq is None else f"id: {seq}\n"
    return f"{head}event: {name}\ndata: {data}\n\n"


class _Response(StreamingHttpResponse):
    _iterator: AsyncGenerator[bytes, None]  #: Django's name for the body.

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return the body itself: Django's generators around it would leave it open after a
        disconnect.
        """
        return self._iterator


class _Streams:
    def __init__(self) -> None:
        #: Each waits for the next frame of a response.
        self._steps: set[asyncio.Task[str | None]] = set()
        self._open = OpenRequests(_MOST, TooManyStreams)
        self._is_closing = False

    def response(
        self, frames: AsyncGenerator[str, None], account: int | None
    ) -> StreamingHttpResponse:
        """Return a response that sends the frames of :func:`sse_frame`; raise ``TooManyStreams``."""
        self._open.check(account)
        # nginx would buffer the response without the last header.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return _Response(
            self._body(frames, account), content_type="text/event-stream", headers=headers
        )

    async def _body(
        self, frames: AsyncGenerator[str, None], account: int | None
    ) -> AsyncGenerator[bytes, None]:
        with self._open.opened(account):
            open_sockets.labels("sse").inc()
            step = None
            try:
                yield _KEEPALIVE  # the server sends the headers with it
                while not self._is_closing:
                    # A task, since a timeout would end the generator.
                    step = asyncio.get_running_loop().create_task(_next(frames))
                    self._steps.add(step)
                    step.add_done_callback(self._steps.discard)
                    while not (await asyncio.wait((step,), timeout=KEEPALIVE_SECONDS))[0]:
                        yield _KEEPALIVE
                    if step.cancelled() or (frame := step.result()) is None:
                        return
                    yield frame.encode()
            finally:
                open_sockets.labels("sse").dec()
                if step is not None and not step.done():
                    step.cancel()
                    await asyncio.wait((step,))
                await frames.aclose()

    def close(self) -> None:
        """End all responses, whose clients connect again, and later ones at once."""
        self._is_closing = True
        for step in self._steps:
            step.cancel()


async def _next(frames: AsyncGenerator[str, None]) -> str | None:
    return await anext(frames, None)


_streams: Final = _Streams()
sse_response: Final = _streams.response
close_streams: Final = _streams.close
