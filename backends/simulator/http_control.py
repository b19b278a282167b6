"""The simulator's own routes: inject faults, read its state.

    POST   /simulator/faults  {"name": "node_error", "message": "…", "count": 1}, or a list of such
    DELETE /simulator/faults  withdraws all orders; ?name=X those of one name
    GET    /simulator/state   the ids of its prompts

Wrong orders: 400 {"error": "what is allowed"}. No fault reaches these routes.
"""

import json

from aiohttp import web

from backends.simulator.faults import FaultError
from backends.simulator.server_state import STATE

routes = web.RouteTableDef()


@routes.post("/simulator/faults")
async def order(request: web.Request) -> web.Response:
    """Order one fault or several; all or none."""
    state = request.app[STATE]
    try:
        body = await request.json()
        orders = body if isinstance(body, list) else [body]
        if not all(
            isinstance(order, dict) and isinstance(order.get("name"), str) for order in orders
        ):
            raise FaultError('An order is an object with a "name".')
        faults = [state.faults.inject(**order) for order in orders]
    except (FaultError, json.JSONDecodeError, UnicodeDecodeError) as error:
        return web.json_response({"error": str(error)}, status=400)
    if any(fault.options.get("at") == "now" for fault in faults):
        state.spawn(state.apply_due_faults("now"))
    return web.Response()


@routes.delete("/simulator/faults")
async def withdraw(request: web.Request) -> web.Response:
    request.app[STATE].faults.clear(request.rel_url.query.get("name"))
    return web.Response(status=204)


@routes.get("/simulator/state")
async def state(request: web.Request) -> web.Response:
    queue = request.app[STATE].queue
    running = [item[1] for item in queue.running.values()]
    return web.json_response({"pending": [item[1] for item in queue.pending], "running": running})
