"""The worker: one prompt after another, until it dies of one (comfyui-protocol.md, trap 1)."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from backends.simulator.execution import Execution
from backends.simulator.prompt_queue import identity
from backends.simulator.server_state import ServerState

logger = logging.getLogger(__name__)


async def work(state: ServerState) -> None:
    """Run prompts for ever. What kills ComfyUI's worker thread ends this, and HTTP goes on."""
    try:
        while True:
            await state.queue.wake.wait()
            state.queue.wake.clear()
            _tidy(state)
            while state.queue.pending:
                await _run_next(state)
                _tidy(state)
    except Exception:
        logger.warning("%s: the worker died", state.config.name, exc_info=True)


async def _run_next(state: ServerState) -> None:
    task, item = state.queue.get()
    await asyncio.sleep(0)  # an interrupt that comes in here is lost (comfyui-protocol.md, trap 4)
    facts = identity(item[1], item[3]) | {"extra_data": item[3]}
    if fault := state.faults.take("slow_start", **facts):
        await asyncio.sleep(fault["seconds"])
    execution = Execution(state, item)
    entry = await execution.go()
    await state.apply_due_faults("finishing", **facts)
    fault = state.faults.take("late_history", **facts)
    # At 0, too, execution_success leaves before the history (comfyui-protocol.md, trap 3).
    await asyncio.sleep(fault["seconds"] if fault else 0)
    is_late = state.faults.take("late_history_entry", **facts)
    if is_late:
        state.later(is_late["seconds"], partial(state.queue.remember, entry))
    state.queue.finish(task, None if is_late or state.faults.take("no_history", **facts) else entry)
    if state.client_id is not None:
        data = {"node": None, "prompt_id": execution.prompt_id}
        state.hub.send("executing", data, state.client_id)
    await state.apply_due_faults("ended", **facts)


def _tidy(state: ServerState) -> None:
    if state.free_requested:
        state.free_requested = False
        state.cache.forget()
        state.node_succeeded = True
