"""Performs the steps of a flow in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from director.client.errors import DirectorError
from director.client.steps import (
    Answer,
    Closed,
    Connect,
    Emit,
    Finished,
    Flow,
    Hangup,
    Pause,
    Receive,
    Save,
    Send,
    Step,
    resume,
)
from director.client.transport import (
    MAX_ERROR_BYTES,
    Address,
    answer_of,
    close_code,
    lost_answer,
    no_socket,
    request_timeout,
)

T = TypeVar("T")


class AsyncWire:
    """What one flow holds open: at most one event stream; the HTTP client is shared.

    An async context manager: leaving it closes the stream.
    """

    def __init__(self, http: httpx.AsyncClient, address: Address) -> None:
        self._http = http
        self._address = address
        self._socket: ClientConnection | None = None
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> AsyncWire:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._hangup()

    async def perform(self, step: Step) -> Any:
        """Do ``step`` and return its result; see ``steps``.

        Raises:
            DirectorError: It could not be done.
        """
        match step:
            case Send():
                return await self._send(step)
            case Save():
                return await self._save(step)
            case Connect():
                return await self._connect(step)
            case Receive():
                return await self._receive(step)
            case Hangup():
                return await self._hangup()
            case Pause():
                return await asyncio.sleep(step.seconds)
            case Emit():
                raise AssertionError("a flow that emits is run by emissions()")

    async def _send(self, step: Send) -> Answer:
        options = self._address.http_options(step.request)
        try:
            response = await self._http.request(**options, timeout=request_timeout(step.timeout))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost_answer(self._address.shown, error) from error
        return answer_of(response)

    async def _save(self, step: Save) -> Answer | Path:
        headers = self._address.headers_for(step.url)
        try:
            async with self._http.stream("GET", step.url, headers=headers) as response:
                if response.status_code != 200:
                    return Answer(
                        response.status_code, dict(response.headers), await _head(response)
                    )
                async for chunk in response.aiter_bytes():
                    step.landing.write(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost_answer(step.url, error) from error
        # In a thread: a file that is there already is compared byte by byte.
        return await asyncio.to_thread(step.landing.land)

    async def _connect(self, step: Connect) -> None:
        options = self._address.socket_options(step.path, step.timeout)
        try:
            self._socket = await self._closing.enter_async_context(connect(**options))
        except (OSError, EOFError, WebSocketException) as error:
            raise no_socket(self._address.shown, error) from error

    async def _receive(self, step: Receive) -> str | Closed | None:
        if self._socket is None:
            raise AssertionError("a flow connects before it receives")
        try:
            async with asyncio.timeout(step.timeout):
                frame = await self._socket.recv(decode=True)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            return Closed(close_code(closed))
        return str(frame)

    async def _hangup(self) -> None:
        self._socket = None
        await self._closing.aclose()


async def _head(response: httpx.Response) -> bytes:
    async for chunk in response.aiter_bytes(MAX_ERROR_BYTES):
        return chunk
    return b""


async def _outcome(wire: AsyncWire, step: Step) -> Any:
    try:
        return await wire.perform(step)
    except DirectorError as error:
        return error


async def run(flow: Flow[T], wire: AsyncWire) -> T:
    """Perform a flow that emits nothing, and return its result."""
    try:
        step = resume(flow, None)
        while not isinstance(step, Finished):
            step = resume(flow, await _outcome(wire, step))
    finally:
        flow.close()
    result: T = step.result
    return result


async def emissions(flow: Flow[None], wire: AsyncWire) -> AsyncGenerator[Any]:
    """Perform a flow, yielding what it emits."""
    try:
        step = resume(flow, None)
        while not isinstance(step, Finished):
            if isinstance(step, Emit):
                yield step.item
                step = resume(flow, None)
            else:
                step = resume(flow, await _outcome(wire, step))
    finally:
        flow.close()
