"""Responses with a file of the storage: whole or one range, read in a thread while it is sent."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from jobgroups.domain import media_types
from jobgroups.errors import OutputGone, RangeNotSatisfiable
from jobgroups.models import StoredFile
from jobgroups.services.stored_files import storage

_CHUNK: Final = 2**20
#: One range of bytes. Of several ranges the whole file is sent, as HTTP allows.
_RANGE: Final = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")


class StoredAnswer:
    """A whole file of the storage, read as a backend's answer is."""

    status: Final = 200
    headers: Final[dict[str, str]] = {}

    def __init__(self, content: Any, length: int) -> None:
        self._content = content
        self.length = length

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the content, piece by piece."""
        return _body(self._content, 0, self.length)


@contextlib.asynccontextmanager
async def open_stored(file: StoredFile) -> AsyncIterator[StoredAnswer]:
    """Open a file of the storage, or raise ``OutputGone``."""
    with await _opened(file.stored_name) as content:
        yield StoredAnswer(content, file.size_bytes)


async def file_response(
    request: HttpRequest, stored_name: str, *, name: str, size: int, tag: str, saved_as: str | None = None
) -> HttpResponseBase:
    """Return a response to ``GET`` or ``HEAD`` with a stored file.

    Args:
        name: the name for users, which decides the type.
        size: bytes of the file.
        tag: identifies its content.
        saved_as: the name under which a browser saves it; None: ``name``.

    Raises:
        OutputGone: the storage does not have the file.
        RangeNotSatisfiable: the range begins behind the end.
    """
    etag = f'"{tag}"'
    headers = {
        **media_types.guard_headers(name),
        "Content-Type": media_types.media_type(name),
        "Content-Disposition": media_types.disposition(name, named_as=saved_as or name),
        "Accept-Ranges": "bytes",
        "ETag": etag,
    }
    if request.headers.get("If-None-Match", "").removeprefix("W/") == etag:
        return HttpResponse(status=304, headers=headers)
    first, last = 0, size - 1
    wanted = _RANGE.fullmatch(request.headers.get("Range", ""))
    is_part = wanted is not None and request.headers.get("If-Range", etag) == etag
    if wanted is not None and is_part:
        first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[3]))
        last = min(last, int(wanted[2])) if wanted[2] else last
        if first > last or first >= size:
            raise RangeNotSatisfiable
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    headers["Content-Length"] = str(last - first + 1)
    status = 206 if is_part else 200
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers)
    file = await _opened(stored_name)
    # Start the generator now: only a started one is closed if the client has disconnected.
    body = _body(file, first, last - first + 1)
    await anext(body)
    return StreamingHttpResponse(body, status=status, headers=headers)


async def _opened(stored_name: str) -> Any:
    try:
        return await asyncio.to_thread(storage().open, stored_name)
    except FileNotFoundError:
        raise OutputGone("The storage does not have the file any more.") from None


async def _body(file: Any, first: int, length: int) -> AsyncIterator[bytes]:
    with file:
        yield b""
        await asyncio.to_thread(file.seek, first)
        while length > 0:
            chunk = await asyncio.to_thread(file.read, min(_CHUNK, length))
            if not chunk:
                raise OSError("the stored file is shorter than its row")
            length -= len(chunk)
            yield chunk
