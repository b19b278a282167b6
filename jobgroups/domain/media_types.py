"""Response headers for files that backends made, so that a browser executes none of them. Pure.

The type depends on this table and the file name only, never on the backend: a custom node can save any content
under any name, and none may run with the origin of the Director.
"""

from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

#: Shown in the page; a browser executes none of them.
_INLINE: Final = {
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".csv": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
#: Downloaded, not shown.
_DOWNLOADED: Final = {
    ".glb": "model/gltf-binary",
    ".json": "application/json",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".zip": "application/zip",
}

#: Headers of every response with a file: it is not a page, may execute nothing, and only pages of this site may
#: embed it.
GUARD_HEADERS: Final[dict[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-site",
    "Cache-Control": "private, no-cache",
}


#: A browser shows a video, a sound or a text in a page of its own. That page needs the file's origin to load the
#: file; scripts stay forbidden.
_OWN_PAGE: Final = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox allow-same-origin"


def guard_headers(filename: str) -> dict[str, str]:
    """Return ``GUARD_HEADERS`` for a file that a browser can also show in a tab of its own."""
    if media_type(filename).startswith(("video/", "audio/", "text/")):
        return {**GUARD_HEADERS, "Content-Security-Policy": _OWN_PAGE}
    return GUARD_HEADERS


def media_type(filename: str) -> str:
    """Return a file's type by its extension; never one that a browser executes (HTML, SVG, XML …)."""
    extension = PurePosixPath(filename).suffix.lower()
    return _INLINE.get(extension) or _DOWNLOADED.get(extension) or "application/octet-stream"


def media_kind(filename: str) -> str:
    """Return how a page shows a file: as ``image``, ``video``, ``audio`` or ``text``, or not: ``other``.

    ComfyUI reports videos as images, so the key of an output does not decide it.
    """
    kind = media_type(filename)
    if kind == "application/json":
        return "text"
    return kind.partition("/")[0] if is_inline(filename) else "other"


def is_inline(filename: str) -> bool:
    """Return whether a browser may show the file."""
    return PurePosixPath(filename).suffix.lower() in _INLINE


def disposition(filename: str, *, named_as: str) -> str:
    """Return ``Content-Disposition`` for a file: ``inline`` only for harmless types, by the name at its backend.

    ``named_as`` is the name under which a browser saves it.
    """
    kind = "inline" if is_inline(filename) else "attachment"
    return f"{kind}; {named(named_as)}"


def named(filename: str) -> str:
    """Return the ``filename`` parameters, escaped so that no name can end the value or the header."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in filename)
    encoded = quote(filename.encode("utf-8", "replace"), safe="")
    return f"filename=\"{plain}\"; filename*=UTF-8''{encoded}"
