"""``/view``, ``/upload/image`` and ``/upload/mask`` of the ComfyUI listener.

A file is named by its folder (``type``) and a path, which is its owner's own: an upload has the
name that it got, and the path of a file that a job made begins with the id of the job.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final

from asgiref.sync import async_to_sync
from blake3 import blake3
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from backends.comfyui.errors import AnswerTooLarge
from backends.errors import FieldInvalid
from jobgroups.api.listener.base import ListenerView
from jobgroups.api.listener.owner import owner_of
from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.upload import Upload, received_upload
from jobgroups.api.views.base import json_response
from jobgroups.api.views.outputs import matches_etag, noting_replaced, original
from jobgroups.database.pools import file_threads, read
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain import media_types
from jobgroups.domain.listener_files import FOLDERS, file_path, split_annotated
from jobgroups.errors import OutputGone, WrongBody
from jobgroups.models import Asset
from jobgroups.outputs.copies import local_path
from jobgroups.outputs.drawing_processes import DrawingFailed, draw_edit
from jobgroups.outputs.image_edits import converted, masked
from jobgroups.outputs.resize import MAX_SOURCE_BYTES, NotAnImage
from jobgroups.outputs.stored import file_response
from jobgroups.queries.input_files import farm_file, named_file
from jobgroups.queries.outputs import OutputFile
from jobgroups.services.assets import ReceivedFile
from jobgroups.services.input_files import input_store
from jobgroups.services.stored_files import IncomingFile

logger = logging.getLogger(__name__)

#: A program has the name of a file by a frame before its row is stored: it is waited for.
_REPORTED_WITHIN: Final = 5.0
_REPORTED_POLL: Final = 0.1
_SENT: Final = "websocket"  #: The folder of pictures that came as frames.


Found = Asset | OutputFile | None  #: The content of a name; None: its owner has no such file.


async def find_content(search: Callable[..., tuple[Found, bool]], *arguments: str) -> Found:
    """Return the result of a query, which also returns whether a job may still report it."""
    until = time.monotonic() + _REPORTED_WITHIN
    while True:
        content, is_expected = await read(search, *arguments)
        if not is_expected or time.monotonic() > until:
            return content
        await asyncio.sleep(_REPORTED_POLL)


def _name_and_folder(filename: str, kind: str | None) -> tuple[str, str]:
    """Return name and folder of a file; the folder in an annotated name counts before ``type``."""
    name, folder = split_annotated(filename)
    return name, folder if name != filename else kind or "output"


def _nothing(status: int) -> HttpResponse:
    """Return the empty answer of ComfyUI; one of HTML would be replaced by a JSON error."""
    return HttpResponse(status=status, content_type="text/plain")


class ViewView(ListenerView):
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """Return a file, or a preview or a channel of a picture."""
        query = request.GET
        if "filename" not in query:
            return _nothing(404)
        name, folder = _name_and_folder(query["filename"], query.get("type"))
        if folder not in (*FOLDERS, _SENT):
            return _nothing(400)
        path = file_path(query.get("subfolder", ""), name)
        if path is None:
            return _nothing(400)
        content = await find_content(named_file, owner_of(request), folder, path)
        if content is None:
            content = await read(farm_file, principal_of(request), folder, path)
        if content is None:
            return _nothing(404)
        channel, preview = query.get("channel", ""), query.get("preview", "")
        if preview or channel in ("rgb", "a"):
            converted_picture = await _converted(request, content, channel, preview)
            if converted_picture is not None:
                return converted_picture
        return await _sent(request, content, path.rpartition("/")[2])

    head = get


async def _sent(request: HttpRequest, content: Asset | OutputFile, name: str) -> HttpResponseBase:
    if isinstance(content, Asset):
        size, tag = content.size_bytes, content.hash
        return await file_response(request, content.stored_name, name=name, size=size, tag=tag)
    async with noting_replaced(content):
        return await original(request, content, redirect=False, limit=math.inf)


async def _converted(
    request: HttpRequest, content: Asset | OutputFile, channel: str, preview: str
) -> HttpResponse | None:
    """Return a picture in another format, as ComfyUI does; None: it is none that is decoded."""
    words = preview.split(";")
    image_format = "png"
    if preview:
        image_format = "jpeg" if words[0] == "jpeg" and "a" not in channel else "webp"
    quality = min(100, int(words[-1])) if words[-1].isascii() and words[-1].isdigit() else 90
    headers = {**media_types.GUARD_HEADERS, "Content-Type": f"image/{image_format}"}
    digest = (
        content.hash if isinstance(content, Asset) else content.stored and content.stored.blake3
    )
    if digest:
        headers["ETag"] = f'"{digest[:32]}-{channel}-{image_format}-{quality}"'
        if matches_etag(request, headers["ETag"]):
            return HttpResponse(status=304, headers=headers)
    try:
        async with local_path(content, max_bytes=MAX_SOURCE_BYTES) as path:
            picture = await draw_edit(converted, path, channel, image_format, quality)
    except (AnswerTooLarge, DrawingFailed, NotAnImage, WrongBody) as error:
        logger.info("Preview: the file is sent as it is (%s)", error)
        return None
    headers["Content-Length"] = str(len(picture))
    return HttpResponse(picture, headers=headers)


class UploadImageView(ListenerView):
    changes_in: ClassVar[DatabaseThreads] = file_threads

    def post(self, request: Request) -> HttpResponse:
        """Store a file of any kind, with a name that no other content has."""
        with received_upload(request, "image") as upload:
            return _store(request, upload, upload.received())


class UploadMaskView(UploadImageView):
    def post(self, request: Request) -> HttpResponse:
        """Store a picture with the alpha of a mask."""
        with received_upload(request, "image") as upload:
            mask = upload.received()
            folder, path = _original(upload)
            content, _ = named_file(owner_of(request), folder, path)
            if content is None:
                raise FieldInvalid("original_ref", "There is no such file.")
            incoming = IncomingFile(blake3())
            try:
                incoming.write(async_to_sync(_masked)(content, str(mask.path)))
                incoming.close()
                masked_picture = ReceivedFile.of(incoming, mask.name, "image/png")
                return _store(request, upload, masked_picture)
            finally:
                incoming.discard()


def _store(request: Request, upload: Upload, received: ReceivedFile) -> HttpResponse:
    fields = {name: "".join(upload.texts(name)) for name in ("type", "subfolder", "overwrite")}
    folder = fields["type"] or "input"
    if folder not in FOLDERS:
        raise FieldInvalid("type", f"Must be one of {', '.join(FOLDERS)}.")
    path = file_path(fields["subfolder"], upload.filename)
    if path is None:
        raise FieldInvalid("image", "Its name and subfolder lead to no file below the folder.")
    stored = input_store(
        received,
        owner=owner_of(request),
        owner_id=principal_of(request).user_id,
        folder=folder,
        path=path,
        overwrite=fields["overwrite"] in ("true", "1"),
    )
    subfolder, _, name = stored.rpartition("/")
    return json_response({"name": name, "subfolder": subfolder, "type": folder})


def _original(upload: Upload) -> tuple[str, str]:
    """Return folder and path of the picture that gets a mask; raise ``FieldInvalid``."""
    path, folder = None, ""
    try:
        reference: Any = json.loads("".join(upload.texts("original_ref")))
        name, folder = _name_and_folder(reference["filename"], reference.get("type"))
        path = file_path(reference.get("subfolder") or "", name)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    if path is None or folder not in FOLDERS:
        raise FieldInvalid(
            "original_ref", "Must be JSON with the filename, subfolder and type of a picture."
        )
    return folder, path


async def _masked(content: Asset | OutputFile, mask_path: str) -> bytes:
    try:
        async with local_path(content, max_bytes=MAX_SOURCE_BYTES) as path:
            return await draw_edit(masked, path, mask_path)
    except (AnswerTooLarge, DrawingFailed, NotAnImage, OutputGone, WrongBody) as error:
        raise FieldInvalid("image", f"The mask cannot be applied: {error}") from error
