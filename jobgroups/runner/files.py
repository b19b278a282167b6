"""The files of jobs in the background: in each runner what is expired is removed, in a process of
`files` they are copied too.
"""

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import Callable
from typing import Final

from jobgroups.database.threads import TRANSIENT, DatabaseThreads
from jobgroups.errors import StorageAway
from jobgroups.runner.captures import Capturer
from jobgroups.runner.intervals import Intervals
from jobgroups.services.assets import clean_and_expire
from jobgroups.services.audit import audit_forget
from jobgroups.services.captures import captures_clean, captures_fill, captures_hold
from jobgroups.services.files_processes import files_end, files_forget, files_heartbeat
from jobgroups.services.group_times import group_times_fill
from jobgroups.services.input_files import images_expire
from jobgroups.services.pauses import pauses_forget
from jobgroups.services.purge import retention_apply
from jobgroups.services.sessions import sessions_forget
from jobgroups.services.stored_files import marker_write
from jobgroups.services.usage import usage_fill

logger = logging.getLogger(__name__)

_CLEAN_AGAIN: Final = 60.0  #: Seconds until the files are cleaned again after an error.
_PART_PAUSE: Final = 0.05  #: Seconds between two parts of the retention.
#: Seconds in which an orderly end is to be stored; the process has a few more.
_END_WITHIN: Final = 1.5


class OutOfMemory(Exception):
    """The memory of this process was not enough: it may have a leak, and is to be started again."""


class FilesService:
    """One process of `files`, from its start to its end."""

    def __init__(self, *, version: str, intervals: Intervals, captures: bool) -> None:
        self._version = version
        self._intervals = intervals
        self._captures = captures
        self._instance = secrets.token_hex(6)
        self._stopping = asyncio.Event()
        self._capturer = Capturer(runner=None, intervals=intervals)
        self._pulse = DatabaseThreads(threads=1, name="files-pulse")
        self._background = DatabaseThreads(threads=1, name="files-background", is_shared=True)

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until :meth:`stop`; raise :class:`OutOfMemory` after a copy that failed for want of
        memory.

        ``ready`` is called after the first heartbeat.
        """
        claimed: list[int] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                clean = functools.partial(
                    clean_loop, self._background, self._intervals, self._instance, self._instance
                )
                running = [tasks.create_task(clean())]
                if self._captures:
                    running += [
                        tasks.create_task(self._capturer.run()),
                        tasks.create_task(self._beat_loop(ready)),
                    ]
                else:
                    ready()  # without a heartbeat: the runners leave nothing to it
                ends = [
                    tasks.create_task(event.wait())
                    for event in (self._stopping, self._capturer.is_out_of_memory)
                ]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                claimed = self._capturer.claimed
                for task in (*running, *ends):
                    task.cancel()
        finally:
            with contextlib.suppress(TimeoutError, OSError, StorageAway):
                async with asyncio.timeout(_END_WITHIN):
                    await self._pulse.run_with_retry(captures_hold, ids=claimed, seconds=0.0)
                    await self._pulse.run_with_retry(files_end, instance=self._instance)
            for threads in (self._capturer, self._pulse, self._background):
                # Off the loop: what is under way in a thread is waited for.
                await asyncio.to_thread(threads.close)
        if self._capturer.is_out_of_memory.is_set():
            raise OutOfMemory("A file could not be copied for want of memory; see the log above.")

    async def _beat_loop(self, ready: Callable[[], None]) -> None:
        """Renew heartbeat and claims, on a connection of its own."""
        beat = functools.partial(files_heartbeat, instance=self._instance, version=self._version)
        claim, held_at = self._intervals.capture_claim, time.monotonic()
        await self._pulse.run_with_retry(beat)
        ready()
        while True:
            await asyncio.sleep(self._intervals.heartbeat)
            await self._pulse.run_with_retry(beat)
            if time.monotonic() > held_at + claim / 3:
                held_at = time.monotonic()
                await self._pulse.run_with_retry(
                    captures_hold, ids=self._capturer.claimed, seconds=claim
                )


async def clean_loop(
    database: DatabaseThreads, intervals: Intervals, name: str, instance: str
) -> None:
    """Remove what is expired or unused, and what killed processes left. An error costs no job: it
    is logged.

    It marks the storage as used by a runner or a process of `files`.
    """
    mark = functools.partial(marker_write, runner=name, instance=instance)
    while True:
        pause = intervals.clean
        # In parts: an orderly end waits for one of them alone, and so do other writers.
        parts = {
            "retention_apply": functools.partial(next, retention_apply(), None),
            "usage_fill": functools.partial(next, usage_fill(), None),
        }
        fills = (captures_fill, group_times_fill, audit_forget, pauses_forget, sessions_forget)
        steps = (files_forget, clean_and_expire, images_expire, captures_clean, *fills)
        named = {"marker_write": mark, **{step.__name__: step for step in steps}, **parts}
        for step_name, step in named.items():
            try:
                while await database.run(step):  # noqa: ASYNC110 a pause for other writers
                    await asyncio.sleep(_PART_PAUSE)
                continue
            except StorageAway:
                pass  # It was logged.
            except (OSError, *TRANSIENT) as error:
                logger.warning("Files: %s failed (%s)", step_name, str(error).strip())
            except Exception:
                # A storage raises errors of its own classes.
                logger.exception("Files: %s failed", step_name)
            pause = min(pause, _CLEAN_AGAIN)
        await asyncio.sleep(pause)
