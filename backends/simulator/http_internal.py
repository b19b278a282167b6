"""Routes for ComfyUI's own web page: its log and its model folders. Not doubled under /api."""

from __future__ import annotations

from aiohttp import web

from backends.simulator.http_info import MODEL_FOLDERS

routes = web.RouteTableDef()

_SCREEN = {"cols": 80, "rows": 24}  # ComfyUI's values without a terminal


@routes.get("/internal/logs/raw")
async def logs(_request: web.Request) -> web.Response:
    """No log is kept."""
    return web.json_response({"entries": [], "size": _SCREEN})


@routes.get("/internal/folder_paths")
async def folder_paths(_request: web.Request) -> web.Response:
    """The folders of each kind of model."""
    return web.json_response({name: [f"/opt/ComfyUI/models/{name}"] for name in MODEL_FOLDERS})
