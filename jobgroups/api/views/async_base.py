"""What views in the event loop use: threads for their reads and their changes of rows."""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from django.db import DatabaseError, connection

from jobgroups.database.threads import TRANSIENT, DatabaseThreads
from jobgroups.queries.outputs import OutputFile
from jobgroups.services.files import output_replaced

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

#: Threads for requests that change rows. A submission may wait 1.7 s for probes and must answer
#: within 2 s, so many may wait at once. Threads are started on demand.
WRITE_THREADS: Final = 32

#: Not those of lists: with 20 lists at once, a changed status would take 3.5 times as long (p50).
_reading = DatabaseThreads(threads=2, name="async-reading")
acting: Final = DatabaseThreads(threads=WRITE_THREADS, name="api-acting", keeps_connections=False)


async def read(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function that only reads; once more if a restart of the server broke the connection
    that its thread keeps.
    """
    return await _reading.run(_read, functools.partial(work, *args, **kwargs))


def _read(work: Callable[[], R]) -> R:
    try:
        return work()
    except TRANSIENT:
        if connection.is_usable():
            raise
        connection.close()
        return work()


async def act(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function that changes rows, also if the client disconnects meanwhile."""
    return await asyncio.shield(acting.run(work, *args, **kwargs))


async def note_replaced(file: OutputFile) -> None:
    """Mark an output whose file a later job has written, so that JSON and pages show it."""
    if file.replaced:
        return
    try:
        await act(output_replaced, job_id=file.job_id, digest=file.digest)
    except DatabaseError:
        # The response does not depend on the mark, and the next request for the file sets it.
        logger.warning("Replaced output %s: not marked", file.filename, exc_info=True)


def close_threads() -> None:
    _reading.close()
    acting.close()
