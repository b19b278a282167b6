"""The routes that describe the server: nodes, models, memory, features (comfyui-protocol.md, "HTTP")."""

import os
import platform
import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web

from backends.simulator import releases
from backends.simulator.catalog import recorded
from backends.simulator.config import Config
from backends.simulator.server_state import STATE

routes = web.RouteTableDef()
internal_routes = web.RouteTableDef()  # for ComfyUI's own web page; not doubled under /api

_GIB = 1024**3
_RAM = 32 * _GIB
_FOLDERS = (
    "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models",
    "embeddings", "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "latent_upscale_models",
    "custom_nodes", "datasets", "hypernetworks", "photomaker", "classifiers", "model_patches", "audio_encoders",
    "background_removal", "frame_interpolation", "geometry_estimation", "optical_flow", "detection",
)  # fmt: skip
_NEWER_FOLDERS = frozenset({"latent_upscale_models", "datasets", *_FOLDERS[22:]})
_ASSETS_ARE_OFF = "Assets system is disabled. Start the server with --enable-assets to use this feature."
#: The packages of ComfyUI that /system_stats names, with their versions.
_PACKAGES = {"comfyui-frontend-package": "1.49.6", "comfyui-workflow-templates": "0.11.44"}


def _paths(config: Config) -> dict[str, list[str]]:
    """The folders of models, by name."""
    is_newer = config.release >= releases.RECORDED
    names = (name for name in _FOLDERS if is_newer or name not in _NEWER_FOLDERS)
    return {name: [f"/opt/ComfyUI/models/{name}"] for name in names}


def _listed(config: Config) -> list[dict[str, Any]]:
    found = _paths(config).items()
    return [{"name": name, "folders": paths} for name, paths in found if name not in ("configs", "custom_nodes")]


def _answer(table: web.RouteTableDef, path: str, answer: Callable[[Config], Any]) -> None:
    @table.get(path)
    async def route(request: web.Request) -> web.Response:
        return web.json_response(answer(request.app[STATE].config))


_answer(routes, "/features", lambda config: config.features)
_answer(routes, "/models", lambda config: list(_paths(config)))
_answer(routes, "/experiment/models", _listed)
_answer(routes, "/users", lambda _: {"storage": "server", "migrated": False})
for _path in ("/embeddings", "/extensions"):
    _answer(routes, _path, lambda _: [])
for _path in ("/settings", "/workflow_templates", "/i18n"):
    _answer(routes, _path, lambda _: {})
_answer(internal_routes, "/internal/logs/raw", lambda _: {"entries": [], "size": {"cols": 80, "rows": 24}})
_answer(internal_routes, "/internal/folder_paths", _paths)


async def assets(_request: web.Request) -> web.Response:
    """The answer of every route of the assets, which are switched off."""
    error = {"code": "SERVICE_DISABLED", "message": _ASSETS_ARE_OFF, "details": {}}
    return web.json_response({"error": error}, status=503)


asset_routes = [web.route("*", path, assets) for path in ("/api/assets{rest:.*}", "/api/tags")]


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
    if request.app[STATE].config.release < releases.REPLACEMENTS:
        return web.Response(status=404)
    return web.json_response(recorded("node_replacements"))


@routes.get("/system_stats")
async def system_stats(request: web.Request) -> web.Response:
    """Versions, memory and devices; a busy device has less of its memory free."""
    state = request.app[STATE]
    config = state.config
    previews = ["--preview-method", "auto"] if config.preview_fps else []
    system: dict[str, Any] = {
        "os": sys.platform if config.release >= releases.OS_NAMES else os.name,
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
    if config.release >= releases.PACKAGE_VERSIONS:
        packages = [{"name": name, "installed": one, "required": one} for name, one in _PACKAGES.items()]
        system["comfy_package_versions"] = packages
    if config.release >= releases.UUID_IDS:
        system["deploy_environment"] = "local-git"
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
    if folder not in _paths(request.app[STATE].config):
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
