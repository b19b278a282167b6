"""Encoded answers about groups, kept in memory and validated for every request.

An answer is never older than a write that was acknowledged before the request began, by any
process: the version of its group is read after the request has begun.
"""

import asyncio
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar, cast
from weakref import WeakValueDictionary

from django.conf import settings

from jobgroups.database.pools import read
from jobgroups.database.threads import LoopReader
from jobgroups.errors import GroupNotFound
from jobgroups.models import JobGroup
from jobgroups.queries.group_status import Answer, Version, group_versions

A = TypeVar("A", bound=Answer)
_Key: TypeAlias = tuple[object, ...]

#: Bytes of all kept answers, enough for twenty groups of 1,000 jobs; one that is larger is kept
#: alone.
MOST_BYTES: Final = 64 * 2**20
#: Seconds without a request after which an answer is dropped, with the next one that is kept.
UNUSED_SECONDS: Final = 15.0
_VERSION: Final = f"SELECT seq, revision FROM {JobGroup._meta.db_table} WHERE id = ?"  # noqa: S608 a name of ours


class _Versions:
    """Reads versions of groups; on PostgreSQL those that are wanted during a query share the next
    one.
    """

    def __init__(self) -> None:
        self._reader = LoopReader()
        self._wanted: dict[str, asyncio.Future[Version | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def of(self, group_id: str) -> Version:
        """Return the version of a group, as it is now or later, or raise ``GroupNotFound``."""
        version = await self._find(group_id)
        if version is None:
            raise GroupNotFound(group_id)
        return version

    async def _find(self, group_id: str) -> Version | None:
        if settings.DIRECTOR_ON_SQLITE:
            try:
                return cast(Version | None, self._reader.row(_VERSION, group_id))
            except sqlite3.Error:
                self._reader.close()  # the thread below waits for a lock, and its error is raised
        loop = asyncio.get_running_loop()
        future = self._wanted.get(group_id)
        if future is None:
            future = self._wanted[group_id] = loop.create_future()
        if self._reading is None or self._reading.done():
            self._reading = loop.create_task(self._read_wanted(), name="versions")
        return await asyncio.shield(future)

    async def _read_wanted(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            try:
                versions = await read(group_versions, list(wanted))
            except Exception as error:  # noqa: BLE001 raised in each request
                for future in wanted.values():
                    future.set_exception(error)
            else:
                for group_id, future in wanted.items():
                    future.set_result(versions.get(group_id))

    def close(self) -> None:
        self._reader.close()


class Answers:
    def __init__(self) -> None:
        self._versions = _Versions()
        #: Each with the time of its last use, in the order of these times.
        self._kept: OrderedDict[_Key, tuple[Answer, float]] = OrderedDict()
        self._size = 0
        self._locks: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()

    async def version(self, group_id: str) -> Version:
        return await self._versions.of(group_id)

    async def get(self, make: Callable[..., A], group_id: str, *args: str | int) -> A:
        """Return the answer of ``make`` about a group, or raise ``GroupNotFound``.

        ``make`` reads it in a thread; its last argument is the earlier answer, or None.
        """
        began = time.monotonic()
        version = await self._versions.of(group_id)
        place = (make, group_id, *args)
        kept = self._find(place)
        if kept is not None and _is_true(kept, version, began):
            return cast(A, kept)
        async with self._locks.setdefault(place, asyncio.Lock()):
            kept = self._find(place)
            # Another request may have read it meanwhile.
            if kept is None or not _is_true(kept, version, began):
                kept = await read(make, group_id, *args, kept)
                self._keep(place, kept)
        return cast(A, kept)

    def _find(self, place: _Key) -> Answer | None:
        if place not in self._kept:
            return None
        answer, _ = self._kept.pop(place)
        self._kept[place] = answer, time.monotonic()
        return answer

    def _keep(self, place: _Key, answer: Answer) -> None:
        if place in self._kept:
            self._drop(place)
        moment = time.monotonic()
        self._kept[place] = answer, moment
        self._size += answer.size
        while len(self._kept) > 1:
            oldest, (_, used_at) = next(iter(self._kept.items()))
            if self._size <= MOST_BYTES and moment - used_at < UNUSED_SECONDS:
                break
            self._drop(oldest)

    def _drop(self, place: _Key) -> None:
        answer, _ = self._kept.pop(place)
        self._size -= answer.size

    def close(self) -> None:
        self._versions.close()


def _is_true(kept: Answer, version: Version, began: float) -> bool:
    """Return whether an answer has all that was stored when a request began, which then read the
    version.
    """
    return kept.read_at >= began or (kept.version == version and began < kept.expires_at)


answers: Final = Answers()
