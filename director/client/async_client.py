"""The client for event loops: ``Director`` with ``await``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

import httpx

from director.client import calls, downloads
from director.client import stream as streaming
from director.client import wait as waiting
from director.client.async_wire import AsyncWire, emissions, run
from director.client.backends import Backend, Found, Health
from director.client.backoff import Patience
from director.client.downloads import Downloadable
from director.client.events import Event
from director.client.failures import Failures
from director.client.file_writer import DEFAULT_TEMPLATE
from director.client.groups import CancelResult, Child, Group, MoveResult, RetryResult
from director.client.requests import BackendFields, ListFilters, RetryOptions, SubmitOptions
from director.client.steps import Flow
from director.client.transport import DEFAULT_URL, Address, client_options

T = TypeVar("T")


class AsyncDirector:
    """A Director, spoken to from an event loop: the methods of ``Director``, awaited.

    An async context manager. ``stream`` and ``list`` are async generators; one that is left before
    its end keeps its connection until it is closed, so close it::

        async with AsyncDirector() as director:
            group = await director.submit(workflow, ["localhost_8188"])
            async with aclosing(director.stream(group.job_group_id)) as events:
                async for event in events:
                    if isinstance(event, ChildCompleted):
                        for path in await director.download(event, "pictures"):
                            print(path)

    Args, errors and meanings are those of ``Director``.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        timeout: float = 30.0,
        give_up_seconds: float | None = 300.0,
    ) -> None:
        self._address = Address.parse(url, token)
        self._patience = Patience(give_up_seconds)
        self._http = httpx.AsyncClient(**client_options(timeout))

    async def __aenter__(self) -> AsyncDirector:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _run(self, flow: Flow[T]) -> T:
        async with AsyncWire(self._http, self._address) as wire:
            return await run(flow, wire)

    async def _emissions(self, flow: Flow[None]) -> AsyncGenerator[Any]:
        async with (
            AsyncWire(self._http, self._address) as wire,
            aclosing(emissions(flow, wire)) as items,
        ):
            async for item in items:
                yield item

    async def submit(
        self,
        workflow: Mapping[str, Any],
        backend_ids: Sequence[str],
        **options: Unpack[SubmitOptions],
    ) -> Group:
        """Submit a workflow; see ``Director.submit``."""
        return await self._run(calls.submit(workflow, backend_ids, **options))

    async def status(self, group_id: str) -> Group:
        """Return a group with its children as it is now; see ``Director.status``."""
        return await self._run(calls.status(group_id))

    def list(self, **filters: Unpack[ListFilters]) -> AsyncGenerator[Group]:
        """Iterate over groups; see ``Director.list``."""
        return self._emissions(calls.list_groups(**filters))

    async def workflow(self, group_id: str) -> dict[str, Any]:
        """Return the workflow as it was submitted; see ``Director.workflow``."""
        return await self._run(calls.workflow(group_id))

    async def events(self, group_id: str, since: int = 0) -> tuple[Event, ...]:
        """Return the stored events after number ``since``; see ``Director.events``."""
        return await self._run(calls.events(group_id, since))

    async def job(self, group_id: str, job_id: str) -> Child:
        """Return one child with all its attempts; see ``Director.job``."""
        return await self._run(calls.job(group_id, job_id))

    async def wait(self, group_id: str, timeout: float | None = None) -> Group:
        """Return a group once it has ended, whatever its end is; see ``Director.wait``."""
        return await self._run(waiting.wait(group_id, timeout=timeout, patience=self._patience))

    def stream(
        self,
        group_id: str,
        *,
        since: int | None = None,
        reconnect: bool = True,
        follow: bool = False,
    ) -> AsyncGenerator[Event]:
        """Iterate over a group's events until it has ended; see ``Director.stream``."""
        flow = streaming.stream(
            group_id, since=since, reconnect=reconnect, follow=follow, patience=self._patience
        )
        return self._emissions(flow)

    async def cancel(self, group_id: str) -> CancelResult:
        """Cancel every child of a group that is not final; see ``Director.cancel``."""
        return await self._run(calls.cancel(group_id))

    async def cancel_job(self, group_id: str, job_id: str) -> CancelResult:
        """Cancel one child; see ``Director.cancel_job``."""
        return await self._run(calls.cancel_job(group_id, job_id))

    async def retry(
        self,
        group_id: str,
        job_ids: Sequence[str] | None = None,
        **options: Unpack[RetryOptions],
    ) -> RetryResult:
        """Render again what failed in a group that has ended; see ``Director.retry``."""
        flow = calls.retry(group_id, job_ids, **options)
        return await self._run(flow)

    async def retry_job(
        self,
        group_id: str,
        job_id: str,
        **options: Unpack[RetryOptions],
    ) -> RetryResult:
        """Render one child again, also while its group runs; see ``Director.retry_job``."""
        flow = calls.retry_job(group_id, job_id, **options)
        return await self._run(flow)

    async def move(
        self, group_id: str, job_id: str, backend_id: str, *, by: str | None = None
    ) -> MoveResult:
        """Have a child that waits rendered at another backend; see ``Director.move``."""
        return await self._run(calls.move(group_id, job_id, backend_id, by=by))

    async def download(
        self, source: Downloadable, folder: str | Path, name: str = DEFAULT_TEMPLATE
    ) -> tuple[Path, ...]:
        """Save the files of an image, a child, a ``ChildCompleted`` or a whole group; see ``Director.download``."""
        flow = downloads.download(self._address.url, source, Path(folder), name)
        return tuple(await self._run(flow))

    async def backends(self) -> tuple[Backend, ...]:
        """Return all registered backends; see ``Director.backends``."""
        return await self._run(calls.backends())

    async def backend(self, backend_id: str) -> Backend:
        """Return one backend; see ``Director.backend``."""
        return await self._run(calls.backend(backend_id))

    async def add_backend(
        self, url: str, *, backend_id: str | None = None, **fields: Unpack[BackendFields]
    ) -> Backend:
        """Register a ComfyUI; see ``Director.add_backend``."""
        return await self._run(calls.add_backend(url, backend_id=backend_id, **fields))

    async def update_backend(
        self, backend_id: str, *, url: str | None = None, **fields: Unpack[BackendFields]
    ) -> Backend:
        """Change a backend; see ``Director.update_backend``."""
        return await self._run(calls.update_backend(backend_id, url=url, **fields))

    async def delete_backend(self, backend_id: str) -> None:
        """Remove a backend; see ``Director.delete_backend``."""
        await self._run(calls.delete_backend(backend_id))

    async def pause_backend(
        self,
        backend_id: str,
        *,
        now: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> Backend:
        """Send a backend nothing more until it is resumed; see ``Director.pause_backend``."""
        flow = calls.tell_backend(backend_id, "pause", now=now, reason=reason, by=by)
        return await self._run(flow)

    async def drain_backend(
        self,
        backend_id: str,
        *,
        now: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> Backend:
        """Empty a backend and then disable it; see ``Director.drain_backend``."""
        flow = calls.tell_backend(backend_id, "drain", now=now, reason=reason, by=by)
        return await self._run(flow)

    async def resume_backend(self, backend_id: str, *, by: str | None = None) -> Backend:
        """End a pause or a drain; see ``Director.resume_backend``."""
        return await self._run(calls.tell_backend(backend_id, "resume", by=by))

    async def quarantine_backend(
        self,
        backend_id: str,
        *,
        reason: str | None = None,
        minutes: int | None = None,
        by: str | None = None,
    ) -> Backend:
        """Set a backend aside; see ``Director.quarantine_backend``."""
        flow = calls.tell_backend(backend_id, "quarantine", reason=reason, by=by, minutes=minutes)
        return await self._run(flow)

    async def release_backend(self, backend_id: str, *, by: str | None = None) -> Backend:
        """Let a backend out of quarantine; see ``Director.release_backend``."""
        return await self._run(calls.tell_backend(backend_id, "release", by=by))

    async def find_backends(self) -> tuple[Found, ...]:
        """Return the ComfyUIs on the Director's machine; see ``Director.find_backends``."""
        return await self._run(calls.find_backends())

    async def found_backends(self) -> tuple[Found, ...]:
        """Return the ComfyUIs that discovery found; see ``Director.found_backends``."""
        return await self._run(calls.found_backends())

    async def add_found_backend(self, url: str) -> Backend:
        """Register a ComfyUI that discovery found; see ``Director.add_found_backend``."""
        return await self._run(calls.add_found_backend(url))

    async def ignore_backend(self, url: str) -> Found:
        """Offer a found ComfyUI no longer; see ``Director.ignore_backend``."""
        return await self._run(calls.ignore_backend(url, ignored=True))

    async def unignore_backend(self, url: str) -> Found:
        """Offer an ignored ComfyUI again; see ``Director.ignore_backend``."""
        return await self._run(calls.ignore_backend(url, ignored=False))

    async def test_backend(self, url: str, *, headers: Mapping[str, str] | None = None) -> Found:
        """Ask an address whether a ComfyUI answers; see ``Director.test_backend``."""
        return await self._run(calls.test_backend(url, headers))

    async def failures(self, window: str = "1d") -> Failures:
        """Return what failed lately; see ``Director.failures``."""
        return await self._run(calls.failures(window))

    async def workflow_from_png(self, content: bytes) -> dict[str, Any]:
        """Return the workflow in a PNG; see ``Director.workflow_from_png``."""
        return await self._run(calls.workflow_from_png(content))

    async def health(self) -> Health:
        """Return how the Director is, also when it is not well; see ``Director.health``."""
        return await self._run(calls.health())
