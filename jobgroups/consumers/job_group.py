"""``/ws/job-groups/{id}``: a group's snapshot and every event after it, or every event after ``since``.

It subscribes in the hub before it reads, so that no event between the two is lost, and stays open after the end of
the group, which may be retried.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qs

from jobgroups.consumers.reads import PAGE, StreamStart, read, stream_start
from jobgroups.consumers.socket import NOT_FOUND, TOO_SLOW, Socket, error_frame
from jobgroups.consumers.stream import Stream
from jobgroups.errors import GroupNotFound
from jobgroups.events.hub import hub
from jobgroups.events.messages import Entry, EventFrame, PreviewFrame, ProgressFrame, SeqHint
from jobgroups.queries import groups

_GROUP_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  #: Other ids are refused without a query.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def _since_of(query: Mapping[str, list[str]]) -> int | None:
    """Return the number in ``?since=``, None if it is missing or invalid."""
    given = query.get("since", [])
    return int(given[0]) if len(given) == 1 and _NUMBER.fullmatch(given[0]) else None


class JobGroupConsumer(Socket):
    group_id: str

    async def write(self) -> None:
        """Send the snapshot or the missed events, then the hub's entries, until cancelled."""
        self.group_id = self.scope["url_route"]["kwargs"]["group_id"]
        try:
            if not _GROUP_ID.fullmatch(self.group_id):
                raise GroupNotFound(self.group_id[:64])
            await self._stream()
        except GroupNotFound as error:
            await self.send_text(error_frame(error.code, error.detail))
            self.request_close(NOT_FOUND)

    async def _stream(self) -> None:
        query = parse_qs(self.scope.get("query_string", b"").decode("latin-1"))
        previews = query.get("previews") == ["1"]
        subscription = await hub.subscribe(self.group_id, lambda: self.request_close(TOO_SLOW), previews=previews)
        try:
            start = await read(stream_start, self.group_id, _since_of(query))
            stream = await self._start(start)
            while True:
                for entry in await subscription.take():
                    await self._forward(stream, entry)
        finally:
            await hub.unsubscribe(subscription)

    async def _start(self, start: StreamStart) -> Stream:
        stream = Stream(start.seq, start.children)
        if start.initial_state is not None:
            await self.send_text(start.initial_state)
        await self._send_rows(stream, start.events)
        if len(start.events) == PAGE:
            await self._catch_up(stream)
        self.mark_ready()
        return stream

    async def _forward(self, stream: Stream, entry: Entry) -> None:
        match entry:
            case ProgressFrame():
                await self._send_if(stream.progress(entry))
            case PreviewFrame():
                await self._send_if(stream.preview(entry))
            case EventFrame():
                if stream.has_gap_before(entry.seq):
                    await self._catch_up(stream)
                else:
                    of_child = entry.child_id is not None
                    for text in stream.event(entry.seq, entry.text, of_child=of_child):
                        await self.send_text(text)
            case SeqHint():
                if entry.seq > stream.sent:
                    await self._catch_up(stream)

    async def _send_if(self, text: str | None) -> None:
        if text is not None:
            await self.send_text(text)

    async def _catch_up(self, stream: Stream) -> None:
        """Send all stored events after the last sent one. Published events are committed, so they are stored."""
        while True:
            rows = await read(groups.group_events, self.group_id, since=stream.sent, limit=PAGE)
            await self._send_rows(stream, rows)
            if len(rows) < PAGE:
                return

    async def _send_rows(self, stream: Stream, rows: Iterable[tuple[int, str]]) -> None:
        for seq, row in rows:
            for text in stream.event(seq, row):
                await self.send_text(text)
