"""The demo's course: start the farm, submit three groups, check the results, serve until Ctrl-C."""

import asyncio
import contextlib
import json
import re
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from director.cli.display import Display, make_display
from director.cli.watch import conclude
from director.client import AsyncDirector, ChildProgress, Event, Group, InitialState
from director.demo.processes import Processes
from director.demo.workflow import text_to_image, with_video
from director.server import listen

#: Status and number of images with which each group ends.
_EXPECTED: Final = (("completed", 3), ("partial_complete", 2), ("completed", 3))
BACKENDS: Final = 3
_USUAL_PORT: Final = 9820  #: The Director's default port. Another Director may already use it.
DIRECTOR: Final = "Director"  #: Display name of the Director's process.
_SIMULATORS_READY: Final = re.compile(r'^\{.*"urls".*\}')
_DIRECTOR_READY: Final = re.compile(r"Director is ready at (?P<url>http://\S+)")
_FAULT_WITHIN_S: Final = 10.0  #: Seconds for a simulator's answer.
#: Fault: the next prompt fails with the error of a GPU that is out of memory.
OUT_OF_MEMORY: Final = {
    "name": "node_error",
    "type": "torch.OutOfMemoryError",
    "message": "CUDA out of memory",
    "step": 8,
}


@dataclass(frozen=True, slots=True)
class Farm:
    """Address of the Director, and of each simulated ComfyUI by its name, which is also its backend id."""

    url: str
    simulators: Mapping[str, str]


async def start(processes: Processes, *, folder: Path, seconds: float) -> Farm:
    """Start the simulators, all in one process, and a Director without backends. Raises ProcessFailed.

    The simulators keep their output in ``folder``; a simulated prompt takes so many seconds.
    """
    simulate = ["simulate", "--json", "--port", "0", "--count", str(BACKENDS), "--name", "gpu"]
    simulate += ["--seconds", str(seconds), "--output-dir", str(folder / "comfyui")]
    ready = await processes.start("Simulators", simulate, ready=_SIMULATORS_READY)
    addresses = json.loads(ready.group())
    return Farm(
        url=await start_director(processes, _port()),
        simulators=dict(zip(addresses["names"], addresses["urls"], strict=True)),
    )


def _port() -> int:
    """Return the Director's default port, or 0 (any free port) if it is in use."""
    try:
        return listen.listen_addresses("localhost", _USUAL_PORT)[0].port
    except listen.CannotListen:
        return 0


async def start_director(processes: Processes, port: int) -> str:
    """Start a Director and return its address; port 0 is any free one. Raises ProcessFailed."""
    serve = ["serve", "--port", str(port)]
    return (await processes.start(DIRECTOR, serve, ready=_DIRECTOR_READY))["url"]


async def inject_fault(farm: Farm, backend_id: str, fault: Mapping[str, Any]) -> None:
    """Inject a fault, which takes effect once; raise ``OSError`` if the simulator refuses it."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url, body = f"{farm.simulators[backend_id]}/simulator/faults", json.dumps(fault).encode()
    (await asyncio.to_thread(opener.open, url, body, _FAULT_WITHIN_S)).close()


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
    return found


async def _run_groups(folder: Path, processes: Processes, *, once: bool, seconds: float) -> list[str]:
    click.echo(f"Data folder: {folder}")
    click.echo("Starting three simulated ComfyUIs and a Director …")
    farm = await start(processes, folder=folder, seconds=seconds)
    click.secho(f"Watch it in a browser: {farm.url}", bold=True)
    async with AsyncDirector(farm.url, give_up_seconds=_GIVE_UP_S) as director:
        for name, url in farm.simulators.items():
            await director.add_backend(url, backend_id=name, name=f"Simulated {name}")
        user = _User(director, farm, folder / "images")
        click.secho("\n1. One request, three backends, three seeds: an image and a video each", bold=True)
        ended = [await user.render("Group 1", workflow=with_video(text_to_image()))]
        click.secho("\n2. The same request, but gpu-2 runs out of memory", bold=True)
        await inject_fault(farm, "gpu-2", OUT_OF_MEMORY)
        ended.append(await user.render("Group 2"))
        click.secho("\n3. Longer jobs, and the Director is killed while they run", bold=True)
        for name in farm.simulators:
            await inject_fault(farm, name, {"name": "slow", "seconds": _LONGER_S})
        kill_switch = _KillSwitch(processes, farm)
        ended.append(await user.render("Group 3", kill_switch))
    click.echo(f"\nImages: {user.images}")
    click.echo(f"Director: {farm.url}{' (ends with this demo)' if once else ''}")
    found = [
        f"Group {number} ended as {status} with {images} images, not as {wanted[0]} with {wanted[1]}."
        for number, ((status, images), wanted) in enumerate(zip(ended, _EXPECTED, strict=True), 1)
        if (status, images) != wanted
    ]
    return found if kill_switch.killed_at is not None else [*found, "The Director was not killed."]


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
    ) -> tuple[str, int]:
        """Submit a workflow to all backends, follow the events and download the files.

        Return the status of the group and the number of its images.
        """
        async with asyncio.timeout(_GROUP_WITHIN_S):
            submitted = await self.director.submit(
                workflow or text_to_image(), list(self.farm.simulators), metadata={"scene": title}
            )
            with make_display(as_json=False) as display:
                display.on_event(InitialState(type="initial_state", raw={}, group=submitted))
                await self._follow(submitted, display, kill_switch)
                group = await self.director.status(submitted.job_group_id)
                files = await self.director.download(group, self.images)
                for path in files:
                    display.on_saved("", path)
        conclude(group)
        return group.status, sum(path.suffix == ".png" for path in files)

    async def _follow(self, group: Group, display: Display, kill_switch: _KillSwitch | None) -> None:
        # Without a kill, a lost connection or a gap is an error: all processes run on one machine.
        stream = self.director.stream(group.job_group_id, since=0, reconnect=kill_switch is not None)
        async with contextlib.aclosing(stream):
            async for event in stream:
                display.on_event(event)
                if kill_switch is not None:
                    await kill_switch.after(event, group)


async def _until_interrupted() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        # An unexpected end of a process also cancels this task. The task that follows the process raises.
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
