"""Copies of files from the storage, or from their backends, that are used as files here."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from blake3 import blake3

from jobgroups.models import Asset
from jobgroups.outputs.download import BackendAnswer, join_chunks, open_file
from jobgroups.outputs.stored import StoredAnswer, open_stored
from jobgroups.queries.outputs import OutputFile
from jobgroups.services.stored_files import IncomingFile, has_file, is_local, storage

_CHUNK: Final = 4 * 2**20  #: Bytes that are written at once, in a thread.


async def copied(content: Asset | OutputFile, *, max_bytes: int) -> IncomingFile:
    """Return a copy of a file as an upload leaves it, with its BLAKE3; the caller discards it.

    Raises the errors of ``open_file``, ``StorageFull`` and ``OSError``.
    """
    incoming = await asyncio.to_thread(IncomingFile, blake3())
    try:
        async with contextlib.AsyncExitStack() as stack:
            answer: BackendAnswer | StoredAnswer
            if isinstance(content, Asset):
                answer = await open_stored(content)
            else:
                answer = await stack.enter_async_context(open_file(content, max_bytes=max_bytes))
            parts = join_chunks(answer.chunks(), lambda: _CHUNK)
            async with contextlib.aclosing(parts) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(incoming.write, chunk)
        await asyncio.to_thread(incoming.close)
    except BaseException:
        incoming.discard()
        raise
    return incoming


@contextlib.asynccontextmanager
async def local_path(content: Asset | OutputFile, *, max_bytes: int) -> AsyncIterator[str]:
    """Yield the path of a file: where it is stored, else of a copy. Raises as :func:`copied`, and
    ``AnswerTooLarge``.
    """
    stored = content if isinstance(content, Asset) else content.stored
    if stored is not None and is_local():
        path = str(storage().path(stored.stored_name))
        if await asyncio.to_thread(has_file, stored.stored_name, stored.size_bytes):
            yield path
            return
    copy = await copied(content, max_bytes=max_bytes)
    try:
        yield str(copy.path)
    finally:
        await asyncio.to_thread(copy.discard)
