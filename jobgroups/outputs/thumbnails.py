"""Thumbnails of images, and posters of videos: from the cache, or made once in one of a few threads for all concurrent requests."""

import asyncio
import contextlib
import tempfile
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Final, ParamSpec, TypeVar

from django.conf import settings

from backends.comfyui.errors import AnswerTooLarge
from jobgroups.domain.media_types import media_kind
from jobgroups.errors import BackendAway, NoThumbnail
from jobgroups.outputs import download
from jobgroups.outputs.disk_cache import DiskCache
from jobgroups.outputs.posters import poster
from jobgroups.outputs.resize import NotAnImage, thumbnail
from jobgroups.queries.outputs import OutputFile
from jobgroups.services.stored_files import media_source

P = ParamSpec("P")
R = TypeVar("R")

#: The allowed widths: any width would fill the cache with copies of one image.
WIDTHS: Final = (160, 320, 640, 1280, 2560)
_AT_ONCE: Final = 2  #: Thumbnails that are made at once; of large images one, see ``resize``.
_FILE_THREADS: Final = 2  #: Threads for files, so that a cached thumbnail does not wait for one that is made.
#: Originals that are downloaded at once: from one backend, and from all. A slow backend must not delay the
#: thumbnails of others.
_FROM_ONE: Final = 2
_FROM_ALL: Final = 8
_DOWNLOAD_TIMEOUT: Final = 60.0  #: Timeout for downloading an original, in seconds.
_IN_MEMORY: Final = 16 * 2**20  #: Bytes of an original that are held in memory; a longer one is written to disk.


class Thumbnails:
    """Makes and caches thumbnails; an original above ``max_source_bytes`` is not downloaded."""

    def __init__(self, folder: Path, *, limit_bytes: int, max_source_bytes: int) -> None:
        self._cache = DiskCache(folder, limit_bytes)
        self._max_source = max_source_bytes
        self._files = ThreadPoolExecutor(_FILE_THREADS, thread_name_prefix="thumbnail-files")
        self._renderers = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="thumbnails")
        # An asyncio lock belongs to one event loop; it is dropped with its last waiter.
        self._locks: weakref.WeakValueDictionary[object, asyncio.Lock] = weakref.WeakValueDictionary()
        self._sources: weakref.WeakValueDictionary[object, asyncio.Semaphore] = weakref.WeakValueDictionary()

    async def of(self, file: OutputFile, width: int) -> bytes:
        """Return a file's thumbnail as WebP. A cached one outlives the file.

        Raises ``NoThumbnail`` if the file is not an image or a video that can be decoded, and the errors of ``iter_chunks``.
        """
        name = f"{file.identity}-{width}.webp"
        kept = await self._in_thread(self._cache.get, name)
        if kept is not None:
            return kept
        loop = asyncio.get_running_loop()
        lock = self._locks.setdefault((id(loop), name), asyncio.Lock())
        async with lock:
            kept = await self._in_thread(self._cache.get, name)
            return kept if kept is not None else await self._create(file, width, name)

    async def _create(self, file: OutputFile, width: int, name: str) -> bytes:
        draw = self._poster if media_kind(file.filename) == "video" else self._picture
        if draw == self._poster and settings.FFMPEG is None:
            raise NoThumbnail("The poster of a video needs ffmpeg, which the Director does not find.")
        async with self._source(file.backend_id, _FROM_ONE), self._source("", _FROM_ALL):
            try:
                drawn = await draw(file, width)
            except AnswerTooLarge:
                raise NoThumbnail("It is too large.") from None
            except NotAnImage as error:
                raise NoThumbnail(str(error)) from error
        await self._in_thread(self._cache.put, name, drawn)
        return drawn

    async def _picture(self, file: OutputFile, width: int) -> bytes:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as original:
            await self._fetch(file, original)
            return await self._render(thumbnail, original, width)

    async def _poster(self, file: OutputFile, width: int) -> bytes:
        # ffmpeg opens the video by its name: it reads the index, which may be at the end, and the first frame.
        if file.stored is not None and (source := await self._in_thread(media_source, file.stored.stored_name)):
            return await self._render(poster, source, width)
        with tempfile.TemporaryDirectory(prefix="poster-", ignore_cleanup_errors=True) as folder:
            path = Path(folder, "video")
            with await self._in_thread(path.open, "wb") as original:
                await self._fetch(file, original)
            return await self._render(poster, f"file:{path}", width)

    async def _render(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._renderers, call)

    def _source(self, backend_id: str, at_once: int) -> asyncio.Semaphore:
        key = (id(asyncio.get_running_loop()), backend_id)
        return self._sources.setdefault(key, asyncio.Semaphore(at_once))

    async def _fetch(self, file: OutputFile, original: IO[bytes]) -> None:
        try:
            async with asyncio.timeout(_DOWNLOAD_TIMEOUT):
                chunks = download.iter_chunks(file, max_bytes=self._max_source)
                async with contextlib.aclosing(chunks):
                    async for chunk in chunks:
                        await self._in_thread(_append, original, chunk)
        except TimeoutError:
            reason = f"It did not send the whole file within {_DOWNLOAD_TIMEOUT:g} s."
            raise BackendAway(file.backend_id, reason) from None

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._files, call)

    def close(self) -> None:
        """Wait for the running work and end the threads."""
        self._renderers.shutdown(wait=True)
        self._files.shutdown(wait=True)


def _append(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise NoThumbnail("The disk for temporary files is full.") from error
