"""The lock that dies with its process: who holds a runner's name takes over that name's leases."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


class NameTaken(Exception):
    """Another process holds this lock; it is alive."""


class ProcessLock:
    """A file lock in the data folder, released by the operating system whatever ends the process.

    Args:
        path: of the lock's file; its folder must exist.
        holder: what the lock stands for, as the subject of the refusal's sentence.
    """

    def __init__(self, path: Path, holder: str) -> None:
        self._lock = FileLock(path)
        self._holder = holder

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            NameTaken: another process has it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise NameTaken(
                f"{self._holder} is already running with this data folder"
                f" ({Path(self._lock.lock_file).parent}). Stop it first, or set DIRECTOR_DATA_DIR."
            ) from None

    def release(self) -> None:
        """Let go of the lock."""
        self._lock.release()
