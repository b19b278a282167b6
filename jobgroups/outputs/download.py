"""Opens a file in the storage, else at its backend: the only way to the files of a registered
ComfyUI.
"""

import contextlib
import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Final

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.comfyui.exchange import StreamedAnswer, Timeouts
from jobgroups.domain.bodies import Body, NoCopy
from jobgroups.domain.clock import now
from jobgroups.errors import BackendAway, OutputGone, OutputReplaced, WrongBody
from jobgroups.outputs.stored import StoredAnswer, open_stored
from jobgroups.queries.outputs import OutputFile

_TIMEOUTS: Final = Timeouts(connect_s=3.0, silence_s=10.0)  #: Short: a user waits for the answer.
#: The resolution of file dates: 1 s, on some file systems 2 s.
_DATE_TOLERANCE: Final = dt.timedelta(seconds=2)
#: The tolerance if two clocks are compared, whose difference may have changed.
_CLOCK_TOLERANCE: Final = dt.timedelta(seconds=60)
#: ComfyUI's statuses for a missing file, or one that it refuses to send.
_GONE: Final = frozenset({400, 403, 404})


class BackendAnswer:
    """A backend's answer for a file. Its chunks are judged before they are passed on, and the last
    one at the end.
    """

    def __init__(self, answer: StreamedAnswer, file: OutputFile) -> None:
        self.status, self.headers, self.length = answer.status, answer.headers, answer.length
        self.written_at = answer.moment("last-modified")
        # Of another status the body is a part of a file, or none.
        self.body = Body(file.filename if answer.status == 200 else "")
        self._file = file
        self._chunks = answer.chunks()
        self._next: bytes | None = None

    async def begin(self) -> None:
        """Read the first chunk, by which a web page is known; raise ``WrongBody``."""
        self._next = await self._read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body; raise ``WrongBody`` before its last chunk if it is not the whole file."""
        while (chunk := self._next) is not None:
            self._next = await self._read()
            yield chunk

    async def _read(self) -> bytes | None:
        chunk = await anext(self._chunks, None)
        try:
            self.body.end() if chunk is None else self.body.add(chunk)
        except NoCopy as error:
            raise WrongBody(self._file.backend_name, error) from None
        return chunk


@contextlib.asynccontextmanager
async def open_file(
    file: OutputFile, *, headers: Mapping[str, str] | None = None, max_bytes: int | None = None
) -> AsyncIterator[BackendAnswer | StoredAnswer]:
    """Open the copy of a file, or the original at its backend if the storage has no whole copy. Of a
    backend's answer the status is 200, 206, 304, 412 or 416.

    Args:
        headers: ``Range``, ``If-None-Match`` and similar ones, for the backend.
        max_bytes: the maximum length of the body, None for any.

    Raises:
        OutputGone: the backend does not have the file, or is not registered any more.
        OutputReplaced: a later job has written another file with this name.
        BackendAway: the backend does not answer, or not like a ComfyUI.
        WrongBody: the backend sends a web page instead of the file; raised by the chunks, too.
        AnswerTooLarge: the body is longer than ``max_bytes``.
    """
    stored: StoredAnswer | None = None
    if file.stored is not None:
        if max_bytes is not None and file.stored.size_bytes > max_bytes:
            raise AnswerTooLarge(
                f"The stored file has more than {max_bytes} bytes.", path=file.filename
            )
        with contextlib.suppress(OutputGone):
            stored = await open_stored(file.stored)
    if stored is not None:
        yield stored
        return
    async with open_at_backend(file, headers=headers, max_bytes=max_bytes) as answer:
        yield answer


@contextlib.asynccontextmanager
async def open_at_backend(
    file: OutputFile,
    *,
    headers: Mapping[str, str] | None = None,
    max_bytes: int | None = None,
    client: ComfyClient | None = None,
) -> AsyncIterator[BackendAnswer]:
    """Open a file at its backend, as :func:`open_file` does, also one that is stored, with a client
    of it if there is one.
    """
    if file.replaced:
        raise OutputReplaced(file.filename, file.backend_name)
    async with (
        _backend_of(file, client) as comfy,
        comfy.view(
            file.filename,
            subfolder=file.subfolder,
            type=file.kind,
            headers=headers,
            max_bytes=max_bytes,
        ) as answer,
    ):
        if answer.status in _GONE:
            raise OutputGone("Its backend does not have the file any more.")
        if _is_younger(file, answer):
            raise OutputReplaced(file.filename, file.backend_name)
        judged = BackendAnswer(answer, file)
        await judged.begin()
        yield judged


@contextlib.asynccontextmanager
async def _backend_of(file: OutputFile, client: ComfyClient | None) -> AsyncIterator[ComfyClient]:
    """Yield a client of a file's backend, whose errors become ``BackendAway``."""
    try:
        async with (
            contextlib.nullcontext(client) if client is not None else client_of(file) as comfy
        ):
            yield comfy
    except AnswerTooLarge:
        raise
    except BackendError as error:
        raise BackendAway(file.backend_name, error.detail) from error


@contextlib.asynccontextmanager
async def open_image(file: OutputFile) -> AsyncIterator[StreamedAnswer]:
    """Open an image that Krita's nodes keep at a backend, by its id, the name of the file.

    Raises ``OutputGone`` or ``BackendAway``.
    """
    async with _backend_of(file, None) as comfy, comfy.image(file.filename) as answer:
        if answer.status == 404:
            raise OutputGone("Its backend does not keep the image any more.")
        yield answer


async def verify(
    file: OutputFile,
    answer: BackendAnswer,
    *,
    client: ComfyClient | None = None,
    is_proven: bool = False,
) -> str:
    """Return what is doubtful about a file that was read, as a sentence; empty if nothing is.

    Raises ``OutputReplaced`` if it has been written again meanwhile, ``WrongBody`` if it has
    another length, and the errors of :func:`open_file`. If its content proves that it is one
    picture of the job (``is_proven``), no second request is sent.
    """
    body, tag = answer.body, answer.headers.get("etag")
    if tag and not is_proven:
        # A prompt may write to the same name while the file is read.
        async with open_at_backend(file, headers={"If-None-Match": tag}, client=client) as again:
            if again.headers.get("etag", tag) != tag:
                raise OutputReplaced(file.filename, file.backend_name)
    has_end = answer.length is not None or body.is_whole
    if has_end and (tag or is_proven):
        return body.warning
    async with _backend_of(file, client) as comfy:
        head = await comfy.file_head(file.filename, subfolder=file.subfolder, kind=file.kind)
    dates, length = {answer.written_at, head and head.moment("last-modified")}, head and head.length
    if not tag and None not in dates and len(dates) > 1:
        raise OutputReplaced(file.filename, file.backend_name)
    if length is not None and length != body.size:
        raise WrongBody(file.backend_name, f"It has {length} bytes, of which {body.size} arrived.")
    doubts = [body.warning]
    if not has_end and length is None:
        doubts.append("Its end may be missing: the backend did not send its length.")
    if not tag and None in dates:
        doubts.append(
            "Another prompt may have written to it meanwhile: the backend did not send its date."
        )
    return " ".join(filter(None, doubts))


def client_of(file: OutputFile) -> ComfyClient:
    """Return a client of a file's backend; raise ``OutputGone`` or ``BackendAway`` if it has no
    usable address.
    """
    if not file.url:
        raise OutputGone("Its backend is not registered any more.")
    try:
        return ComfyClient(file.url, headers=file.headers, timeouts=_TIMEOUTS)
    except ValueError as error:
        # An earlier version accepted the address.
        raise BackendAway(file.backend_name, str(error)) from error


def _is_younger(file: OutputFile, answer: StreamedAnswer) -> bool:
    """Return whether the file was written after its job had ended.

    If the end is known only by the Director's clock (an attempt of an earlier release), the
    answer's ``Date`` gives the difference of the two clocks.
    """
    written = answer.moment("last-modified")
    if written is None or file.ended_at is None:
        return False
    if file.ended_by_backend:
        return written > file.ended_at + _DATE_TOLERANCE
    backend_now = answer.moment("date")
    if backend_now is None:
        return False
    return written > file.ended_at + (backend_now - now()) + _CLOCK_TOLERANCE


async def join_chunks(
    parts: AsyncIterator[bytes], size: Callable[[], int]
) -> AsyncGenerator[bytearray, None]:
    """Yield the parts joined to chunks of at least ``size()`` bytes; the last one may be smaller."""
    chunk = bytearray()
    async for part in parts:
        chunk += part
        if len(chunk) >= size():
            yield chunk
            chunk = bytearray()
    yield chunk
