"""``/api/etn/``: the API of Krita's own nodes. Its images are put before a prompt, and are on the
machine that renders before the prompt is; results are fetched from that machine.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator
from concurrent import futures
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from backends import descriptions
from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError
from backends.comfyui.exchange import Timeouts
from backends.errors import FieldInvalid, RequestError
from backends.models import Backend
from backends.queries import release_connection
from jobgroups.api.listener.base import ListenerView
from jobgroups.api.listener.files import find_content
from jobgroups.api.listener.owner import owner_of
from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.upload import WHOLE_BODY, received_upload
from jobgroups.api.views.base import json_response
from jobgroups.api.views.outputs import started_body
from jobgroups.database.pools import act, file_threads, read
from jobgroups.domain.access import Right
from jobgroups.domain.audit import Action
from jobgroups.domain.media_types import GUARD_HEADERS
from jobgroups.errors import OutputGone
from jobgroups.models import Asset
from jobgroups.outputs.download import open_image
from jobgroups.outputs.stored import file_response
from jobgroups.queries.input_files import kept_image
from jobgroups.queries.listener_machine import usable_backends
from jobgroups.services.assets import ReceivedFile
from jobgroups.services.audit import record_alone
from jobgroups.services.input_files import image_store

logger = logging.getLogger(__name__)

_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/webp"})
#: Krita waits 60 s for an answer; a machine reads the heads of the files of a page meanwhile.
_TIMEOUTS: Final = Timeouts(connect_s=3.0, silence_s=45.0, total_s=45.0)
_AT_ONCE: Final = 16  #: Machines that are read side by side.
#: Names that Krita's nodes take.
_LORA: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9_. -]{0,230}\.(safetensors|sft)")
_UPLOADS_AT_ONCE: Final = 4  #: Machines that get a LoRA side by side.
_READ_SECONDS: Final = 15.0  #: For which machines with a new LoRA are read again.
_ARRIVING_SECONDS: Final = 40.0  #: For which Krita is kept waiting; it waits 60 s.
#: By owner, the LoRAs that are on their way to the machines. Changed by the event loop.
_arriving: Final = dict[str, set[futures.Future[None]]]()
_UNKNOWN: Final = "No machine that answers has Krita's nodes with this."


def loras_arrive(owner: str) -> None:
    """Wait until the LoRAs of an owner are on the machines, whose descriptions have them. Blocks."""
    if arriving := tuple(_arriving.get(owner, ())):
        release_connection()
        futures.wait(arriving, timeout=_ARRIVING_SECONDS)


class KritaView(ListenerView):
    """A path of Krita's nodes, whose errors are ``{"error": text}``."""

    def refusal(self, error: RequestError) -> HttpResponse:
        """Return the answer to a request with an error, as Krita's nodes answer."""
        return _error(error.status, error.detail)


def _error(status: int, text: str) -> HttpResponse:
    return json_response({"error": text}, status=status)


class ImageView(KritaView):
    async def get(self, request: HttpRequest, image_id: str) -> HttpResponseBase:
        """Return an image that was put, or a result from the machine that rendered it."""
        content = None
        if _ID.fullmatch(image_id):
            content = await find_content(kept_image, owner_of(request), image_id)
        if content is None:
            return _error(404, "Image not found")
        if isinstance(content, Asset):
            size, tag = content.size_bytes, content.hash
            return await file_response(
                request, content.stored_name, name=image_id, size=size, tag=tag
            )
        async with contextlib.AsyncExitStack() as stack:
            try:
                answer = await stack.enter_async_context(open_image(content))
            except OutputGone as error:
                return _error(404, error.detail)
            kind = answer.headers.get("content-type", "")
            kind = kind if kind in _IMAGE_TYPES else "application/octet-stream"
            headers = {**GUARD_HEADERS, "Content-Type": kind}
            if answer.length is not None:
                headers["Content-Length"] = str(answer.length)
            body = await started_body(stack.pop_all(), answer)
            return StreamingHttpResponse(body, headers=headers)

    async def put(self, request: HttpRequest, image_id: str) -> HttpResponse:
        """Keep an image for the prompts of the next day."""
        if not _ID.fullmatch(image_id):
            raise FieldInvalid("id", "Must have at most 128 letters, digits, dots, - or _.")
        return await asyncio.shield(file_threads.run(_put, request, image_id))


def _put(request: HttpRequest, image_id: str) -> HttpResponse:
    with received_upload(request, WHOLE_BODY) as upload:
        received = replace(upload.received(), name=image_id)
        owner, owner_id = owner_of(request), principal_of(request).user_id
        is_new = image_store(received, owner=owner, owner_id=owner_id, image_id=image_id)
    return json_response(
        {"status": "success" if is_new else "cached"}, status=201 if is_new else 200
    )


async def _answer_of(backend: Backend, path: str) -> Any:
    """Return what a machine's nodes of Krita answer; None: it has none, or does not answer."""
    try:
        async with ComfyClient(backend.url, headers=backend.headers, timeouts=_TIMEOUTS) as comfy:
            return await comfy.krita(path)
    except (BackendError, ValueError) as error:
        logger.info("%s: Krita's nodes gave no answer (%s)", backend.id, error)
        return None


async def _of_machines(path: str) -> list[Any]:
    """Return what the machines answer that have Krita's nodes. ``path``: below ``/api/etn/``,
    percent-encoded.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(backend: Backend) -> Any:
        async with slots:
            return await _answer_of(backend, path)

    backends = await read(usable_backends)
    async with asyncio.TaskGroup() as tasks:
        requests = [tasks.create_task(in_turn(backend)) for backend in backends]
    return [task.result() for task in requests if task.result() is not None]


class ModelInfoView(KritaView):
    async def get(self, request: HttpRequest, folder: str = "checkpoints") -> HttpResponse:
        """Return the models of all machines, page by page as each machine has them.

        Krita does not wait for the answer to a LoRA. It reads this before it sends the prompt.
        """
        await asyncio.to_thread(loras_arrive, owner_of(request))
        query = request.GET.urlencode()
        pages = [
            page
            for page in await _of_machines(f"model_info/{quote(folder, safe='')}?{query}")
            if isinstance(page, dict) and "error" not in page
        ]
        if not pages:
            return _error(404, _UNKNOWN)
        models: dict[str, Any] = {}
        for page in pages:
            models = page | models
        sizes = [page["_meta"] for page in pages if isinstance(page.get("_meta"), dict)]
        if sizes:
            models["_meta"] = {
                name: max(_number(size.get(name)) for size in sizes)
                for name in ("offset", "count", "total")
            }
        return json_response(models)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


class LanguagesView(KritaView):
    async def get(self, _request: HttpRequest) -> HttpResponse:
        """Return the languages that a machine translates."""
        answers = [answer for answer in await _of_machines("languages") if isinstance(answer, list)]
        return json_response(max(answers, key=len, default=[]))


class TranslationView(KritaView):
    async def get(self, _request: HttpRequest, language: str, text: str) -> HttpResponse:
        """Return a text in English, as a machine translates it."""
        path = f"translate/{quote(language, safe='')}/{quote(text, safe='')}"
        for backend in await read(usable_backends):
            answer = await _answer_of(backend, path)
            if isinstance(answer, str):
                return json_response(answer)
        return _error(404, _UNKNOWN)


class SubscriptionView(KritaView):
    def post(self, _request: Request) -> HttpResponse:
        """Do nothing: the editor of a machine publishes no workflow here."""
        return json_response({"status": "success"})


class ModelUploadView(KritaView):
    """LoRA files, which Krita uploads if no machine has one with its name."""

    changes = Right.OPERATE

    async def put(self, request: HttpRequest, folder: str, name: str) -> HttpResponse:
        """Put a LoRA on all machines that answer and have Krita's nodes."""
        if folder != "loras" or not _LORA.fullmatch(name):
            raise FieldInvalid(
                "upload", "Only LoRAs are taken, whose names end in .safetensors, without a folder."
            )
        loop, owner = asyncio.get_running_loop(), owner_of(request)
        task = loop.create_task(_put_on_machines(request, name), name=f"LoRA {name}")
        arriving, arrival = _arriving.setdefault(owner, set()), futures.Future[None]()
        arriving.add(arrival)

        def forget(_: asyncio.Task[HttpResponse]) -> None:
            arrival.set_result(None)
            arriving.discard(arrival)
            if not arriving and _arriving.get(owner) is arriving:
                del _arriving[owner]

        task.add_done_callback(forget)
        return await asyncio.shield(task)


async def _put_on_machines(request: HttpRequest, name: str) -> HttpResponse:
    with received_upload(request, WHOLE_BODY) as upload:
        received = await asyncio.to_thread(upload.received)
        slots = asyncio.Semaphore(_UPLOADS_AT_ONCE)
        backends = await read(usable_backends)
        async with asyncio.TaskGroup() as tasks:
            puts = [
                tasks.create_task(_put_lora(backend, name, received, slots)) for backend in backends
            ]
    errors = [put.result() for put in puts]
    machines = [one.id for one, error in zip(backends, errors, strict=True) if error is None]
    if machines:
        await act(
            partial(record_alone, bytes=received.size_bytes, backends=machines),
            Action.MODEL_UPLOADED,
            f"loras/{name}",
        )
        again = descriptions.nodes.again
        await asyncio.to_thread(again, backends, "", since=time.monotonic(), within=_READ_SECONDS)
        return json_response({"status": "success"}, status=201)
    return _error(503, next(filter(None, errors), _UNKNOWN))


async def _put_lora(
    backend: Backend, name: str, received: ReceivedFile, slots: asyncio.Semaphore
) -> str | None:
    """Put a LoRA on a machine; return why not."""

    async def chunks() -> AsyncIterator[bytes]:
        with received.path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, 2**20):
                yield chunk

    try:
        async with slots, ComfyClient(backend.url, headers=backend.headers) as comfy:
            await comfy.put_lora(name, chunks(), size=received.size_bytes)
    except (BackendError, ValueError) as error:
        logger.warning("%s: the LoRA %s was not put there (%s)", backend.id, name, error)
        return f"{name} was not put on {backend.name}: {error}"
    logger.info("%s: the LoRA %s was put there", backend.id, name)
    return None
