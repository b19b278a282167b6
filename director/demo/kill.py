"""Kills the Director while its jobs run and starts it again."""

from __future__ import annotations

import time
from typing import Final

from director.client import ChildProgress, Event, Group
from director.demo import farm
from director.demo.farm import Farm
from director.demo.processes import Processes
from director.demo.screen import Screen

#: Share of the steps after which a job counts as under way.
_UNDER_WAY: Final = 0.3


class KillSwitch:
    """Kills the Director once, as soon as every child of the group is under way.

    Attributes:
        killed_at: seconds since the epoch; None before the kill.
    """

    def __init__(self, processes: Processes, running: Farm, screen: Screen) -> None:
        self.killed_at: float | None = None
        self._processes = processes
        self._farm = running
        self._screen = screen
        self._under_way: set[str] = set()
        self._seq = 0

    async def after(self, event: Event, group: Group) -> None:
        """Process an event of the group; kill and restart the Director if all children are under way.

        Raises:
            ProcessFailed: the Director did not start again.
        """
        self._seq = event.seq or self._seq
        if isinstance(event, ChildProgress) and _is_under_way(event):
            self._under_way.add(event.job_id)
        if self.killed_at is None and len(self._under_way) == len(group.child_jobs):
            self.killed_at = time.time()
            await self._kill(self.killed_at)

    async def _kill(self, moment: float) -> None:
        await farm.kill_director(self._processes)
        self._screen.say("  The Director's process was killed. The three ComfyUIs continue.")
        await farm.restart_director(self._processes, self._farm)
        self._screen.say(
            f"  The Director was restarted with the same data folder after {time.time() - moment:.1f} s;"
            f" the stream resumes with ?since={self._seq}."
        )


def _is_under_way(event: ChildProgress) -> bool:
    return (event.steps_completed or 0) > _UNDER_WAY * (event.steps_total or 0)
