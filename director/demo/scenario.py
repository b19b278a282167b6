"""The demo's course: start the farm, submit three groups, check the results, serve until Ctrl-C."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from backends.simulator import Simulator
from backends.simulator.config import COMMON_CHECKPOINTS, DEFAULT_CHECKPOINTS, RECORDED_VERSIONS
from director.cli.display import make_display
from director.cli.watch import conclude
from director.client import AsyncDirector, ChildProgress, Event, Group, InitialState
from director.demo.processes import DirectorProcess
from director.demo.workflow import text_to_image, with_video
from director.server import listen

#: Status and number of images with which each group ends.
_EXPECTED: Final = (("completed", 3), ("partial_complete", 2), ("completed", 3))
BACKENDS: Final = 3
_USUAL_PORT: Final = 9820  #: The Director's default port. Another Director may already use it.
#: Limit in seconds from the submission of a group to its last download.
_GROUP_WITHIN_S: Final = 120.0
_GIVE_UP_S: Final = 15.0  #: Seconds without a response after which the client gives up.
#: Extra seconds per job of the third group: its jobs must outlast a restart of the Director.
_LONGER_S: Final = 4.0
_UNDER_WAY: Final = 0.3  #: Share of the steps after which a job counts as under way.


async def run(folder: Path, *, once: bool, seconds: float) -> list[str]:
    """Run the demo; return one sentence for each failed check.

    ``folder`` is an existing folder for all files. With ``once`` it ends after the three groups
    instead of serving until Ctrl-C. A simulated job takes so many ``seconds``.

    The Director's process has ended when this function returns or raises. Raises ``ProcessFailed``,
    ``DirectorError``, ``TimeoutError`` or ``OSError`` if the demo could not be completed.
    """
    click.echo(f"Data folder: {folder}")
    click.echo("Starting three simulated ComfyUIs and a Director …")
    async with contextlib.AsyncExitStack() as stack:
        names = [f"gpu-{number}" for number in range(1, BACKENDS + 1)]
        gpus = [
            await stack.enter_async_context(_simulator(name, folder, seconds)) for name in names
        ]
        process = await stack.enter_async_context(DirectorProcess(folder))
        problems = await _run_groups(folder, process, gpus, once=once)
        for sentence in problems:
            click.echo(f"CHECK FAILED: {sentence}")
        if not once:
            click.echo("The Director serves until you press Ctrl-C.")
            with contextlib.suppress(asyncio.CancelledError):
                await process.wait()
    return problems


def _simulator(name: str, folder: Path, seconds: float) -> Simulator:
    return Simulator(
        name=name,
        seconds=seconds,
        output_dir=folder / "comfyui" / name,
        vram_gb=24.0,
        version=RECORDED_VERSIONS[-1],
        checkpoints=(*DEFAULT_CHECKPOINTS, *COMMON_CHECKPOINTS),
    )


def _port() -> int:
    """Return the Director's default port, or 0 (any free port) if it is in use."""
    try:
        listen.check_free(_USUAL_PORT)
    except listen.CannotListen:
        return 0
    return _USUAL_PORT


async def _run_groups(
    folder: Path, process: DirectorProcess, gpus: Sequence[Simulator], *, once: bool
) -> list[str]:
    url = await process.start(_port())
    click.secho(f"Watch it in a browser: {url}", bold=True)
    images = folder / "images"
    async with AsyncDirector(url, give_up_seconds=_GIVE_UP_S) as director:
        for gpu in gpus:
            await director.add_backend(gpu.url, backend_id=gpu.name, name=f"Simulated {gpu.name}")
        click.secho(
            "\n1. One request, three backends, three seeds: an image and a video each", bold=True
        )
        ended = [await _render(director, images, "Group 1", with_video(text_to_image()))]
        click.secho("\n2. The same request, but gpu-2 runs out of memory", bold=True)
        gpus[1].fault(
            "node_error", type="torch.OutOfMemoryError", message="CUDA out of memory", step=8
        )
        ended.append(await _render(director, images, "Group 2", text_to_image()))
        click.secho("\n3. Longer jobs, and the Director is killed while they run", bold=True)
        for gpu in gpus:
            gpu.fault("slow", seconds=_LONGER_S)
        kill_switch = _KillSwitch(process, url)
        ended.append(await _render(director, images, "Group 3", text_to_image(), kill_switch))
    click.echo(f"\nImages: {images}")
    click.echo(f"Director: {url}{' (ends with this demo)' if once else ''}")
    problems = [
        f"Group {number} ended as {status} with {count} images, not as {wanted[0]} with "
        f"{wanted[1]}."
        for number, ((status, count), wanted) in enumerate(zip(ended, _EXPECTED, strict=True), 1)
        if (status, count) != wanted
    ]
    return problems if kill_switch.is_used else [*problems, "The Director was not killed."]


class _KillSwitch:
    """Kills and restarts the Director once, as soon as every child of the group is under way."""

    def __init__(self, process: DirectorProcess, url: str) -> None:
        self.is_used = False
        self._process = process
        self._port = urlsplit(url).port or 0
        self._under_way: set[str] = set()
        self._seq = 0

    async def after(self, event: Event, group: Group) -> None:
        self._seq = event.seq or self._seq
        if isinstance(event, ChildProgress):
            steps = _UNDER_WAY * (event.steps_total or 0)
            if (event.steps_completed or 0) > steps:
                self._under_way.add(event.job_id)
        if self.is_used or len(self._under_way) < len(group.child_jobs):
            return
        self.is_used, killed_at = True, time.monotonic()
        await self._process.kill()
        click.echo("  The Director's process was killed. The three ComfyUIs continue.")
        await self._process.start(self._port)
        click.echo(
            f"  The Director was restarted with the same data folder after"
            f" {time.monotonic() - killed_at:.1f} s; the stream resumes with ?since={self._seq}."
        )


async def _render(
    director: AsyncDirector,
    images: Path,
    title: str,
    workflow: dict[str, Any],
    kill_switch: _KillSwitch | None = None,
) -> tuple[str, int]:
    """Submit a workflow to all backends, follow the events and download the files.

    Return the status of the group and the number of its images.
    """
    async with asyncio.timeout(_GROUP_WITHIN_S):
        backend_ids = [backend.backend_id for backend in await director.backends()]
        group = await director.submit(workflow, backend_ids, metadata={"scene": title})
        with make_display(as_json=False) as display:
            display.on_event(InitialState(type="initial_state", raw={}, group=group))
            # Without a kill, a lost connection or a gap is an error: all processes run on one
            # machine.
            stream = director.stream(group.job_group_id, since=0, reconnect=kill_switch is not None)
            async with contextlib.aclosing(stream):
                async for event in stream:
                    display.on_event(event)
                    if kill_switch is not None:
                        await kill_switch.after(event, group)
            group = await director.status(group.job_group_id)
            files = await director.download(group, images)
            for path in files:
                display.on_saved("", path)
    conclude(group)
    return group.status, sum(path.suffix == ".png" for path in files)
