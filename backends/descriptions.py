"""Descriptions: what backends have, as the answers of ComfyUI's own lists, kept in the process.

An answer is used for ten minutes, and read again behind the answer that is given if it is older than
a minute: programs read a megabyte of ``/object_info`` at each start, and a ComfyUI needs a second
for it. Each description of a node class is kept once, however many backends have it.
"""

import asyncio
import functools
import hashlib
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError
from backends.comfyui.exchange import Timeouts
from backends.comfyui.versions import release_of
from backends.models import Backend
from backends.node_paths import extension_path
from backends.node_texts import Description, TextSizes, description
from backends.node_union import union
from backends.queries import release_connection

logger = logging.getLogger(__name__)
T = TypeVar("T")

FRESH_SECONDS: Final = (
    60.0  #: Age from which an answer is read again, behind the one that is given.
)
KEPT_SECONDS: Final = 600.0  #: Age to which an answer is used.
#: Seconds after which a backend without an answer is queried again.
_RETRY_SECONDS: Final = 15.0
#: Seconds in which all backends answer: ComfyUI lists the files of its folders for it.
_TIMEOUTS: Final = Timeouts(connect_s=2.0, silence_s=15.0, total_s=20.0)
_MAX_BYTES: Final = 32 * 2**20  #: Of one answer; with all of ComfyUI's own nodes it has about 2 MB.
_BACKENDS_AT_ONCE: Final = 16
_MAX_KEPT: Final = 2_048  #: Answers of one kind.
#: Bytes of the node classes of all backends: of the nodes of ComfyUI and its extensions a hundred
#: backends have most texts in common, and lists of files of their own.
_MAX_NODES: Final = 256 * 2**20
_MAX_LISTS: Final = 32 * 2**20  #: Bytes of all lists.
_MAX_EXTENSIONS: Final = 2_000  #: Scripts of a backend for the editor.
_MAX_EXTENSIONS_BYTES: Final = 2**20  #: Of the list of them.
MAX_WEB_FILE_BYTES: Final = 8 * 2**20  #: Of a file of custom nodes for the browser.
_MAX_WEB_FILES: Final = 64 * 2**20  #: Bytes of all such files.


@dataclass(frozen=True, slots=True, eq=False)
class NodeDescriptions:
    """The node classes of one backend.

    Attributes:
        classes: by name.
        digest: of all texts.
    """

    classes: Mapping[str, Description]
    digest: bytes


async def _read_nodes(client: ComfyClient, _name: str) -> NodeDescriptions:
    texts = await client.object_info_texts()
    whole = hashlib.sha256()
    for name, text in texts.items():
        whole.update(name.encode() + text)
    classes = {
        sys.intern(name): description(text)
        for name, text in texts.items()
        if text.lstrip().startswith(b"{")
    }
    return NodeDescriptions(classes, whole.digest())


_Key: TypeAlias = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    read_at: float  #: Of the answer; minus infinity without one.
    tried_at: float
    answer: T | None = None


class Answers(Generic[T]):
    """The answers of backends to one kind of request. May be used by several threads; a thread of
    its own reads the backends.

    Args:
        read: reads the answer of a backend.
        texts: returns the texts of an answer. The texts of all answers have ``max_bytes`` at most,
            and the answers that were read first are dropped.
    """

    def __init__(
        self,
        read: Callable[[ComfyClient, str], Awaitable[T]],
        texts: Callable[[T], Collection[Description]],
        max_bytes: int,
    ) -> None:
        self._read, self._texts, self._max_bytes = read, texts, max_bytes
        self._sizes = TextSizes()
        self._kept: OrderedDict[_Key, _Kept[T]] = OrderedDict()
        self._reading: set[_Key] = set()
        self._said_full = False
        self._changed = threading.Condition()

    def get(self, rows: Collection[Backend], name: str = "", *, within: float) -> dict[str, T]:
        """Return the answers by backend id.

        Backends without a kept one are waited for, at most ``within`` seconds. ``name``
        distinguishes requests of the kind.
        """
        moment = time.monotonic()
        self._start(self._older(rows, name, moment - FRESH_SECONDS), name, moment - _RETRY_SECONDS)
        self._wait(self._older(rows, name, moment - KEPT_SECONDS), name, within)
        return self._since(rows, name, moment - KEPT_SECONDS)

    def again(
        self, rows: Collection[Backend], name: str, *, since: float, within: float
    ) -> dict[str, T]:
        """Return the answers that were read after ``since``, a time of ``time.monotonic``, after a
        request to the other backends.
        """
        old = self._older(rows, name, since)
        self._start(old, name, since)
        self._wait(old, name, within)
        return self._since(rows, name, since)

    def _older(self, rows: Collection[Backend], name: str, since: float) -> list[Backend]:
        read = self._since(rows, name, since)
        return [row for row in rows if row.id not in read]

    def _since(self, rows: Collection[Backend], name: str, since: float) -> dict[str, T]:
        return {
            row.id: kept.answer
            for row in rows
            if (kept := self._kept.get(_key(row, name)))
            and kept.answer is not None
            and kept.read_at >= since
        }

    def _start(self, rows: Collection[Backend], name: str, untried_since: float) -> None:
        """Have backends read, but for those that are being read, or did not answer lately."""
        with self._changed:
            wanted = [
                row
                for row in rows
                if (key := _key(row, name)) not in self._reading
                and ((kept := self._kept.get(key)) is None or kept.tried_at < untried_since)
            ]
            self._reading.update(_key(row, name) for row in wanted)
        if wanted:
            # Daemonic: it changes nothing, and no end of the process waits for a silent backend.
            run = functools.partial(asyncio.run, self._read_all(wanted, name))
            threading.Thread(target=run, name="descriptions", daemon=True).start()

    def _wait(self, rows: Collection[Backend], name: str, within: float) -> None:
        keys = {_key(row, name) for row in rows}
        with self._changed:
            if self._reading.isdisjoint(keys):
                return
        release_connection()
        with self._changed:
            self._changed.wait_for(lambda: self._reading.isdisjoint(keys), timeout=within)

    async def _read_all(self, rows: Collection[Backend], name: str) -> None:
        gate = asyncio.Semaphore(_BACKENDS_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for row in rows:
                tasks.create_task(self._read_one(row, name, gate), name=f"descriptions {row.id}")

    async def _read_one(self, row: Backend, name: str, gate: asyncio.Semaphore) -> None:
        key, answer = _key(row, name), None
        try:
            async with (
                gate,
                ComfyClient(
                    row.url, headers=row.headers, timeouts=_TIMEOUTS, max_answer_bytes=_MAX_BYTES
                ) as client,
            ):
                answer = await self._read(client, name)
        except (BackendError, ValueError) as error:
            # The stored address or a header may be one that is not usable any more.
            logger.info("%s: not described (%s)", row.id, error)
        finally:
            self._keep(key, answer)

    def _oldest(self) -> float:
        return next(iter(self._kept.values())).tried_at

    def _drop(self, key: _Key) -> _Kept[T] | None:
        dropped = self._kept.pop(key, None)
        if dropped is not None and dropped.answer is not None:
            self._sizes.remove(self._texts(dropped.answer))
        return dropped

    def _keep(self, key: _Key, answer: T | None) -> None:
        moment = time.monotonic()
        with self._changed:
            read_at, before = moment, self._drop(key)
            if answer is None:
                read_at = before.read_at if before else float("-inf")
                answer = before.answer if before else None
            self._kept[key] = _Kept(read_at, moment, answer)
            if answer is not None:
                self._sizes.add(self._texts(answer))
            # Also those of backends that are gone.
            while self._kept and (
                len(self._kept) > _MAX_KEPT
                or self._sizes.sum_bytes > self._max_bytes
                or self._oldest() < moment - KEPT_SECONDS
            ):
                oldest = next(iter(self._kept))
                if self._sizes.sum_bytes > self._max_bytes and not self._said_full:
                    self._said_full = True
                    logger.warning(
                        "Answers of backends have more than %d MiB together. Those that were read"
                        " first, such as that of %s, are missing until they are read again.",
                        self._max_bytes // 2**20,
                        oldest[0],
                    )
                self._drop(oldest)
            self._reading.discard(key)
            self._changed.notify_all()


def _key(row: Backend, name: str) -> _Key:
    return row.id, row.url, row.comfyui_version, name


async def _read_extensions(client: ComfyClient, _name: str) -> Description:
    """Return the paths of scripts of custom nodes, below ``/extensions/`` and percent-encoded."""
    client.max_answer_bytes = _MAX_EXTENSIONS_BYTES
    paths = set(map(extension_path, await client.listing("/extensions") or ()))
    if len(paths) > _MAX_EXTENSIONS:
        raise ValueError(f"it lists more than {_MAX_EXTENSIONS} scripts of extensions")
    return description(msgspec.json.encode(sorted(filter(None, paths))))


async def _read_web_file(client: ComfyClient, path: str) -> Description:
    client.max_answer_bytes = MAX_WEB_FILE_BYTES
    return description(await client.web_file(f"/extensions/{path}"))


async def _read_list(client: ComfyClient, path: str) -> Description:
    return description(msgspec.json.encode(await client.listing(path)))


async def _read_file(client: ComfyClient, name: str) -> bool:
    kind, subfolder, filename = name.split("\0")
    return await client.file_head(filename, subfolder=subfolder, kind=kind) is not None


#: Of each backend, its node classes.
nodes: Final = Answers(_read_nodes, lambda answer: answer.classes.values(), _MAX_NODES)
#: Of each backend, the list at a path; null: the backend has none there.
lists: Final = Answers(_read_list, lambda answer: (answer,), _MAX_LISTS)
#: Of each backend, the scripts of its custom nodes that the editor loads,
extensions: Final = Answers(_read_extensions, lambda answer: (answer,), _MAX_LISTS)
#: and the files of its custom nodes for the browser, by their paths; each content is kept once.
web_files: Final = Answers(_read_web_file, lambda answer: (answer,), _MAX_WEB_FILES)
#: Of each backend, whether it has a file.
_files: Final = Answers(_read_file, lambda _: (), _MAX_LISTS)


def has_file(
    rows: Collection[Backend], kind: str, path: str, *, since: float, within: float
) -> dict[str, bool]:
    """Return by backend id whether it has a file in its folder for a kind; ``since`` and ``within``
    as of ``Answers.again``.
    """
    subfolder, _, filename = path.rpartition("/")
    return _files.again(rows, f"{kind}\0{subfolder}\0{filename}", since=since, within=within)


@dataclass(frozen=True, slots=True, eq=False)
class FarmNodes:
    """The node classes of several backends as those of one.

    Attributes:
        classes: by name; of a class that machines describe differently, the newest ComfyUI's, with
            the choices of all.
        with_uploads: the classes with inputs whose choices are uploaded files.
        digest: of all texts.
        sources: of ``classes``, the descriptions that each was made of.
    """

    classes: Mapping[str, Description]
    with_uploads: frozenset[str]
    digest: str
    sources: Mapping[tuple[Description, ...], Description]

    def body(self, changed: Mapping[str, bytes]) -> bytes:
        """Return the whole answer; ``changed`` has other texts of some classes."""
        pairs = (
            msgspec.json.encode(name) + b":" + changed.get(name, described.text)
            for name, described in self.classes.items()
        )
        return b"{" + b",".join(pairs) + b"}"


_Farm: TypeAlias = tuple[tuple[tuple[int, int, int], bytes], ...]


class _Union:
    """The last union, which is made again only if a backend has other texts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._farm: _Farm = ()
        self._made = FarmNodes({}, frozenset(), "", {})

    def of(self, rows: Sequence[Backend], known: Mapping[str, NodeDescriptions]) -> FarmNodes:
        by_key = {
            (release_of(row.comfyui_version), known[row.id].digest): known[row.id]
            for row in rows
            if row.id in known
        }
        farm = tuple(sorted(by_key, reverse=True))
        with self._lock:
            if farm != self._farm:
                self._made = _unite([by_key[key] for key in farm], self._made.sources)
                self._farm = farm
            return self._made


def _unite(
    known: Sequence[NodeDescriptions], before: Mapping[tuple[Description, ...], Description]
) -> FarmNodes:
    names = dict.fromkeys(name for one in known for name in one.classes)
    classes: dict[str, Description] = {}
    sources: dict[tuple[Description, ...], Description] = {}
    whole = hashlib.sha256()
    for name in names:
        texts = tuple(dict.fromkeys(one.classes[name] for one in known if name in one.classes))
        made = texts[0]
        if len(texts) > 1:
            made = before.get(texts) or description(
                msgspec.json.encode(union([text.value for text in texts]))
            )
            sources[texts] = made
        classes[name] = made
        whole.update(name.encode() + made.text)
    uploads = frozenset(name for name, one in classes.items() if b'_upload"' in one.text)
    return FarmNodes(classes, uploads, whole.hexdigest()[:32], sources)


farm_nodes: Final = _Union().of
