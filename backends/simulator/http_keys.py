"""What every route finds on its application, and how a connection is broken."""

from __future__ import annotations

import asyncio

from aiohttp import web

from backends.simulator.server_state import ServerState

STATE: web.AppKey[ServerState] = web.AppKey("state", ServerState)


async def break_connection(request: web.Request) -> web.Response:
    """Cut the request's connection without an answer; never returns one that arrives."""
    if request.transport is not None:
        request.transport.abort()
    await asyncio.sleep(0)
    return web.Response(status=500)
