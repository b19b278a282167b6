"""Paths of custom nodes at ComfyUI: their web files, and their routes. Pure.

A path is compared and sent in one spelling: no part of it is empty or leads upwards, and no part is
encoded twice.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias
from urllib.parse import quote, unquote

Parts: TypeAlias = tuple[str, ...]

_MAX_PATH: Final = 400  #: Characters of a path.
_UNUSABLE: Final = re.compile(r"[\\%\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_EXTENSIONS: Final = "/extensions/"
#: The folder of extensions that belong to the editor itself.
_OWN: Final = "core"
_ROUTE: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")

#: The beginnings of ComfyUI's own routes, of the editor's folders, and of the routes of Krita's nodes:
#: the listener serves them itself, or not at all.
_CORE: Final[tuple[Parts, ...]] = (
    *((name,) for name in (
        *("api", "assets", "cursor", "docs", "embeddings", "etn", "experiment", "extensions"),
        *("features", "fonts", "free", "global_subgraphs", "history", "i18n", "index.html"),
        *("internal", "interrupt", "jobs", "models", "node_replacements", "object_info", "prompt"),
        *("queue", "scripts", "settings", "system_stats", "tags", "templates", "upload"),
        *("user.css", "userdata", "users", "view", "view_metadata", "workflow_templates", "ws"),
    )),
    ("v2", "userdata"),
)  # fmt: skip


def parts_of(path: str) -> Parts | None:
    """Return the parts of a decoded path; None if one of them is empty, leads upwards or could have
    another meaning at a machine.
    """
    parts = tuple(path.split("/"))
    if len(path) > _MAX_PATH or _UNUSABLE.search(path):
        return None
    return None if any(part.strip(" .") == "" for part in parts) else parts


def encoded(parts: Sequence[str]) -> str:
    """Return the path of parts, percent-encoded."""
    return "/".join(quote(part, safe="") for part in parts)


def extension_path(listed: object) -> str | None:
    """Return the path of a script that a machine lists, below ``/extensions/`` and percent-encoded;
    None if it is no script of custom nodes.
    """
    if not isinstance(listed, str) or not listed.startswith(_EXTENSIONS):
        return None
    parts = parts_of(unquote(listed.removeprefix(_EXTENSIONS)))
    if parts is None or len(parts) < 2 or parts[0].lower() == _OWN:
        return None
    return encoded(parts) if parts[-1].lower().endswith(".js") else None


def parse_routes(entries: Iterable[str]) -> dict[Parts, str]:
    """Return the backends of routes by their parts, of entries like ``impact=gpu-1``.

    Raises ``ValueError`` for an entry of another form, and for a route that is, contains or begins
    one of ComfyUI's own.
    """
    routes: dict[Parts, str] = {}
    for entry in entries:
        path, equals, backend_id = entry.partition("=")
        path = path.strip().strip("/").removeprefix("api/")
        parts = parts_of(path)
        if not (equals and backend_id.strip() and _ROUTE.fullmatch(path)) or parts is None:
            raise ValueError(f"{entry!r} is not written route=backend, like impact=gpu-1")
        if any(_overlap(parts, core) for core in _CORE):
            raise ValueError(f"{entry!r} has a route of ComfyUI itself, which no machine answers")
        routes[parts] = backend_id.strip()
    return routes


def _overlap(parts: Parts, core: Parts) -> bool:
    length = min(len(parts), len(core))
    return tuple(part.lower() for part in parts[:length]) == core[:length]


def route_of(path: str, routes: Mapping[Parts, str]) -> tuple[str, str] | None:
    """Return the backend of a decoded path, and the path there, percent-encoded; None if the path is
    below none of ``routes``. ComfyUI has each route below ``/api`` too.
    """
    parts = parts_of(path)
    if parts is None:
        return None
    below = parts[1:] if parts[0] == "api" else parts
    lengths = range(len(below), 0, -1)
    found = next((routes[below[:length]] for length in lengths if below[:length] in routes), None)
    return None if found is None else (found, f"/{encoded(parts)}")
