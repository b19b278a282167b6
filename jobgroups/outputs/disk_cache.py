"""Least-recently-used cache of files on disk with a limit in bytes."""

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_CLEARED_TO: Final = 0.8  #: Part of the limit that eviction keeps, so that not every new file evicts again.
_ENTRY_BYTES: Final = 512  #: Approximate overhead of a file: a partial block, and its folder entry.


class DiskCache:
    """Files by name in a folder. Thread-safe; several processes may share the folder.

    The folder is created with the first file. ``limit_bytes`` is the limit of all files together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._filled: int | None = None  #: Bytes in the cache as far as this process knows; None: not counted yet.

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
        found = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_size + _ENTRY_BYTES, path))
        return found

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
