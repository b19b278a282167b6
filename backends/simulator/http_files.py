"""GET /view and POST /upload/image, with their refusals (comfyui-protocol.md, "HTTP")."""

# Names are judged as text here, as ComfyUI does it; a Path would change them.
# ruff: noqa: PTH103, PTH110, PTH113, PTH118, PTH119, PTH122, PTH123
import asyncio
import contextlib
import math
import mimetypes
import os
from pathlib import Path
from typing import Any

from aiohttp import web

from backends.simulator import releases
from backends.simulator.folders import Folders, is_within, split_annotated
from backends.simulator.server_state import STATE

routes = web.RouteTableDef()

_DOWNLOAD_ONLY = frozenset(
    {"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}
)
_SVG = "image/svg+xml"
_ATTACHMENTS = _DOWNLOAD_ONLY | {_SVG, "text/xml", "application/xml"}  # in newer versions


@routes.get("/view")
async def view(request: web.Request) -> web.StreamResponse:
    """A file of the output, temp or input folder; with Range, ETag and HEAD."""
    state = request.app[STATE]
    location = _find(request, state.folders)
    if isinstance(location, int):
        return web.Response(status=location)
    path, name = location
    headers = {"Content-Disposition": f'filename="{name}"'}
    if is_newer := state.config.release >= releases.SAFE_VIEW:
        headers["X-Content-Type-Options"] = "nosniff"
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if is_newer and kind in _ATTACHMENTS:
        headers["Cache-Control"] = "no-store"
        if kind == _SVG:
            headers["Vary"] = "Sec-Fetch-Dest"
        if kind != _SVG or request.headers.get("Sec-Fetch-Dest") != "image":
            kind = "application/octet-stream"
            headers["Content-Disposition"] = f'attachment; filename="{name}"'
    elif kind in _DOWNLOAD_ONLY:
        kind = "application/octet-stream"
    headers["Content-Type"] = kind
    if "If-None-Match" not in request.headers and (
        fault := state.faults.take("slow_view", path=request.path)
    ):
        return await _send_slowly(request, path, headers, fault["bytes_per_second"])
    return web.FileResponse(path, headers=headers)


async def _send_slowly(
    request: web.Request, path: str, headers: dict[str, str], rate: float
) -> web.StreamResponse:
    """Send a file as `FileResponse` does, at so many bytes a second."""
    facts, content = await asyncio.to_thread(lambda: (os.stat(path), Path(path).read_bytes()))  # noqa: PTH116
    response = web.StreamResponse(headers=headers)
    response.content_length, response.last_modified = facts.st_size, facts.st_mtime
    response.etag = f"{facts.st_mtime_ns:x}-{facts.st_size:x}"
    await response.prepare(request)
    size = math.ceil(rate / 10)
    with contextlib.suppress(ConnectionError):
        for first in range(0, len(content), size):
            await response.write(content[first : first + size])
            await asyncio.sleep(size / rate)
    return response


def _find(request: web.Request, folders: Folders) -> tuple[str, str] | int:
    """Return (path, file name) of the requested file, or the status of the refusal."""
    query = request.rel_url.query
    if "filename" not in query:
        return 404
    name, kind = split_annotated(query["filename"])
    if not name or name[0] == "/" or ".." in name:
        return 400
    try:
        folder = folders.of(kind or str(query.get("type", "output")))
    except KeyError:
        return 400
    subfolder = query.get("subfolder")
    if subfolder is not None:
        inner = os.path.join(folder, subfolder)
        if not is_within(folder, inner):
            return 403
        folder = inner
    name = os.path.basename(name)
    path = os.path.join(folder, name)
    return (path, name) if os.path.isfile(path) else 404


@routes.post("/upload/image")
async def upload_image(request: web.Request) -> web.Response:
    """Store a file. Raises for an unknown type or a text part named image: ComfyUI's 500."""
    folders = request.app[STATE].folders
    form: Any = await request.post()
    image, kind = form.get("image"), form.get("type", "input")
    root = folders.of(kind)
    if not image or not image.file or not image.filename:
        return web.Response(status=400)
    subfolder = form.get("subfolder", "")
    data, overwrite = image.file.read(), form.get("overwrite") in ("true", "1")
    name = _store(root, subfolder, image.filename, data, overwrite=overwrite)
    if name is None:
        return web.Response(status=400)
    request.app[STATE].audit_log.write("uploaded", name=name, size=len(data))
    return web.json_response({"name": name, "subfolder": subfolder, "type": kind})


def _store(root: str, subfolder: str, name: str, data: bytes, *, overwrite: bool) -> str | None:
    """Write a file under its name, or "name (1)" if that is taken by other bytes.

    None if the file would land outside of the root.
    """
    folder = os.path.join(root, os.path.normpath(subfolder))
    if not is_within(root, os.path.join(folder, name)):
        return None
    os.makedirs(folder, exist_ok=True)
    base, extension = os.path.splitext(name)
    path, number = os.path.join(folder, name), 1
    while not overwrite and os.path.exists(path):
        with open(path, "rb") as present:
            if present.read() == data:
                return name
        name = f"{base} ({number}){extension}"
        path, number = os.path.join(folder, name), number + 1
    with open(path, "wb") as file:
        file.write(data)
    return name
