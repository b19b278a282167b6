"""A file's thumbnail: from the shelf, else made in one of a few threads, once however many ask."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from backends.comfyui.errors import AnswerTooLarge
from jobgroups.errors import NoThumbnail
from jobgroups.pictures import fetching
from jobgroups.pictures.drawing import NotDrawable, thumbnail
from jobgroups.pictures.selectors import OutputFile
from jobgroups.pictures.shelf import Shelf

P = ParamSpec("P")
R = TypeVar("R")

#: A page needs few sizes; any number would fill the shelf with copies of one picture.
WIDTHS: Final = (160, 320, 640, 1280)
#: Originals in memory at once; also how many are decoded at once.
_AT_ONCE: Final = 2


class Thumbnails:
    """Makes and keeps thumbnails. Used in one loop at a time.

    Args:
        folder, limit_bytes: of the shelf.
        max_source_bytes: the longest original that is read.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, max_source_bytes: int) -> None:
        self._shelf = Shelf(folder, limit_bytes)
        self._max_source = max_source_bytes
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="thumbnails")
        # An asyncio lock belongs to a loop: none is kept longer than somebody waits for it.
        self._making: weakref.WeakValueDictionary[object, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._sources: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    async def of(self, file: OutputFile, width: int) -> bytes:
        """Return a file's thumbnail as WebP. One that was made outlives the file.

        Raises:
            NoThumbnail: the file is no picture that can be drawn.
            OutputGone, BackendAway: as ``fetching.read``.
        """
        name = f"{file.identity}-{width}.webp"
        kept = await self._in_thread(self._shelf.get, name)
        if kept is not None:
            return kept
        loop = asyncio.get_running_loop()
        lock = self._making.setdefault((id(loop), name), asyncio.Lock())
        async with lock:
            kept = await self._in_thread(self._shelf.get, name)
            return kept if kept is not None else await self._made(file, width, name)

    async def _made(self, file: OutputFile, width: int, name: str) -> bytes:
        loop = asyncio.get_running_loop()
        async with self._sources.setdefault(loop, asyncio.Semaphore(_AT_ONCE)):
            try:
                original = await fetching.read(file, max_bytes=self._max_source)
                drawn = await self._in_thread(thumbnail, original, width)
            except AnswerTooLarge:
                raise NoThumbnail("It is too large.") from None
            except NotDrawable as error:
                raise NoThumbnail(str(error)) from error
        await self._in_thread(self._shelf.put, name, drawn)
        return drawn

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Wait for what is being drawn and end the threads."""
        self._threads.shutdown(wait=True)
