"""The demo's course: start the farm, submit three groups, judge, and serve until somebody ends it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from director.client import AsyncDirector, Event, Group
from director.demo.audit_log import renders
from director.demo.checks import DemoResult, Outage, problems
from director.demo.farm import (
    OUT_OF_MEMORY,
    Farm,
    inject_fault,
    read_audit_logs,
    register,
    slow_down,
    start,
)
from director.demo.kill import KillSwitch
from director.demo.processes import Processes
from director.demo.screen import Screen
from director.demo.workflow import text_to_picture

#: Seconds that one group may take from its submission to its last picture.
_GROUP_WITHIN_S: Final = 120.0
#: Seconds without an answer after which the Director is taken to be gone.
_GIVE_UP_S: Final = 15.0
#: Seconds that renders take longer which are to outlast a restart of the Director.
_LONGER_S: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is wanted of a demo.

    Attributes:
        folder: for everything it makes; exists.
        once: end after the three groups instead of serving on.
        seconds: that a simulated render takes.
    """

    folder: Path
    once: bool
    seconds: float

    @property
    def pictures(self) -> Path:
        """Where the pictures are downloaded to."""
        return self.folder / "pictures"


async def run(plan: Plan, screen: Screen) -> list[str]:
    """Play the demo.

    Returns:
        What was not as it must be, a sentence each.

    Raises:
        ExceptionGroup: of ``ProcessFailed``, ``DirectorError`` or ``TimeoutError``: it could not be
            played to its end. No process is left then, either.
    """
    async with asyncio.TaskGroup() as tasks:
        processes = Processes(tasks, plan.folder)
        try:
            found = await _play(plan, processes, screen)
            _conclude(plan, screen, found)
            if not plan.once:
                await _until_interrupted()
        finally:
            await processes.stop()
    found += [f"{name} is still running." for name in processes.remaining()]
    return found


async def _play(plan: Plan, processes: Processes, screen: Screen) -> list[str]:
    screen.say(f"Data folder: {plan.folder}")
    screen.say("Starting three simulated ComfyUIs and a Director …")
    farm = await start(processes, folder=plan.folder, seconds=plan.seconds)
    async with AsyncDirector(farm.url, give_up_seconds=_GIVE_UP_S) as director:
        await register(director, farm)
        user = _User(director, farm, plan, screen)
        screen.title("1. One call, three backends, three seeds")
        first = await user.render("Group 1")
        screen.title("2. The same again, but gpu-2 runs out of memory")
        await inject_fault(farm, "gpu-2", OUT_OF_MEMORY)
        second = await user.render("Group 2")
        screen.title("3. Longer renders, and somebody kills the Director in the middle")
        third = await user.render_over_a_kill("Group 3", KillSwitch(processes, farm, screen))
    screen.table([first, second, third.told])
    screen.say(f"\nPictures: {plan.pictures}")
    screen.say(f"Director: {farm.url}{' (it ends with this demo)' if plan.once else ''}")
    return problems(first, second, third)


@dataclass(frozen=True, slots=True)
class _User:
    """Somebody with three GPUs."""

    director: AsyncDirector
    farm: Farm
    plan: Plan
    screen: Screen

    async def render(self, title: str, plug: KillSwitch | None = None) -> DemoResult:
        """Submit the workflow to all backends, watch, and fetch what was made.

        Args:
            title: for people.
            plug: is pulled while the user watches.

        Raises:
            TimeoutError: it took too long.
        """
        async with asyncio.timeout(_GROUP_WITHIN_S):
            submitted = await self.director.submit(
                text_to_picture(), list(self.farm.simulators), metadata={"scene": title}
            )
            streamed = await self._watch(submitted, plug)
            group = await self.director.status(submitted.job_group_id)
            pictures = await self.director.download(group, self.plan.pictures)
            log = await self.director.events(group.job_group_id)
        return DemoResult(
            title=title,
            group=group,
            streamed=[event.seq or 0 for event in streamed],
            logged=[event.seq or 0 for event in log],
            pictures=pictures,
            kinds=[event.type for event in streamed],
        )

    async def render_over_a_kill(self, title: str, plug: KillSwitch) -> Outage:
        """Do the same while the Director is killed; then ask the backends what they executed.

        Raises:
            TimeoutError: it took too long.
            ProcessFailed: the Director did not start again, or an audit log was not readable.
        """
        await slow_down(self.farm, _LONGER_S)
        told = await self.render(title, plug)
        seen = renders(await read_audit_logs(self.farm), told.group.job_group_id)
        return Outage(told=told, killed_at=plug.killed_at, renders=seen)

    async def _watch(self, group: Group, plug: KillSwitch | None) -> list[Event]:
        """Show the group's stream from its first event to its end; return each state event."""
        stored = []
        # Without a plug that is pulled, a broken connection or a gap is an error here: on one
        # machine there is no excuse for it.
        stream = self.director.stream(group.job_group_id, since=0, reconnect=plug is not None)
        with self.screen.watch(group) as watcher:
            async with contextlib.aclosing(stream):
                async for event in stream:
                    watcher.on_event(event)
                    if event.seq is not None:
                        stored.append(event)
                    if plug is not None:
                        await plug.after(event, group)
        return stored


def _conclude(plan: Plan, screen: Screen, found: list[str]) -> None:
    for sentence in found:
        screen.say(f"NOT AS IT MUST BE: {sentence}")
    if not plan.once:
        screen.say("It serves until you press Ctrl-C.")


async def _until_interrupted() -> None:
    """Wait for the cancellation that Ctrl-C or SIGTERM brings, and take it as the end wished for."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        # A process that ended by itself cancels this too; its error is raised where it is followed.
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
