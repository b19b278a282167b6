"""The frames of one client of a group: the snapshot or the missed events, then every event,
progress and previews.

It subscribes in the hub before it reads, so that no event between the two is lost, and continues
after the end of the group, which may be retried.
"""

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final

from jobgroups.domain.access import Principal
from jobgroups.errors import GroupNotFound
from jobgroups.events.hub import hub
from jobgroups.events.messages import (
    ChangedFrame,
    Entry,
    EventFrame,
    PreviewFrame,
    ProgressFrame,
    SeqHint,
)
from jobgroups.queries import groups
from jobgroups.queries.visibility import sees_group
from jobgroups.streams.reads import PAGE, read, stream_start
from jobgroups.streams.stream import Frame, Stream


def error_frame(code: str, detail: str) -> str:
    """Return an ``error`` frame in ASCII: a path may have characters that UTF-8 cannot encode."""
    return json.dumps({"type": "error", "code": code, "detail": detail}, separators=(",", ":"))


#: The last frame of a client whose queue overflowed.
TOO_SLOW_FRAME: Final = error_frame(
    "too_slow", "The client reads too slowly; connect again with ?since= the last seq."
)


async def group_feed(
    group_id: str,
    since: int | None,
    *,
    principal: Principal,
    previews: bool,
    on_overflow: Callable[[], None] | None = None,
) -> AsyncGenerator[list[Frame], None]:
    """Yield lists of frames, the first empty one when the client has all that was stored before.

    ``since`` is the last event that the client has; None, or a number that the group has not
    reached: the snapshot comes first. The feed ends if the client reads too slowly; ``on_overflow``
    is called before that, also while the client reads nothing. Raises ``GroupNotFound``, also when
    the group is deleted, or ``principal`` may not see it any more.
    """
    subscription = await hub.subscribe(
        group_id, on_overflow, previews=previews, sees_all=principal.sees_all
    )
    try:
        start = await read(stream_start, group_id, since, principal)
        stream = Stream(start.seq, start.children)
        if start.initial_state is not None:
            yield [Frame(start.initial_state, start.seq)]
        if start.events:
            yield _stored_frames(stream, start.events)
        if len(start.events) == PAGE:
            async for frames in _missed_frames(group_id, stream):
                yield frames
        yield []
        while not subscription.overflowed:
            for entry in await subscription.take():
                if isinstance(entry, ChangedFrame) and not await read(
                    sees_group, principal, group_id
                ):
                    raise GroupNotFound(group_id)
                if isinstance(entry, EventFrame | SeqHint) and stream.misses_events(entry):
                    async for frames in _missed_frames(group_id, stream):
                        yield frames
                else:
                    yield _live(stream, entry)
    finally:
        await hub.unsubscribe(subscription)


async def _missed_frames(group_id: str, stream: Stream) -> AsyncGenerator[list[Frame], None]:
    """Yield all stored events after the last sent one. Published events are committed, so they are
    stored.
    """
    while rows := await read(groups.group_events, group_id, since=stream.sent, limit=PAGE):
        yield _stored_frames(stream, rows)
        if len(rows) < PAGE:
            return


def _stored_frames(stream: Stream, rows: Iterable[tuple[int, str]]) -> list[Frame]:
    return [frame for seq, text in rows for frame in stream.event(seq, text)]


def _live(stream: Stream, entry: Entry) -> list[Frame]:
    match entry:
        case ProgressFrame():
            return stream.progress(entry)
        case PreviewFrame():
            return stream.preview(entry)
        case EventFrame():
            return stream.event(entry.seq, entry.text, of_child=entry.child_id is not None)
    return []
