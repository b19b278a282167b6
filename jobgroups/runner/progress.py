"""Progress on its way out: at once to the hub, at most ten a second a child; four times a second to
disk.

The reader of the socket calls this and never waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from jobgroups.database.threads import TRANSIENT, DatabaseThreads, log_outage
from jobgroups.domain.leases import FencingToken
from jobgroups.events.hub import Hub
from jobgroups.events.messages import Message, ProgressFrame
from jobgroups.runner.intervals import Intervals
from jobgroups.serializers import to_json
from jobgroups.services.progress import MAX_STEPS, ProgressRow, progress_flush, relax_durability
from jobgroups.workflow.progress import ProgressTracker

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ProgressReporter:
    """Publishes the progress of one attempt to the subscribers of its group."""

    writer: ProgressWriter
    group_id: str
    child_id: str
    fence: FencingToken
    attempt_id: int
    number: int
    _sent_at: float = field(default=-1.0, init=False)
    _tracker: ProgressTracker | None = field(default=None, init=False)
    _last_sent: ProgressRow | None = field(default=None, init=False)
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)

    def update(self, tracker: ProgressTracker) -> None:
        """Publish the newest progress: now, or 0.1 s after the last frame.

        A backend may send far more frames than are published; the percentage is computed only for
        those.
        """
        if self._closed:
            return
        self._tracker = tracker
        if self._timer is not None:
            return
        wait = self._sent_at + self.writer.intervals.progress_gap - time.monotonic()
        if wait <= 0:
            self._send()
        else:
            self._timer = asyncio.get_running_loop().call_later(wait, self._send)

    @property
    def last_step(self) -> tuple[str | None, int, int] | None:
        """The newest node, its steps done and in all; None if there was no progress."""
        row = self._now()
        return None if row is None else (row.current_step, row.steps_completed, row.steps_total)

    def _now(self) -> ProgressRow | None:
        tracker = self._tracker
        if tracker is None:
            return None
        return ProgressRow(
            child_id=self.child_id,
            attempt_id=self.attempt_id,
            percent=tracker.percent,
            current_step=tracker.current_step,
            steps_completed=min(tracker.steps_completed, MAX_STEPS),
            steps_total=min(tracker.steps_total, MAX_STEPS),
            fence=self.fence,
        )

    def close(self, *, sends: bool = True) -> None:
        """Send nothing more: the child's end is about to be stored, or it is another attempt's.

        ``sends``: what is pending is still sent.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if sends:
                self._send()
        self._closed = True
        self.writer.dirty.pop(self.child_id, None)

    def _send(self) -> None:
        self._timer = None
        row = self._now()
        if row is None or row == self._last_sent:
            return
        self._last_sent = row
        self._sent_at = time.monotonic()
        self.writer.dirty[self.child_id] = row
        self.writer.is_dirty.set()
        text = to_json(
            {
                "type": "child_progress",
                "job_id": self.child_id,
                "backend_id": self.fence.backend_id,
                "attempt": self.number,
                "progress": row.percent,
                "current_step": row.current_step,
                "steps_completed": row.steps_completed,
                "steps_total": row.steps_total,
            }
        )
        frame = ProgressFrame(self.child_id, self.number, row.percent, text)
        self.writer.hub.publish(Message(group_id=self.group_id, progress=(frame,)))


class ProgressWriter:
    """All children's progress, flushed to the database by one thread of its own."""

    def __init__(self, *, hub: Hub, intervals: Intervals) -> None:
        self.hub = hub
        self.intervals = intervals
        #: Child id to its newest progress that is not stored yet.
        self.dirty: dict[str, ProgressRow] = {}
        self.is_dirty = asyncio.Event()
        self._database = DatabaseThreads(threads=1, name="runner-progress")

    async def run(self) -> None:
        """Flush until cancelled. A database that is away costs stored progress, nothing else."""
        relaxed = False
        while True:
            await self.is_dirty.wait()
            await asyncio.sleep(self.intervals.flush)
            self.is_dirty.clear()
            rows = list(self.dirty.values())
            self.dirty.clear()
            if not rows:
                continue
            try:
                if not relaxed:
                    await self._database.run(relax_durability)
                    relaxed = True
                await self._database.run(progress_flush, rows=rows)
            except TRANSIENT as error:
                relaxed = False
                log_outage("Progress", error)
            except Exception:
                # One child's odd numbers must not end the runner, and with it every session.
                logger.exception("Progress was not stored.")

    def close(self) -> None:
        self._database.close()
