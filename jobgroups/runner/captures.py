"""Copies the outputs of completed jobs into the storage, in the background of a runner or in a
process of `files`.

A file is copied at most by one runner that leases its backend, or by the process that claims it. It
may be copied by two (a backend is disabled, a process of `files` has just started, or was
suspended), of which one stores it. A job's outcome never waits for it. Each backend has slots of
its own: one that is slow, or sends large files, delays no capture of another.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from blake3 import blake3
from django.db import DatabaseError

from backends.comfyui.client import ComfyClient
from jobgroups.database.threads import TRANSIENT, DatabaseThreads, log_outage
from jobgroups.domain.marked_png import MarkedPng
from jobgroups.domain.text import gibibytes
from jobgroups.errors import (
    BackendAway,
    OutputGone,
    OutputReplaced,
    StorageAway,
    StorageFull,
    WrongBody,
)
from jobgroups.log_context import bound
from jobgroups.models import StoredFile
from jobgroups.outputs import download
from jobgroups.outputs.media_facts import stored_row
from jobgroups.queries.outputs import OutputFile, claimed_captures, due_backends, due_captures
from jobgroups.runner.file_hashes import FileHasher
from jobgroups.runner.intervals import Intervals, wait_set
from jobgroups.services import captures
from jobgroups.services.capture_sets import Copy, captures_store
from jobgroups.services.files import output_replaced
from jobgroups.services.stored_files import IncomingFile, is_local, require_space, require_storage

logger = logging.getLogger(__name__)

_FROM_ONE: Final = 2  #: Files that are copied at once from one backend.
_STORED: Final = 4  #: Whole files that are put into a bucket at once.
_SET: Final = 64  #: Files that are stored at once, and that wait for it.
_BATCH: Final = 96  #: Captures of a backend that are read at once: more than wait to be stored,
_CLAIMED: Final = 16  #: and that are claimed at once: the others are left to other processes.
#: Bytes that are written and hashed at once, while the next ones are received.
_CHUNK: Final = 2**22
_LEAST_CHUNK: Final = 2**16  #: The same, while many files are copied.
_BUFFERED: Final = 2**26  #: Bytes that all files have received and not written.
_HASHED_AT_ONCE: Final = 2**20  #: Bytes of a file whose SHA-256 takes less than a write of its own.
_CHECKED: Final = 2**22  #: Bytes of a PNG whose checksums take less than a second request.
_MOST_UNKNOWN: Final = 2**33  #: Bytes of a body without a length, which need not end.


#: The ids and files of due captures, by their backends.
_FilesByBackend = Mapping[str, Sequence[tuple[int, OutputFile]]]


@dataclass(slots=True)
class _Source:
    """A backend from which files are copied, for the tasks that do it."""

    backend_id: str
    tasks: int = 0
    waiting: deque[tuple[int, OutputFile]] = field(default_factory=deque)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Received:
    """A whole file that waits to be stored with others."""

    copy: Copy
    file: OutputFile
    incoming: IncomingFile


class Capturer:
    """Copies what is due. ``due`` is set when there may be more.

    A ``runner`` copies from the backends that no other one leases; without, it is a process of
    `files`, which claims files.
    """

    def __init__(self, *, runner: str | None, intervals: Intervals) -> None:
        self.due = asyncio.Event()
        self.is_out_of_memory = asyncio.Event()  #: Set after a copy that failed for want of memory.
        self._runner = runner
        self._intervals = intervals
        # One more: what is due is read, and what failed is stored, while a bucket takes files.
        self._threads = DatabaseThreads(threads=_STORED + 1, name="captures", is_shared=True)
        self._storing = asyncio.Semaphore(_STORED)
        self._sources: dict[str, _Source] = {}
        self._known: set[int] = set()  #: The captures that were read, and are not stored yet.
        self._received: asyncio.Queue[_Received] = asyncio.Queue(_SET)
        #: Backends from which nothing can be copied, and the monotonic time of the next try.
        self._away: dict[str, float] = {}
        self._hasher = FileHasher(
            self._threads, runner=runner, intervals=intervals, is_idle=lambda: not self._sources
        )

    async def run(self) -> None:
        """Copy files until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hasher.run(), name="hashes of captured files")
            tasks.create_task(self._store_sets(), name="copied files")
            while True:
                self.due.clear()
                try:
                    # A backend with files that wait needs no more, nor one that is away.
                    busy = {
                        source.backend_id for source in self._sources.values() if source.waiting
                    }
                    busy.update(filter(self._is_away, self._away))
                    backend_ids, files_by_backend = await self._threads.run(self._due, busy)
                    self._add(files_by_backend)
                    for backend_id in backend_ids:
                        if backend_id not in files_by_backend:
                            self._sources.setdefault(
                                backend_id, _Source(backend_id)
                            ).may_have_more = True
                    for source in list(self._sources.values()):
                        if source.waiting or source.may_have_more:
                            self._start(tasks, source)
                except StorageFull:
                    pass  # the captures stay pending
                except (DatabaseError, OSError) as error:
                    log_outage("Captures", error)
                if self._runner is not None:
                    await wait_set(self.due, within=self._intervals.poll)
                # Each read of what is due, and each connection, costs as much as a few files.
                await asyncio.sleep(self._intervals.capture_gap)

    def close(self) -> None:
        self._threads.close()

    @property
    def claimed(self) -> list[int]:
        """The captures that are claimed, and not stored yet."""
        return list(self._known)

    def _due(self, busy: Collection[str]) -> tuple[list[str], _FilesByBackend]:
        """Return the backends with due captures that are not busy, and the captures of those that
        could be read.
        """
        require_space()
        backend_ids = [
            backend_id for backend_id in due_backends(runner=self._runner) if backend_id not in busy
        ]
        try:
            return backend_ids, self._due_of(backend_ids) if backend_ids else {}
        except DatabaseError:
            raise
        except Exception:
            # The task of each backend reads its own: one with an invalid row delays no other.
            logger.exception("Captures: unexpected error")
            return backend_ids, {}

    def _due_of(self, backend_ids: Collection[str]) -> _FilesByBackend:
        if self._runner is not None:
            return due_captures(backend_ids=backend_ids, limit=_BATCH)
        seconds = self._intervals.capture_claim
        return claimed_captures(
            captures.captures_claim(backend_ids=backend_ids, limit=_CLAIMED, seconds=seconds)
        )

    def _add(self, files_by_backend: _FilesByBackend) -> None:
        for backend_id, files in files_by_backend.items():
            # What a runner has read is due until it is stored.
            if unknown := [file for file in files if file[0] not in self._known]:
                source = self._sources.setdefault(backend_id, _Source(backend_id))
                source.may_have_more = len(files) == (_CLAIMED if self._runner is None else _BATCH)
                source.waiting.extend(unknown)
                self._known.update(capture_id for capture_id, _ in unknown)

    def _is_away(self, backend_id: str) -> bool:
        return self._away.get(backend_id, 0.0) > time.monotonic()

    def _start(self, tasks: asyncio.TaskGroup, source: _Source) -> None:
        if source.tasks < _FROM_ONE:
            source.tasks += 1
            tasks.create_task(
                self._capture_from(tasks, source), name=f"captures of {source.backend_id}"
            )

    async def _capture_from(self, tasks: asyncio.TaskGroup, source: _Source) -> None:
        """Copy what is due of a backend, until there is no more, or it does not answer."""
        try:
            while (claimed := await self._next(source)) is not None:
                if source.waiting:
                    self._start(tasks, source)
                capture_id, file = claimed
                with _bind_fields(file):
                    await self._capture(capture_id, file, source)
        except Exception:
            # An error here must not end the runner, which drives the backends.
            logger.exception("Captures from %s: unexpected error", source.backend_id)
            self._away[source.backend_id] = time.monotonic() + self._intervals.capture_longest
        finally:
            source.tasks -= 1
            if not source.tasks:
                self._forget(source)
                del self._sources[source.backend_id]
                await source.clients.aclose()
            # More may have become due meanwhile.
            self.due.set()

    async def _next(self, source: _Source) -> tuple[int, OutputFile] | None:
        """Return a due capture that is not copied yet; None if there is none, or its backend is
        away.
        """
        async with source.reading:
            if not source.waiting and source.may_have_more:
                source.may_have_more = False
                self._add(await self._threads.run_with_retry(self._due_of, [source.backend_id]))
            if self._is_away(source.backend_id):
                self._forget(source)
            return source.waiting.popleft() if source.waiting else None

    def _forget(self, source: _Source) -> None:
        """Leave what waits of a backend to a later read."""
        self._known.difference_update(capture_id for capture_id, _ in source.waiting)
        source.waiting.clear()

    async def _capture(self, capture_id: int, file: OutputFile, source: _Source) -> None:
        is_waiting = False
        try:
            is_waiting = await self._copy(capture_id, file, await source.client_for(file))
        except Exception as error:  # noqa: BLE001 it is logged or stored
            await self._store_failure(capture_id, file, error)
        finally:
            if not is_waiting:
                self._known.discard(capture_id)

    async def _store_failure(self, capture_id: int, file: OutputFile, error: Exception) -> None:
        store = self._threads.run_with_retry
        if isinstance(error, OutputGone):
            if isinstance(error, OutputReplaced):
                await store(output_replaced, job_id=file.job_id, digest=file.digest)
            await store(captures.capture_give_up, capture_id=capture_id, reason=error.detail)
            return
        if not isinstance(error, (BackendAway, StorageAway, StorageFull, OSError, *TRANSIENT)):
            logger.error(
                "Capture of %s from %s: unexpected error",
                file.filename,
                file.backend_id,
                exc_info=error,
            )
        pause = await store(
            captures.capture_postpone,
            capture_id=capture_id,
            first=self._intervals.capture_first,
            longest=self._intervals.capture_longest,
            reason=str(error) or type(error).__name__,
        )
        if isinstance(error, MemoryError):
            self.is_out_of_memory.set()
        if isinstance(error, BackendAway | StorageAway | StorageFull) and not isinstance(
            error, WrongBody
        ):
            self._away[file.backend_id] = time.monotonic() + pause

    async def _copy(self, capture_id: int, file: OutputFile, client: ComfyClient | None) -> bool:
        """Copy a file; return whether it waits to be stored with others."""
        incoming: IncomingFile | None = None
        try:
            async with download.open_at_backend(file, client=client) as answer:
                chunks, length = (
                    download.join_chunks(answer.chunks(), self._chunk),
                    answer.length or 0,
                )
                check = (
                    MarkedPng()
                    if file.filename.lower().endswith(".png") and length <= _CHECKED
                    else None
                )
                creating = self._threads.submit(
                    functools.partial(_create, await anext(chunks), length, check)
                )
                try:
                    incoming = await asyncio.wrap_future(creating)
                except asyncio.CancelledError:
                    creating.add_done_callback(_discard)
                    raise
                await self._receive(chunks, incoming, answer.length)
            is_proven = check is not None and check.is_of(file.group_id, file.job_id)
            warning = await download.verify(file, answer, client=client, is_proven=is_proven)
            if is_local():
                row = await self._threads.run(_synced_row, incoming, file.filename)
                copy = Copy(capture_id, file.group_id, incoming.path, row, warning)
                await self._received.put(_Received(copy, file, incoming))
                return True
            async with self._storing:
                # From here on the thread that stores it discards it if that fails.
                storing, incoming = incoming, None
                await self._threads.run(store_copy, capture_id, file, storing, warning)
            self._want_hash(storing)
        except BaseException:
            if incoming is not None:
                # Not awaited: a task that is cancelled could not. The end of the threads waits for
                # it.
                self._threads.submit(incoming.discard)
            raise
        return False

    async def _store_sets(self) -> None:
        """Store files as soon as they are there, and those that come meanwhile together."""
        try:
            while True:
                some = [await self._received.get()]
                while len(some) < _SET and not self._received.empty():
                    some.append(self._received.get_nowait())
                try:
                    await self._store_set(some)
                except Exception:
                    logger.exception("Captures: unexpected error")  # it must not end the runner
                finally:
                    self._known.difference_update(received.copy.capture_id for received in some)
        finally:
            while not self._received.empty():
                self._threads.submit(self._received.get_nowait().incoming.discard)

    async def _store_set(self, some: Sequence[_Received]) -> None:
        for received, error in (await self._threads.run(_store_set, some)).items():
            if error is not None:
                with _bind_fields(received.file):
                    await self._store_failure(received.copy.capture_id, received.file, error)
            self._want_hash(received.incoming)

    def _want_hash(self, incoming: IncomingFile) -> None:
        if len(incoming.hashes) == 1:
            self._hasher.wanted.set()

    def _chunk(self) -> int:
        at_once = sum(source.tasks for source in self._sources.values())
        return max(_LEAST_CHUNK, min(_CHUNK, _BUFFERED // max(at_once, 1)))

    async def _receive(
        self, chunks: AsyncIterator[bytearray], incoming: IncomingFile, length: int | None
    ) -> None:
        """Write a file of a backend while it arrives."""
        writing: asyncio.Future[None] | None = None
        try:
            async for chunk in chunks:
                if writing is not None:
                    await writing
                if length is None and incoming.size_bytes > _MOST_UNKNOWN:
                    raise OSError(
                        f"it has no length, and more than {gibibytes(_MOST_UNKNOWN)} came"
                    )
                writing = asyncio.wrap_future(
                    self._threads.submit(functools.partial(incoming.write, chunk))
                )
        finally:
            if writing is not None:
                await asyncio.wait([writing])
        if writing is not None:
            writing.result()


def _bind_fields(file: OutputFile) -> contextlib.AbstractContextManager[None]:
    return bound(
        group=file.group_id, job=file.job_id, attempt=file.attempt, backend=file.backend_id
    )


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


def _synced_row(incoming: IncomingFile, filename: str) -> StoredFile:
    incoming.sync()
    return stored_row(incoming, filename)


def store_copy(capture_id: int, output: OutputFile, incoming: IncomingFile, warning: str) -> None:
    """Store a received file with its capture, instead of the copy of ``output`` if it has one."""
    try:
        file = stored_row(incoming, output.filename)
        earlier = None if output.stored is None else output.stored.pk
        captures.capture_store(
            capture_id=capture_id, path=incoming.path, file=file, warning=warning, earlier=earlier
        )
    finally:
        incoming.discard()


def _store_set(some: Sequence[_Received]) -> dict[_Received, Exception | None]:
    """Store received files; return the error of each."""
    try:
        errors = captures_store([received.copy for received in some])
        return {received: errors.get(received.copy.capture_id) for received in some}
    except Exception as error:  # noqa: BLE001 it is that of each
        return dict.fromkeys(some, error)
    finally:
        for received in some:
            received.incoming.discard()
