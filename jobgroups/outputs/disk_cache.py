"""Thumbnails on disk, bounded in bytes: the one that was not asked for the longest goes first."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

#: After a clearing so much of the limit is filled, so that not every new one clears again.
_CLEARED_TO: Final = 0.8
#: What one entry takes besides its bytes, roughly: a block, and its place in the folder.
_ENTRY_BYTES: Final = 512


class DiskCache:
    """Files by name in a folder. Any thread; several processes may share the folder.

    Args:
        folder: made when the first one is kept.
        limit_bytes: of all files together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._lock = threading.Lock()
        #: Bytes on the shelf as far as this process knows; None: not counted yet.
        self._filled: int | None = None

    def get(self, name: str) -> bytes | None:
        """Return what is kept under a name and note that it was asked for; None: nothing is."""
        path = self._path(name)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content

    def put(self, name: str, content: bytes) -> None:
        """Keep content under a name. A full or read-only disk costs the copy, no more."""
        path = self._path(name)
        draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.replace(path)
        except OSError as error:
            logger.warning("A thumbnail was not kept: %s", error)
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            return
        self._count(len(content) + _ENTRY_BYTES)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _count(self, added: int) -> None:
        with self._lock:
            self._filled = self._measured() if self._filled is None else self._filled + added
            if self._filled > self._limit:
                self._filled = self._clear()

    def _measured(self) -> int:
        return sum(size for _, size, _ in self._entries())

    def _entries(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_size + _ENTRY_BYTES, path))
        return found

    def _clear(self) -> int:
        """Remove the oldest until there is room; return what is left, in bytes."""
        entries = sorted(self._entries(), key=lambda entry: entry[0])
        left = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if left <= self._limit * _CLEARED_TO:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                left -= size
        return left
