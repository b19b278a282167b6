"""Requests that wait for the next event of a group. They hold no thread, and end with the process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from jobgroups.api.answers import answers
from jobgroups.errors import TooManyWaiting
from jobgroups.events.hub import Subscription, hub
from jobgroups.events.messages import ChangedFrame, EventFrame, SeqHint
from jobgroups.streams.open_requests import OpenRequests

_MOST: Final = 1_000  #: Requests that wait at once, in this process.
Permit: TypeAlias = Callable[[], Awaitable[None]]
LONGEST: Final = 60  #: The longest wait, in seconds: shorter than the timeouts of common proxies.


class LongPolls:
    def __init__(self) -> None:
        self._waiting: set[Subscription] = set()
        #: Also those that have not joined the channel layer yet.
        self._open = OpenRequests(_MOST, TooManyWaiting)
        self._is_closing = False

    async def has_moved(
        self,
        group_id: str,
        *,
        since: int,
        seconds: float,
        permit: Permit | None = None,
        account: int | None = None,
    ) -> bool:
        """Return whether the log of a group has events after ``since``; wait for one at most so
        many seconds.

        A ``since`` that the log has not reached counts as moved: the client knows another log.
        Raises ``GroupNotFound``, ``TooManyWaiting``, or as ``permit`` does, which is called when
        the client may not see the group any more.
        """
        seq, _ = await answers.version(group_id)
        if seq != since or not seconds or self._is_closing:
            return seq != since
        self._open.check(account)
        with self._open.opened(account):
            return await self._wait(group_id, since, seconds, permit)

    async def _wait(self, group_id: str, since: int, seconds: float, permit: Permit | None) -> bool:
        seq = since
        kinds = (EventFrame, SeqHint, ChangedFrame)
        subscription = await hub.subscribe(group_id, only=kinds, sees_all=permit is None)
        self._waiting.add(subscription)
        try:
            async with asyncio.timeout(seconds):
                # Again: an event may have come before the subscription.
                seq, _ = await answers.version(group_id)
                while seq <= since and not self._is_closing:
                    entries = await subscription.take()
                    if subscription.overflowed:
                        return True
                    if any(isinstance(entry, ChangedFrame) for entry in entries):
                        await answers.version(group_id)  # it may be deleted
                        if permit is not None:
                            await permit()
                    seq = max(
                        [
                            seq,
                            *(
                                entry.seq
                                for entry in entries
                                if isinstance(entry, EventFrame | SeqHint)
                            ),
                        ]
                    )
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(subscription)
            await hub.unsubscribe(subscription)
        return seq != since

    def close(self) -> None:
        """Answer all waiting requests now, and later ones at once."""
        self._is_closing = True
        for subscription in self._waiting:
            subscription.put(SeqHint(0))


long_polls: Final = LongPolls()
