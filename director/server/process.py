"""A web server, and in one process with it a runner, in one asyncio event loop."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

from django.conf import settings

from director.asgi import application
from director.server import garbage, shutdown
from director.server.daphne import BackpressureServer, reactor
from director.server.pairs import PairLayer
from jobgroups.api.answers import answers
from jobgroups.api.long_polls import long_polls
from jobgroups.api.sse import close_streams
from jobgroups.consumers.socket import close_all
from jobgroups.database.locks import Lock
from jobgroups.database.pools import close_threads
from jobgroups.database.threads import DatabaseThreads
from jobgroups.events.hub import hub
from jobgroups.runner.supervisor import RunnerSupervisor
from jobgroups.streams.reads import close_rows, read_seqs

logger = logging.getLogger(__name__)

#: Seconds for open sockets and requests to end; with all other steps, the process ends 5 s after
#: SIGTERM.
_GRACE: Final = 2.5
_GRACE_OF_LAST: Final = 0.5  #: Seconds for sockets that were opened during the shutdown.


class _Process:
    def __init__(
        self,
        sockets: Sequence[socket.socket],
        runner_name: str | None,
        lock: Lock | None,
        layer: PairLayer | None,
        announce: Callable[[], None],
    ) -> None:
        self._sockets = sockets
        self._layer = layer
        self._announce = announce
        self._loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
        self._runner = (
            None
            if runner_name is None
            else RunnerSupervisor(
                name=runner_name, hub=hub, find_local=settings.DIRECTOR_DISCOVER, lock=lock
            )
        )
        #: A runner has a writer of its own.
        self._writer = (
            DatabaseThreads(threads=1, name="web-db", batch_commits=True)
            if runner_name is None and settings.DIRECTOR_ON_SQLITE
            else None
        )
        self._main: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.failed = False
        self.server = BackpressureServer(
            application=application,
            signal_handlers=False,
            # The default closes every socket after a day.
            websocket_timeout=-1,
            ready_callable=self._start,
            application_close_timeout=_GRACE,
            server_name="Director",
        )

    def _start(self) -> None:
        self.server.listen(self._sockets)
        shutdown.on_signals(self._loop, self._stopping.set)
        if self._layer is not None:
            self._layer.bind(self._loop)
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
            close_threads()
            if self._writer is not None:
                self._writer.close()
            if reactor.running:
                reactor.stop()

    async def _close(self) -> None:
        """Close the ports, answer open requests, and end the streams, whose clients reconnect
        elsewhere.
        """
        if self.server.is_closing:
            return
        long_polls.close()
        close_streams()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.server.stop_listening(_GRACE), name="close ports")
            tasks.create_task(close_all(within=_GRACE), name="close sockets")

    def _ready(self) -> None:
        garbage.collect_new_objects()
        self._announce()


def serve(
    *,
    sockets: Sequence[socket.socket],
    runner_name: str | None,
    lock: Lock | None = None,
    layer: PairLayer | None = None,
    announce: Callable[[], None],
) -> int:
    """Serve until SIGTERM or Ctrl-C; return 0 after an orderly end, 1 after an unexpected error.

    ``runner_name`` None: no runner in this process; ``lock`` is on that name, held by the caller.
    ``layer`` connects this process with its siblings. ``announce`` is called when requests are
    answered and the runner is alive. Raises ``CannotListen``.
    """
    process = _Process(sockets, runner_name, lock, layer, announce)
    process.server.run()
    return int(process.failed or process.server.abort_start)
