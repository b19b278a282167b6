"""Web server and runner in one process and one asyncio event loop."""

import asyncio
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Final

from django.conf import settings

from director.asgi import application
from director.server import shutdown
from director.server.daphne import BackpressureServer, reactor
from director.server.listen import ListenAddress
from director.web.handlers import close_threads
from jobgroups.api.answers import answers
from jobgroups.api.long_polls import long_polls
from jobgroups.api.sse import close_streams
from jobgroups.api.views import async_base
from jobgroups.consumers.socket import close_all
from jobgroups.database.locks import Lock
from jobgroups.events.hub import hub
from jobgroups.runner.supervisor import RunnerSupervisor
from jobgroups.streams.reads import close_rows, read_seqs

logger = logging.getLogger(__name__)

#: Seconds for open sockets and requests to end; with all other steps, the process ends 5 s after SIGTERM.
_GRACE: Final = 2.5
_GRACE_OF_LAST: Final = 0.5  #: Seconds for sockets that were opened during the shutdown.


class _Process:
    def __init__(
        self,
        addresses: Sequence[ListenAddress],
        runner_name: str | None,
        lock: Lock | None,
        announce: Callable[[int], None],
    ) -> None:
        self._port = addresses[0].port
        self._announce = announce
        self._loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
        self._runner = (
            None
            if runner_name is None
            else RunnerSupervisor(name=runner_name, hub=hub, find_local=settings.DIRECTOR_DISCOVER, lock=lock)
        )
        self._main: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.failed = False
        self.server = BackpressureServer(
            application=application,
            endpoints=[address.endpoint for address in addresses],
            signal_handlers=False,
            # The default closes every socket after a day.
            websocket_timeout=-1,
            ready_callable=self._start,
            application_close_timeout=_GRACE,
            server_name="Director",
        )

    def _start(self) -> None:
        shutdown.on_signals(self._loop, self._stopping.set)
        # Before the runner starts, so that backends found before the first request notify it.
        hub.bind(self._loop, read_seqs=read_seqs)
        self._main = self._loop.create_task(self._main_task(), name="serve")

    async def _main_task(self) -> None:
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
            # There was no signal that started the exit timer, and the shutdown may hang.
            shutdown.exit_after(status=1)
            logger.exception("The Director ends after an unexpected error.")
        finally:
            await self._close()
            await close_all(within=_GRACE_OF_LAST)
            await hub.aclose()
            close_rows()
            answers.close()
            async_base.close_threads()
            close_threads()
            if reactor.running:
                reactor.stop()

    async def _close(self) -> None:
        """Close the ports, answer open requests, and end the streams, whose clients reconnect elsewhere."""
        if self.server.is_closing:
            return
        long_polls.close()
        close_streams()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.server.stop_listening(_GRACE), name="close ports")
            tasks.create_task(close_all(within=_GRACE), name="close sockets")

    def _ready(self) -> None:
        # Garbage collections skip the objects that exist now: Django's modules stay loaded.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._announce(self._port)


def serve(
    *,
    addresses: Sequence[ListenAddress],
    runner_name: str | None,
    lock: Lock | None = None,
    announce: Callable[[int], None],
) -> int:
    """Serve until SIGTERM or Ctrl-C; return 0 after an orderly end, 1 after an unexpected error.

    ``runner_name`` None: no runner in this process; ``lock`` is on that name, held by the caller. ``announce`` is
    called with the port when requests are answered and the runner is alive.
    """
    process = _Process(addresses, runner_name, lock, announce)
    process.server.run()
    return int(process.failed or process.server.abort_start)
