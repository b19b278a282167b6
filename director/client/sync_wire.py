"""Performs the steps of a flow with blocking sockets."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

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


class SyncWire:
    """What one flow holds open: at most one event stream; the HTTP client is shared.

    A context manager: leaving it closes the stream.
    """

    def __init__(self, http: httpx.Client, address: Address) -> None:
        self._http = http
        self._address = address
        self._socket: ClientConnection | None = None
        self._closing = ExitStack()

    def __enter__(self) -> SyncWire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hangup()

    def perform(self, step: Step) -> Any:
        """Do ``step`` and return its result; see ``steps``.

        Raises:
            DirectorError: It could not be done.
        """
        match step:
            case Send():
                return self._send(step)
            case Save():
                return self._save(step)
            case Connect():
                return self._connect(step)
            case Receive():
                return self._receive(step)
            case Hangup():
                return self._hangup()
            case Pause():
                return time.sleep(step.seconds)
            case Emit():
                raise AssertionError("a flow that emits is run by emissions()")

    def _send(self, step: Send) -> Answer:
        options = self._address.http_options(step.request)
        try:
            response = self._http.request(**options, timeout=request_timeout(step.timeout))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost_answer(self._address.shown, error) from error
        return answer_of(response)

    def _save(self, step: Save) -> Answer | Path:
        headers = self._address.headers_for(step.url)
        try:
            with self._http.stream("GET", step.url, headers=headers) as response:
                if response.status_code != 200:
                    head = next(response.iter_bytes(MAX_ERROR_BYTES), b"")
                    return Answer(response.status_code, dict(response.headers), head)
                for chunk in response.iter_bytes():
                    step.landing.write(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost_answer(step.url, error) from error
        return step.landing.land()

    def _connect(self, step: Connect) -> None:
        options = self._address.socket_options(step.path, step.timeout)
        try:
            self._socket = self._closing.enter_context(connect(**options))
        except (OSError, EOFError, WebSocketException) as error:
            raise no_socket(self._address.shown, error) from error

    def _receive(self, step: Receive) -> str | Closed | None:
        if self._socket is None:
            raise AssertionError("a flow connects before it receives")
        try:
            frame = self._socket.recv(step.timeout, decode=True)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            return Closed(close_code(closed))
        return str(frame)

    def _hangup(self) -> None:
        self._socket = None
        self._closing.close()


def _outcome(wire: SyncWire, step: Step) -> Any:
    try:
        return wire.perform(step)
    except DirectorError as error:
        return error


def run(flow: Flow[T], wire: SyncWire) -> T:
    """Perform a flow that emits nothing, and return its result."""
    try:
        step = resume(flow, None)
        while not isinstance(step, Finished):
            step = resume(flow, _outcome(wire, step))
    finally:
        flow.close()
    result: T = step.result
    return result


def emissions(flow: Flow[None], wire: SyncWire) -> Generator[Any]:
    """Perform a flow, yielding what it emits."""
    try:
        step = resume(flow, None)
        while not isinstance(step, Finished):
            if isinstance(step, Emit):
                yield step.item
                step = resume(flow, None)
            else:
                step = resume(flow, _outcome(wire, step))
    finally:
        flow.close()
