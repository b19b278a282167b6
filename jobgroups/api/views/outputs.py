"""What a child made, through the Director: the original, or a thumbnail of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from functools import cache
from typing import Final

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from backends.comfyui.exchange import StreamedAnswer
from backends.comfyui.outputs import view_url
from jobgroups.api.requests import path_params
from jobgroups.api.requests.query_params import OutputQuery
from jobgroups.api.views.async_base import AsyncApiView, note_replaced, read
from jobgroups.errors import OutputReplaced, OutputTooLarge, RangeNotSatisfiable
from jobgroups.outputs import download, media_types
from jobgroups.outputs.resize import MAX_SOURCE_BYTES
from jobgroups.outputs.thumbnails import Thumbnails
from jobgroups.queries.outputs import OutputFile, child_output

_NUMBER: Final = re.compile(r"[0-9]{1,6}")
#: One range of bytes; several would be answered in parts, which nobody asks of a picture.
_RANGE: Final = re.compile(r"bytes=(?:[0-9]+-[0-9]*|-[0-9]+)")
#: Of the backend's headers these are true of what is passed on.
_PASSED_ON: Final = ("etag", "last-modified", "content-range", "accept-ranges")


class OutputView(AsyncApiView):
    """``/api/job-groups/{id}/jobs/{job_id}/outputs/{n}``"""

    async def get(
        self, request: HttpRequest, group_id: str, job_id: str, number: str
    ) -> HttpResponseBase:
        """Return the file as it is at its backend, or with ``?w=`` a thumbnail."""
        query = OutputQuery.read_query(request.GET)
        group, job = path_params.group_id(group_id), path_params.job_id(job_id)
        if not _NUMBER.fullmatch(number):
            raise Http404
        file = await read(child_output, group, job, int(number))
        try:
            if query["w"] is not None:
                return await _thumbnail(request, file, int(query["w"]))
            return await _original(request, file, redirect=query["redirect"] == "yes")
        except OutputReplaced:
            await note_replaced(file)
            raise

    head = get


# --- thumbnails -----------------------------------------------------------------------------------


@cache
def thumbnails() -> Thumbnails:
    """Return the process's maker of thumbnails."""
    return Thumbnails(
        settings.DIRECTOR_THUMBNAILS_DIR,
        limit_bytes=settings.DIRECTOR_THUMBNAILS_BYTES,
        max_source_bytes=MAX_SOURCE_BYTES,
    )


async def _thumbnail(request: HttpRequest, file: OutputFile, width: int) -> HttpResponse:
    tag = f'"{file.identity[:32]}-{width}"'
    headers = {**media_types.GUARD_HEADERS, "ETag": tag, "Content-Type": "image/webp"}
    if _matches_etag(request, tag):
        return HttpResponse(status=304, headers=headers)
    drawn = await thumbnails().of(file, width)
    headers["Content-Length"] = str(len(drawn))
    return HttpResponse(drawn, headers=headers)


def _matches_etag(request: HttpRequest, tag: str) -> bool:
    """Whether the client has what bears this tag; ``W/`` does not matter when reading."""
    given = [one.strip().removeprefix("W/") for one in _if_none_match(request).split(",")]
    return tag in given or given == ["*"]


def _if_none_match(request: HttpRequest) -> str:
    return request.headers.get("If-None-Match", "")


# --- originals ------------------------------------------------------------------------------------


async def _original(request: HttpRequest, file: OutputFile, *, redirect: bool) -> HttpResponseBase:
    limit: int = settings.DIRECTOR_PROXY_MAX_BYTES
    async with contextlib.AsyncExitStack() as stack:
        answer = await stack.enter_async_context(
            download.opened(file, headers=_forwarded_conditions(request))
        )
        if answer.status == 416:
            raise RangeNotSatisfiable
        size = answer.length or 0
        if size > limit and not redirect:
            url = _address(file)
            raise OutputTooLarge(size=size, limit=limit, backend_id=file.backend_id, url=url)
        if size > limit:
            return _redirect(file)
        headers = _headers(file, answer)
        if request.method == "HEAD" or answer.status == 304:
            return HttpResponse(status=answer.status, headers=headers)
        # Begun before it is given away: a body whose client has left is then closed in any case.
        body = _body(stack.pop_all(), answer)
        await anext(body)
        return StreamingHttpResponse(body, status=answer.status, headers=headers)


async def _body(stack: contextlib.AsyncExitStack, answer: StreamedAnswer) -> AsyncIterator[bytes]:
    async with stack:
        yield b""
        async for chunk in answer.chunks():
            yield chunk


def _forwarded_conditions(request: HttpRequest) -> dict[str, str]:
    """Return the client's conditions that are passed on to the backend."""
    conditions = {}
    if tags := _if_none_match(request):
        conditions["If-None-Match"] = tags
    if _RANGE.fullmatch(request.headers.get("Range", "")):
        conditions["Range"] = request.headers["Range"]
        if condition := request.headers.get("If-Range"):
            conditions["If-Range"] = condition
    return {
        name: value for name, value in conditions.items() if value.isascii() and value.isprintable()
    }


def _headers(file: OutputFile, answer: StreamedAnswer) -> dict[str, str]:
    headers = {
        **media_types.guard_headers(file.filename),
        "Content-Type": media_types.media_type(file.filename),
        "Content-Disposition": media_types.disposition(file.filename, named_as=file.download_name),
    }
    if answer.length is not None and answer.status != 304:
        headers["Content-Length"] = str(answer.length)
    return headers | {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}


def _redirect(file: OutputFile) -> HttpResponse:
    """Send the client to the backend itself."""
    return HttpResponse(
        status=307, headers={"Location": _address(file), "Cache-Control": "private, no-cache"}
    )


def _address(file: OutputFile) -> str:
    """Return where the backend has the file; what is registered secretly for it is not told."""
    return view_url(file.url, filename=file.filename, subfolder=file.subfolder, type=file.kind)
