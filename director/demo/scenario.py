"""The demo's course: start the farm, submit three groups, check the results, serve until Ctrl-C."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from director.cli.display import Display, make_display
from director.cli.watch import conclude
from director.client import AsyncDirector, ChildProgress, Event, Group, InitialState
from director.demo.checks import DemoResult, problems
from director.demo.farm import DIRECTOR, OUT_OF_MEMORY, Farm, inject_fault, read_audit_logs, start, start_director
from director.demo.processes import Processes
from director.demo.workflow import text_to_image, with_video

_GROUP_WITHIN_S: Final = 120.0  #: Limit in seconds from the submission of a group to its last download.
_GIVE_UP_S: Final = 15.0  #: Seconds without a response after which the client gives up.
_LONGER_S: Final = 4.0  #: Extra seconds per job of the third group: its jobs must outlast a restart of the Director.
_UNDER_WAY: Final = 0.3  #: Share of the steps after which a job counts as under way.


async def run(folder: Path, *, once: bool, seconds: float) -> list[str]:
    """Run the demo; return one sentence for each failed check.

    ``folder`` is an existing folder for all files. With ``once`` it ends after the three groups instead of serving until
    Ctrl-C. A simulated job takes so many ``seconds``.

    All its processes have ended when this function returns or raises. Raises an ``ExceptionGroup`` of
    ``ProcessFailed``, ``DirectorError`` or ``TimeoutError`` if the demo could not be completed.
    """
    async with asyncio.TaskGroup() as tasks:
        processes = Processes(tasks, folder)
        try:
            found = await _run_groups(folder, processes, once=once, seconds=seconds)
            for sentence in found:
                click.echo(f"CHECK FAILED: {sentence}")
            if not once:
                click.echo("The Director serves until you press Ctrl-C.")
                await _until_interrupted()
        finally:
            await processes.stop()
    found += [f"{name} is still running." for name in processes.remaining()]
    return found


async def _run_groups(folder: Path, processes: Processes, *, once: bool, seconds: float) -> list[str]:
    click.echo(f"Data folder: {folder}")
    click.echo("Starting three simulated ComfyUIs and a Director …")
    farm = await start(processes, folder=folder, seconds=seconds)
    async with AsyncDirector(farm.url, give_up_seconds=_GIVE_UP_S) as director:
        for name, url in farm.simulators.items():
            await director.add_backend(url, backend_id=name, name=f"Simulated {name}")
        user = _User(director, farm, folder / "images")
        click.secho("\n1. One request, three backends, three seeds: an image and a video each", bold=True)
        first = await user.render("Group 1", workflow=with_video(text_to_image()))
        click.secho("\n2. The same request, but gpu-2 runs out of memory", bold=True)
        await inject_fault(farm, "gpu-2", OUT_OF_MEMORY)
        second = await user.render("Group 2")
        click.secho("\n3. Longer jobs, and the Director is killed while they run", bold=True)
        for name in farm.simulators:
            await inject_fault(farm, name, {"name": "slow", "seconds": _LONGER_S})
        kill_switch = _KillSwitch(processes, farm)
        third = await user.render("Group 3", kill_switch)
        audit_log = await read_audit_logs(farm)
    click.echo(f"\nImages: {user.images}")
    click.echo(f"Director: {farm.url}{' (ends with this demo)' if once else ''}")
    return problems(first, second, third, killed=kill_switch.killed_at is not None, audit_log=audit_log)


class _KillSwitch:
    """Kills and restarts the Director once, as soon as every child of the group is under way."""

    def __init__(self, processes: Processes, running: Farm) -> None:
        self.killed_at: float | None = None  # seconds since the epoch
        self._processes = processes
        self._farm = running
        self._under_way: set[str] = set()
        self._seq = 0

    async def after(self, event: Event, group: Group) -> None:
        self._seq = event.seq or self._seq
        if isinstance(event, ChildProgress):
            steps = _UNDER_WAY * (event.steps_total or 0)
            if (event.steps_completed or 0) > steps:
                self._under_way.add(event.job_id)
        if self.killed_at is not None or len(self._under_way) < len(group.child_jobs):
            return
        self.killed_at = time.time()
        await self._processes.kill(DIRECTOR)
        click.echo("  The Director's process was killed. The three ComfyUIs continue.")
        await start_director(self._processes, urlsplit(self._farm.url).port or 0)
        click.echo(
            f"  The Director was restarted with the same data folder after"
            f" {time.time() - self.killed_at:.1f} s; the stream resumes with ?since={self._seq}."
        )


@dataclass(frozen=True, slots=True)
class _User:
    director: AsyncDirector
    farm: Farm
    images: Path

    async def render(
        self, title: str, kill_switch: _KillSwitch | None = None, workflow: dict[str, Any] | None = None
    ) -> DemoResult:
        """Submit a workflow to all backends, follow the events and download the files."""
        async with asyncio.timeout(_GROUP_WITHIN_S):
            submitted = await self.director.submit(
                workflow or text_to_image(), list(self.farm.simulators), metadata={"scene": title}
            )
            with make_display(as_json=False) as display:
                display.on_event(InitialState(type="initial_state", raw={}, group=submitted))
                streamed = await self._follow(submitted, display, kill_switch)
                group = await self.director.status(submitted.job_group_id)
                files = await self.director.download(group, self.images)
                for path in files:
                    display.on_saved("", path)
            log = await self.director.events(group.job_group_id)
        conclude(group)
        return DemoResult(
            title=title,
            group=group,
            streamed=[event.seq or 0 for event in streamed],
            logged=[event.seq or 0 for event in log],
            images=[path for path in files if path.suffix == ".png"],
        )

    async def _follow(self, group: Group, display: Display, kill_switch: _KillSwitch | None) -> list[Event]:
        stored = []
        # Without a kill, a lost connection or a gap is an error: all processes run on one machine.
        stream = self.director.stream(group.job_group_id, since=0, reconnect=kill_switch is not None)
        async with contextlib.aclosing(stream):
            async for event in stream:
                display.on_event(event)
                if event.seq is not None:
                    stored.append(event)
                if kill_switch is not None:
                    await kill_switch.after(event, group)
        return stored


async def _until_interrupted() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        # An unexpected end of a process also cancels this task. The task that follows the process raises.
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
