"""The demo's course: start the farm, submit three groups, check the results, serve until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from director.client import AsyncDirector, Event, Group
from director.demo.audit_log import renders
from director.demo.checks import DemoResult, Outage, problems
from director.demo.farm import OUT_OF_MEMORY, Farm, inject_fault, read_audit_logs, register, slow_down, start
from director.demo.kill import KillSwitch
from director.demo.processes import Processes
from director.demo.screen import Screen
from director.demo.workflow import text_to_image

#: Limit in seconds from the submission of a group to its last download.
_GROUP_WITHIN_S: Final = 120.0
#: Seconds without a response after which the client gives up.
_GIVE_UP_S: Final = 15.0
#: Extra seconds per job of the third group: its jobs must outlast a restart of the Director.
_LONGER_S: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Options of a demo.

    Attributes:
        folder: existing folder for all files.
        once: end after the three groups instead of serving until Ctrl-C.
        seconds: duration of a simulated job.
    """

    folder: Path
    once: bool
    seconds: float

    @property
    def images(self) -> Path:
        """Folder of the downloaded images."""
        return self.folder / "images"


async def run(plan: Plan, screen: Screen) -> list[str]:
    """Run the demo. All its processes have ended when this function returns or raises.

    Returns:
        One sentence for each failed check.

    Raises:
        ExceptionGroup: of ``ProcessFailed``, ``DirectorError`` or ``TimeoutError``: the demo could not
            be completed.
    """
    async with asyncio.TaskGroup() as tasks:
        processes = Processes(tasks, plan.folder)
        try:
            found = await _run_groups(plan, processes, screen)
            _conclude(plan, screen, found)
            if not plan.once:
                await _until_interrupted()
        finally:
            await processes.stop()
    found += [f"{name} is still running." for name in processes.remaining()]
    return found


async def _run_groups(plan: Plan, processes: Processes, screen: Screen) -> list[str]:
    screen.say(f"Data folder: {plan.folder}")
    screen.say("Starting three simulated ComfyUIs and a Director …")
    farm = await start(processes, folder=plan.folder, seconds=plan.seconds)
    async with AsyncDirector(farm.url, give_up_seconds=_GIVE_UP_S) as director:
        await register(director, farm)
        user = _User(director, farm, plan, screen)
        screen.title("1. One request, three backends, three seeds")
        first = await user.render("Group 1")
        screen.title("2. The same request, but gpu-2 runs out of memory")
        await inject_fault(farm, "gpu-2", OUT_OF_MEMORY)
        second = await user.render("Group 2")
        screen.title("3. Longer jobs, and the Director is killed while they run")
        third = await user.render_over_a_kill("Group 3", KillSwitch(processes, farm, screen))
    screen.table([first, second, third.result])
    screen.say(f"\nImages: {plan.images}")
    screen.say(f"Director: {farm.url}{' (ends with this demo)' if plan.once else ''}")
    return problems(first, second, third)


@dataclass(frozen=True, slots=True)
class _User:
    """A user of the API."""

    director: AsyncDirector
    farm: Farm
    plan: Plan
    screen: Screen

    async def render(self, title: str, kill_switch: KillSwitch | None = None) -> DemoResult:
        """Submit the workflow to all backends, follow the events and download the images.

        Args:
            title: display name of the group.
            kill_switch: receives every event of the stream.

        Raises:
            TimeoutError: the group did not end within the limit.
        """
        async with asyncio.timeout(_GROUP_WITHIN_S):
            submitted = await self.director.submit(
                text_to_image(), list(self.farm.simulators), metadata={"scene": title}
            )
            streamed = await self._watch(submitted, kill_switch)
            group = await self.director.status(submitted.job_group_id)
            images = await self.director.download(group, self.plan.images)
            log = await self.director.events(group.job_group_id)
        return DemoResult(
            title=title,
            group=group,
            streamed=[event.seq or 0 for event in streamed],
            logged=[event.seq or 0 for event in log],
            images=images,
            kinds=[event.type for event in streamed],
        )

    async def render_over_a_kill(self, title: str, kill_switch: KillSwitch) -> Outage:
        """Do the same while the Director is killed; then read the audit logs of the backends.

        Raises:
            TimeoutError: the group did not end within the limit.
            ProcessFailed: the Director did not start again, or an audit log was not readable.
        """
        await slow_down(self.farm, _LONGER_S)
        result = await self.render(title, kill_switch)
        prompts = renders(await read_audit_logs(self.farm), result.group.job_group_id)
        return Outage(result=result, killed_at=kill_switch.killed_at, renders=prompts)

    async def _watch(self, group: Group, kill_switch: KillSwitch | None) -> list[Event]:
        """Show the group's events from the first to the last; return the state events."""
        stored = []
        # Without a kill, a lost connection or a gap is an error: all processes run on one machine.
        stream = self.director.stream(group.job_group_id, since=0, reconnect=kill_switch is not None)
        with self.screen.watch(group) as watcher:
            async with contextlib.aclosing(stream):
                async for event in stream:
                    watcher.on_event(event)
                    if event.seq is not None:
                        stored.append(event)
                    if kill_switch is not None:
                        await kill_switch.after(event, group)
        return stored


def _conclude(plan: Plan, screen: Screen, found: list[str]) -> None:
    for sentence in found:
        screen.say(f"CHECK FAILED: {sentence}")
    if not plan.once:
        screen.say("The Director serves until you press Ctrl-C.")


async def _until_interrupted() -> None:
    """Wait until Ctrl-C or SIGTERM cancels the task; a normal end of the demo."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        # An unexpected end of a process also cancels this task. The task that follows the process raises.
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
