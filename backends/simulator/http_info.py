"""The routes that describe the server: nodes, models, memory, features (comfyui-protocol.md, "HTTP")."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from aiohttp import web

from backends.simulator.http_keys import STATE
from backends.simulator.hub import SERVER_FEATURES
from backends.simulator.server_state import ServerState

routes = web.RouteTableDef()

_GIB = 1024**3
_RAM = 32 * _GIB
MODEL_FOLDERS = (
    "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision",
    "style_models", "embeddings", "diffusers", "vae_approx", "controlnet", "gligen",
    "upscale_models", "custom_nodes", "hypernetworks", "photomaker", "classifiers",
    "model_patches", "audio_encoders",
)  # fmt: skip
_NO_FOLDER_PAGE = frozenset({"configs", "custom_nodes"})  # not listed at /experiment/models
_PAGE = "<!doctype html><html><head><title>ComfyUI</title></head><body>{}</body></html>"


@routes.get("/object_info")
async def object_info(request: web.Request) -> web.Response:
    """Every node class."""
    return web.json_response(request.app[STATE].catalog.specs())


@routes.get("/object_info/{node_class}")
async def object_info_of(request: web.Request) -> web.Response:
    """One node class; {} for an unknown one."""
    catalog = request.app[STATE].catalog
    name = request.match_info["node_class"]
    return web.json_response({name: catalog.spec(name)} if name in catalog else {})


@routes.get("/system_stats")
async def system_stats(request: web.Request) -> web.Response:
    """Versions, memory and devices."""
    return web.json_response(stats(request.app[STATE]))


def stats(state: ServerState) -> dict[str, Any]:
    """The body of /system_stats; a busy device has less of its memory free."""
    busy = bool(state.queue.running)
    system = {
        "os": os.name,
        "ram_total": _RAM,
        "ram_free": _RAM * 3 // 4,
        "comfyui_version": state.config.version,
        "required_frontend_version": "1.27.10",
        "installed_templates_version": None,
        "required_templates_version": "0.1.95",
        "python_version": f"{platform.python_version()} (simulator)",
        "pytorch_version": "2.13.0+cpu" if state.config.vram_gb is None else "2.13.0+cu130",
        "embedded_python": False,
        "argv": _arguments(state),
    }
    return {"system": system, "devices": [_device(state, busy=busy)]}


def _arguments(state: ServerState) -> list[str]:
    previews = ["--preview-method", "auto"] if state.config.preview_fps else []
    return ["main.py", "--listen", state.config.host, "--port", str(state.config.port), *previews]


def _device(state: ServerState, *, busy: bool) -> dict[str, Any]:
    gb = state.config.vram_gb
    total = _RAM if gb is None else int(gb * _GIB)
    free = total // 4 if busy else total * 3 // 4
    names: dict[str, Any] = {"name": "cpu", "type": "cpu", "index": None}
    if gb is not None:
        names = {"name": f"cuda:0 Simulated {gb:g} GB", "type": "cuda", "index": 0}
    sizes = {"vram_total": total, "vram_free": free}
    return names | sizes | {"torch_vram_total": total, "torch_vram_free": free}


@routes.get("/features")
async def features(_request: web.Request) -> web.Response:
    """What the server can do."""
    return web.json_response(SERVER_FEATURES)


@routes.get("/embeddings")
async def embeddings(_request: web.Request) -> web.Response:
    """No embeddings here."""
    return web.json_response([])


@routes.get("/models")
async def model_folders(_request: web.Request) -> web.Response:
    """The kinds of models."""
    return web.json_response(list(MODEL_FOLDERS))


@routes.get("/models/{folder}")
async def models(request: web.Request) -> web.Response:
    """The models of a kind; 404 for an unknown one."""
    folder = request.match_info["folder"]
    if folder not in MODEL_FOLDERS:
        return web.Response(status=404)
    checkpoints = list(request.app[STATE].config.checkpoints)
    return web.json_response(checkpoints if folder == "checkpoints" else [])


@routes.get("/experiment/models")
async def model_paths(_request: web.Request) -> web.Response:
    """The kinds of models with their folders."""
    shown = [name for name in MODEL_FOLDERS if name not in _NO_FOLDER_PAGE]
    listed = [{"name": name, "folders": [f"/opt/ComfyUI/models/{name}"]} for name in shown]
    return web.json_response(listed)


@routes.get("/view_metadata/{folder}")
async def model_metadata(request: web.Request) -> web.Response:
    """The metadata of a model file; 404 if it is missing."""
    known = request.match_info["folder"] == "checkpoints"
    name = request.rel_url.query.get("filename", "")
    if not known or name not in request.app[STATE].config.checkpoints:
        return web.Response(status=404)
    return web.json_response({"note": "random weights for tests", "format": "pt"})


@routes.get("/extensions")
async def extensions(_request: web.Request) -> web.Response:
    """No frontend, so no extensions."""
    return web.json_response([])


@routes.get("/users")
async def users(_request: web.Request) -> web.Response:
    """One user, not migrated."""
    return web.json_response({"storage": "server", "migrated": False})


@routes.get("/userdata")
async def userdata(_request: web.Request) -> web.Response:
    """No folder of user data exists."""
    return web.Response(status=404, text="Directory not found")


@routes.get("/settings")
@routes.get("/workflow_templates")
@routes.get("/i18n")
async def nothing(_request: web.Request) -> web.Response:
    """Requests of a frontend that a server without it answers with empty values."""
    return web.json_response({})


@routes.get("/")
async def root(request: web.Request) -> web.Response:
    """A page that explains what this server is."""
    name = request.app[STATE].config.name
    text = f"<h1>{name}</h1><p>A simulated ComfyUI on Python {sys.version_info.major}.</p>"
    return web.Response(text=_PAGE.format(text), content_type="text/html")
