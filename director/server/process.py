"""Daphne and the runner in one process and one asyncio loop."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import daphne.server  # noqa: F401 before all of Twisted: it installs the reactor
from django.conf import settings
from twisted.internet import reactor as _reactor

from director.asgi import application
from director.server import shutdown
from director.server.daphne import BackpressureServer
from director.server.listen import ListenAddress
from director.web.threaded_handler import close_threads
from jobgroups.api.views.async_base import close_reading
from jobgroups.consumers import close_all, close_rows, read_seqs
from jobgroups.database.locks import Lock
from jobgroups.events.hub import hub
from jobgroups.runner.supervisor import RunnerSupervisor

logger = logging.getLogger(__name__)

#: Any: Twisted's reactor is a module until one is installed, which importing daphne did.
reactor: Any = _reactor
#: Seconds that sockets and requests may take to end; with the rest, SIGTERM ends within 5 s.
_GRACE: Final = 2.5
#: Seconds for a socket that came with the last connections.
_GRACE_OF_LAST: Final = 0.5
#: WebSocket close code of a Director that ends or restarts.
_SHUTDOWN: Final = 4012


class _Process:
    """The lives of the server and the runner, tied together in the reactor's loop."""

    def __init__(
        self,
        places: Sequence[ListenAddress],
        runner_name: str | None,
        lock: Lock | None,
        announce: Callable[[int], None],
    ) -> None:
        self._port = places[0].port
        self._announce = announce
        self._loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
        self._runner = (
            None
            if runner_name is None
            else RunnerSupervisor(
                name=runner_name, hub=hub, find_local=settings.DIRECTOR_DISCOVER, lock=lock
            )
        )
        self._main: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.failed = False
        self._server = BackpressureServer(
            application=application,
            endpoints=[place.endpoint for place in places],
            signal_handlers=False,
            # The default would close every socket after a day.
            websocket_timeout=-1,
            ready_callable=self._start,
            application_close_timeout=_GRACE,
            server_name="Director",
        )

    def run(self) -> None:
        """Serve until a signal."""
        self._server.run()
        if self._server.abort_start:
            self.failed = True

    def _start(self) -> None:
        shutdown.on_signals(self._loop, self._stopping.set)
        # Before the runner, not with the first request: what is found meanwhile must wake it.
        hub.bind(self._loop, read_seqs=read_seqs)
        self._main = self._loop.create_task(self._live(), name="serve")

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                stop = tasks.create_task(self._stopping.wait(), name="stop")
                if self._runner is None:
                    self._ready()
                    await stop
                    return
                running = tasks.create_task(self._runner.run(self._ready), name="runner")
                await asyncio.wait([stop, running], return_when=asyncio.FIRST_COMPLETED)
                self._runner.stop()
                await self._close()
                self._stopping.set()
        except Exception:
            self.failed = True
            # Nobody sent a signal, and what ends now may hang all the same.
            shutdown.exit_after(status=1)
            logger.exception("The Director ends because of a defect.")
        finally:
            await self._close()
            await close_all(_SHUTDOWN, within=_GRACE_OF_LAST)
            await hub.aclose()
            close_rows()
            close_reading()
            close_threads()
            if reactor.running:
                reactor.stop()

    async def _close(self) -> None:
        """Take nothing new, answer what was asked, and send the sockets to whoever listens still."""
        if self._server.is_closing:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._server.stop_listening(_GRACE), name="close doors")
            tasks.create_task(close_all(_SHUTDOWN, within=_GRACE), name="close sockets")

    def _ready(self) -> None:
        # What is loaded stays: collections need not walk Django's heap, nor copy it to a child.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._announce(self._port)


def serve(
    *,
    places: Sequence[ListenAddress],
    runner_name: str | None,
    lock: Lock | None = None,
    announce: Callable[[int], None],
) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        places: where to listen.
        runner_name: of the runner in this process; None: only serve.
        lock: on that name, held by the caller.
        announce: called with the port when requests are answered and the runner is alive.

    Returns:
        0 after an orderly end, 1 after a defect.
    """
    serving = _Process(places, runner_name, lock, announce)
    serving.run()
    return int(serving.failed)
