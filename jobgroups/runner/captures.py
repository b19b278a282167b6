"""Copies the outputs of completed jobs into the storage, in the background of a runner or in a process of `files`.

A file is copied at most by one runner that leases its backend, or by the process that claims it. It may be copied by two
(a backend is disabled, a process of `files` has just started, or was suspended), of which one stores it. A job's outcome
never waits for it. Each backend has slots of its own: one that is slow, or sends large files, delays no capture of another.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from blake3 import blake3
from django.db import DatabaseError

from backends.comfyui.client import ComfyClient
from jobgroups.database.threads import TRANSIENT, DatabaseThreads
from jobgroups.domain.marked_png import MarkedPng
from jobgroups.domain.text import gibibytes
from jobgroups.errors import BackendAway, OutputGone, OutputReplaced, StorageAway, StorageFull, WrongBody
from jobgroups.log_context import bound
from jobgroups.outputs import download
from jobgroups.outputs.media_facts import stored_row
from jobgroups.queries.outputs import OutputFile, claimed_captures, due_backends, due_captures
from jobgroups.runner.file_hashes import FileHasher
from jobgroups.runner.intervals import Intervals, wait_set
from jobgroups.services import captures
from jobgroups.services.files import output_replaced
from jobgroups.services.stored_files import IncomingFile, is_local, require_space, require_storage

logger = logging.getLogger(__name__)

_FROM_ONE: Final = 2  #: Files that are copied at once from one backend.
_STORED: Final = 4  #: Whole files that are put into the storage at once.
_BATCH: Final = 32  #: Captures that are read at once,
_CLAIMED: Final = 8  #: and that are claimed at once: the others are left to other processes.
_CHUNK: Final = 2**22  #: Bytes that are written and hashed at once, while the next ones are received.
_LEAST_CHUNK: Final = 2**16  #: The same, while many files are copied.
_BUFFERED: Final = 2**26  #: Bytes that all files have received and not written.
_HASHED_AT_ONCE: Final = 2**20  #: Bytes of a file whose SHA-256 takes less than a write of its own.
_CHECKED: Final = 2**22  #: Bytes of a PNG whose checksums take less than a second request.
_MOST_UNKNOWN: Final = 2**33  #: Bytes of a body without a length, which need not end.


@dataclass(slots=True)
class _Source:
    """A backend from which files are copied, for the tasks that do it."""

    backend_id: str
    tasks: int = 0
    waiting: deque[tuple[int, OutputFile]] = field(default_factory=deque)
    active: set[int] = field(default_factory=set)  #: Captures that are copied now, and are still due.
    may_have_more: bool = False  #: Whether the last read found as many as it reads.
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    clients: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    client: ComfyClient | None = None
    address: Any = None  #: Of ``client``.

    async def client_for(self, file: OutputFile) -> ComfyClient | None:
        """Return a client that the tasks share; None if the backend has no usable address."""
        if self.address != (file.url, file.headers):
            self.address, self.client = (file.url, file.headers), None
            with contextlib.suppress(OutputGone, BackendAway):
                self.client = await self.clients.enter_async_context(download.client_of(file))
        return self.client


class Capturer:
    """Copies what is due. ``due`` is set when there may be more.

    A ``runner`` copies from the backends that no other one leases; without, it is a process of `files`, which claims files.
    """

    def __init__(self, *, runner: str | None, intervals: Intervals) -> None:
        self.due = asyncio.Event()
        self.is_out_of_memory = asyncio.Event()  #: Set after a copy that failed for want of memory.
        self._runner = runner
        self._intervals = intervals
        # One more: what is due is read, and what failed is stored, while a bucket takes files.
        self._threads = DatabaseThreads(threads=_STORED + 1, name="captures", keeps_connections=False)
        self._storing = asyncio.Semaphore(_STORED)
        self._sources: dict[str, _Source] = {}
        #: Backends from which nothing can be copied, and the monotonic time of the next try.
        self._away: dict[str, float] = {}
        self._hasher = FileHasher(self._threads, runner=runner, intervals=intervals, is_idle=lambda: not self._sources)

    async def run(self) -> None:
        """Copy files until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hasher.run(), name="hashes of captured files")
            while True:
                self.due.clear()
                try:
                    for backend_id in await self._threads.run(self._due_backends):
                        if not self._is_away(backend_id):
                            self._start(tasks, self._sources.setdefault(backend_id, _Source(backend_id)))
                except StorageFull:
                    pass  # the captures stay pending
                except (DatabaseError, OSError) as error:
                    logger.warning("Captures: %s; retry in %.1f s", error, self._intervals.poll)
                if self._runner is not None:
                    await wait_set(self.due, within=self._intervals.poll)
                # Each read of what is due, and each connection, costs as much as a few files.
                await asyncio.sleep(self._intervals.capture_gap)

    def close(self) -> None:
        self._threads.close()

    @property
    def claimed(self) -> list[int]:
        """The captures that are claimed, and not copied yet."""
        sources = self._sources.values()
        return [capture_id for one in sources for capture_id in (*one.active, *dict(one.waiting))]

    def _due_backends(self) -> list[str]:
        require_space()
        return due_backends(runner=self._runner)

    def _due_of(self, backend_id: str) -> list[tuple[int, OutputFile]]:
        if self._runner is not None:
            return due_captures(backend_id=backend_id, limit=_BATCH)
        ids = captures.captures_claim(backend_id=backend_id, limit=_CLAIMED, seconds=self._intervals.capture_claim)
        return claimed_captures(backend_id=backend_id, ids=ids)

    def _is_away(self, backend_id: str) -> bool:
        return self._away.get(backend_id, 0.0) > time.monotonic()

    def _start(self, tasks: asyncio.TaskGroup, source: _Source) -> None:
        if source.tasks < _FROM_ONE:
            source.tasks += 1
            tasks.create_task(self._capture_from(tasks, source), name=f"captures of {source.backend_id}")

    async def _capture_from(self, tasks: asyncio.TaskGroup, source: _Source) -> None:
        """Copy what is due of a backend, until there is no more, or it does not answer."""
        has_copied = False
        try:
            while (found := await self._next(source, reads=not has_copied)) is not None:
                has_copied = True
                if source.waiting:
                    self._start(tasks, source)
                capture_id, file = found
                try:
                    with bound(group=file.group_id, job=file.job_id, attempt=file.attempt, backend=file.backend_id):
                        await self._capture(capture_id, file, await source.client_for(file))
                finally:
                    source.active.discard(capture_id)
        except Exception:
            # An error here must not end the runner, which drives the backends.
            logger.exception("Captures from %s: unexpected error", source.backend_id)
            self._away[source.backend_id] = time.monotonic() + self._intervals.capture_longest
        finally:
            source.tasks -= 1
            if not source.tasks:
                del self._sources[source.backend_id]
                await source.clients.aclose()
            if has_copied:
                # More may have become due meanwhile.
                self.due.set()

    async def _next(self, source: _Source, *, reads: bool) -> tuple[int, OutputFile] | None:
        """Return a due capture that is not copied yet; None if none is known, and ``reads`` finds none either."""
        async with source.reading:
            if not source.waiting and (reads or source.may_have_more):
                found = await self._threads.run_with_retry(self._due_of, source.backend_id)
                source.may_have_more = len(found) == (_CLAIMED if self._runner is None else _BATCH)
                source.waiting.extend(one for one in found if one[0] not in source.active)
            if self._is_away(source.backend_id):
                source.waiting.clear()
            if not source.waiting:
                return None
            capture_id, file = source.waiting.popleft()
            source.active.add(capture_id)
            return capture_id, file

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
            if isinstance(error, MemoryError):
                self.is_out_of_memory.set()
            if isinstance(error, BackendAway | StorageAway | StorageFull) and not isinstance(error, WrongBody):
                self._away[file.backend_id] = time.monotonic() + pause

    async def _copy(self, capture_id: int, file: OutputFile, client: ComfyClient | None) -> None:
        incoming: IncomingFile | None = None
        try:
            async with download.open_at_backend(file, client=client) as answer:
                chunks, length = download.joined(answer.chunks(), self._chunk), answer.length or 0
                check = MarkedPng() if file.filename.lower().endswith(".png") and length <= _CHECKED else None
                creating = self._threads.submit(functools.partial(_create, await anext(chunks), length, check))
                try:
                    incoming = await asyncio.wrap_future(creating)
                except asyncio.CancelledError:
                    creating.add_done_callback(_discard)
                    raise
                await self._receive(chunks, incoming, answer.length)
            is_proven = check is not None and check.is_of(file.group_id, file.job_id)
            warning = await download.verify(file, answer, client=client, is_proven=is_proven)
            async with self._storing:
                # From here on the thread that stores it discards it if that fails.
                storing, incoming = incoming, None
                await self._threads.run(store_copy, capture_id, file, storing, warning)
            if len(storing.hashes) == 1:
                self._hasher.wanted.set()
        except BaseException:
            if incoming is not None:
                # Not awaited: a task that is cancelled could not. The end of the threads waits for it.
                self._threads.submit(incoming.discard)
            raise

    def _chunk(self) -> int:
        at_once = sum(len(source.active) for source in self._sources.values())
        return max(_LEAST_CHUNK, min(_CHUNK, _BUFFERED // max(at_once, 1)))

    async def _receive(self, chunks: AsyncIterator[bytearray], incoming: IncomingFile, length: int | None) -> None:
        """Write a file of a backend while it arrives."""
        writing: asyncio.Future[None] | None = None
        try:
            async for chunk in chunks:
                if writing is not None:
                    await writing
                if length is None and incoming.size_bytes > _MOST_UNKNOWN:
                    raise OSError(f"it has no length, and more than {gibibytes(_MOST_UNKNOWN)} came")
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


def _create(chunk: bytearray, length: int, check: MarkedPng | None) -> IncomingFile:
    # Before gigabytes are received that cannot be stored.
    require_storage()
    require_space(length)
    # Of a bucket it would have to be read again.
    has_sha256 = 0 < length <= _HASHED_AT_ONCE or not is_local()
    incoming = IncomingFile(blake3(), *([hashlib.sha256()] if has_sha256 else []), check=check)
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
