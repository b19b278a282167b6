"""The two clients. Each method is written once and is blocking in ``Director``, awaited in ``AsyncDirector``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

from director.client import calls, downloads, requests
from director.client import stream as event_stream
from director.client import wait as group_wait
from director.client.async_wire import AsyncWire
from director.client.backends import Backend, Found, Health
from director.client.backoff import ReconnectPolicy
from director.client.decode import load, parser
from director.client.downloads import Downloadable
from director.client.events import Event
from director.client.failures import Failures, parse_failures
from director.client.file_writer import DEFAULT_TEMPLATE
from director.client.groups import CancelResult, Child, Group, MoveResult, RetryResult, parse_child, parse_group
from director.client.methods import AsyncClient, BlockingClient, iterator, method
from director.client.requests import BackendFields, ListFilters, RetryOptions, SubmitOptions
from director.client.sync_wire import SyncWire
from director.client.transport import DEFAULT_URL, Address
from director.client.wire import Request, Wire

T = TypeVar("T")


class _Client:
    """The methods of both clients."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        timeout: float = 30.0,
        give_up_seconds: float | None = 300.0,
    ) -> None:
        self._address = Address.parse(url, token)
        self._policy = ReconnectPolicy(give_up_seconds)
        self._wire = self._open(timeout)

    def _open(self, timeout: float) -> Wire:
        raise NotImplementedError

    async def _call(self, request: Request, parse: Callable[[dict[str, Any]], T]) -> T:
        return await calls.call(self._wire, request, parse)

    @method
    async def close(self) -> None:
        """Close the connections."""
        await self._wire.aclose()

    @method
    async def submit(
        self, workflow: Mapping[str, Any], backend_ids: Sequence[str], **options: Unpack[SubmitOptions]
    ) -> Group:
        """Submit a workflow (ComfyUI's API format): one job per backend id, each with its own seed.

        After a lost answer the request is repeated with the same idempotency key: one call makes one group.
        For the options see ``SubmitOptions``::

            director.submit(workflow, ["localhost_8188"], parameters={"steps": 30}, base_seed=42)

        Raises:
            BadRequest: Nothing was stored; ``errors`` has the reasons.
            NoOnlineBackends: None of the backends can take work now.
            RunnerAbsent: The Director has no runner.
            IdempotencyConflict: The key was used for another submission.
            Unreachable: No answer, also after repetitions.
        """
        request = requests.submit(workflow, backend_ids, **options)
        answer = await calls.accepted(self._wire, request)
        replayed = answer.headers.get("idempotency-replayed", "").lower() == "true"
        return parse_group(load(answer.content), replayed=replayed)

    @method
    async def status(self, group_id: str) -> Group:
        """Return a group with its jobs as it is now.

        Raises:
            GroupNotFound: There is no such group.
        """
        return await self._call(requests.get("job-groups", group_id), parse_group)

    @iterator
    def list(self, **filters: Unpack[ListFilters]) -> AsyncGenerator[Group]:
        """Iterate over groups (without their jobs), newest first; see ``ListFilters``::

        for group in director.list(status="failed", metadata={"scene": "shot_001"}):
            print(group.job_group_id, group.metadata)
        """
        return calls.list_groups(self._wire, **filters)

    @method
    async def workflow(self, group_id: str) -> dict[str, Any]:
        """Return the workflow as it was submitted.

        Raises:
            GroupNotFound: There is no such group.
        """
        return await self._call(requests.get("job-groups", group_id, "workflow"), calls.graph)

    @method
    async def events(self, group_id: str, since: int = 0) -> tuple[Event, ...]:
        """Return the stored events after number ``since``: all except progress.

        Raises:
            GroupNotFound: There is no such group.
        """
        return await calls.events(self._wire, group_id, since)

    @method
    async def job(self, group_id: str, job_id: str) -> Child:
        """Return one job with all its attempts.

        Raises:
            GroupNotFound, JobNotFound: There is no such group, or no such job in it.
        """
        return await self._call(requests.get("job-groups", group_id, "jobs", job_id), parse_child)

    @method
    async def wait(self, group_id: str, timeout: float | None = None) -> Group:
        """Return a group once it has ended, with any status.

        Follows the stream, and reads the status at intervals in case the stream is silent. Continues
        after restarts of the Director::

            group = director.wait(group.job_group_id, timeout=600)
            print(group.status, len(group.images))

        Args:
            timeout: Seconds; None: no limit.

        Raises:
            WaitTimeout: The group had not ended in time (also a ``TimeoutError``). It continues.
            GroupNotFound: There is no such group.
            Unreachable: The Director was away for ``give_up_seconds``.
        """
        return await group_wait.wait(self._wire, group_id, timeout=timeout, policy=self._policy)

    @iterator
    def stream(
        self, group_id: str, *, since: int | None = None, reconnect: bool = True, follow: bool = False
    ) -> AsyncGenerator[Event]:
        """Iterate over a group's events until it has ended.

        Every state event comes exactly once and in order, however often the connection is lost.
        Progress comes in between, the latest only. The first event is ``InitialState`` unless ``since``
        is given. A later ``InitialState`` means that the server could not resume: it replaces everything
        before it::

            for event in director.stream(group_id):
                match event:
                    case ChildProgress():
                        print(f"{event.job_id} {event.progress:.0f} %")
                    case GroupComplete():
                        print(f"{event.succeeded} of {event.total}")

        Args:
            since: Continue after the event of this number; ``group.seq`` of a snapshot.
            reconnect: False: a lost connection raises ``StreamClosed``.
            follow: Continue after the end, for the next run that a retry may open.

        Raises:
            GroupNotFound: There is no such group.
            Unreachable: The Director was away for ``give_up_seconds``.
        """
        return event_stream.stream(
            self._wire, group_id, since=since, reconnect=reconnect, follow=follow, policy=self._policy
        )

    @method
    async def cancel(self, group_id: str) -> CancelResult:
        """Cancel every job of a group that is not final.

        Raises:
            GroupNotFound: There is no such group.
        """
        return await self._call(requests.delete("job-groups", group_id), parser(CancelResult))

    @method
    async def cancel_job(self, group_id: str, job_id: str) -> CancelResult:
        """Cancel one job.

        Raises:
            GroupNotFound, JobNotFound: There is no such group, or no such job in it.
        """
        return await self._call(requests.delete("job-groups", group_id, "jobs", job_id), parser(CancelResult))

    @method
    async def retry(
        self, group_id: str, job_ids: Sequence[str] | None = None, **options: Unpack[RetryOptions]
    ) -> RetryResult:
        """Retry the failed jobs of a group that has ended: same group, same seeds, its next run.

        Completed jobs stay. A job whose prompt completed after all (its stop came too late) gets that
        result at once::

            if group.failed_count:
                director.retry(group.job_group_id)
                group = director.wait(group.job_group_id)

        Args:
            job_ids: The jobs; None: all that failed or timed out, and in a cancelled group those that
                were cancelled.
            **options: On which backends; see :class:`~director.client.RetryOptions`::

                director.retry(group.job_group_id, where="auto")

        Raises:
            GroupNotFound, JobNotFound: There is no such group, or no such job in it.
            GroupNotFinished: A job in it is not final; wait, or cancel the group.
            NothingToRetry: No job in it failed.
            JobCompleted: A named job has its result.
            BackendUnavailable: A job's backend accepts no work, and the job may not move; or the
                named backend accepts no work or lacks a capability.
            BackendNotFound: There is no such backend.
            NoOtherBackend: A job is to move to another backend, and there is none for it.
            RunPassed: The group is not in the run of the options.
        """
        return await self._call(requests.retry(group_id, job_ids=job_ids, **options), parser(RetryResult))

    @method
    async def retry_job(self, group_id: str, job_id: str, **options: Unpack[RetryOptions]) -> RetryResult:
        """Retry one job; see ``retry``. While its group runs, a job that failed or timed out.

        Raises:
            JobNotFailed: The group runs, and the job has not failed.
        """
        return await self._call(requests.retry(group_id, "jobs", job_id, **options), parser(RetryResult))

    @method
    async def move(self, group_id: str, job_id: str, backend_id: str, *, by: str | None = None) -> MoveResult:
        """Move a queued job to another backend.

        Its prompt is removed from the old backend's queue first. A prompt that has started by then is not
        interrupted: the job stays there. Repeating changes nothing.

        Args:
            backend_id: The new backend.
            by: Your name, for the events.

        Raises:
            GroupNotFound, JobNotFound, BackendNotFound: There is no such group, job or backend.
            JobNotWaiting: The job runs, or has ended.
            BackendUnavailable: The backend accepts no work, or lacks what the group requires.
        """
        return await self._call(requests.move(group_id, job_id, backend_id, by=by), parser(MoveResult))

    @method
    async def download(
        self, source: Downloadable, folder: str | Path, name: str = DEFAULT_TEMPLATE
    ) -> tuple[Path, ...]:
        """Save one file, or the files of a job, of a ``ChildCompleted`` or of a whole group.

        No file is ever overwritten: one with the same content stays and is returned, one with other
        content gets a number. An incomplete file never has its final name. Files that are ``missing`` are
        left out, unless ``source`` is that file. Files are read from their backends. A
        replacement by a later job after ``source`` was read is not detected::

            director.download(group, "images", name="{backend}/{seed}_{name}")

        Args:
            folder: Created if it does not exist.
            name: Template of the file names: ``{index}``, ``{seed}``, ``{backend}``, ``{name}``, ``{job}``.

        Returns:
            The paths, in the order of the files.

        Raises:
            TypeError: ``source`` is none of these.
            NotFound: The file is missing at the backend.
            Unreachable: The file's backend does not answer.
            OSError: The file cannot be written.
            ValueError: The template has another placeholder.
        """
        return await downloads.download(self._wire, self._address.url, source, Path(folder), name)

    @method
    async def backends(self) -> tuple[Backend, ...]:
        """Return all registered backends."""
        return await self._call(requests.get("backends"), calls.listed("backends", parser(Backend)))

    @method
    async def backend(self, backend_id: str) -> Backend:
        """Return one backend.

        Raises:
            BackendNotFound: There is no such backend.
        """
        return await self._call(requests.get("backends", backend_id), parser(Backend))

    @method
    async def add_backend(self, url: str, *, backend_id: str | None = None, **fields: Unpack[BackendFields]) -> Backend:
        """Register a ComfyUI; its id is derived from its address unless given. See ``BackendFields``::

            director.add_backend("http://192.168.100.6:8188", tags=["24gb"])

        Raises:
            BadRequest: The address or a field is wrong.
            Conflict: It is registered already.
        """
        request = requests.add_backend(url, backend_id=backend_id, **fields)
        return await self._call(request, parser(Backend))

    @method
    async def update_backend(
        self, backend_id: str, *, url: str | None = None, **fields: Unpack[BackendFields]
    ) -> Backend:
        """Change a backend; fields that are not named stay.

        Raises:
            BackendNotFound: There is no such backend.
            Conflict: Its address cannot change while a job of the Director runs there.
        """
        request = requests.update_backend(backend_id, url=url, **fields)
        return await self._call(request, parser(Backend))

    @method
    async def delete_backend(self, backend_id: str) -> None:
        """Remove a backend; finished groups keep its id.

        Raises:
            BackendNotFound: There is no such backend.
            BackendInUse: It has jobs that are not final.
        """
        await calls.accepted(self._wire, requests.delete("backends", backend_id))

    @method
    async def pause_backend(
        self, backend_id: str, *, now: bool = False, reason: str | None = None, by: str | None = None
    ) -> Backend:
        """Send a backend no more jobs until it is resumed; its queued jobs stay queued.

            director.pause_backend("gpu-2", now=True, reason="the artist needs it", by="anna")

        Args:
            backend_id: The backend.
            now: Evict the running jobs instead of letting them finish: they are stopped there and run
                later, or on another backend if their group allows that.
            reason: The reason, for other users.
            by: Your name.

        Raises:
            BackendNotFound: There is no such backend.
        """
        request = requests.change_hold(backend_id, "pause", now=now, reason=reason, by=by)
        return await self._call(request, parser(Backend))

    @method
    async def drain_backend(
        self, backend_id: str, *, now: bool = False, reason: str | None = None, by: str | None = None
    ) -> Backend:
        """Empty a backend, then disable it: it gets no more jobs, and its queued jobs move.

        Args:
            backend_id: The backend.
            now: Evict the running jobs; see ``pause_backend``.
            reason: The reason, for other users.
            by: Your name.

        Raises:
            BackendNotFound: There is no such backend.
        """
        request = requests.change_hold(backend_id, "drain", now=now, reason=reason, by=by)
        return await self._call(request, parser(Backend))

    @method
    async def resume_backend(self, backend_id: str, *, by: str | None = None) -> Backend:
        """End a pause or a drain.

        Raises:
            BackendNotFound: There is no such backend.
        """
        return await self._call(requests.change_hold(backend_id, "resume", by=by), parser(Backend))

    @method
    async def quarantine_backend(
        self, backend_id: str, *, reason: str | None = None, minutes: int | None = None, by: str | None = None
    ) -> Backend:
        """Quarantine a backend, for ``minutes`` or until it is released.

        Raises:
            BackendNotFound: There is no such backend.
        """
        request = requests.change_hold(backend_id, "quarantine", reason=reason, by=by, minutes=minutes)
        return await self._call(request, parser(Backend))

    @method
    async def release_backend(self, backend_id: str, *, by: str | None = None) -> Backend:
        """End a quarantine. The backend gets one prompt at a time until one succeeds.

        Raises:
            BackendNotFound: There is no such backend.
        """
        return await self._call(requests.change_hold(backend_id, "release", by=by), parser(Backend))

    @method
    async def find_backends(self) -> tuple[Found, ...]:
        """Return the ComfyUIs that answer on the Director's host; registers none."""
        return await self._call(requests.find_backends(), calls.listed("found", parser(Found)))

    @method
    async def found_backends(self) -> tuple[Found, ...]:
        """Return the ComfyUIs that discovery found and that are not registered, ignored ones too."""
        return await self._call(requests.get("backends", "found"), calls.listed("found", parser(Found)))

    @method
    async def add_found_backend(self, url: str) -> Backend:
        """Register a ComfyUI that discovery found.

        Raises:
            NotFound: Discovery found no ComfyUI at this address.
            Conflict: It is registered already.
        """
        return await self._call(requests.decide_found(url, "add"), parser(Backend))

    @method
    async def ignore_backend(self, url: str) -> Found:
        """Stop offering a ComfyUI that discovery found.

        Raises:
            NotFound: Discovery found no ComfyUI at this address.
        """
        return await self._call(requests.decide_found(url, "ignore"), parser(Found))

    @method
    async def unignore_backend(self, url: str) -> Found:
        """Offer an ignored ComfyUI again; see ``ignore_backend``."""
        return await self._call(requests.decide_found(url, "unignore"), parser(Found))

    @method
    async def test_backend(self, url: str, *, headers: Mapping[str, str] | None = None) -> Found:
        """Return whether a ComfyUI answers at an address; registers nothing.

        Raises:
            BadRequest: ``url`` is no address.
        """
        return await self._call(requests.test_backend(url, headers), parser(Found))

    @method
    async def failures(self, window: str = "1d") -> Failures:
        """Return recent failures by cause, backend and workflow.

        Args:
            window: ``1h``, ``1d`` or ``7d``.

        Raises:
            BadRequest: There is no such window.
        """
        return await self._call(requests.get("failures", window=window), parse_failures)

    @method
    async def workflow_from_png(self, content: bytes) -> dict[str, Any]:
        """Return the workflow that ComfyUI stored in a PNG, ready for ``submit``.

        Raises:
            BadRequest: The PNG has no workflow that can be submitted.
        """
        return await self._call(requests.workflow_from_png(content), calls.graph)

    @method
    async def health(self) -> Health:
        """Return the Director's health, also if it is not healthy.

        Raises:
            Unreachable: The Director does not answer.
        """
        return await calls.health(self._wire)


class Director(_Client, BlockingClient):
    """A client of the Director with blocking calls. A context manager; may be shared by threads.

    Three jobs on three GPUs, each file as soon as it exists::

        with Director() as director:
            group = director.submit(workflow, ["localhost_8188", "gpu2_8188", "gpu3_8188"])
            for event in director.stream(group.job_group_id):
                if isinstance(event, ChildCompleted):
                    for path in director.download(event, "images"):
                        print(path)

    Args:
        url: Address of the Director, with a path prefix if a proxy adds one.
        token: Sent as ``Authorization: Bearer`` to this address and to no other.
        timeout: Seconds that a single answer may take.
        give_up_seconds: How long ``stream`` and ``wait`` continue during an outage; None: for ever.

    Raises:
        ValueError: ``url`` is no http or https address, or ``token`` cannot be a token.
    """

    def _open(self, timeout: float) -> SyncWire:
        return SyncWire(self._address, timeout)

    def __enter__(self) -> Director:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncDirector(_Client, AsyncClient):
    """A client of the Director for event loops: the methods of ``Director``, awaited.

    An async context manager. ``stream`` and ``list`` are async generators. One that is left before
    its end keeps its connection until it is closed::

        async with AsyncDirector() as director:
            group = await director.submit(workflow, ["localhost_8188"])
            async with aclosing(director.stream(group.job_group_id)) as events:
                async for event in events:
                    if isinstance(event, ChildCompleted):
                        for path in await director.download(event, "images"):
                            print(path)

    Arguments and errors are those of ``Director``.
    """

    def _open(self, timeout: float) -> AsyncWire:
        return AsyncWire(self._address, timeout)

    async def __aenter__(self) -> AsyncDirector:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
