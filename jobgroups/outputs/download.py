"""A file at its backend, opened: the one door from a request to a registered ComfyUI."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.comfyui.exchange import StreamedAnswer, Timeouts
from jobgroups.domain.clock import now
from jobgroups.errors import BackendAway, OutputGone, OutputReplaced
from jobgroups.queries.outputs import OutputFile

#: A person waits: a backend that is away is said to be so soon.
_TIMEOUTS: Final = Timeouts(connect_s=3.0, silence_s=10.0)
#: Bytes of a piece, roughly.
_PIECE: Final = 4 * 2**20
#: Files are dated in whole seconds, some file systems in every other one.
_WRITTEN_WITHIN: Final = dt.timedelta(seconds=2)
#: The same where two clocks are compared, whose difference may have changed since.
_WRITTEN_ROUGHLY_WITHIN: Final = dt.timedelta(seconds=60)
#: ComfyUI's answers for a file that is not there, or that it will not give.
_GONE: Final = frozenset({400, 403, 404})


@contextlib.asynccontextmanager
async def open_file(
    file: OutputFile, *, headers: Mapping[str, str] | None = None, max_bytes: int | None = None
) -> AsyncIterator[StreamedAnswer]:
    """Open a file at its backend: 200, 206, 304 or 416.

    Args:
        headers: ``Range``, ``If-None-Match`` and the like.
        max_bytes: the longest body that is read, None for any.

    Raises:
        OutputGone: the backend does not have it (any more).
        OutputReplaced: the backend has another file of this name, which a later job has written.
        BackendAway: the backend does not answer, or not as a ComfyUI.
        AnswerTooLarge: it is longer than ``max_bytes``.
    """
    if file.replaced:
        raise OutputReplaced(file.filename, file.backend_id)
    try:
        client = ComfyClient(file.url, headers=file.headers, timeouts=_TIMEOUTS)
    except ValueError as error:
        # Registered by a version that took such an address.
        raise BackendAway(file.backend_id, str(error)) from error
    try:
        async with (
            client as comfy,
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
                raise OutputReplaced(file.filename, file.backend_id)
            yield answer
    except AnswerTooLarge:
        raise
    except BackendError as error:
        raise BackendAway(file.backend_id, error.detail) from error


def _is_younger(file: OutputFile, answer: StreamedAnswer) -> bool:
    """Return whether the file was written after its job had ended.

    Where the end is known by the Director's clock alone (an attempt of a release that did not store the
    other), the two clocks are compared by the answer's ``Date``.
    """
    written = answer.moment("last-modified")
    if written is None or file.ended_at is None:
        return False
    if file.ended_by_backend:
        return written > file.ended_at + _WRITTEN_WITHIN
    backend_now = answer.moment("date")
    if backend_now is None:
        return False
    return written > file.ended_at + (backend_now - now()) + _WRITTEN_ROUGHLY_WITHIN


async def iter_chunks(file: OutputFile, *, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield a whole file in pieces of some megabytes. Read to the end, or closed by the caller.

    Raises:
        OutputGone, BackendAway, AnswerTooLarge: as :func:`opened`.
    """
    piece = bytearray()
    async with open_file(file, max_bytes=max_bytes) as answer:
        async for chunk in answer.chunks():
            piece += chunk
            if len(piece) >= _PIECE:
                yield bytes(piece)
                piece.clear()
    yield bytes(piece)
