"""The routes about jobs, ComfyUI's newer view of its prompts (comfyui-protocol.md, "Jobs"). They
exist under /api alone.
"""

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from backends.simulator import releases
from backends.simulator.http_prompts import interrupt
from backends.simulator.prompt_queue import HistoryEntry, is_canonical
from backends.simulator.releases import Release
from backends.simulator.server_state import STATE, ServerState

routes = web.RouteTableDef()
cancel_routes = web.RouteTableDef()

_PREVIEWED = frozenset({"images", "video", "audio"})
_MAX_TEXT = 1024  # characters of a text in a preview
_ENDS = ("execution_success", "execution_error", "execution_interrupted")


@routes.get("/api/jobs")
async def get_jobs(request: web.Request) -> web.Response:
    """List the jobs that have not ended. Raises what an `extra_pnginfo` without keys raises:
    ComfyUI's 500.
    """
    state = request.app[STATE]
    jobs = [_job(item, status, state.config.release) for item, status in _items(state)]
    jobs.sort(key=lambda job: job.get("create_time", 0), reverse=True)
    pages = {"offset": 0, "limit": None, "total": len(jobs), "has_more": False}
    return web.json_response({"jobs": jobs, "pagination": pages})


def _items(state: ServerState) -> list[tuple[Sequence[Any], str]]:
    """The prompts that have not ended, each with its status."""
    running = [(item, "in_progress") for item in state.queue.running.values()]
    return [*running, *((item, "pending") for item in state.queue.pending)]


@routes.get("/api/jobs/{prompt_id}")
async def get_job(request: web.Request) -> web.Response:
    """One job. If its id was queued twice, the one that has ended hides the other."""
    state, prompt_id = request.app[STATE], request.match_info["prompt_id"]
    release = state.config.release
    if entry := state.queue.history.get(prompt_id):
        _, _, prompt, extra_data, _ = entry["prompt"]
        whole = {"outputs": entry["outputs"], "execution_status": entry["status"]}
        workflow = {"prompt": prompt, "extra_data": extra_data}
        return web.json_response(_ended_job(entry, release) | whole | {"workflow": workflow})
    for item, status in _items(state):
        if item[1] == prompt_id:
            return web.json_response(_job(item, status, release))
    return web.json_response({"error": "Job not found"}, status=404)


def _ended_job(entry: HistoryEntry, release: Release) -> dict[str, Any]:
    """A prompt of the history, where an interrupted one is an `error` too."""
    is_success = entry["status"]["status_str"] == "success"
    names = [name for name, _ in entry["status"]["messages"]]
    is_cancelled = "execution_interrupted" in names and release >= releases.CANCELLED_JOBS
    status = "completed" if is_success else "cancelled" if is_cancelled else "failed"
    return _job(entry["prompt"], status, release, entry)


def _job(
    item: Sequence[Any], status: str, release: Release, entry: HistoryEntry | None = None
) -> dict[str, Any]:
    number, prompt_id, _, extra_data, _ = item
    messages: dict[str, Any] = dict(entry["status"]["messages"]) if entry else {}
    results = [
        (result, {"nodeId": node_id, "mediaType": kind})
        for node_id, ui in (entry["outputs"] if entry else {}).items()
        for kind, ones in ui.items()
        if kind != "animated"
        for result in ones
    ]
    files = [result | where for result, where in results if isinstance(result, dict)]
    previews = [file for file in files if file["mediaType"] in _PREVIEWED]
    previews.sort(key=lambda file: file["type"] != "output")
    texts = [_text(result) | where for result, where in results if where["mediaType"] == "text"]
    job = {
        "id": prompt_id,
        "status": status,
        "priority": number,
        "create_time": extra_data.get("create_time"),
        "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
        "execution_end_time": next(
            (messages[end]["timestamp"] for end in _ENDS if end in messages), None
        ),
        "execution_error": messages.get("execution_error"),
        "outputs_count": len(files),
        "previewable_outputs_count": len(previews)
        if release >= releases.PREVIEWABLE_COUNT
        else None,
        "preview_output": next(iter(previews + texts), None),
        "workflow_id": extra_data.get("extra_pnginfo", {}).get("workflow", {}).get("id"),
    }
    return {key: value for key, value in job.items() if value is not None}


def _text(item: Any) -> dict[str, Any]:
    text = str(item)
    return (
        {"content": text}
        if len(text) <= _MAX_TEXT
        else {"content": text[:_MAX_TEXT], "truncated": True}
    )


@cancel_routes.post("/api/jobs/cancel")
async def cancel_jobs(request: web.Request) -> web.Response:
    """Cancel several jobs, or none if an id is invalid."""
    try:
        body: Any = await request.json()
    except json.JSONDecodeError:
        return web.json_response({"error": "Request body must be valid JSON"}, status=400)
    ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(ids, list):
        return web.json_response({"error": "job_ids must be a list"}, status=400)
    if invalid := [
        job_id if isinstance(job_id, str) else repr(job_id)
        for job_id in ids
        if not is_canonical(job_id)
    ]:
        answer = {"error": "job_ids contains invalid id(s)", "invalid_ids": invalid}
        return web.json_response(answer, status=400)
    cancelled = [_cancel(request.app[STATE], job_id) for job_id in ids]
    return web.json_response({"cancelled": any(cancelled)})


@cancel_routes.post("/api/jobs/{prompt_id}/cancel")
async def cancel_job(request: web.Request) -> web.Response:
    """Interrupt or remove that prompt alone; true is "signalled", not "stopped"
    (comfyui-protocol.md, trap 4).
    """
    return web.json_response(
        {"cancelled": _cancel(request.app[STATE], request.match_info["prompt_id"])}
    )


def _cancel(state: ServerState, prompt_id: str) -> bool:
    is_running = state.queue.is_running(prompt_id)
    state.audit_log.write("cancelled", prompt_id=prompt_id)
    if is_running:
        interrupt(state, prompt_id)
    return is_running or state.queue.delete(prompt_id)
