"""The sockets' bridge to the database: the only place where they leave the loop.

A few threads of their own: neither the process's shared thread, where a slow request would freeze
every socket, nor the runner's, which a crowd that connects at once must not delay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

import msgspec

from jobgroups.consumers.stream import ChildHead
from jobgroups.database.threads import DatabaseThreads
from jobgroups.queries import groups

P = ParamSpec("P")
R = TypeVar("R")

#: Events read at once.
PAGE: Final = 200

_database = DatabaseThreads(threads=4, name="sockets")


class _Snapshot(msgspec.Struct):
    child_jobs: list[ChildHead]


@dataclass(frozen=True, slots=True)
class StreamStart:
    """Where a socket starts.

    Attributes:
        seq: the client knows all up to here, or learns it from ``initial_state``.
        initial_state: the first frame's text; None for a client that resumes.
        children: how the children stood at ``seq`` or later, but not after the last event that is
            stored by then.
        events: ``(seq, text)`` of the first page of what follows ``seq``.
    """

    seq: int
    initial_state: str | None
    children: list[ChildHead]
    events: list[tuple[int, str]]


async def read(selector: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a selector in a database thread; where the database is away, again until it is back.

    Raises:
        JobGroupsError: as the selector does.
    """
    return await _database.run_with_retry(selector, *args, **kwargs)


async def read_seqs(group_ids: list[str]) -> dict[str, int]:
    """Return the number of the last event of each of the groups, for the hub's slow timer.

    Raises:
        django.db.Error: the database is away; the timer comes again.
    """
    return await _database.run(groups.group_seqs, group_ids)


def close_rows() -> None:
    """Close the threads and their connections. For the end of the process: nothing is read after."""
    _database.close()


def stream_start(group_id: str, since: int | None) -> StreamStart:
    """Read where a socket starts, in one go. Runs in a database thread.

    Raises:
        GroupNotFound: there is no such group.
    """
    seq, text = groups.group_stream_start(group_id, since)
    if text is None:
        snapshot = msgspec.convert(groups.group_snapshot(group_id), _Snapshot)
    else:
        snapshot = msgspec.json.decode(text, type=_Snapshot)
    # Read last, so that nothing that the children show is missing in them.
    events = groups.group_events(group_id, since=seq, limit=PAGE)
    return StreamStart(seq, text, snapshot.child_jobs, events)
