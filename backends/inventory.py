"""Inventory: the node classes of backends, read from each side by side, and kept in the process for
a minute.

A class that cannot be read in time, or whose description is not ComfyUI's, is not known.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
from asgiref.sync import async_to_sync

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError, BackendUnreachable, ResponseLost
from backends.comfyui.exchange import Timeouts
from backends.models import Backend
from backends.node_classes import NodeClass
from backends.node_texts import Description, TextSizes, description
from backends.queries import release_connection

FRESH_SECONDS: Final = 60.0  #: Seconds for which an answer is used again.
#: Seconds for which one is used again that speaks for a backend: hundreds of backends are not read
#: for each submission. A backend that has lost a file or a node since refuses the prompt.
KEPT_SECONDS: Final = 600.0
MAX_CLASSES: Final = 200  #: Classes of one backend that are read for one check.
_MAX_NAME: Final = 200
_TIMEOUTS: Final = Timeouts(connect_s=2.0, silence_s=5.0, total_s=5.0)
_BACKENDS_AT_ONCE: Final = 64
_REQUESTS_AT_ONCE: Final = 4
#: Wrong answers after which a backend is not queried further: each may have a megabyte.
_MAX_WRONG: Final = 8
_MAX_KEPT: Final = 50_000_000  #: Bytes of all kept answers.
_BEHIND_SECONDS: Final = 5.0  #: In which backends are read behind an answer.

#: Class to what is known of it; None: the backend does not have it.
Classes: TypeAlias = dict[str, NodeClass | None]
#: Likewise, with the whole description.
Descriptions: TypeAlias = dict[str, Description | None]
_Key: TypeAlias = tuple[str, str, str, str]


class _Answers:
    """Kept answers, with the time of each; the oldest are dropped first. May be used by several
    threads.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, tuple[float, Description | None]] = OrderedDict()
        self._sizes = TextSizes()
        self._lock = threading.Lock()

    def get(self, key: _Key, since: float) -> tuple[float, Description | None] | None:
        kept = self._kept.get(key)
        return kept if kept is not None and kept[0] >= since else None

    def keep(self, key: _Key, answer: Description | None) -> None:
        with self._lock:
            self._drop(key)
            self._kept[key] = (time.monotonic(), answer)
            self._sizes.add([answer])
            while self._sizes.sum_bytes > _MAX_KEPT:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: _Key) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._sizes.remove([dropped[1]])


class _Readers:
    """The backends that a thread reads: of submissions at the same moment one reads, and the others
    wait for it.
    """

    def __init__(self) -> None:
        self._busy: dict[str, object] = {}  #: By id, who reads it.
        self._changed = threading.Condition()

    def acquire(self, backends: Iterable[Backend], reader: object, until: float) -> list[Backend]:
        """Return those that no other thread reads, after a wait for one; none if the time is over."""
        with self._changed:
            while (left := until - time.monotonic()) > 0:
                if free := [backend for backend in backends if backend.id not in self._busy]:
                    self._busy.update(dict.fromkeys((backend.id for backend in free), reader))
                    return free
                self._changed.wait(left)
        return []

    def release(self, backends: Iterable[Backend], reader: object) -> None:
        with self._changed:
            for backend in backends:
                if self._busy.get(backend.id) is reader:
                    del self._busy[backend.id]
            self._changed.notify_all()


_ANSWERS: Final = _Answers()
_READERS: Final = _Readers()


def node_classes(
    wanted: Mapping[Backend, Collection[str]], *, since: float, until: float
) -> dict[str, Classes]:
    """Return the node classes of :func:`descriptions`; those of equal descriptions are one object."""
    # Most backends have the same.
    made: dict[Description | None, NodeClass | None] = {None: None}
    known: dict[str, Classes] = {}
    for backend_id, classes in descriptions(wanted, since=since, until=until).items():
        for described in classes.values():
            if described not in made and described is not None:
                made[described] = described.node_class
        known[backend_id] = {name: made[described] for name, described in classes.items()}
    return known


def read_behind(wanted: Mapping[Backend, Collection[str]]) -> None:
    """Read what is kept for longer than a minute again, without a wait; one such reading at a time."""
    since = time.monotonic() - FRESH_SECONDS
    is_old = bool(_not_kept(wanted, since, {backend.id: {} for backend in wanted}))
    if is_old and _reading_behind.acquire(blocking=False):
        # Daemonic: it changes nothing, and no end of the process waits for a silent backend.
        run = functools.partial(_read_behind, wanted, since)
        threading.Thread(target=run, name="inventory", daemon=True).start()


def _read_behind(wanted: Mapping[Backend, Collection[str]], since: float) -> None:
    try:
        descriptions(wanted, since=since, until=time.monotonic() + _BEHIND_SECONDS)
    finally:
        _reading_behind.release()


_reading_behind: Final = threading.Lock()


def descriptions(
    wanted: Mapping[Backend, Collection[str]], *, since: float, until: float
) -> dict[str, Descriptions]:
    """Return what is known of node classes by backend id, after requests for what is not kept.

    An answer that is older than ``since`` is not used, and what is not answered by ``until`` is not
    known. Both are times of ``time.monotonic``.
    """
    known: dict[str, Descriptions] = {backend.id: {} for backend in wanted}
    missing = _not_kept(wanted, since, known)
    if missing:
        release_connection()
    while missing and (mine := _READERS.acquire(missing, known, until)):
        try:
            # Another thread may have read them meanwhile.
            again = _not_kept({backend: missing.pop(backend) for backend in mine}, since, known)
            if again:
                async_to_sync(_read_all)(again, known, until)
        finally:
            _READERS.release(mine, known)
    return known


def _not_kept(
    wanted: Mapping[Backend, Collection[str]], since: float, known: Mapping[str, Descriptions]
) -> dict[Backend, list[str]]:
    """Take kept answers into ``known``, and return the classes without one."""
    missing: dict[Backend, list[str]] = {}
    for backend, class_types in wanted.items():
        for class_type in sorted(class_types)[:MAX_CLASSES]:
            kept = _ANSWERS.get(_key(backend, class_type), since)
            if kept is not None:
                known[backend.id][class_type] = kept[1]
            elif len(class_type) <= _MAX_NAME:
                missing.setdefault(backend, []).append(class_type)
    return missing


def _key(backend: Backend, class_type: str) -> _Key:
    return backend.id, backend.url, backend.comfyui_version, class_type


async def _read_all(
    missing: Mapping[Backend, Iterable[str]], known: Mapping[str, Descriptions], until: float
) -> None:
    gate = asyncio.Semaphore(_BACKENDS_AT_ONCE)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(until - time.monotonic()), asyncio.TaskGroup() as tasks:
            for backend, class_types in missing.items():
                reading = _read_backend(backend, iter(class_types), known[backend.id], gate)
                task = tasks.create_task(reading, name=f"inventory {backend.id}")
                # At once: other submissions need not wait for the slowest of all backends.
                task.add_done_callback(functools.partial(_release, backend, known))


def _release(backend: Backend, reader: object, _task: asyncio.Task[None]) -> None:
    _READERS.release([backend], reader)


async def _read_backend(
    backend: Backend, class_types: Iterator[str], classes: Descriptions, gate: asyncio.Semaphore
) -> None:
    # The stored address or a header may be one that is not usable any more.
    async with gate:
        with contextlib.suppress(ValueError, BackendError):
            async with (
                ComfyClient(backend.url, headers=backend.headers, timeouts=_TIMEOUTS) as comfy,
                asyncio.TaskGroup() as tasks,
            ):
                reader = _Reader(comfy, backend, class_types, classes)
                for _ in range(_REQUESTS_AT_ONCE):
                    tasks.create_task(reader.run())


@dataclass(slots=True)
class _Reader:
    comfy: ComfyClient
    backend: Backend
    class_types: Iterator[str]
    classes: Descriptions
    wrong: int = 0
    replaced: frozenset[str] | None = None

    async def run(self) -> None:
        """Read one class after the other, until the backend is silent or often wrong."""
        for class_type in self.class_types:
            try:
                await self._read(class_type)
            except BackendError as error:
                # An error with a status is an answer about this class alone.
                is_silent = isinstance(error, BackendUnreachable) or (
                    isinstance(error, ResponseLost) and error.status is None
                )
                self.wrong += _MAX_WRONG if is_silent else 1
            if self.wrong >= _MAX_WRONG:
                return

    async def _read(self, class_type: str) -> None:
        described = await self.comfy.object_info(class_type)
        answer = None
        if described is not None:
            answer = description(msgspec.json.encode(described))
            if answer.node_class is None:
                return
        else:
            if self.replaced is None:
                self.replaced = await self.comfy.replaced_classes()
            if class_type in self.replaced:
                return
        _ANSWERS.keep(_key(self.backend, class_type), answer)
        self.classes[class_type] = answer
