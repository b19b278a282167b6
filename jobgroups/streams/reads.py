"""Database reads of the streams, in threads of their own.

In Django's shared thread a slow request would block every stream; in the runner's threads many
clients that connect at once would delay the runner.
"""

from dataclasses import dataclass
from typing import Final

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.access import Principal
from jobgroups.errors import GroupNotFound
from jobgroups.queries import groups
from jobgroups.queries.visibility import sees_group
from jobgroups.streams.stream import ChildHead

PAGE: Final = 200  #: Events per read.

_database = DatabaseThreads(threads=4, name="sockets")
#: Runs a query, and repeats it while the database is unavailable.
read: Final = _database.run_with_retry
#: Closes the threads and their connections at the end of the process.
close_rows: Final = _database.close


@dataclass(frozen=True, slots=True)
class StreamStart:
    seq: int  #: The last event that the client knows or that ``initial_state`` contains.
    initial_state: str | None  #: The text of the first frame; None for a client that resumes.
    children: list[ChildHead]  #: The state of the children at ``seq`` or later.
    #: ``(seq, text)`` of the first page after ``seq``, with every event that ``children`` reflects
    #: unless it is full.
    events: list[tuple[int, str]]


async def read_seqs(group_ids: list[str]) -> dict[str, tuple[int, bool]]:
    """Return the last ``seq`` of each group, and whether it is shared, for the hub's timer; a
    database error is raised.
    """
    return await _database.run(groups.group_seqs, group_ids)


def stream_start(group_id: str, since: int | None, principal: Principal) -> StreamStart:
    """Read the start of a stream, in a database thread; raise ``GroupNotFound`` if there is no such
    group for a principal.
    """
    if not principal.sees_all and not sees_group(principal, group_id):
        raise GroupNotFound(group_id)
    seq, text = groups.group_stream_start(group_id, since)
    children = [ChildHead(*state) for state in groups.child_states(group_id)]
    # Read last, so that they include every event that the children reflect.
    events = groups.group_events(group_id, since=seq, limit=PAGE)
    return StreamStart(seq, text, children, events)
