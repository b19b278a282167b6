"""Completes the end of a prompt before it is stored: by pictures of frames, the files at its
backend, and rows.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError
from backends.comfyui.outputs import without_added
from jobgroups.domain import outputs
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.outputs import SENT, all_missing
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import AttemptState, ErrorType
from jobgroups.queries import work
from jobgroups.queries.assets import input_names
from jobgroups.runner.attempt.evidence import Evidence
from jobgroups.runner.attempt.pictures import SentPictures
from jobgroups.runner.attempt.timer import PromptTimer
from jobgroups.runner.context import SessionContext
from jobgroups.workflow import origins
from jobgroups.workflow.assets import references_by_asset

#: Seconds that a backend has to answer when a file was written; and for how long an end is fresh.
_DATES_WITHIN: Final = 2.0
_FRESH: Final = dt.timedelta(seconds=10)
_FREE_WITHIN: Final = 2.0  #: Seconds that a backend has to say that it will.


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """Completes the end of one prompt."""

    context: SessionContext
    evidence: Evidence
    pictures: SentPictures
    timer: PromptTimer

    async def completed(self, end: AttemptResult, prompt_id: str) -> AttemptResult:
        """Return the end with all that its transaction stores, except its last step of progress."""
        if end.state is AttemptState.SUCCESS:
            end = await self._without_replaced(await self._with_pictures(end, prompt_id))
        end = await check_cached_files(self.context.client, end, self.evidence.cached)
        executed = self.evidence.executed(end.node_outputs)
        own = origins(self.evidence.prompt.workflow) if executed else {}
        end = replace(
            end,
            seconds=self.timer.seconds(end.seconds),
            executed=executed,
            origins={node: own[node] for node in executed if node in own},
            execution=await self._execution(end),
        )
        return await self._set_time(end)

    async def _with_pictures(self, end: AttemptResult, prompt_id: str) -> AttemptResult:
        pictures, prompt = self.pictures, self.evidence.prompt
        if not pictures.nodes:
            return end
        within = self.context.intervals.frames_grace
        # A slow network may still have frames of a prompt that has ended.
        await pictures.wait_for_frames(within)
        sent, files, warnings = await pictures.collect(
            f"websocket_{prompt_id[:8]}",
            self.evidence.expected_nodes,
            self.evidence.cached,
            within=within,
        )
        node_outputs = {**end.node_outputs, **sent}
        return replace(
            end,
            node_outputs=node_outputs,
            outputs=prompt.outputs(node_outputs),
            files=files,
            warnings=(*warnings, *end.warnings),
        )

    async def _without_replaced(self, end: AttemptResult) -> AttemptResult:
        """Return the end with the files marked that were replaced since its cached nodes wrote
        them.

        The cache knows a name alone. If another node has written the file of this name since, in
        this prompt or in another job's, the file shows the picture of that node.
        """
        replaced = await self._replaced_files(end)
        if not replaced:
            return end
        marked_outputs = {
            node: outputs.mark_missing(
                without_added(output), self.context.backend_id, replaced.get(node, ())
            )
            for node, output in end.node_outputs.items()
        }
        return replace(end, outputs=self.evidence.prompt.collected(marked_outputs))

    async def _replaced_files(self, end: AttemptResult) -> dict[str, Collection[str]]:
        """Return the digests of replaced files, by the cached node that wrote them before."""
        backend_id, evidence = self.context.backend_id, self.evidence
        named = {
            node: outputs.digests(backend_id, {node: end.node_outputs[node]}, ()).keys()
            for node in evidence.cached_only & end.node_outputs.keys()
        }
        if not any(named.values()):
            return {}
        made = outputs.digests(backend_id, end.node_outputs, evidence.executed(end.node_outputs))
        writers = await self.context.database.run_with_retry(
            work.file_origins, digests=set[str]().union(*named.values())
        )
        own = origins(evidence.prompt.workflow)
        replaced = {
            node: [
                digest
                for digest in node_digests
                if made[digest] or (node in own and writers.get(digest, own[node]) != own[node])
            ]
            for node, node_digests in named.items()
        }
        return {node: digests for node, digests in replaced.items() if digests}

    async def _set_time(self, end: AttemptResult) -> AttemptResult:
        """Return the end with its time by the clock that dates the backend's files."""
        context = self.context
        if context.files_ahead is None:
            context.files_ahead = await files_ahead(context.client, end)
        if end.backend_ended_at is None or not context.files_ahead:
            return end
        return replace(end, backend_ended_at=end.backend_ended_at + context.files_ahead)

    async def _execution(self, end: AttemptResult) -> dict[str, Any]:
        context, evidence = self.context, self.evidence
        inputs = references_by_asset(evidence.prompt.workflow)
        return {
            "outputs_reused": end.state is AttemptState.SUCCESS
            and evidence.are_reused(end.node_outputs),
            "cached_nodes": evidence.cached_nodes,
            "node_seconds": self.timer.node_seconds,
            "machine": None if context.stats is None else context.stats.to_json(),
            "inputs": await context.database.run_with_retry(input_names, list(inputs))
            if inputs
            else {},
        }


async def check_cached_files(
    client: ComfyClient, end: AttemptResult, cached: Collection[str]
) -> AttemptResult:
    """Mark files of a cached run that are gone: the run names old ones (comfyui-protocol.md, trap
    9).

    ``end`` is a success. If ComfyUI ran every output node again (none is ``cached``), the backend
    is not queried. Returns the end with its missing files marked ``"missing": true`` and a warning
    for each; if no file is left, ``output_gone`` is its failure. If the backend does not answer,
    the end is returned as it was.
    """
    if end.state is not AttemptState.SUCCESS or not end.node_outputs.keys() & set(cached):
        return end
    outputs = dict(end.outputs)
    warnings: list[str] = []
    for key, items in outputs.items():
        if isinstance(items, list):
            outputs[key] = [await _check_file(client, item, warnings) for item in items]
    end = replace(end, outputs=outputs, warnings=(*end.warnings, *warnings))
    if not all_missing(outputs):
        return end
    return replace(
        end,
        failure=FailureClass.OUTPUT_GONE,
        error_message=f"Every file that ComfyUI names is gone from the backend: {warnings[0]}",
        error_type=ErrorType.COMFYUI,
    )


async def files_ahead(client: ComfyClient, end: AttemptResult) -> dt.timedelta | None:
    """Return how far the clock that dates a backend's outputs is ahead of the backend's own clock.

    A file server has a clock of its own. Without this, all its files would seem to be written after
    the ends of their jobs. The result is None if this end wrote no output, or is over for a while:
    another prompt may have written the file.
    """
    file = _first_output(end)
    if file is None or end.backend_ended_at is None:
        return None
    try:
        async with asyncio.timeout(_DATES_WITHIN):
            head = await client.file_head(file["filename"], subfolder=file["subfolder"])
    except (BackendError, TimeoutError):
        return None
    if head is None:
        return None
    written, answered = head.moment("last-modified"), head.moment("date")
    if written is None:
        # Its files are not compared by their dates.
        return dt.timedelta(0)
    if answered is None or answered - end.backend_ended_at > _FRESH:
        return None
    ahead = written - end.backend_ended_at
    # Headers have whole seconds.
    return ahead if ahead > dt.timedelta(seconds=1) else dt.timedelta(0)


def _first_output(end: AttemptResult) -> dict[str, Any] | None:
    return next(
        (
            item
            for node in sorted(end.executed)
            for items in end.node_outputs[node].values()
            if isinstance(items, list)
            for item in items
            if isinstance(item, dict) and _names_a_file(item) and item["type"] == "output"
        ),
        None,
    )


async def _check_file(client: ComfyClient, item: Any, warnings: list[str]) -> Any:
    if (
        not (isinstance(item, dict) and "url" in item and _names_a_file(item))
        or item["type"] == SENT
    ):
        return item
    if item.get("missing"):
        warnings.append(f"{item['filename']} was replaced: another file has its name.")
        return item
    try:
        head = await client.file_head(
            item["filename"], subfolder=item["subfolder"], kind=item["type"]
        )
    except BackendError:
        return item
    if head is not None:
        return item
    warnings.append(f"{item['filename']} comes from an earlier run and is gone from the backend.")
    return {**item, "missing": True}


def _names_a_file(item: Mapping[str, Any]) -> bool:
    return all(isinstance(item.get(key), str) for key in ("filename", "subfolder", "type"))


async def free_memory(client: ComfyClient) -> None:
    """Have a backend unload its models and empty its cache; errors are ignored."""
    with contextlib.suppress(BackendError, TimeoutError):
        async with asyncio.timeout(_FREE_WITHIN):
            await client.free()
