"""The two clients. Each method is written once and is blocking in ``Director``, awaited in
``AsyncDirector``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from director.client import calls, downloads, stream as event_stream, wait as group_wait
from director.client.accounts import AsyncTokens, Tokens
from director.client.assets import Assets, AsyncAssets
from director.client.calls import Endpoints, Outage
from director.client.decode import as_object, load, parser
from director.client.downloads import Downloadable
from director.client.groups import Child, Group, parse_child, parse_group
from director.client.methods import AsyncClient, BlockingClient, method
from director.client.requests import (
    BackendFields,
    ListFilters,
    OutputFilters,
    Request,
    RetryOptions,
    SubmitOptions,
    SubmitterFields,
    check_options,
    delete,
    get,
    list_groups,
    list_outputs,
    plan,
    post,
    submit,
)
from director.client.transport import DEFAULT_URL, Address, environment_value, with_scheme
from director.client.webhooks import AsyncWebhooks, Webhooks
from director.client.wire import AsyncWire, SyncWire, Wire
from jobgroups.domain.file_names import DEFAULT_TEMPLATE, FileName
from jobgroups.domain.shapes.accounts import Identity
from jobgroups.domain.shapes.audit import AuditEntry
from jobgroups.domain.shapes.backends import (
    Backend,
    ConvertedWorkflow,
    Exclusion,
    Failures,
    Found,
    Health,
    SubmissionPlan,
    Usage,
    WorkflowCheck,
)
from jobgroups.domain.shapes.events import Event
from jobgroups.domain.shapes.groups import (
    CancelResult,
    Deletion,
    JobOfFile,
    ListedOutput,
    MoveResult,
    OpenWork,
    Queue,
    QueueState,
    RetryResult,
    Submitter,
)


class _Client(Endpoints):
    """The methods of both clients."""

    _wire_kind: type[Wire]

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 30.0,
        give_up_seconds: float | None = 300.0,
    ) -> None:
        if url is None:
            url = with_scheme(environment_value("DIRECTOR_URL") or DEFAULT_URL)
            token = token or environment_value("DIRECTOR_TOKEN")
        self._address = Address.parse(url, token)
        self._give_up_seconds = give_up_seconds
        super().__init__(self._wire_kind(self._address, timeout))

    @method
    async def close(self) -> None:
        """Close the connections."""
        await self._wire.aclose()

    @method
    async def submit(
        self,
        workflow: Mapping[str, Any],
        backend_ids: Sequence[str] | None = None,
        *,
        count: int | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Group:
        """Submit a workflow: jobs with a seed each, on the backends that are free first.

        After a lost answer, or if the Director is too busy, the request is repeated with the same
        idempotency key: one call makes one group. For the options see ``SubmitOptions``::

            director.submit(workflow, count=12, parameters={"steps": 30})
            director.submit(workflow, ["tag:4090", "gpu-7"], count=12)
            director.submit(workflow, ["gpu-1", "gpu-2"], base_seed=42)
            director.submit(workflow, sweep={"axes": [{"input": "cfg", "values": [5, 7, 9]}]})

        Args:
            workflow: ComfyUI's API format, node id to class and inputs; or the editor's format, which
                the Director converts.
            backend_ids: With ``count`` the candidates, each named once: ids, and ``tag:…`` for all
                backends with a tag. Without ``count`` one job for each id. None: every backend is a
                candidate.
            count: Jobs in the pool, 1 … 10,000: each goes to the first candidate that is free.
                None: 1 without ``backend_ids``, ``jobs`` and ``sweep``.

        Raises:
            BadRequest: Nothing was stored; ``errors`` has the reasons, or for
                ``no_online_backends``, if none of the backends or candidates can take work now,
                ``skipped_backends``.
            Unavailable: The Director has no runner (``runner_absent``), or is still too busy
                (``overloaded``).
            Conflict: The key was used for another submission (``idempotency_conflict``).
            Unreachable: No answer, also after repetitions.
        """
        request = submit(workflow, backend_ids, count=count, **options)
        answer = await calls.send_accepted(self._wire, request)
        replayed = answer.headers.get("idempotency-replayed", "").lower() == "true"
        return parse_group(await calls.whole(self._wire, load(answer.content)), replayed=replayed)

    @method
    async def plan(
        self,
        workflow: Mapping[str, Any],
        backend_ids: Sequence[str] | None = None,
        *,
        count: int | None = None,
        **options: Unpack[SubmitOptions],
    ) -> SubmissionPlan:
        """Return what ``submit`` would make of the same arguments: jobs, seeds, backends and the
        time. Nothing is stored.

        Raises ``BadRequest`` as ``submit`` does.
        """
        return await self._read(SubmissionPlan, plan(workflow, backend_ids, count=count, **options))

    @method
    async def check(
        self,
        workflow: Mapping[str, Any],
        backend_ids: Sequence[str] = ("*",),
        *,
        parameters: Mapping[str, Any] | None = None,
        required_capabilities: Sequence[str] | None = None,
    ) -> WorkflowCheck:
        """Return which backends can execute a workflow, and every reason why the others cannot.

        Nothing is stored. ``backend_ids`` are candidates as of ``submit`` with ``count``, the
        others its options::

            for backend in director.check(workflow, parameters={"steps": 30}).backends:
                print(backend.backend_id, [reason.message for reason in backend.reasons])

        Raises:
            BadRequest: The workflow or an option is wrong; ``errors`` has the reasons.
        """
        fields: dict[str, Any] = {
            "workflow_json": workflow,
            "backend_ids": backend_ids,
            "parameters": parameters,
        }
        request = post("workflows", "check", **fields, required_capabilities=required_capabilities)
        return await self._read(WorkflowCheck, request)

    @method
    async def convert(
        self, workflow: Mapping[str, Any], backend_ids: Sequence[str] = ("*",)
    ) -> ConvertedWorkflow:
        """Return a workflow of ComfyUI's editor format (saved by Ctrl+S) in the API format.

        ``submit``, ``plan`` and ``check`` convert it by themselves. The backends describe its node
        classes.

        Raises:
            BadRequest: A node cannot be converted; ``errors`` has all of them.
        """
        return await self._read(
            ConvertedWorkflow,
            post("workflows", "convert", workflow_json=workflow, backend_ids=backend_ids),
        )

    @method
    async def status(self, group_id: str, *, jobs: bool = True) -> Group:
        """Return a group as it is now, with its jobs or without; see also ``wait`` and ``stream``.

        More than 1,000 jobs are read page by page: they may be newer than the ``seq`` of the group.
        """
        request = get("job-groups", group_id, children=None if jobs else 0)
        return parse_group(await calls.whole(self._wire, await self._call(request, as_object)))

    @method
    def jobs(self, group_id: str, *, limit: int = 200) -> AsyncGenerator[Child]:
        """Iterate over the jobs of a group in their order, ``limit`` (at most 200) in a request:
        for large groups.
        """
        return calls.children(self._wire, group_id, parse_child, limit)

    @method
    def list(self, **filters: Unpack[ListFilters]) -> AsyncGenerator[Group]:
        """Iterate over groups (without their jobs), newest first; see ``ListFilters``::

        for group in director.list(status="failed", metadata={"scene": "shot_001"}):
            print(group.job_group_id, group.metadata)
        """
        return calls.pages(self._wire, partial(list_groups, **filters), parse_group)

    @method
    def outputs(self, **filters: Unpack[OutputFilters]) -> AsyncGenerator[ListedOutput]:
        """Iterate over the images and videos of all groups, newest first; see ``OutputFilters``::

        for output in director.outputs(text="lighthouse", starred="yes"):
            director.download(output, "images")
        """
        return calls.pages(self._wire, partial(list_outputs, **filters), parser(ListedOutput))

    @method
    async def workflow(self, group_id: str) -> dict[str, Any]:
        """Return the workflow as it was submitted."""
        return await self._call(get("job-groups", group_id, "workflow"), as_object)

    @method
    async def events(self, group_id: str, since: int = 0) -> tuple[Event, ...]:
        """Return the stored events after number ``since``: all except progress."""
        return tuple([event async for event in calls.events(self._wire, group_id, since)])

    @method
    async def job(self, group_id: str, job_id: str) -> Child:
        """Return one job with all its attempts."""
        return await self._call(get("job-groups", group_id, "jobs", job_id), parse_child)

    @method
    async def provenance(self, group_id: str, job_id: str) -> dict[str, Any]:
        """Return how a job was made: workflow as sent, seed, input files by hash, backend and its
        versions, times.
        """
        return await self._call(
            get("job-groups", group_id, "jobs", job_id, "provenance.json"), as_object
        )

    @method
    async def find_job(self, path: str | Path) -> JobOfFile:
        """Return the job that made a file: by the mark in a PNG, else by the hash of a captured
        output.

        Raises:
            NotFound: No job is known for the file; the error says why.
            OSError: It cannot be read.
        """
        answer = await self._wire.upload("/api/provenance", Path(path), {})
        return parser(JobOfFile)(load(calls.success(answer).content))

    @method
    async def wait(self, group_id: str, timeout: float | None = None) -> Group:
        """Return a group once it has ended, with any status.

        Each request is answered at the group's next event. Continues after restarts of the
        Director. If the Director lets no request wait, the status is read at growing intervals of 2
        s to 15 s.

        Args:
            timeout: Seconds; None: no limit.

        Raises:
            WaitTimeout: The group had not ended in time (also a ``TimeoutError``). It continues.
            Unreachable: The Director was away for ``give_up_seconds``.
        """
        return await group_wait.wait(self._wire, group_id, timeout, Outage(self._give_up_seconds))

    @method
    def stream(
        self,
        group_id: str,
        *,
        since: int | None = None,
        reconnect: bool = True,
        follow: bool = False,
    ) -> AsyncGenerator[Event]:
        """Iterate over a group's events until it has ended.

        Every state event comes exactly once and in order, however often the connection is lost.
        Progress comes in between, the latest only. The first event is ``InitialState`` unless
        ``since`` is given. A later ``InitialState`` means that the server could not resume: it
        replaces everything before it.

        Args:
            since: Continue after the event of this number; ``group.seq`` of a snapshot.
            reconnect: False: a lost connection raises ``StreamClosed``.
            follow: Continue after the end, for the next run that a retry may open.

        Raises:
            Unreachable: The Director was away for ``give_up_seconds``.
        """
        return event_stream.stream(
            self._wire,
            group_id,
            since=since,
            reconnect=reconnect,
            follow=follow,
            outage=Outage(self._give_up_seconds),
        )

    async def _change(self, group_id: str, **fields: Any) -> Group:
        request = post("job-groups", group_id, method="PATCH", nullable=fields, **fields)
        return await self._call(request, parse_group)

    @method
    async def rename(self, group_id: str, name: str) -> Group:
        """Set the name of a group, up to 200 characters; an empty one removes it. Returns the group
        without its jobs.
        """
        return await self._change(group_id, name=name)

    @method
    async def archive(self, group_id: str, archived: bool = True) -> Group:
        """Move a group out of the lists, or back (``archived=False``). Returns the group without
        its jobs.
        """
        return await self._change(group_id, archived=archived)

    @method
    async def share(self, group_id: str, shared: bool = True) -> Group:
        """Let every account see a group, or its own account alone (``shared=False``), where people
        see their own work alone. Returns the group without its jobs.
        """
        visibility = "shared" if shared else "private"
        return await self._change(group_id, visibility=visibility)

    @method
    async def prioritize(self, group_id: str, priority: int) -> Group:
        """Set the priority of a group, 0 to 100. Returns the group without its jobs.

        Raises:
            BadRequest: The priority is above the highest of your role.
        """
        return await self._change(group_id, priority=priority)

    @method
    async def bring_forward(self, group_id: str, *, before: str | None = None) -> Group:
        """Have the jobs of a group start next: before the other groups of its submitter, or, if you
        are an operator or the Director has no accounts, before all groups of its level. Returns
        the group without its jobs.

        Args:
            before: Another group of its submitter: it comes directly before that one instead.

        Raises:
            BadRequest: ``before`` is no open group of its submitter.
            Conflict: It has ended (``group_ended``).
        """
        return await self._call(post("job-groups", group_id, "next", before=before), parse_group)

    @method
    async def queue(
        self,
        *,
        submitter: str | None = None,
        backend: str | None = None,
        mine: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> Queue:
        """Return the groups that run and wait, in the order in which they start their next jobs.

        Args:
            submitter: Groups that were submitted under exactly this name.
            backend: Groups whose jobs this backend has, or may take.
            mine: Groups of your account.
            offset: Number of groups that are left out.
            limit: At most so many groups, up to 200.
        """
        own = "yes" if mine else None
        filters = {"submitter": submitter, "backend": backend, "mine": own}
        return await self._read(Queue, get("queue", **filters, offset=offset, limit=limit))

    @method
    async def limit(self, group_id: str, max_running: int | None) -> Group:
        """Set how many prompts of a group may be at backends at once; None: any number. Returns the
        group without its jobs.
        """
        return await self._change(group_id, max_running=max_running)

    @method
    async def delay(self, group_id: str, start_after: datetime | None) -> Group:
        """Have nothing of a group sent before a time with a time zone; None: it may start. Returns
        the group without its jobs.
        """
        return await self._change(group_id, start_after=start_after)

    @method
    async def pause(
        self,
        group_id: str,
        *,
        reason: str | None = None,
        until: datetime | None = None,
        by: str | None = None,
    ) -> Group:
        """Pause a group, until a time or until it is resumed: what waits is not sent, what runs
        ends. Returns the group without its jobs.

        Raises:
            Conflict: It has ended (``group_ended``).
        """
        return await self._call(
            post("job-groups", group_id, "pause", reason=reason, until=until, by=by), parse_group
        )

    @method
    async def resume(self, group_id: str, *, by: str | None = None) -> Group:
        """End the pause of a group. Returns the group without its jobs."""
        return await self._call(post("job-groups", group_id, "resume", by=by), parse_group)

    @method
    async def pause_queue(
        self, *, reason: str | None = None, until: datetime | None = None, by: str | None = None
    ) -> QueueState:
        """Pause the whole farm, until a time or until it is resumed."""
        return await self._read(
            QueueState, post("queue", "pause", reason=reason, until=until, by=by)
        )

    @method
    async def resume_queue(self, *, by: str | None = None) -> QueueState:
        """End the pause of the whole farm."""
        return await self._read(QueueState, post("queue", "resume", by=by))

    @method
    async def set_submitter(self, name: str, **fields: Unpack[SubmitterFields]) -> Submitter:
        """Set the weight and the limits of a submitter, pause or resume its groups."""
        check_options(SubmitterFields, fields)
        limits = ("max_running", "max_queued")
        nullable = [field for field in limits if field in fields]
        return await self._read(
            Submitter, post("submitters", name, method="PUT", nullable=nullable, **fields)
        )

    @method
    async def submitter(self, name: str) -> Submitter:
        """Return the weight and the limits of a submitter, and what it has used of the farm."""
        return await self._read(Submitter, get("submitters", name))

    @method
    async def weigh(self, name: str, weight: float) -> Submitter:
        """Set the weight of a submitter, 0.01 to 100: its share of a busy farm is in proportion."""
        return await self._read(Submitter, post("submitters", name, method="PUT", weight=weight))

    @method
    async def deletion(self, group_id: str) -> Deletion:
        """Return what ``delete`` would remove, or raise as it does."""
        return await self._read(Deletion, get("job-groups", group_id, "delete"))

    @method
    async def delete(self, group_id: str) -> Deletion:
        """Delete a group that has ended: jobs, events and captured files. Files at backends stay
        there.

        Raises:
            Conflict: It has not ended (``group_open``), or one of its prompts may still run
                (``group_stopping``).
        """
        return await self._read(Deletion, post("job-groups", group_id, "delete", repeatable=False))

    @method
    async def cancel(self, group_id: str) -> CancelResult:
        """Cancel every job of a group that is not final."""
        return await self._read(CancelResult, delete("job-groups", group_id))

    @method
    async def open_work(self) -> OpenWork:
        """Return what ``cancel_all`` would cancel."""
        return await self._read(OpenWork, get("job-groups", "cancel"))

    @method
    async def cancel_all(self) -> OpenWork:
        """Cancel all open groups, the newest first: your own, or as an operator those of all.

        Returns what was cancelled.
        """
        groups = jobs = running = 0
        while True:
            part = await self._read(OpenWork, post("job-groups", "cancel", repeatable=False))
            groups, jobs = groups + part.groups, jobs + part.jobs
            running = max(running, part.running)
            if not part.remaining:
                return OpenWork(groups=groups, jobs=jobs, running=running)

    @method
    async def cancel_job(self, group_id: str, job_id: str) -> CancelResult:
        """Cancel one job."""
        return await self._read(CancelResult, delete("job-groups", group_id, "jobs", job_id))

    @method
    async def retry(
        self, group_id: str, job_ids: Sequence[str] | None = None, **options: Unpack[RetryOptions]
    ) -> RetryResult:
        """Retry the failed jobs of a group that has ended: same group, same seeds, its next run.

        Completed jobs stay. A job whose prompt completed after all (its stop came too late) gets
        that result at once.

        Args:
            job_ids: The jobs; None: all that failed or timed out, and in a cancelled group those
                that were cancelled by users.
            **options: On which backends (``where="auto"``); see
              :class:`~director.client.RetryOptions`.

        Raises:
            Conflict: ``group_not_finished``: a job in it is not final; wait, or cancel the group.
                ``nothing_to_retry``: no job in it failed. ``job_completed``: a named job has its
                result. ``backend_unavailable``: a job's backend accepts no work, and the job may
                not move; or the named backend accepts no work or lacks a capability; or no
                candidate of the pool accepts work. ``no_other_backend``: a job is to move to
                another backend, and there is none for it. ``run_passed``: the group is not in the
                run of the options.
        """
        return await self._retry(group_id, job_ids=job_ids, **check_options(RetryOptions, options))

    @method
    async def retry_job(
        self, group_id: str, job_id: str, **options: Unpack[RetryOptions]
    ) -> RetryResult:
        """Retry one job; see ``retry``. While its group runs, a job that failed or timed out.

        Raises:
            Conflict: The group runs, and the job has not failed (``job_not_failed``).
        """
        return await self._retry(group_id, "jobs", job_id, **check_options(RetryOptions, options))

    async def _retry(self, *segments: str, **fields: Any) -> RetryResult:
        # Not repeated after a lost answer: by then the run that the first one opened may have
        # ended, too.
        return await self._read(
            RetryResult, post("job-groups", *segments, "retry", repeatable=False, **fields)
        )

    @method
    async def move(
        self, group_id: str, job_id: str, backend_id: str, *, by: str | None = None
    ) -> MoveResult:
        """Move a queued job to another backend.

        Its prompt is removed from the old backend's queue first. A prompt that has started by then
        is not interrupted: the job stays there. Repeating changes nothing.

        Args:
            backend_id: The new backend.
            by: Your name, for the events.

        Raises:
            Conflict: The job runs, or has ended (``job_not_waiting``); or the backend accepts no
                work, or lacks what the group requires (``backend_unavailable``).
        """
        path = ("job-groups", group_id, "jobs", job_id, "move")
        return await self._read(MoveResult, post(*path, backend_id=backend_id, by=by))

    @method
    async def download(
        self, source: Downloadable, folder: str | Path, name: str | FileName = DEFAULT_TEMPLATE
    ) -> tuple[Path, ...]:
        """Save one file (also of ``outputs``), or the files of a job, of a ``ChildCompleted`` or of
        a whole group.

        No file is ever overwritten: one with the same content stays and is returned, one with other
        content gets a number. An incomplete file never has its final name. Files that are
        ``missing`` are left out, unless ``source`` is that file. Captured files are read from the
        Director, others from their backends. A replacement of these by a later job after ``source``
        was read is not detected::

            director.download(group, "images", name="{backend}/{seed}_{name}")

        Args:
            folder: Created if it does not exist.
            name: Template of the file names: ``{index}``, ``{number}``, ``{seed}``, ``{backend}``,
                ``{name}``, ``{job}``, ``{group}``, metadata and varied inputs (docs/api.md, "File
                names"). A file of an event has no index, no group and no metadata: they are empty,
                and one of ``outputs`` has no metadata. For one file also its ``FileName``.

        Returns:
            The paths, in the order of the files.

        Raises:
            TypeError: ``source`` is none of these.
            NotFound: The file is missing at the backend.
            Unreachable: The file's backend does not answer.
            OSError: The file cannot be written.
            ValueError: The template is wrong, or has a name that no file has.
        """
        return await downloads.download(self._wire, self._address.url, source, Path(folder), name)

    @method
    async def thumbnail(
        self, group_id: str, job_id: str, number: int = 0, width: int = 640
    ) -> bytes:
        """Return output ``number`` (from 0) of a job as WebP: an image, or the first frame of a
        video.

        ``width``: at most so many pixels, 160, 320, 640, 1280 or 2560. Raises ``NotFound`` if there
        is none.
        """
        request = get("job-groups", group_id, "jobs", job_id, "outputs", str(number), w=width)
        return (await calls.send_accepted(self._wire, request)).content

    @method
    async def sheet(
        self, group_id: str, path: str | Path, *, axes: Sequence[str] = ()
    ) -> tuple[Path, ...]:
        """Save the contact sheet of a group as WebP, and return the paths: a large one has several
        pages.

        Replaces the file ``path``; the second page is ``sheet_2.webp``::

            director.sheet(group.job_group_id, "sheet.webp", axes=["3.cfg", "4.ckpt_name"])

        Args:
            axes: Inputs of a sweep for columns, rows and blocks; the others follow in the order of
                the sweep.

        Raises:
            BadRequest: The group has no such axis.
            OSError: A file cannot be written.
        """
        return await downloads.sheet(self._wire, group_id, Path(path), axes)

    @method
    async def backends(self) -> tuple[Backend, ...]:
        """Return all registered backends."""
        return await self._read_all(Backend, "backends", get("backends"))

    @method
    async def backend(self, backend_id: str) -> Backend:
        """Return one backend."""
        return await self._read(Backend, get("backends", backend_id))

    @method
    async def add_backend(
        self, url: str, *, backend_id: str | None = None, **fields: Unpack[BackendFields]
    ) -> Backend:
        """Register a ComfyUI; its id is derived from its address unless given. See
        ``BackendFields``::

            director.add_backend("http://192.168.100.6:8188", tags=["24gb"])

        Raises:
            BadRequest: The address or a field is wrong.
            Conflict: It is registered already.
        """
        check_options(BackendFields, fields)
        return await self._read(
            Backend, post("backends", repeatable=False, url=url, backend_id=backend_id, **fields)
        )

    @method
    async def update_backend(
        self, backend_id: str, *, url: str | None = None, **fields: Unpack[BackendFields]
    ) -> Backend:
        """Change a backend; fields that are not named stay.

        Raises:
            Conflict: Its address cannot change while a job of the Director runs there.
        """
        check_options(BackendFields, fields)
        return await self._read(
            Backend, post("backends", backend_id, method="PATCH", url=url, **fields)
        )

    @method
    async def delete_backend(self, backend_id: str) -> None:
        """Remove a backend; finished groups keep its id. Outputs not copied yet can no longer be
        loaded.

        Raises:
            Conflict: It has jobs that are not final (``backend_in_use``).
        """
        await calls.send_accepted(self._wire, delete("backends", backend_id))

    @method
    async def pause_backend(
        self,
        backend_id: str,
        *,
        now: bool | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Backend:
        """Send a backend no more jobs until it is resumed; its queued jobs stay queued::

            director.pause_backend("gpu-2", now=True, reason="the artist needs it", by="anna")

        Args:
            now: Evict the running jobs instead of letting them finish: they are stopped there and
                run later, or on another backend if their group allows that.
            reason: The reason, for other users.
            by: Your name.
        """
        return await self._read(
            Backend, post("backends", backend_id, "pause", now=now, reason=reason, by=by)
        )

    @method
    async def drain_backend(
        self,
        backend_id: str,
        *,
        now: bool | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Backend:
        """Empty a backend, then disable it: it gets no more jobs, and its queued jobs move. See
        ``pause_backend``.
        """
        return await self._read(
            Backend, post("backends", backend_id, "drain", now=now, reason=reason, by=by)
        )

    @method
    async def resume_backend(self, backend_id: str, *, by: str | None = None) -> Backend:
        """End a pause or a drain."""
        return await self._read(Backend, post("backends", backend_id, "resume", by=by))

    @method
    async def quarantine_backend(
        self,
        backend_id: str,
        *,
        reason: str | None = None,
        minutes: int | None = None,
        by: str | None = None,
    ) -> Backend:
        """Quarantine a backend, for ``minutes`` or until it is released."""
        path = ("backends", backend_id, "quarantine")
        return await self._read(Backend, post(*path, reason=reason, minutes=minutes, by=by))

    @method
    async def release_backend(self, backend_id: str, *, by: str | None = None) -> Backend:
        """End a quarantine. The backend gets one prompt at a time until one succeeds."""
        return await self._read(Backend, post("backends", backend_id, "release", by=by))

    @method
    async def exclusions(self, backend_id: str) -> tuple[Exclusion, ...]:
        """Return the workflows that a backend cannot run."""
        return await self._read_all(
            Exclusion, "exclusions", get("backends", backend_id, "exclusions")
        )

    @method
    async def lift_exclusions(self, backend_id: str, exclusion_id: int | None = None) -> None:
        """Let a backend take again what it could not run: one exclusion, or all.

        Raises:
            NotFound: It has no such exclusion.
        """
        path = () if exclusion_id is None else (str(exclusion_id),)
        await calls.send_accepted(self._wire, delete("backends", backend_id, "exclusions", *path))

    @method
    async def find_backends(self) -> tuple[Found, ...]:
        """Return the ComfyUIs that answer on the Director's host; registers none."""
        return await self._read_all(Found, "found", post("backends", "find"))

    @method
    async def found_backends(self) -> tuple[Found, ...]:
        """Return the ComfyUIs that discovery found and that are not registered, ignored ones too."""
        return await self._read_all(Found, "found", get("backends", "found"))

    @method
    async def add_found_backend(self, url: str) -> Backend:
        """Register a ComfyUI that discovery found.

        Raises:
            NotFound: Discovery found no ComfyUI at this address.
            Conflict: It is registered already.
        """
        return await self._read(
            Backend, post("backends", "found", "add", repeatable=False, url=url)
        )

    @method
    async def ignore_backend(self, url: str) -> Found:
        """Stop offering a ComfyUI that discovery found.

        Raises:
            NotFound: Discovery found no ComfyUI at this address.
        """
        return await self._read(Found, post("backends", "found", "ignore", url=url))

    @method
    async def unignore_backend(self, url: str) -> Found:
        """Offer an ignored ComfyUI again; see ``ignore_backend``."""
        return await self._read(Found, post("backends", "found", "unignore", url=url))

    @method
    async def test_backend(self, url: str, *, headers: Mapping[str, str] | None = None) -> Found:
        """Return whether a ComfyUI answers at an address; registers nothing.

        Raises:
            BadRequest: ``url`` is no address.
        """
        return await self._read(Found, post("backends", "test", url=url, headers=headers))

    @method
    async def failures(self, window: str = "1d") -> Failures:
        """Return recent failures by cause, backend and workflow.

        Args:
            window: ``1h``, ``1d`` or ``7d``.

        Raises:
            BadRequest: There is no such window.
        """
        return await self._read(Failures, get("failures", window=window))

    @method
    async def usage(
        self,
        by: Sequence[str] = ("day",),
        *,
        first_day: date | None = None,
        last_day: date | None = None,
    ) -> Usage:
        """Return GPU time, jobs, failures and retries, computed from the stored attempts; at most
        10,000 rows.

        Args:
            by: One to three of ``day``, ``submitter``, ``backend`` and ``metadata.KEY``.
            first_day: Default: 29 days before ``last_day``.
            last_day: Default: today. Days are those of UTC.

        Raises:
            BadRequest: There is no such dimension, or the days are more than a year.
        """
        days = {"from": first_day, "to": last_day}
        return await self._read(Usage, get("usage", by=",".join(by), limit=10_000, **days))

    @method
    def audit(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> AsyncGenerator[AuditEntry]:
        """Iterate over the record of who did what, newest first. For operators.

        Args:
            actor: The account; without accounts the name that the request gave.
            action: One action (``backend.paused``), or the beginning of some (``backend``).
            target: The id or name of a group, backend, account, token or asset.
        """
        request = partial(
            get,
            "audit",
            actor=actor,
            action=action,
            target=target,
            created_after=created_after,
            created_before=created_before,
        )
        return calls.pages(self._wire, request, parser(AuditEntry))

    @method
    async def workflow_from_png(self, content: bytes) -> dict[str, Any]:
        """Return the workflow that ComfyUI stored in a PNG, ready for ``submit``.

        Raises:
            BadRequest: The PNG has no workflow that can be submitted.
        """
        headers = {"Content-Type": "image/png"}
        request = Request("POST", "/api/workflow-from-png", (), content, headers, repeatable=True)
        return await self._call(request, lambda answer: as_object(answer.get("workflow_json")))

    @method
    async def whoami(self) -> Identity:
        """Return the account of the token, and what it may do."""
        return await self._read(Identity, get("whoami"))

    @method
    async def health(self) -> Health:
        """Return the Director's health, also if it is not healthy."""
        return await calls.health(self._wire)


class Director(_Client, BlockingClient):
    """A client of the Director with blocking calls. A context manager; may be shared by threads.

    Each method raises a ``DirectorError`` if the Director refuses or does not answer; a method with
    an id raises ``NotFound`` if there is no such object.

    Args:
        url: Address of the Director, with a path prefix if a proxy adds one. None: that of
            ``DIRECTOR_URL`` with the token of ``DIRECTOR_TOKEN``, else port 9820 of this machine.
        token: Sent as ``Authorization: Bearer`` to this address and to no other.
        timeout: Seconds that a single answer may take.
        give_up_seconds: How long ``stream`` and ``wait`` continue during an outage; None: for ever.

    Raises:
        ValueError: ``url`` is no http or https address, or ``token`` cannot be a token.
    """

    _wire_kind = SyncWire

    @property
    def assets(self) -> Assets:
        """The input files that are stored at the Director."""
        return Assets(self._wire)

    @property
    def webhooks(self) -> Webhooks:
        """The deliveries of events to webhooks."""
        return Webhooks(self._wire)

    @property
    def tokens(self) -> Tokens:
        """The tokens of the account."""
        return Tokens(self._wire)

    def __enter__(self) -> Director:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncDirector(_Client, AsyncClient):
    """A client of the Director for event loops: the methods of ``Director``, awaited.

    An async context manager. ``stream`` and ``list`` are async generators. One that is left before
    its end keeps its connection until it is closed::

        async with AsyncDirector() as director:
            group = await director.submit(workflow, ["localhost_8188"])
            async with aclosing(director.stream(group.job_group_id)) as events:
                async for event in events:
                    print(event.type)

    Arguments and errors are those of ``Director``.
    """

    _wire_kind = AsyncWire

    @property
    def assets(self) -> AsyncAssets:
        """The input files that are stored at the Director."""
        return AsyncAssets(self._wire)

    @property
    def webhooks(self) -> AsyncWebhooks:
        """The deliveries of events to webhooks."""
        return AsyncWebhooks(self._wire)

    @property
    def tokens(self) -> AsyncTokens:
        """The tokens of the account."""
        return AsyncTokens(self._wire)

    async def __aenter__(self) -> AsyncDirector:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
