"""The events of a job of the Comfy API v2: differences between its answers, and previews.

The hub only causes the next reading, so no event can contradict ``GET``; progress takes two
readings a second.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Final

from jobgroups.api.sse import sse_frame
from jobgroups.api.v2.answers import ENDED, job_answer
from jobgroups.database.pools import read
from jobgroups.domain.access import Principal
from jobgroups.errors import ChildNotFound, GroupNotFound
from jobgroups.events.hub import Subscription, hub
from jobgroups.events.messages import ChangedFrame, Entry, PreviewFrame, ProgressFrame
from jobgroups.queries.visibility import sees_group
from jobgroups.serializers import to_json

_GAP_SECONDS: Final = 0.5  #: Between two readings for progress.
#: Queue positions and the end of a stop come without a notification.
_LONGEST_GAP_SECONDS: Final = 1.0


async def job_frames(
    group_id: str, base_url: str, principal: Principal
) -> AsyncGenerator[str, None]:
    """Yield the frames of a job from its present state to its end; stop if it is deleted, the
    client is too slow, or ``principal`` may not see it any more.
    """
    subscription = await hub.subscribe(group_id, previews=True, sees_all=principal.sees_all)
    sent: dict[str, Any] = {}
    node, read_at = None, float("-inf")
    try:
        while not subscription.overflowed:
            entries = await _news(subscription, read_at + _LONGEST_GAP_SECONDS)
            for entry in entries:
                # Before the first progress was read, the node is not known; another preview
                # follows.
                if isinstance(entry, PreviewFrame) and node is not None:
                    yield _preview(entry, node)
            kinds = set(map(type, entries)) - {PreviewFrame}
            if entries and not kinds:
                continue
            is_changed = any(isinstance(entry, ChangedFrame) for entry in entries)
            if is_changed and not await read(sees_group, principal, group_id):
                return
            if kinds == {ProgressFrame}:
                await asyncio.sleep(max(0.0, read_at + _GAP_SECONDS - time.monotonic()))
            read_at = time.monotonic()
            try:
                job = json.loads((await job_answer(group_id, base_url)).body)
            except (ChildNotFound, GroupNotFound):
                return
            for frame in _changes(job, sent):
                yield frame
            if job["status"] in ENDED:
                return
            node = (job["progress"] or {}).get("current_node")
    finally:
        await hub.unsubscribe(subscription)


async def _news(subscription: Subscription, until: float) -> list[Entry]:
    """Return the next entries; none if the time, by the monotonic clock, is over."""
    if (rest := until - time.monotonic()) <= 0:
        return []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(rest):
            return await subscription.take()
    return []


def _changes(job: Mapping[str, Any], sent: dict[str, Any]) -> Iterator[str]:
    """Yield what was not sent yet; the status comes first, and the last one at the end."""
    status = {"status": job["status"], "queue_position": job["queue_position"]}
    frames = [("status", "status", status), ("progress", "progress", job["progress"])]
    frames += [(f"output {output['id']}", "output", output) for output in job["outputs"]]
    if job["status"] in ENDED:
        frames.append(frames.pop(0))
    for key, event, value in frames:
        if value is None or sent.get(key) == value or (event == "output" and key in sent):
            continue
        sent[key] = value
        yield sse_frame(to_json(value), event=event)


def _preview(entry: PreviewFrame, node: str) -> str:
    preview = json.loads(entry.text)
    value = {"node_id": node, "content_type": preview["mime"], "data_base64": preview["image"]}
    return sse_frame(to_json(value), event="preview")
