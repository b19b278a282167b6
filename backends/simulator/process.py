"""One start of the simulated process: its HTTP server, its worker, and how it is killed."""

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from aiohttp import web

from backends.simulator import http_control, http_files, http_info, http_jobs, http_prompts, http_socket, releases
from backends.simulator.middlewares import MIDDLEWARES
from backends.simulator.server_state import STATE, ServerState
from backends.simulator.worker import work

logger = logging.getLogger(__name__)

# A malformed request makes a route raise, on purpose; it is not logged.
_silent = logging.getLogger(f"{__name__}.http")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class PortInUse(OSError):
    """Another server listens on the port; the message names the remedy."""


class Process:
    """A running server. `kill` ends it as SIGKILL does: at once, without closing a connection properly."""

    def __init__(self, state: ServerState, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        self.state = state
        state.spawn = self.spawn_background
        self._spawn = spawn
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._worker: asyncio.Task[None]
        self._burial = asyncio.Lock()
        self._runner = web.AppRunner(_application(state), access_log=None, logger=_silent, shutdown_timeout=0.05)

    async def start(self, port: int, on_crash: Callable[[], None]) -> int:
        """Listen and work; returns the port. Raises PortInUse."""
        await self._runner.setup()
        bound = await self.listen(port)
        self._worker = self.spawn_background(work(self.state))
        self.spawn_background(self._publish(on_crash))
        return bound

    async def listen(self, port: int) -> int:
        """Take connections (again). Raises PortInUse."""
        host = self.state.config.host
        server = self._runner.server
        if server is None:  # the runner is being cleaned up
            return port
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(server, host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortInUse(
                f"Port {port} on {host} is in use. Stop the server that listens there (perhaps a real "
                f"ComfyUI), or choose another port with --port (0 picks a free one)."
            ) from error
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def reject_connections(self, port: int, seconds: float) -> None:
        self.stop_listening()
        await asyncio.sleep(seconds)
        await self.listen(port)

    def stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def _publish(self, on_crash: Callable[[], None]) -> None:
        try:
            await self.state.hub.publish()
        except TypeError:
            logger.warning("%s: the process died of a client_id", self.state.config.name)
            on_crash()

    def spawn_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def kill_worker(self) -> None:
        """End the worker; what it runs stays in queue_running for ever."""
        self._worker.cancel()

    def kill(self) -> None:
        self.state.ended = True
        self.stop_listening()
        for connection in self._runner.server.connections if self._runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        async with self._burial:  # the runner can't be cleaned up twice at once
            await self._runner.cleanup()


def _application(state: ServerState) -> web.Application:
    app = web.Application(client_max_size=state.config.max_upload_bytes, middlewares=MIDDLEWARES)
    app[STATE] = state
    for module in (http_prompts, http_files, http_info, http_socket):
        app.add_routes(module.routes)
        for route in module.routes:
            if isinstance(route, web.RouteDef):
                path = f"/api{route.path}"
                web.RouteDef(route.method, path, route.handler, route.kwargs).register(app.router)
    if state.config.release >= releases.JOBS:
        app.add_routes(http_jobs.routes)
    if state.config.release >= releases.CANCEL:
        app.add_routes(http_jobs.cancel_routes)
    if state.config.release >= releases.RECORDED:
        app.add_routes(http_info.asset_routes)
    app.add_routes(http_control.routes)
    app.add_routes(http_info.internal_routes)
    web_root = Path(state.folders.root, "web")
    web_root.mkdir(exist_ok=True)
    app.add_routes([web.static("/", web_root)])
    return app
