"""The routes that describe the server: nodes, memory, features (comfyui-protocol.md, "HTTP")."""

import os
import platform
import sys
from typing import Any

from aiohttp import web

from backends.simulator import releases
from backends.simulator.catalog import read_catalog
from backends.simulator.server_state import STATE

routes = web.RouteTableDef()

_GIB = 1024**3
_RAM = 32 * _GIB
#: The packages of ComfyUI that /system_stats names, with their versions.
_PACKAGES = {"comfyui-frontend-package": "1.49.6", "comfyui-workflow-templates": "0.11.44"}


@routes.get("/features")
async def features(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].config.features)


@routes.get("/object_info")
async def object_info(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].catalog.specs())


@routes.get("/object_info/{node_class}")
async def object_info_of(request: web.Request) -> web.Response:
    catalog = request.app[STATE].catalog
    name = request.match_info["node_class"]
    return web.json_response({name: catalog.spec(name)} if name in catalog else {})


#: Folders of models, as /models lists them.
_FOLDERS = ("checkpoints", "loras", "embeddings")


def _models(request: web.Request) -> dict[str, list[str]]:
    config = request.app[STATE].config
    return {name: list(config.checkpoints) if name == _FOLDERS[0] else [] for name in _FOLDERS}


@routes.get("/embeddings")
async def embeddings(request: web.Request) -> web.Response:
    return web.json_response(_models(request)["embeddings"])


@routes.get("/models")
async def models(request: web.Request) -> web.Response:
    return web.json_response(list(_models(request)))


@routes.get("/models/{folder}")
async def models_of(request: web.Request) -> web.Response:
    files = _models(request).get(request.match_info["folder"])
    return web.Response(status=404) if files is None else web.json_response(files)


@routes.get("/experiment/models")
async def model_folders(request: web.Request) -> web.Response:
    folders = [
        {"name": name, "folders": [f"/opt/ComfyUI/models/{name}"], "extensions": [".safetensors"]}
        for name in _models(request)
    ]
    return web.json_response(folders)


@routes.get("/experiment/models/{folder}")
async def model_files(request: web.Request) -> web.Response:
    files = _models(request).get(request.match_info["folder"])
    if files is None:
        return web.Response(status=404)
    entries = [
        {"name": name, "pathIndex": 0, "modified": 1.7e9, "created": 1.7e9, "size": 4_265_380_512}
        for name in files
    ]
    return web.json_response(entries)


@routes.get("/node_replacements")
async def node_replacements(request: web.Request) -> web.Response:
    if request.app[STATE].config.release < releases.REPLACEMENTS:
        return web.Response(status=404)
    return web.json_response(read_catalog("node_replacements"))


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
        packages = [
            {"name": name, "installed": version, "required": version}
            for name, version in _PACKAGES.items()
        ]
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


@routes.get("/internal/logs/raw")
async def log(request: web.Request) -> web.Response:
    line = {"t": request.app[STATE].started_at, "m": "Starting server\n"}
    return web.json_response({"entries": [line], "size": {"cols": 80, "rows": 24}})


@routes.get("/")
async def root(request: web.Request) -> web.Response:
    text = (
        f"<!doctype html><title>ComfyUI</title><h1>{request.app[STATE].config.name}</h1><p>A "
        "simulated ComfyUI."
    )
    return web.Response(text=text, content_type="text/html")
