"""Responses with a file of the storage: whole or one range, read in a thread while it is sent."""

import re
from collections.abc import AsyncIterator
from typing import Final

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response

from jobgroups.database.shared_threads import Share
from jobgroups.domain import media_types
from jobgroups.errors import OutputGone, RangeNotSatisfiable
from jobgroups.models import Asset, StoredFile
from jobgroups.services.stored_files import has_file, is_local, read_file

_CHUNK: Final = 4 * 2**20
#: One range of bytes. Of several ranges the whole file is sent, as HTTP allows.
_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")


#: Their own: a storage that hangs keeps them, and nothing else.
_threads: Final = Share(16)


class StoredAnswer:
    """A whole file of the storage, read as a backend's answer is."""

    status: Final = 200
    headers: Final[dict[str, str]] = {}

    def __init__(self, content: AsyncIterator[bytes], length: int) -> None:
        self._content = content
        self.length = length

    def chunks(self) -> AsyncIterator[bytes]:
        return self._content


async def open_stored(file: StoredFile | Asset) -> StoredAnswer:
    """Open a file of the storage, or raise ``OutputGone`` or ``StorageAway``."""
    size = file.size_bytes
    return StoredAnswer(await _open(file.stored_name, 0, size, size=size), size)


async def file_response(
    request: HttpRequest,
    stored_name: str,
    *,
    name: str,
    size: int,
    tag: str,
    saved_as: str | None = None,
) -> HttpResponseBase:
    """Return a response to ``GET`` or ``HEAD`` with a stored file.

    Raises ``OutputGone``, ``StorageAway``, or ``RangeNotSatisfiable`` if the range begins behind
    the end.

    Args:
        name: the name for users, which decides the type.
        saved_as: the name under which a browser saves it; None: ``name``.
    """
    etag = f'"{tag}"'
    headers = {
        **media_types.guard_headers(name),
        "Content-Type": media_types.media_type(name),
        "Content-Disposition": media_types.disposition(name, named_as=saved_as or name),
        "Accept-Ranges": "bytes",
        "ETag": etag,
    }
    conditional: HttpResponse | None = get_conditional_response(request, etag=etag)
    if conditional is not None:
        is_known = conditional.status_code == 304
        return HttpResponse(status=304, headers=headers) if is_known else conditional
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
    body = await _open(stored_name, first, last - first + 1, size=size)
    return StreamingHttpResponse(body, status=status, headers=headers)


async def _open(stored_name: str, first: int, length: int, *, size: int) -> AsyncIterator[bytes]:
    """Return a part of a stored file, whose first piece is read already."""
    try:
        piece = await _threads.run(_begin, stored_name, first, length, size)
    except FileNotFoundError:
        raise OutputGone("The storage does not have the whole file any more.") from None
    return _pieces(piece, stored_name, first, length)


async def _pieces(piece: bytes, stored_name: str, first: int, length: int) -> AsyncIterator[bytes]:
    yield piece
    while length := length - len(piece):
        first += len(piece)
        piece = await _threads.run(_read, stored_name, first, length)
        if not piece:
            raise OSError("the stored file is shorter than its row")
        yield piece


def _begin(stored_name: str, first: int, length: int, size: int) -> bytes:
    # Of a bucket that would be a second request.
    if is_local() and not has_file(stored_name, size):
        raise FileNotFoundError(stored_name)
    return _read(stored_name, first, length)


def _read(stored_name: str, first: int, length: int) -> bytes:
    return read_file(stored_name, first, min(_CHUNK, length))
