"""One start of the simulated process: its HTTP server, its worker, and how it is killed.

Before its route a request meets the origin check and ordered misbehaviour.
"""

import asyncio
import errno
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from aiohttp import web

from backends.simulator import (
    http_control,
    http_files,
    http_info,
    http_jobs,
    http_krita,
    http_prompts,
    http_socket,
    releases,
)
from backends.simulator.execution import work
from backends.simulator.faults import Fault
from backends.simulator.server_state import STATE, ServerState, break_connection

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTROL = "/simulator/"  # routes that no fault may reach
_LOGIN_PAGE = "<!doctype html><html><head><title>Sign in</title></head><body>Please sign in</body>"
_TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"
_CHUNK = 64 * 1024  # bytes


@web.middleware
async def plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer any exception with ComfyUI's 500, in every mode of the interpreter."""
    try:
        return await handler(request)
    except (web.HTTPException, ConnectionError):
        raise
    except Exception:  # noqa: BLE001 - that is the point
        answer = web.Response(status=500, text=_TROUBLE)
        answer.force_close()
        return answer


@web.middleware
async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a browser's request from a foreign page to a loopback host; answer OPTIONS."""
    is_guarded = request.app[STATE].config.release >= releases.CROSS_SITE
    if is_guarded and request.headers.get("Sec-Fetch-Site") == "cross-site":
        return web.Response(status=403)
    if _is_foreign(request.headers.get("Host"), request.headers.get("Origin")):
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)


def _is_foreign(host: str | None, origin: str | None) -> bool:
    """Whether Host names this machine and Origin another place; names are not resolved."""
    if host is None or origin is None:
        return False
    requested, from_page = urlsplit(f"//{host.lower()}"), urlsplit(origin)
    host_name: str | None = requested.netloc
    page_name: str | None = from_page.netloc.lower()
    if from_page.port is None:
        host_name = requested.hostname
    if requested.port is None:
        page_name = from_page.hostname
    if not _is_loopback(requested.hostname) or not host_name or not page_name:
        return False
    return host_name != page_name


def _is_loopback(name: str | None) -> bool:
    if not name:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


@web.middleware
async def inject_fault(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path.startswith(CONTROL):
        return await handler(request)
    path = request.path.removeprefix("/api")
    fault = request.app[STATE].faults.take_route(method=request.method, path=path)
    if fault is None:
        return await handler(request)
    if fault.name == "slow_http":
        await fault.last()
        return await handler(request)
    if fault.name == "cut":
        return await _cut(request, await handler(request), fault["part"])
    if fault.name == "truncate":
        return await _truncate(request, await handler(request), fault["part"])
    return await _instead(request, fault)


async def _instead(request: web.Request, fault: Fault) -> web.StreamResponse:
    if fault.name == "hang_http":
        await request.read()
        await asyncio.Event().wait()
    if fault.name == "endless":
        pause = _CHUNK / (fault["megabytes_per_second"] * 1_000_000)
        await _stream(request, b"[", b'"more",' * (_CHUNK // 7), pause)
    if fault.name == "trickle":
        await _stream(request, b"", b" ", 1 / fault["bytes_per_second"])
    if fault.name in _ANSWERS:
        return _ANSWERS[fault.name](fault)
    return await break_connection(request)


_ANSWERS: dict[str, Callable[[Fault], web.Response]] = {
    "status": lambda fault: web.Response(status=fault["status"], text=fault["body"]),
    "html": lambda _: web.Response(text=_LOGIN_PAGE, content_type="text/html"),
    "nonsense": lambda _: web.Response(text='{"prompt_id": tru', content_type="application/json"),
    "wrong_json": lambda _: web.json_response(["something", {"else": 1}]),
    "redirect": lambda fault: web.Response(status=302, headers={"Location": fault["to"]}),
}


async def _stream(request: web.Request, start: bytes, chunk: bytes, pause: float) -> NoReturn:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(start)
    while True:
        await response.write(chunk)
        await asyncio.sleep(pause)


async def _cut(request: web.Request, answer: web.StreamResponse, part: float) -> web.StreamResponse:
    data = _body(answer)
    response = web.StreamResponse(headers={"Content-Type": answer.content_type})
    response.content_length = max(2, len(data))
    await response.prepare(request)
    await response.write(data[: round(len(data) * part)])
    return await break_connection(request)


class _Unmeasured(web.StreamResponse):
    """A body that ends with its connection: neither a length nor chunks."""

    _length_check = False


async def _truncate(
    request: web.Request, answer: web.StreamResponse, part: float
) -> web.StreamResponse:
    data = _body(answer)
    response = _Unmeasured(status=answer.status, headers={"Content-Type": answer.content_type})
    response.force_close()
    await response.prepare(request)
    if request.method != "HEAD":
        await response.write(data[: round(len(data) * part)])
    return response


def _body(answer: web.StreamResponse) -> bytes:
    if isinstance(answer, web.FileResponse):
        return answer._path.read_bytes()  # noqa: SLF001 it has no public name
    body = answer.body if isinstance(answer, web.Response) else None
    return body if isinstance(body, bytes) else b"?"


MIDDLEWARES = (plain_errors, check_origin, inject_fault)


logger = logging.getLogger(__name__)

# A malformed request makes a route raise, on purpose; it is not logged.
_silent = logging.getLogger(f"{__name__}.http")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class PortInUse(OSError):
    """Another server listens on the port; the message names the remedy."""


class Process:
    """A running server. `kill` ends it as SIGKILL does: at once, without closing a connection
    properly.
    """

    def __init__(
        self, state: ServerState, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    ) -> None:
        self.state = state
        state.spawn = self.spawn_background
        self._spawn = spawn
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._worker: asyncio.Task[None]
        self._burial = asyncio.Lock()
        self._runner = web.AppRunner(
            _application(state), access_log=None, logger=_silent, shutdown_timeout=0.05
        )

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
                f"Port {port} on {host} is in use. Stop the server that listens there (perhaps a "
                "real "
                f"ComfyUI), or choose another port with --port (0 picks a free one)."
            ) from error
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def reject_connections(self, port: int, fault: Fault) -> None:
        self.stop_listening()
        await fault.last()
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
    if state.config.krita:
        app.add_routes(http_krita.routes)
    app.add_routes(http_control.routes)
    web_root = Path(state.folders.root, "web")
    web_root.mkdir(exist_ok=True)
    app.add_routes([web.static("/", web_root)])
    return app
