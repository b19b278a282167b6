"""What happens to a request before its route: the origin check, and ordered misbehaviour."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import NoReturn
from urllib.parse import urlsplit

from aiohttp import web

from backends.simulator import releases
from backends.simulator.faults import Fault
from backends.simulator.server_state import STATE, break_connection

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
        await asyncio.sleep(fault["seconds"])
        return await handler(request)
    if fault.name == "cut":
        return await _cut(request, await handler(request))
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


async def _cut(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    body = answer.body if isinstance(answer, web.Response) else b"?"
    data = body if isinstance(body, bytes) else b"?"
    response = web.StreamResponse(headers={"Content-Type": answer.content_type})
    response.content_length = max(2, len(data))
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    return await break_connection(request)


MIDDLEWARES = (plain_errors, check_origin, inject_fault)
