"""The blocking client."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

import httpx

from director.client import calls, downloads
from director.client import stream as streaming
from director.client import wait as waiting
from director.client.backends import Backend, Found, Health
from director.client.backoff import Patience
from director.client.downloads import Downloadable
from director.client.events import Event
from director.client.failures import Failures
from director.client.file_writer import DEFAULT_TEMPLATE
from director.client.groups import CancelResult, Child, Group, MoveResult, RetryResult
from director.client.requests import BackendFields, ListFilters, RetryOptions, SubmitOptions
from director.client.steps import Flow
from director.client.sync_wire import SyncWire, emissions, run
from director.client.transport import DEFAULT_URL, Address, client_options

T = TypeVar("T")


class Director:
    """A Director, spoken to with blocking calls. A context manager; may be shared by threads.

    Three pictures from three GPUs, each as soon as it is there::

        with Director() as director:
            group = director.submit(workflow, ["localhost_8188", "gpu2_8188", "gpu3_8188"])
            for event in director.stream(group.job_group_id):
                if isinstance(event, ChildCompleted):
                    for path in director.download(event, "pictures"):
                        print(path)

    Args:
        url: Its address, with a path prefix if a proxy gives it one.
        token: Sent as ``Authorization: Bearer`` to this address and to no other.
        timeout: Seconds that a single answer may take.
        give_up_seconds: How long ``stream`` and ``wait`` outlive an outage; None: for ever.

    Raises:
        ValueError: ``url`` is no http or https address, or ``token`` can be none.
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
        self._http = httpx.Client(**client_options(timeout))

    def __enter__(self) -> Director:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _run(self, flow: Flow[T]) -> T:
        with SyncWire(self._http, self._address) as wire:
            return run(flow, wire)

    def _emissions(self, flow: Flow[None]) -> Generator[Any]:
        with SyncWire(self._http, self._address) as wire:
            yield from emissions(flow, wire)

    def submit(
        self,
        workflow: Mapping[str, Any],
        backend_ids: Sequence[str],
        **options: Unpack[SubmitOptions],
    ) -> Group:
        """Submit a workflow (ComfyUI's API format), one child per backend id, each its own seed.

        A lost answer is asked for again under the same idempotency key: one call makes one group.
        For the options see ``SubmitOptions``::

            director.submit(workflow, ["localhost_8188"], parameters={"steps": 30}, base_seed=42)

        Raises:
            BadRequest: Nothing was stored; ``errors`` says what is wrong.
            NoOnlineBackends: None of the backends can take work now.
            RunnerAbsent: The Director has nobody to do the work.
            IdempotencyConflict: The key was used for something else.
            Unreachable: No answer, also after trying again.
        """
        return self._run(calls.submit(workflow, backend_ids, **options))

    def status(self, group_id: str) -> Group:
        """Return a group with its children as it is now.

        Raises:
            GroupNotFound: There is no such group.
        """
        return self._run(calls.status(group_id))

    def list(self, **filters: Unpack[ListFilters]) -> Generator[Group]:
        """Iterate over groups (without their children), newest first; see ``ListFilters``::

        for group in director.list(status="failed", metadata={"scene": "shot_001"}):
            print(group.job_group_id, group.metadata)
        """
        return self._emissions(calls.list_groups(**filters))

    def workflow(self, group_id: str) -> dict[str, Any]:
        """Return the workflow as it was submitted.

        Raises:
            GroupNotFound: There is no such group.
        """
        return self._run(calls.workflow(group_id))

    def events(self, group_id: str, since: int = 0) -> tuple[Event, ...]:
        """Return the stored events after number ``since``: all but the progress.

        Raises:
            GroupNotFound: There is no such group.
        """
        return self._run(calls.events(group_id, since))

    def job(self, group_id: str, job_id: str) -> Child:
        """Return one child with all its attempts.

        Raises:
            GroupNotFound, JobNotFound: There is no such group, or no such child in it.
        """
        return self._run(calls.job(group_id, job_id))

    def wait(self, group_id: str, timeout: float | None = None) -> Group:
        """Return a group once it has ended, whatever its end is.

        Listens to the stream, and reads the status now and then in case that says nothing. Lives
        through restarts of the Director::

            group = director.wait(group.job_group_id, timeout=600)
            print(group.status, len(group.images))

        Args:
            timeout: Seconds; None: as long as it takes.

        Raises:
            WaitTimeout: It had not ended in time (also a ``TimeoutError``). It goes on.
            GroupNotFound: There is no such group.
            Unreachable: The Director stayed away for ``give_up_seconds``.
        """
        return self._run(waiting.wait(group_id, timeout=timeout, patience=self._patience))

    def stream(
        self,
        group_id: str,
        *,
        since: int | None = None,
        reconnect: bool = True,
        follow: bool = False,
    ) -> Generator[Event]:
        """Iterate over a group's events until it has ended.

        Every state event comes exactly once and in order, however often the connection breaks;
        progress comes in between, as much of it as is fresh. The first event is ``InitialState``
        unless ``since`` is given; another one later means that the server could not resume, and
        replaces all that was known::

            for event in director.stream(group_id):
                match event:
                    case ChildProgress():
                        print(f"{event.job_id} {event.progress:.0f} %")
                    case GroupComplete():
                        print(f"{event.succeeded} of {event.total}")

        Args:
            since: Go on after the event of this number; ``group.seq`` of a snapshot.
            reconnect: False: a lost connection raises ``StreamClosed``.
            follow: Go on after the end, for the next run that a retry may open.

        Raises:
            GroupNotFound: There is no such group.
            Unreachable: The Director stayed away for ``give_up_seconds``.
        """
        flow = streaming.stream(
            group_id, since=since, reconnect=reconnect, follow=follow, patience=self._patience
        )
        return self._emissions(flow)

    def cancel(self, group_id: str) -> CancelResult:
        """Cancel every child of a group that is not final.

        Raises:
            GroupNotFound: There is no such group.
        """
        return self._run(calls.cancel(group_id))

    def cancel_job(self, group_id: str, job_id: str) -> CancelResult:
        """Cancel one child.

        Raises:
            GroupNotFound, JobNotFound: There is no such group, or no such child in it.
        """
        return self._run(calls.cancel_job(group_id, job_id))

    def retry(
        self,
        group_id: str,
        job_ids: Sequence[str] | None = None,
        **options: Unpack[RetryOptions],
    ) -> RetryResult:
        """Render again what failed in a group that has ended: same group, same seeds, its next run.

        What completed stays. A child whose picture was made after all (its stop came too late) gets
        it at once::

            if group.failed_count:
                director.retry(group.job_group_id)
                group = director.wait(group.job_group_id)

        Args:
            job_ids: Which children; None: all that failed or timed out, and in a cancelled group
                those that were cancelled.
            **options: Where they are rendered; see :class:`~director.client.RetryOptions`::

                director.retry(group.job_group_id, where="auto")

        Raises:
            GroupNotFound, JobNotFound: There is no such group, or no such child in it.
            GroupNotFinished: Something in it is not final; wait, or cancel it.
            NothingToRetry: Nothing in it failed.
            JobCompleted: A named child has its result.
            BackendUnavailable: A child's backend takes nothing, and it may go nowhere else; or the
                named one takes nothing or lacks something.
            BackendNotFound: There is no such backend.
            NoOtherBackend: A child is to go to another backend, and there is none for it.
            RunPassed: It is not in the run that you saw.
        """
        flow = calls.retry(group_id, job_ids, **options)
        return self._run(flow)

    def retry_job(
        self,
        group_id: str,
        job_id: str,
        **options: Unpack[RetryOptions],
    ) -> RetryResult:
        """Render one child again; see ``retry``. While its group runs, one that failed or timed out.

        Raises:
            JobNotFailed: The group runs, and the child has not failed.
        """
        flow = calls.retry_job(group_id, job_id, **options)
        return self._run(flow)

    def move(
        self, group_id: str, job_id: str, backend_id: str, *, by: str | None = None
    ) -> MoveResult:
        """Have a child that waits rendered at another backend.

        A prompt of it in the old backend's queue is removed first. One that has started by then is not
        interrupted: the child stays there. Repeating changes nothing.

        Args:
            backend_id: Where it is to wait.
            by: Your name, for the events.

        Raises:
            GroupNotFound, JobNotFound, BackendNotFound: There is no such thing.
            JobNotWaiting: It runs, or has ended.
            BackendUnavailable: The backend takes nothing, or lacks what the group requires.
        """
        return self._run(calls.move(group_id, job_id, backend_id, by=by))

    def download(
        self, source: Downloadable, folder: str | Path, name: str = DEFAULT_TEMPLATE
    ) -> tuple[Path, ...]:
        """Save the files of an image, a child, a ``ChildCompleted`` or a whole group.

        No file is ever overwritten: one of the same content is left and returned, another one gets
        a number. A file that is not whole never has its final name. Files that are ``missing`` are
        left out, unless one is asked for itself::

            director.download(group, "pictures", name="{backend}/{seed}_{name}")

        Args:
            folder: Made if it is not there.
            name: Template of the file names: ``{seed}``, ``{backend}``, ``{name}``, ``{job}``.

        Returns:
            The paths, in the order of the files.

        Raises:
            TypeError: ``source`` is none of these.
            NotFound: The file is gone from the backend.
            Unreachable: The backend that has it does not answer.
            OSError: It cannot be written.
            ValueError: The template has another placeholder.
        """
        flow = downloads.download(self._address.url, source, Path(folder), name)
        return tuple(self._run(flow))

    def backends(self) -> tuple[Backend, ...]:
        """Return all registered backends."""
        return self._run(calls.backends())

    def backend(self, backend_id: str) -> Backend:
        """Return one backend.

        Raises:
            BackendNotFound: There is no such backend.
        """
        return self._run(calls.backend(backend_id))

    def add_backend(
        self, url: str, *, backend_id: str | None = None, **fields: Unpack[BackendFields]
    ) -> Backend:
        """Register a ComfyUI; its id is made of its address unless given. See ``BackendFields``::

            director.add_backend("http://192.168.100.6:8188", tags=["24gb"])

        Raises:
            BadRequest: The address is none, or a field is wrong.
            Conflict: It is registered already.
        """
        return self._run(calls.add_backend(url, backend_id=backend_id, **fields))

    def update_backend(
        self, backend_id: str, *, url: str | None = None, **fields: Unpack[BackendFields]
    ) -> Backend:
        """Change a backend; what is not named stays.

        Raises:
            BackendNotFound: There is no such backend.
            Conflict: Its address cannot change while something of ours runs there.
        """
        return self._run(calls.update_backend(backend_id, url=url, **fields))

    def delete_backend(self, backend_id: str) -> None:
        """Remove a backend; finished groups keep its id.

        Raises:
            BackendNotFound: There is no such backend.
            BackendInUse: It has children that are not final.
        """
        self._run(calls.delete_backend(backend_id))

    def pause_backend(
        self,
        backend_id: str,
        *,
        now: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> Backend:
        """Send a backend nothing more until it is resumed; what waits for it waits on.

            director.pause_backend("gpu-2", now=True, reason="the artist needs it", by="anna")

        Args:
            backend_id: The backend.
            now: Give back what runs there instead of letting it finish: it is stopped there, and
                rendered later, or elsewhere where its group allows that.
            reason: Why, for people.
            by: Who says so.

        Raises:
            BackendNotFound: There is no such backend.
        """
        return self._run(calls.tell_backend(backend_id, "pause", now=now, reason=reason, by=by))

    def drain_backend(
        self,
        backend_id: str,
        *,
        now: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> Backend:
        """Empty a backend and then disable it: it takes nothing more, and what waits moves on.

        Args:
            backend_id: The backend.
            now: Give back what runs there; see ``pause_backend``.
            reason: Why, for people.
            by: Who says so.

        Raises:
            BackendNotFound: There is no such backend.
        """
        return self._run(calls.tell_backend(backend_id, "drain", now=now, reason=reason, by=by))

    def resume_backend(self, backend_id: str, *, by: str | None = None) -> Backend:
        """End a pause or a drain.

        Raises:
            BackendNotFound: There is no such backend.
        """
        return self._run(calls.tell_backend(backend_id, "resume", by=by))

    def quarantine_backend(
        self,
        backend_id: str,
        *,
        reason: str | None = None,
        minutes: int | None = None,
        by: str | None = None,
    ) -> Backend:
        """Set a backend aside, for so many minutes or until it is released.

        Raises:
            BackendNotFound: There is no such backend.
        """
        return self._run(
            calls.tell_backend(backend_id, "quarantine", reason=reason, by=by, minutes=minutes)
        )

    def release_backend(self, backend_id: str, *, by: str | None = None) -> Backend:
        """Let a backend out of quarantine: one prompt at a time until one succeeds.

        Raises:
            BackendNotFound: There is no such backend.
        """
        return self._run(calls.tell_backend(backend_id, "release", by=by))

    def find_backends(self) -> tuple[Found, ...]:
        """Return the ComfyUIs that answer on the Director's machine; registers none."""
        return self._run(calls.find_backends())

    def found_backends(self) -> tuple[Found, ...]:
        """Return the ComfyUIs that discovery found and that are not registered, ignored ones too."""
        return self._run(calls.found_backends())

    def add_found_backend(self, url: str) -> Backend:
        """Register a ComfyUI that discovery found.

        Raises:
            NotFound: Discovery found no ComfyUI at this address.
            Conflict: It is registered already.
        """
        return self._run(calls.add_found_backend(url))

    def ignore_backend(self, url: str) -> Found:
        """Offer a ComfyUI that discovery found no longer.

        Raises:
            NotFound: Discovery found no ComfyUI at this address.
        """
        return self._run(calls.ignore_backend(url, ignored=True))

    def unignore_backend(self, url: str) -> Found:
        """Offer a ComfyUI again that was ignored; see ``ignore_backend``."""
        return self._run(calls.ignore_backend(url, ignored=False))

    def test_backend(self, url: str, *, headers: Mapping[str, str] | None = None) -> Found:
        """Ask an address whether a ComfyUI answers there; registers nothing.

        Raises:
            BadRequest: It is no address.
        """
        return self._run(calls.test_backend(url, headers))

    def failures(self, window: str = "1d") -> Failures:
        """Return what failed lately, by cause, backend and workflow.

        Args:
            window: ``1h``, ``1d`` or ``7d``.

        Raises:
            BadRequest: There is no such window.
        """
        return self._run(calls.failures(window))

    def workflow_from_png(self, content: bytes) -> dict[str, Any]:
        """Return the workflow that ComfyUI left in a PNG, ready for ``submit``.

        Raises:
            BadRequest: It has none, or none that could be submitted.
        """
        return self._run(calls.workflow_from_png(content))

    def health(self) -> Health:
        """Return how the Director is, also when it is not well.

        Raises:
            Unreachable: It does not answer at all.
        """
        return self._run(calls.health())
