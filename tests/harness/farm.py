"""A real runner over real (simulated) ComfyUIs, in the test's loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection

from backends.models import Backend
from backends.simulator import Simulator
from jobgroups.events.hub import Hub
from jobgroups.models import JobGroup
from jobgroups.runner.intervals import Intervals
from jobgroups.runner.service import RunnerService, RunnerSettings
from jobgroups.services import cancellation
from jobgroups.services.submission import Submission, group_submit

#: The runner's times, shortened so that a look every 5 s is one every half second.
SCALE = 0.1


def in_thread(work: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Run database work of a test in a thread, and close its connection."""

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        finally:
            connection.close()

    return sync_to_async(run, thread_sensitive=False)


async def until(condition: Callable[[], Awaitable[Any]], within: float = 20.0) -> Any:
    """Wait until ``condition`` gives something true, and return it."""
    end = time.monotonic() + within
    while True:
        found = await condition()
        if found:
            return found
        assert time.monotonic() < end, f"not within {within} s"
        await asyncio.sleep(0.02)


class Farm:
    """Backends, runners and groups of one test."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self._tasks: dict[RunnerService, asyncio.Task[None]] = {}
        self.hub = Hub()
        self.sims: dict[str, Simulator] = {}

    async def backend(self, name: str = "gpu-1", **options: Any) -> Simulator:
        """Start a simulator and register it."""
        sim = await self._stack.enter_async_context(Simulator(name=name, **options))
        self.sims[name] = sim
        await self.register(name, sim.url)
        return sim

    async def register(self, name: str, url: str) -> None:
        """Register an address."""
        url = url.replace("127.0.0.1", "localhost")
        await in_thread(Backend.objects.create)(id=name, name=name, url=url)

    async def runner(self, **changes: Any) -> RunnerService:
        """Start a runner and wait until it is alive."""
        options: dict[str, Any] = {
            "name": "local",
            "version": "test",
            "depth": 2,
            "give_up_s": 600.0,
            "queued_limit_s": 86_400,
            "max_answer_bytes": 2**24,
            "threads": 1 if connection.vendor == "sqlite" else 4,
            "intervals": Intervals.scaled(SCALE),
        }
        service = RunnerService(RunnerSettings(**{**options, **changes}), self.hub)
        self._tasks[service] = asyncio.get_running_loop().create_task(service.run())
        await service.wait_ready()
        return service

    async def stop(self, service: RunnerService) -> None:
        """End a runner in order."""
        service.stop()
        await self._tasks.pop(service)

    def kinds(self, name: str = "gpu-1") -> list[str]:
        """Return the kinds of the entries of the backend's audit log, in order."""
        return [entry["kind"] for entry in self.sims[name].audit_log.entries]

    async def kill(self, service: RunnerService) -> None:
        """Cancel a runner without an orderly end."""
        task = self._tasks.pop(service)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def stop_all(self) -> None:
        """End all runners."""
        for service in list(self._tasks):
            await self.stop(service)

    async def submit(self, *backend_ids: str, workflow: Any = None, **fields: Any) -> JobGroup:
        """Submit a group and ring."""
        submission = Submission(workflow=workflow or text_to_image(), backend_ids=backend_ids or ("gpu-1",), **fields)
        done = await in_thread(group_submit)(submission=submission, runner_alive=True)
        self.hub.notify_runners(work_only=True)
        for service in self._tasks:
            service.notify(work_only=True)
        return done.group

    def wake(self) -> None:
        """Ring: there may be work."""
        for service in self._tasks:
            service.notify()

    async def cancel(self, group: JobGroup) -> cancellation.Cancelled:
        """Cancel a group and ring."""
        result = await in_thread(cancellation.group_cancel)(group_id=group.id)
        for service in self._tasks:
            service.notify()
        return result

    async def group(self, group: JobGroup) -> JobGroup:
        """Return the group as it is stored now."""
        return await in_thread(JobGroup.objects.get)(pk=group.pk)

    async def children(self, group: JobGroup) -> list[Any]:
        """Return the group's children as they are stored now."""
        return await in_thread(lambda: list(group.children.order_by("position")))()

    async def attempts(self, group: JobGroup) -> list[Any]:
        """Return all attempts of the group's children, oldest first."""
        from jobgroups.models import Attempt

        rows = Attempt.objects.filter(child__group=group).order_by("id")
        return await in_thread(lambda: list(rows))()

    async def types(self, group: JobGroup) -> list[str]:
        """Return the types of the group's events, in order."""
        rows = group.events.order_by("seq").values_list("type", flat=True)
        return await in_thread(lambda: list(rows))()

    async def finished(self, group: JobGroup, within: float = 20.0) -> JobGroup:
        """Wait for the group's end and return it."""

        async def ended() -> JobGroup | None:
            now = await self.group(group)
            return now if now.completed_at else None

        return await until(ended, within)

    async def settled(self, group: JobGroup, within: float = 20.0) -> list[Any]:
        """Wait until no attempt of the group is active, and return its attempts."""

        async def ended() -> list[Any]:
            rows = await self.attempts(group)
            return rows if all(row.ended_at for row in rows) else []

        return await until(ended, within)

    async def status_of(self, group: JobGroup, status: str, within: float = 20.0) -> Any:
        """Wait until some child of the group has this status, and return it."""

        async def there() -> Any:
            return next((c for c in await self.children(group) if c.status == status), None)

        return await until(there, within)


def text_to_image(steps: int = 4, seed: int = 1, prefix: str = "out") -> dict[str, Any]:
    """Return a workflow that a real ComfyUI with the usual nodes would run."""
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": seed,
                "steps": steps,
                "cfg": 7.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny_sd15.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a city", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": prefix}},
    }
