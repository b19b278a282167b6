"""A real runner over real (simulated) ComfyUIs, in the test's loop."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.db.models import QuerySet

from backends.comfyui.exchange import Timeouts
from backends.models import Backend
from backends.simulator import Simulator
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.shapes.groups import CancelResult
from jobgroups.events.hub import Hub
from jobgroups.models import JobGroup
from jobgroups.runner.context import RunnerSettings
from jobgroups.runner.intervals import Intervals
from jobgroups.runner.service import RunnerService
from jobgroups.runner.session.session import BackendSession
from jobgroups.services import cancellation
from jobgroups.services.submission import group_submit
from tests.harness import factories
from tests.harness.graphs import text_to_image

#: Of one request to a backend; no scale shortens these.
QUICK = Timeouts(silence_s=0.6, total_s=0.8, submit_s=0.8, open_s=0.8, close_s=0.2)
#: The runner's times, shortened so that a look every 5 s is one every half second.
SCALE = 0.1
#: A prompt or a worker counts as stuck after 1.5 s instead of 60.
SOON_STUCK = replace(Intervals.scaled(SCALE), stuck_after=1.5, stalled_after=1.5)
#: The ComfyUIs of the recordings: one without jobs and their cancel, and one with them.
both_versions = pytest.mark.parametrize("version", ["0.3.64", "0.33.0"])


def in_thread(work: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Run database work of a test in a thread, and close its connection."""

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        finally:
            connection.close()

    return sync_to_async(run, thread_sensitive=False)


async def until(condition: Callable[[], Any], within: float = 60.0) -> Any:
    """Return the first true result of a function or coroutine function, within some seconds."""
    end = time.monotonic() + within
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"not within {within} s"
        await asyncio.sleep(0.02)


async def session_of(service: RunnerService, name: str = "gpu-1") -> BackendSession:
    """Wait until a backend's main socket hears, and return its session."""
    sessions = service._sessions
    await until(lambda: name in sessions and sessions[name].sockets.client_id)
    return sessions[name]


async def until_row(rows: QuerySet[Any], within: float = 60.0) -> Any:
    return await until(in_thread(rows.first), within)


class Farm:
    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self._tasks: dict[RunnerService, asyncio.Task[None]] = {}
        self.hub = Hub()
        self._background = DatabaseThreads(threads=5, name="runner-background", is_shared=True)
        stack.push_async_callback(asyncio.to_thread, self._background.close)
        self.sims: dict[str, Simulator] = {}

    async def backend(self, name: str = "gpu-1", **options: Any) -> Simulator:
        sim = await self._stack.enter_async_context(Simulator(name=name, **options))
        self.sims[name] = sim
        await self.register(name, sim.url)
        return sim

    async def register(self, name: str, url: str) -> None:
        url = url.replace("127.0.0.1", "localhost")
        await in_thread(Backend.objects.create)(id=name, name=name, url=url)

    async def start(self, name: str = "gpu-1", **options: Any) -> Simulator:
        """Start a ComfyUI, then a runner."""
        sim = await self.backend(name, **options)
        await self.runner()
        return sim

    async def runner(self, seen: Sequence[str] = (), **changes: Any) -> RunnerService:
        """Start a runner, and wait until it has probed the backends ``seen``: else they are no
        candidates for a retry.
        """
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
        service = RunnerService(
            RunnerSettings(**{**options, **changes}), self.hub, self._background, {}, None
        )
        ready = asyncio.Event()
        self._tasks[service] = asyncio.get_running_loop().create_task(service.run(ready.set))
        await ready.wait()
        if seen:
            await self.seen(*seen)
        return service

    async def stop(self, service: RunnerService) -> None:
        service.stop()
        await self._tasks.pop(service)

    async def seen(self, *names: str) -> None:
        """Wait until the runner has probed each backend."""
        rows = Backend.objects.filter(pk__in=names, reachability="online").exclude(devices=[])

        async def all_seen() -> bool:
            return bool(await in_thread(rows.count)() == len(names))

        await until(all_seen)

    async def row(self, name: str = "gpu-1") -> Backend:
        return await in_thread(Backend.objects.get)(pk=name)

    async def dispatched(self) -> None:
        """Wait until each session has searched for work: when its second search begins, the first
        one is over.
        """
        for service in self._tasks:
            sessions = service._sessions.values()
            for event in (service._work, *(session.context.work_available for session in sessions)):
                for _ in range(2):
                    event.set()
                    await until(lambda event=event: not event.is_set())

    async def looked_up(self, times: int = 6, route: str = "/queue", name: str = "gpu-1") -> None:
        """Wait until a backend has got so many requests, by default for its queue."""
        requests = self.sims[name].fault(
            "slow_http", count=times, route=route, method="GET", seconds=0.0
        )
        await until(lambda: requests.left == 0)

    def recorded(self, kind: str, *names: str) -> list[str]:
        """Return the prompts of entries of this kind in the audit logs, of all backends by default."""
        return [
            entry["prompt_id"]
            for name in names or self.sims
            for entry in self.sims[name].audit_log.entries
            if entry["kind"] == kind
        ]

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
        for service in list(self._tasks):
            await self.stop(service)

    async def submit(self, *backend_ids: str, workflow: Any = None, **fields: Any) -> JobGroup:
        submission = factories.submission(
            *backend_ids, workflow=workflow or text_to_image(), **fields
        )
        done = await in_thread(group_submit)(submission=submission, runner_alive=True)
        if submission.secret:
            self.hub.keys[done.group.id] = submission.secret
        self.hub.notify_runners(work_only=True)
        for service in self._tasks:
            service.notify(work_only=True)
        return done.group

    async def running(self, *backend_ids: str, **options: Any) -> JobGroup:
        """Submit a group, and return it when a job of it runs."""
        group = await self.submit(*backend_ids, **options)
        await self.status_of(group, "running")
        return group

    async def completes(self, *backend_ids: str, **options: Any) -> JobGroup:
        """Submit a group, and wait until it has completed."""
        group = await self.submit(*backend_ids, **options)
        assert (await self.finished(group)).status == "completed"
        return group

    def wake(self) -> None:
        for service in self._tasks:
            service.notify()

    async def cancel(self, group: JobGroup) -> CancelResult:
        result = await in_thread(cancellation.group_cancel)(group_id=group.id)
        for service in self._tasks:
            service.notify()
        return result

    async def group(self, group: JobGroup) -> JobGroup:
        return await in_thread(JobGroup.objects.get)(pk=group.pk)

    async def children(self, group: JobGroup) -> list[Any]:
        return await in_thread(lambda: list(group.children.order_by("position")))()

    async def attempts(self, group: JobGroup) -> list[Any]:
        from jobgroups.models import Attempt

        rows = Attempt.objects.filter(child__group=group).order_by("id")
        return await in_thread(lambda: list(rows))()

    async def states(self, group: JobGroup) -> list[str]:
        return [row.state for row in await self.attempts(group)]

    async def in_states(self, group: JobGroup, *states: str, within: float = 60.0) -> None:
        async def are_there() -> bool:
            return await self.states(group) == list(states)

        await until(are_there, within)

    async def land(self, attempt: Any) -> None:
        """Queue the prompt of an attempt whose POST broke, as when its bytes arrive late."""
        body = {
            "prompt": text_to_image(),
            "prompt_id": attempt.prompt_id,
            "client_id": attempt.client_id,
        }
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{self.sims[attempt.backend_id].url}/prompt", json=body)
        answer.raise_for_status()

    async def outcomes(self, group: JobGroup) -> list[tuple[str, str, str]]:
        """Return backend, state and failure class of the group's attempts, oldest first."""
        rows = await self.attempts(group)
        return [(row.backend_id, row.state, row.failure_class) for row in rows]

    async def types(self, group: JobGroup) -> list[str]:
        rows = group.events.order_by("seq").values_list("type", flat=True)
        return await in_thread(lambda: list(rows))()

    async def finished(self, group: JobGroup, within: float = 60.0) -> JobGroup:
        async def ended() -> JobGroup | None:
            now = await self.group(group)
            return now if now.completed_at else None

        return await until(ended, within)

    async def failed(self, group: JobGroup, within: float = 60.0) -> Any:
        """Wait until a group of one child has failed, and return the child."""
        assert (await self.finished(group, within)).status == "failed"
        (child,) = await self.children(group)
        return child

    async def settled(self, group: JobGroup, within: float = 60.0) -> list[Any]:
        """Wait until no attempt of the group is active, and return its attempts."""

        async def ended() -> list[Any]:
            rows = await self.attempts(group)
            return rows if all(row.ended_at for row in rows) else []

        return await until(ended, within)

    async def status_of(self, group: JobGroup, status: str, within: float = 60.0) -> Any:
        async def there() -> Any:
            return next((c for c in await self.children(group) if c.status == status), None)

        return await until(there, within)
