"""Thumbnails of images, and posters of untrusted videos: from the cache, or made once in one of a
few threads for all concurrent requests.
"""

import asyncio
import contextlib
import logging
import os
import subprocess
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Final

from django.conf import settings

from backends.comfyui.errors import AnswerTooLarge
from jobgroups.database.shared_threads import Share
from jobgroups.domain.media_types import media_kind
from jobgroups.domain.newest import Newest
from jobgroups.errors import BackendAway, NoThumbnail, WrongBody
from jobgroups.outputs import download, ffmpeg
from jobgroups.outputs.drawing_processes import DrawingFailed, draw_picture
from jobgroups.outputs.resize import NotAnImage
from jobgroups.queries.outputs import OutputFile
from jobgroups.services.stored_files import is_local, media_source

_FORMATS: Final = "mov,matroska"
#: Decodes key frames only, and keeps none back: 160 MB for 8K, instead of 350 MB.
_INPUT: Final = ("-flags", "low_delay", "-skip_frame", "nokey")


def first_frame(source: str, width: int) -> bytes:
    """Return the first frame of a video as a PNG of at most ``width`` pixels and the shape of a
    thumbnail, or raise ``NotAnImage``.

    ``source`` is a URL: ``file:…``, or one of the storage.
    """
    # At most three times as high as wide.
    size = f"scale=w='min(iw,{width})':h='min(ih,{3 * width})':force_original_aspect_ratio=decrease"
    one_frame = ("-map", "0:v:0", "-frames:v", "1", "-vf", size, "-threads", "1")
    output = (*one_frame, "-f", "image2pipe", "-c:v", "png", "pipe:1")
    try:
        return ffmpeg.run(str(settings.FFMPEG), source, _FORMATS, _INPUT, output)
    except subprocess.TimeoutExpired:
        raise NotAnImage(f"ffmpeg found no frame within {ffmpeg.WITHIN:g} s.") from None
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotAnImage(f"ffmpeg cannot read it ({type(error).__name__}).") from error


#: The allowed widths: any width would fill the cache with copies of one image.
WIDTHS: Final = (160, 320, 640, 1280, 2560)
#: Threads for files, so that a cached thumbnail does not wait for one that is made.
_FILE_THREADS: Final = 2
#: Originals that are downloaded at once: from one backend, and from all. A slow backend must not
#: delay the thumbnails of others.
_FROM_ONE: Final = 2
_FROM_ALL: Final = 8
_DOWNLOAD_TIMEOUT: Final = 60.0  #: Timeout for downloading an original, in seconds.
#: Seconds for which a file that cannot be drawn is not drawn again: it takes up to 30 s.
_FAILED_SECONDS: Final = 300.0
_MOST_FAILED: Final = 1_000  #: Such files that are remembered.
_CHUNK: Final = 4 * 2**20  #: Approximate length of what is written to disk at once, in bytes.


class Thumbnails:
    """Makes and caches thumbnails; an original above ``max_source_bytes`` is not downloaded."""

    def __init__(self, folder: Path, *, limit_bytes: int, max_source_bytes: int) -> None:
        self._cache = DiskCache(folder, limit_bytes)
        self._max_source = max_source_bytes
        self._files = Share(_FILE_THREADS)
        # Of its own: a video may take 20 s.
        self._posters = Share(1)
        self._failed = Newest[str, str](_MOST_FAILED, _FAILED_SECONDS)  #: Reasons by name.
        # An asyncio lock belongs to one event loop; it is dropped with its last waiter.
        self._locks: weakref.WeakValueDictionary[object, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._sources: weakref.WeakValueDictionary[object, asyncio.Semaphore] = (
            weakref.WeakValueDictionary()
        )

    async def of(self, file: OutputFile, width: int) -> bytes:
        """Return a file's thumbnail as WebP. A cached one outlives the file.

        Raises ``NoThumbnail`` if the file is not an image or a video that can be decoded, and the
        errors of ``open_file``.
        """
        key = (id(asyncio.get_running_loop()), _name(file, width))
        async with self._locks.setdefault(key, asyncio.Lock()):
            kept = await self.kept(file, width)
            if kept is not None:
                return kept
            if (reason := self._failed.get(_name(file, width))) is not None:
                raise NoThumbnail(reason)
            return await self._create(file, width)

    async def kept(self, file: OutputFile, width: int) -> bytes | None:
        return await self._files.run(self._cache.get, _name(file, width))

    async def _create(self, file: OutputFile, width: int) -> bytes:
        is_video = media_kind(file.filename) == "video"
        if is_video and settings.FFMPEG is None:
            raise NoThumbnail(
                "The poster of a video needs ffmpeg, which the Director does not find."
            )
        async with self._source(file.backend_id, _FROM_ONE), self._source("", _FROM_ALL):
            try:
                async with self._original(file, is_video=is_video) as source:
                    if is_video:
                        drawn = await draw_picture(
                            await self._posters.run(first_frame, source, width), width
                        )
                    else:
                        drawn = await draw_picture(source.removeprefix("file:"), width)
            except AnswerTooLarge:
                raise NoThumbnail("It is too large.") from None
            except WrongBody as error:
                raise NoThumbnail(str(error)) from error
            except (DrawingFailed, NotAnImage) as error:
                self._failed.put(_name(file, width), str(error))
                raise NoThumbnail(str(error)) from error
        await self._files.run(self._cache.put, _name(file, width), drawn)
        return drawn

    @contextlib.asynccontextmanager
    async def _original(self, file: OutputFile, *, is_video: bool) -> AsyncIterator[str]:
        """Yield the URL of a file: where it is stored, else of a copy. Of a video it may be one of
        a bucket.
        """
        if file.stored is not None and (is_video or is_local()):
            if not is_video and file.stored.size_bytes > self._max_source:
                raise NoThumbnail("It is too large.")
            if source := await self._files.run(media_source, file.stored):
                yield source
                return
        # By its name: ffmpeg reads the index of a video, which may be at its end, and the first
        # frame.
        with _temporary_folder() as folder:
            path = Path(folder, "original")
            with await self._files.run(path.open, "wb") as original:
                await self._fetch(file, original)
            yield f"file:{path}"

    def _source(self, backend_id: str, at_once: int) -> asyncio.Semaphore:
        key = (id(asyncio.get_running_loop()), backend_id)
        return self._sources.setdefault(key, asyncio.Semaphore(at_once))

    async def _fetch(self, file: OutputFile, original: IO[bytes]) -> None:
        try:
            async with (
                asyncio.timeout(_DOWNLOAD_TIMEOUT),
                download.open_file(file, max_bytes=self._max_source) as answer,
                contextlib.aclosing(
                    download.join_chunks(answer.chunks(), lambda: _CHUNK)
                ) as chunks,
            ):
                async for chunk in chunks:
                    await self._files.run(_append, original, chunk)
        except TimeoutError:
            reason = f"It did not send the whole file within {_DOWNLOAD_TIMEOUT:g} s."
            raise BackendAway(file.backend_name, reason) from None


def _name(file: OutputFile, width: int) -> str:
    return f"{file.identity}-{width}.webp"


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="thumbnail-", ignore_cleanup_errors=True)
    except OSError as error:
        raise NoThumbnail("The disk for temporary files is full.") from error
    with folder as path:
        yield path


def _append(file: IO[bytes], chunk: bytearray) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise NoThumbnail("The disk for temporary files is full.") from error


logger = logging.getLogger(__name__)

#: Part of the limit that eviction keeps, so that not every new file evicts again.
_CLEARED_TO: Final = 0.8
_ENTRY_BYTES: Final = 512  #: Approximate overhead of a file: a partial block, and its folder entry.


class DiskCache:
    """Files by name in a folder. Thread-safe; several processes may share the folder.

    The folder is created with the first file. ``limit_bytes`` is the limit of all files together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._lock = threading.Lock()
        #: Bytes in the cache as far as this process knows; None: not counted yet.
        self._filled: int | None = None

    def get(self, name: str) -> bytes | None:
        """Return the content under a name and record its use, or return None."""
        path = self._path(name)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content

    def put(self, name: str, content: bytes) -> None:
        """Store content under a name. If the disk is full or read-only, log it and return."""
        path = self._path(name)
        draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.replace(path)
        except OSError as error:
            logger.warning("thumbnail cache: file not stored (%s)", error)
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            return
        self._count(len(content) + _ENTRY_BYTES)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _count(self, added: int) -> None:
        with self._lock:
            if self._filled is None:
                self._filled = sum(size for _, size, _ in self._entries())
            else:
                self._filled += added
            if self._filled > self._limit:
                self._filled = self._clear()

    def _entries(self) -> list[tuple[int, int, Path]]:
        entries = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                entries.append((stat.st_mtime_ns, stat.st_size + _ENTRY_BYTES, path))
        return entries

    def _clear(self) -> int:
        """Remove the least recently used files; return the remaining bytes."""
        entries = sorted(self._entries(), key=lambda entry: entry[0])
        left = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if left <= self._limit * _CLEARED_TO:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                left -= size
        return left
