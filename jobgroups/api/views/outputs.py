"""An output file of a child through the Director: the original, or a thumbnail."""

import contextlib
import dataclasses
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
from jobgroups.domain import media_types
from jobgroups.errors import OutputGone, OutputReplaced, OutputTooLarge, RangeNotSatisfiable
from jobgroups.outputs import download
from jobgroups.outputs.resize import MAX_SOURCE_BYTES
from jobgroups.outputs.stored import StoredAnswer, file_response
from jobgroups.outputs.thumbnails import Thumbnails
from jobgroups.queries.outputs import OutputFile, child_output

_NUMBER: Final = re.compile(r"[0-9]{1,6}")
#: One range of bytes. Several ranges need a multipart response, which no client needs for an output.
_RANGE: Final = re.compile(r"bytes=(?:[0-9]+-[0-9]*|-[0-9]+)")
#: Headers of the backend that are also true of the Director's response.
_PASSED_ON: Final = ("etag", "last-modified", "content-range", "accept-ranges")


class OutputView(AsyncApiView):
    """``/api/job-groups/{id}/jobs/{job_id}/outputs/{n}``"""

    async def get(self, request: HttpRequest, group_id: str, job_id: str, number: str) -> HttpResponseBase:
        """Return the file from the storage, else as the backend has it; or a thumbnail if the query has ``w``."""
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


@cache
def thumbnails() -> Thumbnails:
    """Return the process's thumbnails."""
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
    thumbnail = await thumbnails().of(file, width)
    headers["Content-Length"] = str(len(thumbnail))
    return HttpResponse(thumbnail, headers=headers)


def _matches_etag(request: HttpRequest, tag: str) -> bool:
    """Return whether the client has the version with this tag; ``W/`` makes no difference for a read."""
    given = [one.strip().removeprefix("W/") for one in _if_none_match(request).split(",")]
    return tag in given or given == ["*"]


def _if_none_match(request: HttpRequest) -> str:
    return request.headers.get("If-None-Match", "")


async def _original(request: HttpRequest, file: OutputFile, *, redirect: bool) -> HttpResponseBase:
    if (known := file.stored) is not None:
        name, size, tag = file.filename, known.size_bytes, known.blake3
        try:
            return await file_response(
                request, known.stored_name, name=name, size=size, tag=tag, saved_as=file.download_name
            )
        except OutputGone:
            file = dataclasses.replace(file, stored=None)
    limit: int = settings.DIRECTOR_PROXY_MAX_BYTES
    async with contextlib.AsyncExitStack() as stack:
        answer = await stack.enter_async_context(download.open_file(file, headers=_forwarded_conditions(request)))
        if answer.status == 416:
            raise RangeNotSatisfiable
        size = answer.length or 0
        if size > limit:
            # Without the secret headers of the backend.
            url = view_url(file.url, filename=file.filename, subfolder=file.subfolder, type=file.kind)
            if not redirect:
                raise OutputTooLarge(size=size, limit=limit, backend_id=file.backend_id, url=url)
            moved = {"Location": url, "Cache-Control": "private, no-cache"}
            return HttpResponse(status=307, headers=moved)
        headers = _headers(file, answer)
        if request.method == "HEAD" or answer.status == 304:
            return HttpResponse(status=answer.status, headers=headers)
        # Start the generator now: only a started one is closed if the client has disconnected.
        body = _body(stack.pop_all(), answer)
        await anext(body)
        return StreamingHttpResponse(body, status=answer.status, headers=headers)


async def _body(stack: contextlib.AsyncExitStack, answer: StreamedAnswer | StoredAnswer) -> AsyncIterator[bytes]:
    async with stack:
        yield b""
        async for chunk in answer.chunks():
            yield chunk


def _forwarded_conditions(request: HttpRequest) -> dict[str, str]:
    """Return the conditional headers of the client that are forwarded to the backend."""
    conditions = {}
    if tags := _if_none_match(request):
        conditions["If-None-Match"] = tags
    if _RANGE.fullmatch(request.headers.get("Range", "")):
        conditions["Range"] = request.headers["Range"]
        if condition := request.headers.get("If-Range"):
            conditions["If-Range"] = condition
    return {name: value for name, value in conditions.items() if value.isascii() and value.isprintable()}


def _headers(file: OutputFile, answer: StreamedAnswer | StoredAnswer) -> dict[str, str]:
    headers = {
        **media_types.guard_headers(file.filename),
        "Content-Type": media_types.media_type(file.filename),
        "Content-Disposition": media_types.disposition(file.filename, named_as=file.download_name),
    }
    if answer.length is not None and answer.status != 304:
        headers["Content-Length"] = str(answer.length)
    return headers | {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
