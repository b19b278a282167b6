"""Extensions of ComfyUI's editor: scripts and other web files of custom nodes.

A script acts as the user who opens the editor. So the files come from machines alone that an
operator confirmed, and all files of one extension come from one machine.
"""

import hashlib
from pathlib import PurePosixPath
from typing import Any, Final

from django.http import HttpResponse
from django.utils.cache import get_conditional_response
from rest_framework.request import Request

from backends import descriptions
from backends.comfyui.versions import release_of
from backends.models import Backend
from backends.node_paths import encoded, parts_of
from jobgroups.api.listener.base import ListenerView, not_found
from jobgroups.api.listener.editor import EditorView
from jobgroups.api.views.base import json_response
from jobgroups.database.pools import machine_threads
from jobgroups.domain.media_types import GUARD_HEADERS
from jobgroups.queries.listener_machine import usable_backends

#: The Director's own extension. No machine has an extension of this name.
OWN: Final = "extensions/director/editor.js"
_SECONDS: Final = 10.0  #: For which machines are waited for.
_SCRIPT: Final = "text/javascript"
#: By their endings: what a machine calls its files does not count. Others are downloads.
_TYPES: Final = {
    **dict.fromkeys((".js", ".mjs"), _SCRIPT),
    ".css": "text/css",
    ".gif": "image/gif",
    ".html": "text/html",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".map": "application/json",
    ".mp3": "audio/mpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}


def confirmed_backends() -> list[Backend]:
    """Return the usable backends whose scripts may act as users, the newest ComfyUI first."""
    rows = [row for row in usable_backends() if row.extensions_allowed]
    return sorted(rows, key=lambda row: release_of(row.comfyui_version), reverse=True)


def _scripts() -> dict[str, tuple[Backend, list[str]]]:
    """Return the machine of each extension by its name, and the paths of its scripts."""
    rows = confirmed_backends()
    listed = descriptions.extensions.get(rows, within=_SECONDS)
    scripts: dict[str, tuple[Backend, list[str]]] = {}
    for row in rows:
        for path in listed[row.id].value if row.id in listed else ():
            owner, paths = scripts.setdefault(path.partition("/")[0], (row, []))
            if owner is row:
                paths.append(path)
    return scripts


class ExtensionsView(ListenerView):
    reads_in = machine_threads  # It may wait for machines.

    def get(self, _request: Request) -> HttpResponse:
        """List the Director's own script, and those of the confirmed machines."""
        paths = [path for _, paths in _scripts().values() for path in paths]
        return json_response([f"/{OWN}", *(f"/extensions/{path}" for path in sorted(paths))])


class ExtensionFileView(ListenerView):
    reads_in = machine_threads  # It may wait for a machine.

    def get(self, request: Request, path: str) -> Any:
        """Return a file of the editor's own extensions, or of those of a confirmed machine."""
        parts = parts_of(path)
        # A worker of the browser would outlast the confirmation.
        if parts is None or "Service-Worker" in request.headers:
            return not_found(path)
        if parts[0].lower() == "core":
            return EditorView().get(request, f"extensions/{path}")
        below = encoded(parts)
        row, _ = _scripts().get(encoded(parts[:1]), (None, ()))
        files = descriptions.web_files.get([row] if row else [], below, within=_SECONDS)
        if row is None or row.id not in files:
            return not_found(path)
        return _response(request, parts[-1], files[row.id].text)


def _response(request: Any, name: str, content: bytes) -> HttpResponse:
    kind = _TYPES.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**GUARD_HEADERS, "Content-Type": kind, "ETag": etag}
    if kind == _SCRIPT:
        # It would be the policy of a worker.
        del headers["Content-Security-Policy"]
    unchanged: HttpResponse | None = get_conditional_response(request, etag=etag)
    return unchanged or HttpResponse(content, headers=headers)
