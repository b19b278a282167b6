"""GET /ws: the socket of a client (comfyui-protocol.md, "WebSocket")."""

import asyncio
import json
import uuid

from aiohttp import WSMsgType, web

from backends.simulator.server_state import STATE, ServerState

routes = web.RouteTableDef()


@routes.get("/ws")
async def socket(request: web.Request) -> web.WebSocketResponse:
    state = request.app[STATE]
    response = web.WebSocketResponse()
    await response.prepare(request)
    client_id = request.rel_url.query.get("clientId") or uuid.uuid4().hex
    hub = state.hub
    hub.sockets.pop(client_id, None)  # the earlier socket of that id goes silent
    hub.sockets[client_id] = response
    hub.features[client_id] = {}
    if isinstance(request.transport, asyncio.Transport):
        hub.open[response] = request.transport
    try:
        await hub.send_now("status", {"status": state.status(), "sid": client_id}, client_id)
        if state.client_id == client_id and state.last_node_id is not None:
            await hub.send_now("executing", {"node": state.last_node_id}, client_id)
        await _listen(state, client_id, response)
    finally:
        hub.open.pop(response, None)
        hub.stalled.discard(response)
        # The second socket with this id is forgotten too, and gets no frames any more.
        hub.forget(client_id)
    return response


async def _listen(state: ServerState, client_id: str, response: web.WebSocketResponse) -> None:
    """Read the client's messages: only feature flags in the first one count."""
    is_first = True
    async for message in response:
        if message.type != WSMsgType.TEXT:
            continue
        try:
            frame = json.loads(message.data)
        except json.JSONDecodeError:
            continue
        if not isinstance(frame, dict):
            continue
        if is_first and frame.get("type") == "feature_flags":
            state.hub.features[client_id] = frame.get("data", {})
            await state.hub.send_now("feature_flags", state.config.features, client_id)
        is_first = False
