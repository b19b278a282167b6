"""Response headers for files that backends made, so that a browser executes none of them. Pure.

The type depends on ``media_types.toml`` and the file name only, never on the backend: a custom node
can save any content under any name, and none may run with the origin of the Director.
"""

import tomllib
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote

_TYPES: Final = tomllib.loads(
    Path(__file__).with_name("media_types.toml").read_text(encoding="utf-8")
)
_INLINE: Final[dict[str, str]] = _TYPES["shown"]
_DOWNLOADED: Final[dict[str, str]] = _TYPES["downloaded"]

#: Headers of every response with a file: it is not a page, may execute nothing, and only pages of
#: this site may embed it.
GUARD_HEADERS: Final[dict[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-site",
    "Cache-Control": "private, no-cache",
}


#: A browser shows a video, a sound or a text in a page of its own. That page needs the file's
#: origin to load the file; scripts stay forbidden.
_OWN_PAGE: Final = (
    "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox allow-same-origin"
)


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
    """Return how a page shows a file: as ``image``, ``video``, ``audio`` or ``text``, or not:
    ``other``.

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
    """Return ``Content-Disposition`` for a file: ``inline`` only for harmless types, by the name at
    its backend.

    ``named_as`` is the name under which a browser saves it.
    """
    kind = "inline" if is_inline(filename) else "attachment"
    return f"{kind}; {filename_parameters(named_as)}"


def filename_parameters(filename: str) -> str:
    """Return the ``filename`` parameters, escaped so that no name can end the value or the header."""
    plain = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in filename
    )
    encoded = quote(filename.encode("utf-8", "replace"), safe="")
    return f"filename=\"{plain}\"; filename*=UTF-8''{encoded}"
