"""Database reads of the sockets, in threads of their own.

In Django's shared thread a slow request would block every socket; in the runner's threads many clients that
connect at once would delay the runner.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

import msgspec

from jobgroups.consumers.stream import ChildHead
from jobgroups.database.threads import DatabaseThreads
from jobgroups.queries import groups

P = ParamSpec("P")
R = TypeVar("R")

PAGE: Final = 200  #: Events per read.

_database = DatabaseThreads(threads=4, name="sockets")


class _Snapshot(msgspec.Struct):
    child_jobs: list[ChildHead]


@dataclass(frozen=True, slots=True)
class StreamStart:
    """The start of a stream."""

    seq: int  #: The last event that the client knows or that ``initial_state`` contains.
    initial_state: str | None  #: The text of the first frame; None for a client that resumes.
    children: list[ChildHead]  #: The state of the children at ``seq`` or later.
    #: ``(seq, text)`` of the first page after ``seq``, with every event that ``children`` reflects unless it is full.
    events: list[tuple[int, str]]


async def read(query: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a query in a database thread; repeat it while the database is unavailable."""
    return await _database.run_with_retry(query, *args, **kwargs)


async def read_seqs(group_ids: list[str]) -> dict[str, int]:
    """Return the last ``seq`` of each group, for the hub's timer; a database error is raised."""
    return await _database.run(groups.group_seqs, group_ids)


def close_rows() -> None:
    """Close the threads and their connections at the end of the process."""
    _database.close()


def stream_start(group_id: str, since: int | None) -> StreamStart:
    """Read the start of a stream, in a database thread; raise ``GroupNotFound`` if there is no such group."""
    seq, text = groups.group_stream_start(group_id, since)
    if text is None:
        snapshot = msgspec.convert(groups.group_snapshot(group_id), _Snapshot)
    else:
        snapshot = msgspec.json.decode(text, type=_Snapshot)
    # Read last, so that they include every event that the children reflect.
    events = groups.group_events(group_id, since=seq, limit=PAGE)
    return StreamStart(seq, text, snapshot.child_jobs, events)
