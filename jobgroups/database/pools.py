"""The threads of requests: each view declares those of its methods, and coroutines use ``read`` and
``act``. All but ``status_threads`` are shares of the threads of the process.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from django.db import connection

from jobgroups.database.shared_threads import close_shared_threads
from jobgroups.database.threads import TRANSIENT, DatabaseThreads

P = ParamSpec("P")
R = TypeVar("R")

#: For statuses and rows of files, not for lists: with 20 lists at once, a changed status would take
#: 3.5 times as long (p50).
status_threads: Final = DatabaseThreads(threads=2, name="async-reading")
READ_THREADS: Final = 4
#: For lists and other reads: a read takes a millisecond, and more threads would wait for each
#: other.
read_threads: Final = DatabaseThreads(threads=READ_THREADS, name="api-reading", is_shared=True)
#: For requests that change rows. A submission may wait 1.7 s for probes and must answer within 2 s,
#: so many may wait at once. Threads are started on demand.
write_threads: Final = DatabaseThreads(threads=32, name="api-acting", is_shared=True)
#: For requests that change assets: a large file takes minutes on its way into a bucket.
file_threads: Final = DatabaseThreads(threads=8, name="api-files", is_shared=True)
PROBE_THREADS: Final = 16
#: For requests that probe addresses, backends or webhooks, which may take 5 to 15 s each: a probe
#: never takes a thread that a submission needs.
probe_threads: Final = DatabaseThreads(threads=PROBE_THREADS, name="api-probing", is_shared=True)
#: For reads that wait for what machines describe, up to 15 s each, and 40 s for a LoRA on its way.
machine_threads: Final = DatabaseThreads(threads=32, name="api-machines", is_shared=True)
LARGE_THREADS: Final = 2
#: For requests with a large body. Python's objects need up to 40 bytes for a byte of JSON: the
#: number of threads limits the memory, and large bodies do not delay other requests.
large_threads: Final = DatabaseThreads(threads=LARGE_THREADS, name="api-large", is_shared=True)


def close_threads() -> None:
    """Close the threads and their connections, at the end of the process."""
    for threads in (
        status_threads,
        read_threads,
        large_threads,
        file_threads,
        probe_threads,
        machine_threads,
        write_threads,
    ):
        threads.close()
    close_shared_threads()


async def read(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function that only reads; once more if a restart of the server broke the connection
    that its thread keeps.
    """
    return await status_threads.run(_read, functools.partial(work, *args, **kwargs))


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
    return await asyncio.shield(write_threads.run(work, *args, **kwargs))
