"""The routes that describe the server: nodes, models, memory, features (comfyui-protocol.md, "HTTP")."""

import os
import platform
import sys
from typing import Any

from aiohttp import web

from backends.simulator.catalog import REPLACEMENTS, replaces
from backends.simulator.hub import SERVER_FEATURES
from backends.simulator.server_state import STATE

routes = web.RouteTableDef()
internal_routes = web.RouteTableDef()  # for ComfyUI's own web page; not doubled under /api

_GIB = 1024**3
_RAM = 32 * _GIB
MODEL_FOLDERS = (
    "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision",
    "style_models", "embeddings", "diffusers", "vae_approx", "controlnet", "gligen",
    "upscale_models", "custom_nodes", "hypernetworks", "photomaker", "classifiers",
    "model_patches", "audio_encoders",
)  # fmt: skip
_PATHS = {name: [f"/opt/ComfyUI/models/{name}"] for name in MODEL_FOLDERS}


def _answer_always(table: web.RouteTableDef, path: str, answer: Any) -> None:
    @table.get(path)
    async def constant(_request: web.Request) -> web.Response:
        return web.json_response(answer)


_answer_always(routes, "/features", SERVER_FEATURES)
_answer_always(routes, "/embeddings", [])
_answer_always(routes, "/extensions", [])
_answer_always(routes, "/models", MODEL_FOLDERS)
_unlisted = ("configs", "custom_nodes")
_listed = [{"name": name, "folders": _PATHS[name]} for name in _PATHS if name not in _unlisted]
_answer_always(routes, "/experiment/models", _listed)
_answer_always(routes, "/users", {"storage": "server", "migrated": False})
for _path in ("/settings", "/workflow_templates", "/i18n"):
    _answer_always(routes, _path, {})
_screen = {"cols": 80, "rows": 24}
_answer_always(internal_routes, "/internal/logs/raw", {"entries": [], "size": _screen})
_answer_always(internal_routes, "/internal/folder_paths", _PATHS)


@routes.get("/object_info")
async def object_info(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].catalog.specs())


@routes.get("/object_info/{node_class}")
async def object_info_of(request: web.Request) -> web.Response:
    catalog = request.app[STATE].catalog
    name = request.match_info["node_class"]
    return web.json_response({name: catalog.spec(name)} if name in catalog else {})


@routes.get("/node_replacements")
async def node_replacements(request: web.Request) -> web.Response:
    if not replaces(request.app[STATE].config.release):
        return web.Response(status=404)
    answer = {}
    for old, (new, mapping) in REPLACEMENTS.items():
        inputs = [{"new_id": new_id, "old_id": old_id} for new_id, old_id in (mapping or {}).items()]
        shown: dict[str, Any] = {"new_node_id": new, "old_node_id": old, "old_widget_ids": None}
        answer[old] = [shown | {"input_mapping": inputs or None, "output_mapping": None}]
    return web.json_response(answer)


@routes.get("/system_stats")
async def system_stats(request: web.Request) -> web.Response:
    """Versions, memory and devices; a busy device has less of its memory free."""
    state = request.app[STATE]
    config = state.config
    previews = ["--preview-method", "auto"] if config.preview_fps else []
    system = {
        "os": os.name,
        "ram_total": _RAM,
        "ram_free": _RAM * 3 // 4,
        "comfyui_version": config.version,
        "required_frontend_version": "1.27.10",
        "installed_templates_version": None,
        "required_templates_version": "0.1.95",
        "python_version": f"{platform.python_version()} (simulator)",
        "pytorch_version": "2.13.0+cpu" if config.vram_gb is None else "2.13.0+cu130",
        "embedded_python": False,
        "argv": ["main.py", "--listen", config.host, "--port", str(config.port), *previews],
    }
    device: dict[str, Any] = {"name": "cpu", "type": "cpu", "index": None}
    total = _RAM
    if (gb := config.vram_gb) is not None:
        device = {"name": f"cuda:0 Simulated {gb:g} GB", "type": "cuda", "index": 0}
        total = int(gb * _GIB)
    free = total // 4 if state.queue.running else total * 3 // 4
    for kind in ("vram", "torch_vram"):
        device |= {f"{kind}_total": total, f"{kind}_free": free}
    return web.json_response({"system": system, "devices": [device]})


@routes.get("/models/{folder}")
async def models(request: web.Request) -> web.Response:
    folder = request.match_info["folder"]
    if folder not in MODEL_FOLDERS:
        return web.Response(status=404)
    checkpoints = list(request.app[STATE].config.checkpoints)
    return web.json_response(checkpoints if folder == "checkpoints" else [])


@routes.get("/view_metadata/{folder}")
async def model_metadata(request: web.Request) -> web.Response:
    known = request.match_info["folder"] == "checkpoints"
    name = request.rel_url.query.get("filename", "")
    if not known or name not in request.app[STATE].config.checkpoints:
        return web.Response(status=404)
    return web.json_response({"note": "random weights for tests", "format": "pt"})


@routes.get("/userdata")
async def userdata(_request: web.Request) -> web.Response:
    return web.Response(status=404, text="Directory not found")


@routes.get("/")
async def root(request: web.Request) -> web.Response:
    name = request.app[STATE].config.name
    title = "<!doctype html><html><head><title>ComfyUI</title></head>"
    text = f"<h1>{name}</h1><p>A simulated ComfyUI on Python {sys.version_info.major}.</p>"
    return web.Response(text=f"{title}<body>{text}</body></html>", content_type="text/html")
