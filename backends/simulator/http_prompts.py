"""The routes about prompts: POST /prompt, the queue, interrupts, the history (comfyui-protocol.md,
"HTTP").
"""

import json
import time
import uuid
from typing import Any

from aiohttp import web

from backends.simulator import releases
from backends.simulator.audit_log import redact_extra_data
from backends.simulator.catalog import replace_nodes
from backends.simulator.prompt_queue import Item, identity, is_canonical, without_keys
from backends.simulator.server_state import STATE, ServerState, break_connection
from backends.simulator.validation import Verdict, invalid_prompt_id, no_prompt, validate

routes = web.RouteTableDef()


@routes.get("/prompt")
async def get_prompt(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].status())


@routes.post("/prompt")
async def post_prompt(request: web.Request) -> web.Response:
    """Validate and queue a prompt. What is malformed raises, which is ComfyUI's 500."""
    state = request.app[STATE]
    body: Any = await request.json()
    facts = _facts(body)
    if fault := state.faults.take("late_post", **facts):
        state.later(fault, lambda: submit(state, body))
        return await break_connection(request)
    if fault := state.faults.take("other_500", **facts):
        if fault["queued"]:
            submit(state, body)
        return web.Response(status=500, text=fault["body"])
    hidden = state.faults.take("other_prompt_id", **facts)
    if hidden is not None:
        body["prompt_id"] = str(uuid.uuid4())
    answer = submit(state, body)
    if answer.status != 200:
        return answer
    if hidden is not None:
        return web.json_response({"status": "queued"})
    await state.apply_due_faults("accepted", **facts)
    if fault := state.faults.take("delay_answer", **facts):
        await fault.last()
    if state.faults.take("lose_answer", **facts):
        return await break_connection(request)
    if state.faults.take("prompt_500", **facts):
        raise RuntimeError("500 on order, though queued")
    return answer


def _facts(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        return {}
    task = {key: body.get(key) for key in ("client_id", "extra_data", "prompt")}
    return task | {"prompt_id": str(body["prompt_id"]) if "prompt_id" in body else None}


def submit(state: ServerState, body: Any) -> web.Response:
    """Queue a submission, or refuse it. A malformed one raises the exception that ComfyUI raises."""
    number = _number(state, body)
    if "prompt" not in body:
        return web.json_response(no_prompt(), status=400)
    prompt, release = body["prompt"], state.config.release
    wanted, is_strict = body.get("prompt_id"), release >= releases.UUID_IDS
    if is_strict and wanted is not None and not is_canonical(wanted):
        return web.json_response(invalid_prompt_id(), status=400)
    is_given = wanted is not None if is_strict else "prompt_id" in body
    prompt_id = str(wanted if is_given else uuid.uuid4())
    replace_nodes(prompt, state.catalog, release)
    verdict, prompt = _verdict(state, prompt, body)
    extra_data: Any = body.get("extra_data", {})
    if "client_id" in body:
        extra_data["client_id"] = body["client_id"]
    whose = identity(prompt_id, extra_data)
    if verdict.error is not None:
        state.audit_log.write("refused", error=verdict.error["type"], **whose)
        refusal = {"error": verdict.error, "node_errors": verdict.node_errors}
        return web.json_response(refusal, status=400)
    marks = redact_extra_data(extra_data)
    if release >= releases.CREATE_TIME:
        extra_data["create_time"] = int(time.time() * 1000)
    state.audit_log.write("accepted", number=number, **whose, extra_data=marks)
    item: Item = (number, prompt_id, prompt, extra_data, verdict.outputs)
    state.queue.put(item)
    answer = {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}
    return web.json_response(answer)


def _number(state: ServerState, body: Any) -> float:
    """The place in the queue; the counter is consumed by refused submissions too."""
    if "number" in body:
        return float(body["number"])
    number, state.number = state.number, state.number + 1
    return -number if _wants(body, "front") else number


def _wants(body: Any, key: str) -> bool:
    """Whether a body has that key with a true value; a list or a text has no keys."""
    return key in body and bool(body[key])


def _verdict(state: ServerState, prompt: Any, body: Any) -> tuple[Verdict, Any]:
    """Return the result of the validation, and the prompt that runs: in the lenient mode another
    one if it was refused.
    """
    targets = body.get("partial_execution_targets")
    instead = replacement(prompt) if state.config.lenient else None
    try:
        verdict = validate(prompt, targets, state.catalog, state.folders, state.config.release)
    except (TypeError, KeyError, AttributeError, IndexError):
        if instead is None:
            raise
    else:
        if verdict.error is None or instead is None:
            return verdict, prompt
    graph, output = instead
    return Verdict(outputs=[output]), graph


@routes.get("/queue")
async def get_queue(request: web.Request) -> web.Response:
    """What runs and what waits; the waiting ones in heap order, not run order."""
    state = request.app[STATE]
    listed = {
        "queue_running": list(state.queue.running.values()),
        "queue_pending": state.queue.pending,
    }
    if state.config.release >= releases.HIDDEN_KEYS:
        listed = {name: [without_keys(item) for item in items] for name, items in listed.items()}
    return web.json_response(listed)


@routes.post("/queue")
async def post_queue(request: web.Request) -> web.Response:
    queue = request.app[STATE].queue
    body = await request.json()
    if _wants(body, "clear"):
        queue.clear()
    if "delete" in body:
        for prompt_id in body["delete"]:
            queue.delete(prompt_id)
    return web.Response()


@routes.post("/interrupt")
async def post_interrupt(request: web.Request) -> web.Response:
    """Raise the flag: for the running prompt, or only if the named prompt is running."""
    state = request.app[STATE]
    try:
        body = await request.json()
    except json.JSONDecodeError:
        body = {}
    interrupt(
        state,
        body.get("prompt_id") if state.config.release >= releases.TARGETED_INTERRUPT else None,
    )
    return web.Response()


def interrupt(state: ServerState, prompt_id: Any) -> None:
    hit = bool(state.queue.running) if not prompt_id else state.queue.is_running(prompt_id)
    running = [item[1] for item in state.queue.running.values()]
    state.audit_log.write("interrupted", target=prompt_id, running=running, hit=hit)
    if hit or not prompt_id:
        raise_flag(state, prompt_id)


def raise_flag(state: ServerState, prompt_id: Any = None) -> None:
    if not state.faults.take("interrupt_lost", prompt_id=prompt_id):
        state.interrupt.set()


@routes.get("/history")
async def get_history(request: web.Request) -> web.Response:
    query = request.rel_url.query
    max_items = int(query["max_items"]) if "max_items" in query else None
    return web.json_response(
        request.app[STATE].queue.recent(max_items, int(query.get("offset", -1)))
    )


@routes.get("/history/{prompt_id}")
async def get_history_of(request: web.Request) -> web.Response:
    history, prompt_id = request.app[STATE].queue.history, request.match_info["prompt_id"]
    return web.json_response({prompt_id: history[prompt_id]} if prompt_id in history else {})


@routes.post("/history")
async def post_history(request: web.Request) -> web.Response:
    queue = request.app[STATE].queue
    body = await request.json()
    if _wants(body, "clear"):
        queue.history = {}
    if "delete" in body:
        for prompt_id in body["delete"]:
            queue.history.pop(prompt_id, None)
    return web.Response()


@routes.post("/free")
async def post_free(request: web.Request) -> web.Response:
    """Empty the node cache when the worker comes to it."""
    state = request.app[STATE]
    body = await request.json()
    state.audit_log.write("freed", body=body)
    if body.get("free_memory", False):
        state.free_requested = True
        state.queue.wake.set()
    return web.Response()


Prompt = dict[str, Any]


def replacement(prompt: Any) -> tuple[Prompt, str] | None:
    """Return the graph that runs in place of a refused one, and its output node; None for what is
    no graph.
    """
    nodes = list(prompt.values()) if isinstance(prompt, dict) else []
    if not nodes or not all(
        isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in nodes
    ):
        return None
    given: dict[str, Any] = {}
    for node in nodes:
        given = {
            name: value for name, value in node["inputs"].items() if isinstance(value, int | float)
        } | given
    output = next(
        (other for other in prompt if prompt[other].get("class_type") == "SaveImage"),
        next(reversed(prompt)),
    )
    sampler, image = f"{output}.0", f"{output}.1"
    seed = {"seed": given.get("seed", given.get("noise_seed", 0)), "steps": given.get("steps", 20)}
    graph = {
        sampler: {"class_type": "KSampler", "inputs": seed},
        image: {"class_type": "VAEDecode", "inputs": {"samples": [sampler, 0]}},
        output: {"class_type": "SaveImage", "inputs": {"images": [image, 0]}},
    }
    return graph, output
