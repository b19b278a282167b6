"""A server of the Model Context Protocol: an agent submits workflows, follows groups and sees
pictures.
"""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError
from mcp_types import ToolAnnotations
from pydantic import Field, NonNegativeInt

from director import __version__
from director.client import AsyncDirector, Child, DirectorError, Group, WaitTimeout

_OUTPUT_URI: Final = "director://groups/{group_id}/jobs/{job_id}/outputs/{number}{?width}"
_REPORT_S: Final = 3.0  #: Seconds between two reports of progress.
_FEW_JOBS: Final = 200  #: Of a larger group, progress does not count the running jobs.
#: What an agent does not need, or gets in another form.
_LEFT_OUT: Final = {
    *(
        "child_jobs",
        "children_next",
        "outputs",
        "error_details",
        "summary",
        "choices",
        "choice_backends",
    ),
    *("current_step", "outputs_reused", "queued_at", "revision", "seq", "starred"),
}

_CHANGES: Final = {"submit", "upload_input", "cancel", "retry_failed"}
_INSTRUCTIONS: Final = (
    "The Director renders ComfyUI workflows on a farm. Check a workflow, upload its input files, "
    "submit it, watch the group to its end, then show its pictures. A group that has ended with "
    "failures can be retried once their cause is known."
)

Answer = dict[str, Any]
Workflow = Annotated[
    dict[str, Any] | str,
    Field(description="The workflow's JSON; or the path of its file: JSON, or a PNG of ComfyUI."),
]
Sweep = Annotated[
    Answer | None,
    Field(description='{"axes": [{"input": "3.cfg", "values": [5, 7]}]}, without count.'),
]
Parameters = Annotated[
    Answer | None, Field(description='Inputs to set: {"steps": 30, "6.text": "a cat"}.')
]
JobState = Literal["queued", "running", "completed", "failed", "timeout", "cancelled"]
GroupState = Literal["pending", "running", "partial_complete", "completed", "failed", "cancelled"]
Limit = Annotated[int, Field(ge=1, le=200)]
Width = Literal[160, 320, 640, 1280, 2560]


def _short(raw: Answer, **more: Any) -> Answer:
    return {
        k: v for k, v in raw.items() if v not in (None, [], {}, "") and k not in _LEFT_OUT
    } | more


def _resource(address: str) -> str:
    return "director://" + address.rpartition("/api/job-")[2]


def _job(child: Child) -> Answer:
    return _short(
        child.raw, outputs=[_resource(file.file_url) for file in child.files if file.file_url]
    )


def _explain_errors(call: Callable[..., Any]) -> Callable[..., Any]:
    """Raise the API's errors as one whose text the SDK sends to the agent; it hides that of others."""

    @functools.wraps(call)
    async def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return await call(*args, **kwargs)
        except OSError as error:
            reason = f"{error.filename} cannot be read: {error.strerror or error}."
            raise ResourceError(reason) from error
        except (DirectorError, ValueError) as error:
            raise ResourceError(str(error)) from error

    return called


class Tools:
    """Each public method is a tool: its signature and docstring are what an agent reads. Answers
    have the API's names.
    """

    def __init__(self, director: AsyncDirector, url: str, submitter: str | None) -> None:
        self._director = director
        self._url = url.rstrip("/")
        self._submitter = submitter

    async def _graph(self, workflow: Answer | str) -> Answer:
        if isinstance(workflow, dict):
            return workflow
        content = await asyncio.to_thread(Path(workflow).read_bytes)
        if content.startswith(b"\x89PNG"):
            return await self._director.workflow_from_png(content)
        try:
            return cast(Answer, json.loads(content))
        except ValueError as error:
            raise ValueError(f"{workflow} is not JSON: {error}.") from None

    def _group(self, group: Group, **more: Any) -> Answer:
        page = f"{self._url}/groups/{group.job_group_id}"
        return _short(group.raw, finished=group.finished, page=page, **more)

    async def submit(
        self,
        workflow: Workflow,
        *,
        count: Annotated[
            int | None, Field(ge=1, description="Jobs, each with its own seed.")
        ] = None,
        sweep: Sweep = None,
        parameters: Parameters = None,
        name: str | None = None,
        priority: Annotated[
            int | None, Field(ge=0, le=100, description="Of waiting groups, a higher one is first.")
        ] = None,
        max_running: Annotated[
            int | None, Field(ge=1, description="Jobs at backends at once, at most.")
        ] = None,
        start_after: Annotated[
            datetime | None, Field(description="Nothing is sent before it; with a time zone.")
        ] = None,
        key: Annotated[str | None, Field(description="Calls with one key make one group.")] = None,
    ) -> Answer:
        """Submit a ComfyUI workflow as a group of jobs, on the GPUs that are free first. Then watch
        the group.
        """
        options: Any = {
            "sweep": sweep,
            "parameters": parameters,
            "name": name,
            "priority": priority,
            "max_running": max_running,
            "start_after": start_after,
            "idempotency_key": key,
        }
        graph = await self._graph(workflow)
        group = await self._director.submit(
            graph, count=count, submitter=self._submitter, **options
        )
        return self._group(group, total_count=len(group.child_jobs))

    async def watch(
        self,
        group_id: str,
        ctx: Context[Any, Any],
        seconds: Annotated[int, Field(ge=1, le=600)] = 50,
    ) -> Answer:
        """Wait until a group has ended, at most the seconds, and return its status. If not
        finished, watch it again.
        """
        end, reported = time.monotonic() + seconds, -1.0
        group = await self._director.status(group_id, jobs=False)
        while not group.finished and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(WaitTimeout):
                await self._director.wait(group_id, timeout=min(left, _REPORT_S))
            group = await self._director.status(group_id, jobs=group.total_count <= _FEW_JOBS)
            ended = group.completed_count + group.failed_count + group.cancelled_count
            progress = (
                ended
                + sum(job.progress for job in group.child_jobs if job.status == "running") / 100
            )
            # The protocol wants growing numbers, and a retried job starts again.
            if progress > reported:
                reported = progress
                await ctx.report_progress(
                    progress, group.total_count, f"{ended} of {group.total_count} jobs ended"
                )
        return await self.status(group_id)

    async def status(
        self,
        group_id: str,
        only: JobState | None = None,
        after: NonNegativeInt = 0,
        limit: Limit = 50,
    ) -> Answer:
        """Return a group and its jobs (of one state, after so many): errors, and the resources of
        their outputs.
        """
        group, jobs = await self._director.status(group_id, jobs=False), []
        async for child in self._director.jobs(group_id):
            jobs += [_job(child)] if only in (None, child.status) else []
            if len(jobs) >= after + limit:
                break
        return self._group(group, jobs=jobs[after:])

    async def list_groups(
        self, state: GroupState | None = None, text: str | None = None, limit: Limit = 20
    ) -> Answer:
        """List groups, newest first: of a state, or with words of the name or the prompt."""
        groups: list[Answer] = []
        async for group in self._director.list(status=state, text=text, limit=limit):
            groups.append(self._group(group))
            if len(groups) == limit:
                break
        return {"groups": groups}

    async def search_outputs(
        self,
        text: str | None = None,
        *,
        model: str | None = None,
        kind: Literal["image", "video"] | None = None,
        starred: bool = False,
        days: Annotated[float | None, Field(gt=0, le=10_000)] = None,
        limit: Limit = 20,
    ) -> Answer:
        """List images and videos of all groups, newest first: with words of the prompt, of a model,
        of jobs with a star, of the last days.
        """
        after = datetime.now(UTC) - timedelta(days=days) if days else None
        found = self._director.outputs(
            text=text,
            model=model,
            kind=kind,
            starred="yes" if starred else None,
            completed_after=after,
            limit=limit,
        )
        outputs: list[Answer] = []
        async for output in found:
            outputs.append(_short(output.raw, output=_resource(output.file_url or "")))
            if len(outputs) == limit:
                break
        return {"outputs": outputs}

    async def upload_input(
        self, path: Annotated[str, Field(description="An image, audio or video file.")]
    ) -> Answer:
        """Upload an input file. The reference of the answer is the value of an input: image of LoadImage."""
        asset = await self._director.assets.upload(path)
        return _short(asset.raw, reference=asset.reference)

    async def queue(self, submitter: str | None = None, limit: Limit = 50) -> Answer:
        """List the groups that run and wait, in the order in which they start their next jobs:
        places, reasons, expected starts.
        """
        page = await self._director.queue(submitter=submitter, limit=limit)
        return _short(page.raw, items=[_short(row) for row in page.raw["items"]])

    async def cancel(self, group_id: str, job_id: str | None = None) -> Answer:
        """Cancel a group, or one job of it."""
        cancel = (
            self._director.cancel(group_id)
            if job_id is None
            else self._director.cancel_job(group_id, job_id)
        )
        return (await cancel).raw

    async def retry_failed(self, group_id: str, job_ids: list[str] | None = None) -> Answer:
        """Retry the failed jobs of a group that has ended, or some of them, with the same seeds."""
        return (await self._director.retry(group_id, job_ids, by=self._submitter)).raw

    async def failures(self, window: Literal["1h", "1d", "7d"] = "1d") -> Answer:
        """Return recent failures by cause, backend and workflow."""
        return (await self._director.failures(window)).raw

    async def backends(self) -> Answer:
        """List the ComfyUIs: state, GPUs, queues."""
        return {"backends": [_short(backend.raw) for backend in await self._director.backends()]}

    async def check_workflow(self, workflow: Workflow, parameters: Parameters = None) -> Answer:
        """Return which backends can execute a workflow, and why the others cannot. Submits nothing."""
        return _short(
            (await self._director.check(await self._graph(workflow), parameters=parameters)).raw
        )

    async def picture(
        self, group_id: str, job_id: str, number: int = 0, width: Width = 640
    ) -> Image:
        """Show an output of a job, from number 0, at most so wide: an image, or the first frame of
        a video.
        """
        return Image(
            data=await self._director.thumbnail(group_id, job_id, number, width), format="webp"
        )


def make_server(url: str, token: str | None, submitter: str | None) -> MCPServer[Any]:
    """Return the server for the Director at ``url``."""
    director = AsyncDirector(url, token)
    tools = Tools(director, url, submitter)
    server: MCPServer[Any] = MCPServer(
        "director", version=__version__, log_level="WARNING", instructions=_INSTRUCTIONS
    )
    for name in [name for name in vars(Tools) if not name.startswith("_")]:
        hints = ToolAnnotations(read_only_hint=name not in _CHANGES)
        server.add_tool(_explain_errors(getattr(tools, name)), annotations=hints)
    server.resource(_OUTPUT_URI, mime_type="image/webp")(_explain_errors(director.thumbnail))
    return server
