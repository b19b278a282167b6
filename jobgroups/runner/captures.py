"""Copies the outputs of completed jobs into the storage, in the background of a runner.

A file is copied at most by one runner that leases its backend; of a disabled backend perhaps by several, of which one
stores it. A job's outcome never waits for it.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Final

from blake3 import blake3
from django.db import DatabaseError

from backends.comfyui.client import ComfyClient
from jobgroups.database.threads import TRANSIENT, DatabaseThreads
from jobgroups.errors import BackendAway, OutputGone, OutputReplaced, StorageAway, StorageFull, WrongBody
from jobgroups.log_context import bound
from jobgroups.outputs import download
from jobgroups.outputs.media_facts import stored_row
from jobgroups.queries.outputs import OutputFile, due_backends, due_captures
from jobgroups.runner.intervals import Intervals, wait_set
from jobgroups.services import captures
from jobgroups.services.files import output_replaced
from jobgroups.services.stored_files import IncomingFile, require_space, require_storage

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 4  #: Files that are copied at once.
_FROM_ONE: Final = 2  #: From one backend.
_BATCH: Final = 32  #: Captures that are read at once.
_CHUNK: Final = 2**22  #: Bytes that are written and hashed at once, while the next ones are received.


class Capturer:
    """Copies what is due, of the backends that no other runner leases. ``due`` is set when there may be more."""

    def __init__(self, *, runner: str, intervals: Intervals) -> None:
        self.due = asyncio.Event()
        self._runner = runner
        self._intervals = intervals
        # One thread more than files: what is due is read, and what failed is stored, while a bucket takes files.
        self._threads = DatabaseThreads(threads=_AT_ONCE + 1, name="captures", keeps_connections=False)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._active: set[str] = set()  #: Backends from which files are copied now.
        #: Backends from which nothing can be copied, and the monotonic time of the next try.
        self._away: dict[str, float] = {}

    async def run(self) -> None:
        """Copy files until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self.due.clear()
                try:
                    await self._threads.run(require_space)
                    for backend_id in await self._threads.run(due_backends, runner=self._runner):
                        if backend_id not in self._active and not self._is_away(backend_id):
                            self._active.add(backend_id)
                            tasks.create_task(self._capture_from(backend_id), name=f"captures of {backend_id}")
                except StorageFull:
                    pass  # the captures stay pending
                except (DatabaseError, OSError) as error:
                    logger.warning("Captures: %s; retry in %.1f s", error, self._intervals.poll)
                await wait_set(self.due, within=self._intervals.poll)
                # Each read of what is due, and each connection, costs as much as a few files.
                await asyncio.sleep(self._intervals.capture_gap)

    def close(self) -> None:
        self._threads.close()

    def _is_away(self, backend_id: str) -> bool:
        return self._away.get(backend_id, 0.0) > time.monotonic()

    async def _capture_from(self, backend_id: str) -> None:
        """Copy what is due of a backend, until a batch was not full, or it does not answer."""
        read = self._threads.run_with_retry
        found: list[tuple[int, OutputFile]] | None = None
        try:
            while (found is None or len(found) == _BATCH) and not self._is_away(backend_id):
                found = await read(due_captures, backend_id=backend_id, limit=_BATCH)
                if not found:
                    return
                async with contextlib.AsyncExitStack() as stack:
                    client = None
                    with contextlib.suppress(OutputGone, BackendAway):
                        client = await stack.enter_async_context(download.client_of(found[0][1]))
                    waiting = iter(found)
                    async with asyncio.TaskGroup() as tasks:
                        for _ in range(_FROM_ONE):
                            tasks.create_task(self._capture_each(waiting, client))
        except Exception:
            # An error here must not end the runner, which drives the backends.
            logger.exception("Captures from %s: unexpected error", backend_id)
            self._away[backend_id] = time.monotonic() + self._intervals.capture_longest
        finally:
            self._active.discard(backend_id)
            if found:
                # More may have become due meanwhile.
                self.due.set()

    async def _capture_each(self, waiting: Iterator[tuple[int, OutputFile]], client: ComfyClient | None) -> None:
        for capture_id, file in waiting:
            async with self._slots:
                if self._is_away(file.backend_id):
                    return
                with bound(group=file.group_id, job=file.job_id, attempt=file.attempt, backend=file.backend_id):
                    await self._capture(capture_id, file, client)

    async def _capture(self, capture_id: int, file: OutputFile, client: ComfyClient | None) -> None:
        store = self._threads.run_with_retry
        try:
            await self._copy(capture_id, file, client)
        except OutputGone as error:
            if isinstance(error, OutputReplaced):
                await store(output_replaced, job_id=file.job_id, digest=file.digest)
            await store(captures.capture_give_up, capture_id=capture_id, reason=error.detail)
        except Exception as error:
            if not isinstance(error, (BackendAway, StorageAway, StorageFull, OSError, *TRANSIENT)):
                logger.exception("Capture of %s from %s: unexpected error", file.filename, file.backend_id)
            pause = await store(
                captures.capture_postpone,
                capture_id=capture_id,
                first=self._intervals.capture_first,
                longest=self._intervals.capture_longest,
                reason=str(error) or type(error).__name__,
            )
            if isinstance(error, BackendAway | StorageAway | StorageFull) and not isinstance(error, WrongBody):
                self._away[file.backend_id] = time.monotonic() + pause

    async def _copy(self, capture_id: int, file: OutputFile, client: ComfyClient | None) -> None:
        incoming: IncomingFile | None = None
        try:
            async with download.open_at_backend(file, client=client) as answer:
                chunks = download.joined(answer.chunks(), _CHUNK)
                creating = self._threads.submit(functools.partial(_create, await anext(chunks), answer.length or 0))
                try:
                    incoming = await asyncio.wrap_future(creating)
                except asyncio.CancelledError:
                    creating.add_done_callback(_discard)
                    raise
                await self._receive(chunks, incoming)
            warning = await download.verify(file, answer, client=client)
            # From here on the thread that stores it discards it if that fails.
            storing, incoming = incoming, None
            await self._threads.run(store_copy, capture_id, file, storing, warning)
        except BaseException:
            if incoming is not None:
                # Not awaited: a task that is cancelled could not. The end of the threads waits for it.
                self._threads.submit(incoming.discard)
            raise

    async def _receive(self, chunks: AsyncIterator[bytearray], incoming: IncomingFile) -> None:
        """Write a file of a backend while it arrives."""
        writing: asyncio.Future[None] | None = None
        try:
            async for chunk in chunks:
                if writing is not None:
                    await writing
                writing = asyncio.wrap_future(self._threads.submit(functools.partial(incoming.write, chunk)))
        finally:
            if writing is not None:
                await asyncio.wait([writing])
        if writing is not None:
            writing.result()


def _discard(creating: Future[IncomingFile]) -> None:
    """Discard the file, if it was created after its task was cancelled."""
    if not creating.cancelled() and creating.exception() is None:
        creating.result().discard()


def _create(chunk: bytearray, length: int) -> IncomingFile:
    # Before gigabytes are received that cannot be stored.
    require_storage()
    require_space(length)
    incoming = IncomingFile(blake3(), hashlib.sha256())
    try:
        incoming.write(chunk)
    except BaseException:
        incoming.discard()
        raise
    return incoming


def store_copy(capture_id: int, output: OutputFile, incoming: IncomingFile, warning: str) -> None:
    """Store a received file with its capture, instead of the copy of ``output`` if it has one."""
    try:
        file = stored_row(incoming, output.filename)
        earlier = None if output.stored is None else output.stored.pk
        captures.capture_store(capture_id=capture_id, path=incoming.path, file=file, warning=warning, earlier=earlier)
    finally:
        incoming.discard()
