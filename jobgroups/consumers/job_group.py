"""``/ws/job-groups/{id}``: a group's snapshot and every event after it, or every event after
``since``.

It stays open after the end of the group, which may be retried. It is closed when the group is
deleted.
"""

import re
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final
from urllib.parse import parse_qs

from jobgroups.consumers.socket import NOT_FOUND, TOO_SLOW, Socket
from jobgroups.errors import GroupNotFound
from jobgroups.streams.feed import error_frame, group_feed

_GROUP_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  #: Other ids are refused without a query.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def _since_of(query: Mapping[str, list[str]]) -> int | None:
    """Return the number in ``?since=``, None if it is missing or invalid."""
    given = query.get("since", [])
    return int(given[0]) if len(given) == 1 and _NUMBER.fullmatch(given[0]) else None


class JobGroupConsumer(Socket):
    kind = "group"

    async def write(self) -> None:
        """Send the snapshot or the missed events, then the hub's entries, until cancelled."""
        group_id = self.scope["url_route"]["kwargs"]["group_id"]
        try:
            if not _GROUP_ID.fullmatch(group_id):
                raise GroupNotFound(group_id[:64])
            await self._stream(group_id)
        except GroupNotFound as error:
            await self.send_text(error_frame(error.code, error.detail))
            self.request_close(NOT_FOUND)

    async def _stream(self, group_id: str) -> None:
        query = parse_qs(self.scope.get("query_string", b"").decode("latin-1"))
        feed = group_feed(
            group_id,
            _since_of(query),
            principal=self.principal,
            previews=query.get("previews") == ["1"],
            on_overflow=lambda: self.request_close(TOO_SLOW),
        )
        async with aclosing(feed):
            async for frames in feed:
                if not frames:
                    self.mark_ready()
                for frame in frames:
                    await self.send_text(frame.text)
