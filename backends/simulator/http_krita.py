"""The routes of Krita's nodes (comfyui-tooling-nodes 5d3194f): images by their ids, the kinds of
models, translations. They are below /api alone.
"""

from typing import Any

from aiohttp import web

from backends.simulator.server_state import STATE

routes = web.RouteTableDef()

_LANGUAGES = [{"name": "German", "code": "de"}]
_FOLDERS = ("checkpoints", "diffusion_models", "loras")


@routes.put("/api/etn/image/{id}")
async def put_image(request: web.Request) -> web.Response:
    """Keep an image until the process ends; the first content of an id stays."""
    state, image_id = request.app[STATE], request.match_info["id"]
    if image_id in state.images:
        await request.release()
        return web.json_response({"status": "cached"})
    data = bytearray()
    async for chunk, _ in request.content.iter_chunks():
        data.extend(chunk)
    kind = request.headers.get("Content-Type", "application/octet-stream")
    state.images[image_id] = bytes(data), kind
    state.audit_log.write("image_put", id=image_id, size=len(data))
    return web.json_response({"status": "success"}, status=201)


@routes.get("/api/etn/image/{id}")
async def get_image(request: web.Request) -> web.Response:
    image = request.app[STATE].images.get(request.match_info["id"])
    if image is None:
        return web.json_response({"error": "Image not found"}, status=404)
    data, kind = image
    return web.Response(body=data, content_type=kind)


@routes.put("/api/etn/upload/{folder}/{name}")
async def put_model(request: web.Request) -> web.Response:
    """Keep the name of a model until the process ends; one that is there stays."""
    state, (folder, name) = request.app[STATE], request.match_info.values()
    size = 0
    async for chunk, _ in request.content.iter_chunks():
        size += len(chunk)
    if name in state.models.setdefault(folder, {}):
        return web.json_response({"status": "cached"})
    state.models[folder][name] = size
    if folder == "loras":
        state.catalog.loras.append(name)
    state.audit_log.write("model_put", folder=folder, name=name, size=size)
    return web.json_response({"status": "success"}, status=201)


@routes.get("/api/etn/model_info")
@routes.get("/api/etn/model_info/{folder}")
async def model_info(request: web.Request) -> web.Response:
    """A page of the models of a folder, with what Krita reads of each."""
    folder = request.match_info.get("folder", "checkpoints")
    if folder not in _FOLDERS:
        error = f"Invalid folder path, must be one of {', '.join(_FOLDERS)}"
        return web.json_response({"error": error}, status=400)
    query = request.rel_url.query
    state = request.app[STATE]
    files = [
        *(state.config.checkpoints if folder == "checkpoints" else ()),
        *state.models.get(folder, ()),
    ]
    offset, limit = int(query.get("offset", "0")), int(query.get("limit", "1000"))
    some = files[offset : offset + limit]
    found: dict[str, Any] = {
        name: {"base_model": "sdxl" if "xl" in name else "sd15", "is_inpaint": False, "type": "eps"}
        for name in some
    }
    if "limit" in query:
        found["_meta"] = {"offset": offset, "count": len(some), "total": len(files)}
    return web.json_response(found)


@routes.get("/api/etn/languages")
async def languages(_request: web.Request) -> web.Response:
    return web.json_response(_LANGUAGES)


@routes.get("/api/etn/translate/{lang}/{text}")
async def translate(request: web.Request) -> web.Response:
    return web.json_response(f"[{request.match_info['lang']}] {request.match_info['text']}")


@routes.post("/api/etn/workflow/subscribe")
@routes.post("/api/etn/workflow/unsubscribe")
async def subscribe(_request: web.Request) -> web.Response:
    return web.json_response({"status": "success"})
