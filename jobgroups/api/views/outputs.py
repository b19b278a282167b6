"""Outputs of jobs: their list, files, thumbnails, the zip, contact sheets; stars, seeds, the workflow in a PNG,
provenance.
"""

import asyncio
import contextlib
import dataclasses
import logging
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import ClassVar, Final, Protocol

from django.conf import settings
from django.db import DatabaseError
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    StreamingHttpResponse,
    UnreadablePostError,
)
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from backends.comfyui.outputs import view_url
from backends.errors import FieldInvalid
from jobgroups.api.answers import answers
from jobgroups.api.conversion import converted_body
from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.body import UnsupportedMediaType, media_type, read_body
from jobgroups.api.requests.query_params import (
    ChosenZipQuery,
    OutputListQuery,
    OutputQuery,
    SeedsQuery,
    SheetQuery,
    ZipQuery,
)
from jobgroups.api.requests.upload import received_upload
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.api.views.groups import page_response
from jobgroups.database.pools import act, read
from jobgroups.domain import media_types
from jobgroups.domain.access import Right
from jobgroups.domain.file_names import TemplateInvalid
from jobgroups.errors import (
    NoOutputs,
    NoWorkflow,
    OutputGone,
    OutputReplaced,
    OutputTooLarge,
    ProvenanceUnknown,
    RangeNotSatisfiable,
    TooManySheets,
)
from jobgroups.outputs import download
from jobgroups.outputs.archive import iter_zip
from jobgroups.outputs.png_workflow import mark_in_png, workflow_in_png
from jobgroups.outputs.resize import MAX_SOURCE_BYTES
from jobgroups.outputs.sheet import SheetPictures, draw_sheet
from jobgroups.outputs.stored import StoredAnswer, file_response
from jobgroups.outputs.thumbnails import Thumbnails
from jobgroups.queries.output_list import OutputFilter, output_list
from jobgroups.queries.outputs import OutputFile, child_output, chosen_outputs, group_outputs
from jobgroups.queries.provenance import job_of_content, job_of_mark, job_provenance
from jobgroups.queries.sheet import group_sheet
from jobgroups.services.files import output_replaced
from jobgroups.services.stars import child_star
from jobgroups.workflow.seeds import MAX_SEED, seeds

logger = logging.getLogger(__name__)


class Chunks(Protocol):
    """What has a body in parts."""

    def chunks(self) -> AsyncIterator[bytes]: ...


_NUMBER: Final = re.compile(r"[0-9]{1,6}")
#: One range of bytes. Several ranges need a multipart response, which no client needs for an
#: output.
_RANGE: Final = re.compile(r"bytes=(?:[0-9]+-[0-9]*|-[0-9]+)")
#: Headers of the backend that are also true of the Director's response.
_PASSED_ON: Final = ("etag", "last-modified", "content-range", "accept-ranges")


class OutputListView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """List the images and videos of completed jobs of all groups, newest first."""
        query = OutputListQuery.read_query(request.GET)
        cursor, limit = query.pop("cursor"), query.pop("limit")
        filters = OutputFilter(principal=principal_of(request), **query)
        return page_response(request, output_list(filters, cursor=cursor, limit=limit))


class OutputView(ApiView):
    async def get(
        self, request: HttpRequest, group_id: str, job_id: str, number: str
    ) -> HttpResponseBase:
        """Return the file from the storage, else as the backend has it; or a thumbnail if the query
        has ``w``.
        """
        query = OutputQuery.read_query(request.GET)
        if not _NUMBER.fullmatch(number):
            raise Http404
        file = await read(child_output, group_id, job_id, int(number))
        async with noting_replaced(file):
            if query["w"] is not None:
                return await _thumbnail(request, file, int(query["w"]))
            return await original(request, file, redirect=query["redirect"] == "yes")

    head = get


async def note_replaced(file: OutputFile) -> None:
    """Mark an output whose file a later job has written, so that JSON and pages show it."""
    if file.replaced:
        return
    try:
        await act(output_replaced, job_id=file.job_id, digest=file.digest)
    except DatabaseError:
        # The response does not depend on the mark, and the next request for the file sets it.
        logger.warning("Replaced output %s: not marked", file.filename, exc_info=True)


@contextlib.asynccontextmanager
async def noting_replaced(file: OutputFile) -> AsyncIterator[None]:
    try:
        yield
    except OutputReplaced:
        await note_replaced(file)
        raise


@cache
def thumbnails() -> Thumbnails:
    return Thumbnails(
        settings.DIRECTOR_THUMBNAILS_DIR,
        limit_bytes=settings.DIRECTOR_THUMBNAILS_BYTES,
        max_source_bytes=MAX_SOURCE_BYTES,
    )


async def _thumbnail(request: HttpRequest, file: OutputFile, width: int) -> HttpResponse:
    tag = f'"{file.identity[:32]}-{width}"'
    headers = {**media_types.GUARD_HEADERS, "ETag": tag, "Content-Type": "image/webp"}
    if matches_etag(request, tag):
        return HttpResponse(status=304, headers=headers)
    thumbnail = await thumbnails().of(file, width)
    headers["Content-Length"] = str(len(thumbnail))
    return HttpResponse(thumbnail, headers=headers)


def matches_etag(request: HttpRequest, tag: str) -> bool:
    """Return whether the client has the version with this tag; ``W/`` makes no difference for a
    read.
    """
    tags = request.headers.get("If-None-Match", "").split(",")
    given = [entity_tag.strip().removeprefix("W/") for entity_tag in tags]
    return tag in given or given == ["*"]


async def original(
    request: HttpRequest, file: OutputFile, *, redirect: bool, limit: float | None = None
) -> HttpResponseBase:
    """Return the file from the storage, else as the backend has it.

    Args:
        redirect: whether the answer to a file above the limit leads to the backend.
        limit: bytes; None: ``DIRECTOR_PROXY_MAX_BYTES``.
    """
    if (known := file.stored) is not None:
        name, size, tag = file.filename, known.size_bytes, known.blake3
        try:
            return await file_response(
                request, known.stored_name, name=name, size=size, tag=tag, saved_as=file.saved_as
            )
        except OutputGone:
            file = dataclasses.replace(file, stored=None)
    most: float = settings.DIRECTOR_PROXY_MAX_BYTES if limit is None else limit
    async with contextlib.AsyncExitStack() as stack:
        answer = await stack.enter_async_context(
            download.open_file(file, headers=_forwarded_conditions(request))
        )
        if answer.status == 416:
            raise RangeNotSatisfiable
        if answer.status == 412:
            return HttpResponse(status=412)
        size = answer.length or 0
        if size > most:
            # Without the secret headers of the backend.
            url = view_url(
                file.url, filename=file.filename, subfolder=file.subfolder, type=file.kind
            )
            if not redirect:
                raise OutputTooLarge(
                    size=size, limit=int(most), backend_id=file.backend_id, url=url
                )
            moved = {"Location": url, "Cache-Control": "private, no-cache"}
            return HttpResponse(status=307, headers=moved)
        headers = _headers(file, answer)
        if request.method == "HEAD" or answer.status == 304:
            return HttpResponse(status=answer.status, headers=headers)
        body = await started_body(stack.pop_all(), answer)
        return StreamingHttpResponse(body, status=answer.status, headers=headers)


async def started_body(stack: contextlib.AsyncExitStack, answer: Chunks) -> AsyncIterator[bytes]:
    """Return the body of an answer; its connection is closed with it, also if the client has
    disconnected.
    """
    # Only a generator that has started is closed.
    body = _body(stack, answer)
    await anext(body)
    return body


async def _body(stack: contextlib.AsyncExitStack, answer: Chunks) -> AsyncIterator[bytes]:
    async with stack:
        yield b""
        async for chunk in answer.chunks():
            yield chunk


def _forwarded_conditions(request: HttpRequest) -> dict[str, str]:
    names = ("If-Match", "If-None-Match")
    conditions = {name: tags for name in names if (tags := request.headers.get(name))}
    if _RANGE.fullmatch(request.headers.get("Range", "")):
        conditions["Range"] = request.headers["Range"]
        if condition := request.headers.get("If-Range"):
            conditions["If-Range"] = condition
    return {
        name: value for name, value in conditions.items() if value.isascii() and value.isprintable()
    }


def _headers(file: OutputFile, answer: download.BackendAnswer | StoredAnswer) -> dict[str, str]:
    headers = {
        **media_types.guard_headers(file.filename),
        "Content-Type": media_types.media_type(file.filename),
        "Content-Disposition": media_types.disposition(file.filename, named_as=file.saved_as),
    }
    if answer.length is not None and answer.status != 304:
        headers["Content-Length"] = str(answer.length)
    return headers | {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}


class ZipView(ApiView):
    async def get(self, request: HttpRequest, group_id: str) -> StreamingHttpResponse:
        """Return all originals of a group, or those of its starred children."""
        query = ZipQuery.read_query(request.GET)
        starred = query["which"] == "starred"
        try:
            files = await read(group_outputs, group_id, starred=starred, template=query["name"])
        except TemplateInvalid as error:
            raise FieldInvalid("name", str(error)) from None
        if not files:
            raise NoOutputs(starred=starred)
        return _zip_response(files, f"{group_id}-starred.zip" if starred else f"{group_id}.zip")


class ChosenZipView(ApiView):
    async def get(self, request: HttpRequest) -> StreamingHttpResponse:
        """Return the originals of some jobs of any groups."""
        query = ChosenZipQuery.read_query(request.GET)
        files = await read(chosen_outputs, query["files"], principal_of(request))
        return _zip_response(files, "outputs.zip")


def _zip_response(files: Sequence[OutputFile], name: str) -> StreamingHttpResponse:
    headers = {
        **media_types.GUARD_HEADERS,
        "Content-Type": "application/zip",
        "Content-Disposition": f"attachment; {media_types.filename_parameters(name)}",
    }
    return StreamingHttpResponse(iter_zip(files, note_replaced), headers=headers)


class StarView(ApiView):
    def put(self, request: Request, group_id: str, job_id: str) -> HttpResponse:
        """Star a child."""
        return self._set_star(group_id, job_id, starred=True)

    def delete(self, request: Request, group_id: str, job_id: str) -> HttpResponse:
        """Remove a child's star."""
        return self._set_star(group_id, job_id, starred=False)

    def _set_star(self, group_id: str, job_id: str, *, starred: bool) -> HttpResponse:
        child_star(group_id=group_id, job_id=job_id, starred=starred)
        return json_response({"job_id": job_id, "starred": starred})


class SeedsView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return the seeds that a submission with these fields would use."""
        query = SeedsQuery.read_query(request.GET)
        strategy, base = query["strategy"], query["base_seed"]
        if base is None:
            base = secrets.randbelow(MAX_SEED + 1)
        drawn_seeds = seeds(strategy, base, query["count"])
        return json_response({"strategy": strategy, "base_seed": base, "seeds": drawn_seeds})


class WorkflowFromPngView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT

    def post(self, request: Request) -> HttpResponse:
        """Return the workflow with which a PNG was made."""
        if media_type(request)[0] != "image/png":
            raise UnsupportedMediaType("The body must be sent as Content-Type: image/png.")
        try:
            content = read_body(request)
        except UnreadablePostError:
            raise NoWorkflow("The body is incomplete.") from None
        return json_response(converted_body({"workflow_json": workflow_in_png(content)}).body)


_SLOT_WITHIN: Final = 10.0  #: Seconds for which a request waits for others.
#: Sheets whose thumbnails are read at once; one of them is drawn.
_slots: Final = asyncio.Semaphore(2)


class SheetView(ApiView):
    async def get(self, request: HttpRequest, group_id: str) -> HttpResponse:
        """Return a page of the contact sheet of a group as WebP."""
        query = SheetQuery.read_query(request.GET)
        # Read before the rows: if one changes meanwhile, the next request gets another sheet.
        seq, revision = await answers.version(group_id)
        tag = f'"{seq}-{revision}"'
        headers = {**media_types.GUARD_HEADERS, "Content-Type": "image/webp"}
        if matches_etag(request, tag):
            return HttpResponse(status=304, headers={**headers, "ETag": tag})
        sheet = await read(group_sheet, group_id, axes=query["axes"], number=query["page"])
        try:
            async with asyncio.timeout(_SLOT_WITHIN):
                await _slots.acquire()
        except TimeoutError:
            raise TooManySheets from None
        try:
            pictures = await SheetPictures(thumbnails(), note_replaced).of(sheet)
            content = await draw_sheet(sheet, pictures)
        finally:
            _slots.release()
        if all(isinstance(picture, bytes) for picture in pictures.values()):
            headers["ETag"] = tag
        headers["X-Sheet-Pages"] = str(sheet.page_count)
        headers["Content-Disposition"] = (
            f"inline; {media_types.filename_parameters(f'{group_id}-sheet.webp')}"
        )
        return HttpResponse(content, headers=headers)

    head = get


class ProvenanceView(ApiView):
    def get(self, request: Request, group_id: str, job_id: str) -> HttpResponse:
        """Return the workflow as it was sent, with input files, backend, versions, times and
        seconds of the nodes.
        """
        return json_response(job_provenance(group_id, job_id))


class ProvenanceSearchView(ApiView):
    changes: ClassVar[Right] = Right.SEE

    def post(self, request: Request) -> HttpResponse:
        """Return the job that made an uploaded file. The file is not kept."""
        with received_upload(request) as upload:
            file = upload.received()
            # ComfyUI writes the mark before the pixels.
            head = file.path.read_bytes()
        try:
            return json_response(job_of_mark(mark_in_png(head), principal_of(request)))
        except ProvenanceUnknown as unknown:
            if (job := job_of_content(file.hash, principal_of(request))) is None:
                raise ProvenanceUnknown(
                    f"{unknown.detail} No captured file has this content."
                ) from None
            return json_response(job)
