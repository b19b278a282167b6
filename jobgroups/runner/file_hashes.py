"""Computes the SHA-256 of captured files while no file is copied: it takes several times as long as
a BLAKE3.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from jobgroups.database.threads import DatabaseThreads
from jobgroups.errors import StorageAway
from jobgroups.models import StoredFile
from jobgroups.queries.outputs import unhashed_files
from jobgroups.runner.intervals import Intervals, wait_set
from jobgroups.services.file_hashes import file_hashes_store
from jobgroups.services.stored_files import read_file

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 8  #: Files whose hashes are stored together.
#: Bytes that are read and hashed at once: a copy that becomes due waits for no more.
_PART: Final = 2**22


class FileHasher:
    """Computes what is missing. ``wanted`` is set when a file was stored without its SHA-256.

    Several processes may hash one file, which does no harm. Each begins at another one, and so they
    rarely do.
    """

    def __init__(
        self,
        threads: DatabaseThreads,
        *,
        runner: str | None,
        intervals: Intervals,
        is_idle: Callable[[], bool],
    ) -> None:
        self.wanted = asyncio.Event()
        self._threads = threads
        self._intervals = intervals
        self._is_idle = is_idle
        self._find = functools.partial(unhashed_files, runner=runner, limit=_AT_ONCE)

    async def run(self) -> None:
        """Compute hashes until cancelled."""
        while True:
            self.wanted.clear()
            try:
                for first in (str(uuid.uuid4()), ""):
                    await self._hash_from(first)
            except Exception:
                # An error here must not end the runner, which drives the backends.
                logger.exception("SHA-256 of captured files: unexpected error")
            await wait_set(self.wanted, within=self._intervals.hash_search)
            await asyncio.sleep(self._intervals.capture_gap)

    async def _hash_from(self, last: str) -> None:
        while files := await self._threads.run_with_retry(self._find, after=last):
            last = files[-1].pk
            parts = _hash(files)
            more = True
            while more:
                while not self._is_idle():  # noqa: ASYNC110 there is no event of it
                    await asyncio.sleep(self._intervals.capture_gap)
                more = await self._threads.run(next, parts, False)
            hashes = {file.pk: file.sha256 for file in files if file.sha256}
            await self._threads.run_with_retry(file_hashes_store, hashes)


def _hash(files: Sequence[StoredFile]) -> Iterator[bool]:
    """Set the SHA-256 of files; yield True after each part. A file that cannot be read is left out."""
    for file in files:
        content = hashlib.sha256()
        with contextlib.suppress(OSError, StorageAway):
            for first in range(0, file.size_bytes, _PART):
                part = read_file(file.stored_name, first, min(_PART, file.size_bytes - first))
                if not part:
                    raise OSError("the stored file is shorter than its row")
                content.update(part)
                yield True
            file.sha256 = content.hexdigest()
